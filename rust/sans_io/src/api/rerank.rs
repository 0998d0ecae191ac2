//! Reranking: Jina's request and response in front of engines that speak three dialects.
//!
//! | engine | request | response |
//! | --- | --- | --- |
//! | vLLM | `POST /v1/rerank`: Jina's | `results` with documents, whatever was asked |
//! | llama.cpp | `POST /v1/rerank`: Jina's | `results` without documents |
//! | text-embeddings-inference | `POST /rerank`: `{"query", "texts"}` | `[{"index", "score"}]`, no usage |
//!
//! The client gets the response of Jina's reranker API and of GPUStack:
//!
//! | member | content |
//! | --- | --- |
//! | `model`, `object` | the public name, `"list"` |
//! | `results` | `{"index", "document": {"text"}, "relevance_score"}` each, best first |
//! | `usage` | `{"prompt_tokens", "total_tokens"}` |
//!
//! Scores stay as the engine wrote them.

use std::fmt::{self, Write as _};
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The dialect of an engine's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// vLLM and llama.cpp: Jina's request.
    Jina,
    /// text-embeddings-inference.
    Tei,
}

/// A request or a response that cannot be used. Displayed as a whole sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RerankError {
    /// The client's request is wrong (400).
    Request(&'static str),
    /// The engine's response is no ranking (502).
    Response(&'static str),
}

impl std::error::Error for RerankError {}

impl fmt::Display for RerankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Request(sentence) | Self::Response(sentence)) = self;
        f.write_str(sentence)
    }
}

/// The engine's request, and what its response is completed with.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The body for the engine, with its name of the model; None: as the client wrote it.
    pub body: Option<Vec<u8>>,
    /// The path of the engine's endpoint.
    pub path: &'static str,
    /// The most results that the client wants; None: all.
    pub top_n: Option<usize>,
    /// Whether the client wants the documents back; Jina's default is true.
    pub return_documents: bool,
    /// The texts to return, in the request's order; None for a document that is no text, or is not
    /// wanted.
    pub documents: Vec<Option<String>>,
}

/// Parses a client's request and makes the engine's. `name` is the engine's name of the model. The
/// error is always [`RerankError::Request`].
pub fn request(body: &[u8], engine: Engine, name: &str) -> Result<Prepared, RerankError> {
    let request: Request<'_> = serde_json::from_slice(body).map_err(|_| {
        RerankError::Request(
            "The request body is not one JSON object in UTF-8 with each member once; send one.",
        )
    })?;
    let query = request
        .query
        .ok_or(RerankError::Request("`query` is missing; send the text to rank documents for."))?;
    if !query.get().starts_with(['"', '{']) {
        return Err(RerankError::Request("`query` must be a string."));
    }
    let return_documents = match request.return_documents.map(RawValue::get) {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(RerankError::Request("`return_documents` must be true or false.")),
    };
    let documents = request.documents()?;
    let edited = match engine {
        Engine::Jina => jina_body(body, &request, &documents, name),
        Engine::Tei => Some(tei_body(&request, &documents)?),
    };
    Ok(Prepared {
        body: edited,
        path: if engine == Engine::Tei { "/rerank" } else { "/v1/rerank" },
        top_n: request.top_n()?,
        return_documents,
        documents: documents
            .iter()
            .map(|document| document.text().filter(|_| return_documents))
            .collect(),
    })
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    query: Option<&'a RawValue>,
    #[serde(borrow)]
    documents: Option<&'a RawValue>,
    #[serde(borrow)]
    top_n: Option<&'a RawValue>,
    #[serde(borrow)]
    return_documents: Option<&'a RawValue>,
    #[serde(borrow)]
    raw_scores: Option<&'a RawValue>,
    #[serde(borrow)]
    truncate: Option<&'a RawValue>,
    #[serde(borrow)]
    truncate_prompt_tokens: Option<&'a RawValue>,
}

