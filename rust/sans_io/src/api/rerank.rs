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

use memchr::memchr;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

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
    /// The number of documents.
    pub count: usize,
    /// Their texts, to be returned.
    pub texts: Texts,
}

/// The texts of documents as JSON strings, one behind the other: a list of strings would be many
/// times as long as short ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// The end of each document's text, in bytes. It begins where the one before ends.
    ends: Vec<u32>,
}

impl Texts {
    fn of(documents: &[Document<'_>]) -> Self {
        let texts = || documents.iter().map(|document| document.text.map_or("", RawValue::get));
        let mut all = String::with_capacity(texts().map(str::len).sum());
        let ends = texts()
            .map(|text| {
                all.push_str(text);
                u32::try_from(all.len()).unwrap_or(u32::MAX)
            })
            .collect();
        Self { all, ends }
    }

    /// The text of a document, as a JSON string; None where it has none, or none is wanted.
    pub fn get(&self, document: usize) -> Option<&str> {
        let end = *self.ends.get(document)?;
        let start =
            document.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let text = self.all.get(start? as usize..end as usize)?;
        (!text.is_empty()).then_some(text)
    }

    /// The memory of the texts, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.all.capacity() + size_of::<u32>() * self.ends.capacity()
    }
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
        count: documents.len(),
        texts: if return_documents { Texts::of(&documents) } else { Texts::default() },
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
#[derive(Deserialize)]
#[serde(try_from = "&'a RawValue", bound(deserialize = "'de: 'a"))]
struct Document<'a> {
    written: &'a RawValue,
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

impl<'a> TryFrom<&'a RawValue> for Document<'a> {
    type Error = RerankError;

    fn try_from(written: &'a RawValue) -> Result<Self, RerankError> {
        Ok(Self { written, text: text_of(written)? })
    }
}

impl<'a> Document<'a> {
    /// Its text, where it stands in an object.
    fn object_text(&self) -> Option<&'a RawValue> {
        self.text.filter(|_| self.written.get().starts_with('{'))
    }
}

impl<'a> Request<'a> {
    fn documents(&self) -> Result<Vec<Document<'a>>, RerankError> {
        let documents = self.documents.ok_or(RerankError::Request(
            "`documents` is missing; send the list of texts to rank.",
        ))?;
        let documents: Vec<Document<'a>> =
            serde_json::from_str(documents.get()).map_err(|_| WRONG_DOCUMENTS)?;
        if documents.is_empty() {
            return Err(RerankError::Request(
                "`documents` is empty; send at least one text to rank.",
            ));
        }
        Ok(documents)
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
    if written.get().starts_with('{') {
        let object: Text<'_> = serde_json::from_str(written.get()).map_err(|_| WRONG_DOCUMENTS)?;
        return Ok(object.text.filter(|text| is_text(text.get())));
    }
    if is_text(written.get()) { Ok(Some(written)) } else { Err(WRONG_DOCUMENTS) }
}

/// Whether a JSON value is a string that is a text: one without a half of a surrogate pair. It is
/// not decoded for that, since it may be long.
fn is_text(written: &str) -> bool {
    let bytes = written.as_bytes();
    // The unit of an escape that begins here.
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = memchr(b'\\', &bytes[at..]) {
        at += found;
        at += match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => return false,
            Some(_) => 6,
            None => 2,
        };
    }
    bytes.first() == Some(&b'"')
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
    let objects = documents.iter().filter(|document| document.object_text().is_some()).count();
    if objects == 0 {
        return None;
    }
    let name = Value::from(name).to_string();
    let mut edits: Vec<(Range<usize>, &str)> = Vec::with_capacity(objects + 1);
    edits.extend(documents.iter().filter_map(|document| {
        Some((range_in(body, document.written), document.object_text()?.get()))
    }));
    edits.extend(request.model.map(|model| (range_in(body, model), name.as_str())));
    edits.sort_unstable_by_key(|(range, _)| range.start);
    let (mut edited, mut copied) = (Vec::with_capacity(body.len() + name.len()), 0);
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

/// More than the bytes of a request's members without their values.
const TEI_MEMBERS: usize = 128;