const WRONG_DOCUMENTS: RerankError =
    RerankError::Request("`documents` must be a list of strings or of objects with `text`.");

/// A document as it was written, and its text (a JSON string) where it has one.
struct Document<'a> {
    written: &'a RawValue,
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

impl Document<'_> {
    fn text(&self) -> Option<String> {
        serde_json::from_str(self.text?.get()).ok()
    }
}

impl<'a> Request<'a> {
    fn documents(&self) -> Result<Vec<Document<'a>>, RerankError> {
        let documents = self.documents.ok_or(RerankError::Request(
            "`documents` is missing; send the list of texts to rank.",
        ))?;
        let documents: Vec<&RawValue> =
            serde_json::from_str(documents.get()).map_err(|_| WRONG_DOCUMENTS)?;
        if documents.is_empty() {
            return Err(RerankError::Request(
                "`documents` is empty; send at least one text to rank.",
            ));
        }
        documents
            .into_iter()
            .map(|written| Ok(Document { written, text: text_of(written)? }))
            .collect()
    }

    fn top_n(&self) -> Result<Option<usize>, RerankError> {
        let wrong = RerankError::Request("`top_n` must be a whole number that is not negative.");
        let Some(top_n) = self.top_n else { return Ok(None) };
        // vLLM's default, 0, means all.
        top_n.get().parse().map(|top_n| Some(top_n).filter(|&top_n| top_n > 0)).map_err(|_| wrong)
    }
}

/// The text of a document or a query; None for an object without one, which some engines can read
/// all the same.
fn text_of(written: &RawValue) -> Result<Option<&RawValue>, RerankError> {
    let is_text = |text: &RawValue| serde_json::from_str::<String>(text.get()).is_ok();
    if written.get().starts_with('{') {
        let object: Text<'_> = serde_json::from_str(written.get()).map_err(|_| WRONG_DOCUMENTS)?;
        return Ok(object.text.filter(|text| is_text(text)));
    }
    if is_text(written) { Ok(Some(written)) } else { Err(WRONG_DOCUMENTS) }
}

/// The body with plain strings in place of documents that are objects with `text`, which these
/// engines reject, and with the engine's name of the model. None where no document is one: then the
/// caller splices the name.
fn jina_body(
    body: &[u8],
    request: &Request<'_>,
    documents: &[Document<'_>],
    name: &str,
) -> Option<Vec<u8>> {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for document in documents {
        if let Some(text) = document.text.filter(|_| document.written.get().starts_with('{')) {
            edits.push((range_in(body, document.written), text.get().to_owned()));
        }
    }
    if edits.is_empty() {
        return None;
    }
    edits.extend(request.model.map(|model| (range_in(body, model), Value::from(name).to_string())));
    edits.sort_unstable_by_key(|(range, _)| range.start);
    let (mut edited, mut copied) = (Vec::with_capacity(body.len()), 0);
    for (range, text) in edits {
        edited.extend_from_slice(&body[copied..range.start]);
        edited.extend_from_slice(text.as_bytes());
        copied = range.end;
    }
    edited.extend_from_slice(&body[copied..]);
    Some(edited)
}

/// The range of a value in the body that it is a part of.
fn range_in(body: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + value.get().len()
}

fn tei_body(request: &Request<'_>, documents: &[Document<'_>]) -> Result<Vec<u8>, RerankError> {
    let query = request.query.and_then(|query| text_of(query).ok().flatten());
    let query = query
        .ok_or(RerankError::Request("`query` must be a string: this model ranks texts only."))?;
    let texts: Option<Vec<&RawValue>> = documents.iter().map(|document| document.text).collect();
    let texts = texts.ok_or(RerankError::Request(
        "Each of `documents` must have a text: this model ranks texts only.",
    ))?;
    // vLLM's clients ask for truncation by this member.
    let truncate = request.truncate_prompt_tokens.map(|_| json!(true));
    let given = |value: Option<&RawValue>| {
        value.and_then(|value| serde_json::from_str::<Value>(value.get()).ok())
    };
    let members = [
        ("raw_scores", given(request.raw_scores)),
        ("truncate", given(request.truncate).or(truncate)),
    ];
    let mut body = format!("{{\"query\":{},\"return_text\":false", query.get());
    for (key, value) in members {
        if let Some(value) = value {
            let _ = write!(body, ",\"{key}\":{value}");
        }
    }
    body.push_str(",\"texts\":[");
    join(&mut body, texts.iter().map(|text| text.get()));
    body.push_str("]}");
    Ok(body.into_bytes())
}

/// Makes the client's response from an engine's of any dialect. Without an engine's usage
/// (text-embeddings-inference counts no tokens) the usage is 0: Jina's response has one, and a
/// guess would be worse. The error is always [`RerankError::Response`].
pub fn response(
    body: &[u8],
    prepared: &Prepared,
    public_model: &str,
) -> Result<Vec<u8>, RerankError> {
    const WRONG: RerankError = RerankError::Response(
        "The engine's response is not a list of ranked documents; check that the model is a \
         reranker.",
    );
    let (results, usage) = if body.trim_ascii_start().starts_with(b"[") {
        (serde_json::from_slice::<Vec<Ranked<'_>>>(body).map_err(|_| WRONG)?, None)
    } else {
        let response: Response<'_> = serde_json::from_slice(body).map_err(|_| WRONG)?;
        (response.results, response.usage)
    };
    let mut results: Vec<(f64, String)> = results
        .iter()
        .map(|ranked| ranked.as_jina(prepared))
        .collect::<Option<_>>()
        .ok_or(WRONG)?;
    // Stable, so that equal scores stay in the engine's order.
    results.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    results.truncate(prepared.top_n.unwrap_or(usize::MAX));
    let (prompt, total) = usage.map_or((0, 0), tokens);
    let mut document =
        format!("{{\"model\":{},\"object\":\"list\",\"results\":[", Value::from(public_model));
    join(&mut document, results.iter().map(|(_, result)| result.as_str()));
    let _ =
        write!(document, "],\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{total}}}}}");
    Ok(document.into_bytes())
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    results: Vec<Ranked<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Ranked<'a> {
    index: usize,
    #[serde(borrow, alias = "score")]
    relevance_score: &'a RawValue,
    /// vLLM alone sends it.
    #[serde(borrow)]
    document: Option<&'a RawValue>,
}

impl Ranked<'_> {
    /// The score to sort by, and the result as Jina writes it. None when its index is none of the
    /// request's.
    fn as_jina(&self, prepared: &Prepared) -> Option<(f64, String)> {
        let text = prepared.documents.get(self.index)?;
        let score = self.relevance_score.get();
        let document = if prepared.return_documents {
            match text {
                Some(text) => format!("\"document\":{},", json!({"text": text})),
                None => self.document.map_or_else(String::new, |document| {
                    format!("\"document\":{},", document.get())
                }),
            }
        } else {
            String::new()
        };
        let result = format!("{{\"index\":{},{document}\"relevance_score\":{score}}}", self.index);
        // A score that is no number (null stands for NaN) ranks last.
        Some((score.parse().unwrap_or(f64::NEG_INFINITY), result))
    }
}

/// The tokens of the prompt and in all; where one is missing the other stands for it.
fn tokens(usage: &RawValue) -> (u64, u64) {
    let usage: Value = serde_json::from_str(usage.get()).unwrap_or_default();
    let (prompt, total) = (usage["prompt_tokens"].as_u64(), usage["total_tokens"].as_u64());
    (prompt.or(total).unwrap_or(0), total.or(prompt).unwrap_or(0))
}

fn join<'a>(text: &mut String, parts: impl Iterator<Item = &'a str>) {
    for (at, part) in parts.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(part);
    }
}