fn tei_body(request: &Request<'_>, documents: &[Document<'_>]) -> Result<Vec<u8>, RerankError> {
    let query = request.query.and_then(|query| text_of(query).ok().flatten());
    let query = query
        .ok_or(RerankError::Request("`query` must be a string: this model ranks texts only."))?;
    let texts = || documents.iter().map(|document| document.text.map(RawValue::get));
    if !texts().all(|text| text.is_some()) {
        return Err(RerankError::Request(
            "Each of `documents` must have a text: this model ranks texts only.",
        ));
    }
    // vLLM's clients ask for truncation by this member.
    let truncate = request.truncate_prompt_tokens.map(|_| "true");
    let members = [
        ("raw_scores", request.raw_scores.map(RawValue::get)),
        ("truncate", request.truncate.map(RawValue::get).or(truncate)),
    ];
    let mut length = query.get().len() + TEI_MEMBERS;
    length += members.iter().map(|(_, value)| value.map_or(0, str::len)).sum::<usize>();
    length += texts().flatten().map(|text| text.len() + 1).sum::<usize>();
    let mut body = String::with_capacity(length);
    let _ = write!(body, "{{\"query\":{},\"return_text\":false", query.get());
    for (key, value) in members {
        if let Some(value) = value {
            let _ = write!(body, ",\"{key}\":{value}");
        }
    }
    body.push_str(",\"texts\":[");
    join(&mut body, texts().flatten());
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
    check(&results, prepared)?;
    let mut order: Vec<(f64, u32)> =
        results.iter().zip(0..).map(|(ranked, at)| (ranked.score(), at)).collect();
    // Stable, so that equal scores stay in the engine's order.
    order.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    order.truncate(prepared.top_n.unwrap_or(usize::MAX));
    let ranked = || order.iter().filter_map(|&(_, at)| results.get(at as usize));
    let length: usize = ranked().map(|ranked| ranked.length(prepared)).sum();
    let (prompt, total) = usage.map_or((0, 0), tokens);
    let name = Value::from(public_model).to_string();
    let mut document = String::with_capacity(length + name.len() + RESPONSE_MEMBERS);
    let _ = write!(document, "{{\"model\":{name},\"object\":\"list\",\"results\":[");
    for (at, ranked) in ranked().enumerate() {
        if at > 0 {
            document.push(',');
        }
        ranked.write_as_jina(prepared, &mut document);
    }
    let _ =
        write!(document, "],\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{total}}}}}");
    Ok(document.into_bytes())
}

/// Checks that the engine has ranked the documents: each at most once, with a score, and as many as
/// are wanted.
fn check(results: &[Ranked<'_>], prepared: &Prepared) -> Result<(), RerankError> {
    if !results.iter().all(Ranked::has_score) {
        return Err(RerankError::Response(
            "The engine gives a document a score that is no number; check that the model is a \
             reranker.",
        ));
    }
    let mut indexes: Vec<usize> = results.iter().map(|ranked| ranked.index).collect();
    indexes.sort_unstable();
    let is_sent = indexes.last().is_none_or(|last| *last < prepared.count);
    if !is_sent || indexes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(RerankError::Response(
            "The engine ranks a document twice, or one that it was not sent; look into its log.",
        ));
    }
    if results.len() < prepared.top_n.unwrap_or(prepared.count).min(prepared.count) {
        return Err(RerankError::Response(
            "The engine ranks fewer documents than it was asked to; look into its log.",
        ));
    }
    Ok(())
}

/// More than the bytes of a response's members without its name and its results.
const RESPONSE_MEMBERS: usize = 160;
/// More than the bytes of a result's members without its document and its score.
const RESULT_MEMBERS: usize = 80;

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

impl<'a> Ranked<'a> {
    /// Whether its score is a number, or null, which engines write for NaN.
    fn has_score(&self) -> bool {
        let written = self.relevance_score.get();
        written == "null" || written.parse().is_ok_and(f64::is_finite)
    }

    /// The score to sort by. One that is no number (null stands for NaN) ranks last.
    fn score(&self) -> f64 {
        self.relevance_score.get().parse().unwrap_or(f64::NEG_INFINITY)
    }

    /// The document's text, or else the document as the engine has it; None: it is not wanted, or
    /// is not known.
    fn document<'b>(&self, prepared: &'b Prepared) -> (Option<&'b str>, Option<&'a str>) {
        match prepared.texts.get(self.index) {
            Some(text) => (Some(text), None),
            None if prepared.return_documents => (None, self.document.map(RawValue::get)),
            None => (None, None),
        }
    }

    /// The most bytes that it has as Jina writes it.
    fn length(&self, prepared: &Prepared) -> usize {
        let (text, document) = self.document(prepared);
        let document = text.or(document).map_or(0, str::len);
        RESULT_MEMBERS + document + self.relevance_score.get().len()
    }

    /// Writes the result as Jina does.
    fn write_as_jina(&self, prepared: &Prepared, out: &mut String) {
        let _ = write!(out, "{{\"index\":{},", self.index);
        let _ = match self.document(prepared) {
            (Some(text), _) => write!(out, "\"document\":{{\"text\":{text}}},"),
            (None, Some(document)) => write!(out, "\"document\":{document},"),
            (None, None) => Ok(()),
        };
        let _ = write!(out, "\"relevance_score\":{}}}", self.relevance_score.get());
    }
}

#[derive(Deserialize)]
struct Tokens<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    total_tokens: Option<&'a RawValue>,
}

/// The tokens of the prompt and in all; where one is missing the other stands for it.
fn tokens(usage: &RawValue) -> (u64, u64) {
    let Ok(usage) = serde_json::from_str::<Tokens<'_>>(usage.get()) else { return (0, 0) };
    let count = |raw: Option<&RawValue>| raw.and_then(|raw| raw.get().parse().ok());
    let (prompt, total): (Option<u64>, Option<u64>) =
        (count(usage.prompt_tokens), count(usage.total_tokens));
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
