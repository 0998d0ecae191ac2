//! The client's request, and the engine's that is made of it.

use std::{fmt::Write as _, ops::Range};

use memchr::memchr;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    api::numbers::whole,
    codec::splice::{edited, place_in},
};

use super::prepared::{Engine, Prepared, RerankError, Texts};

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
    /// Voyage's word for it, which some engines heed.
    #[serde(borrow)]
    top_k: Option<&'a RawValue>,
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
        let Some(top_n) = self.top_n else {
            // An engine that does not know it may take any value.
            let top_k = self.top_k.and_then(whole).and_then(|top_k| usize::try_from(top_k).ok());
            return Ok(top_k.filter(|&top_k| top_k > 0));
        };
        // vLLM's default, 0, means all.
        let top_n = whole(top_n).and_then(|top_n| usize::try_from(top_n).ok()).ok_or(wrong)?;
        Ok(Some(top_n).filter(|&top_n| top_n > 0))
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
        Some((place_in(body, document.written.get()), document.object_text()?.get()))
    }));
    edits.extend(request.model.map(|model| (place_in(body, model.get()), name.as_str())));
    edited(body, edits)
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

fn join<'a>(text: &mut String, parts: impl Iterator<Item = &'a str>) {
    for (at, part) in parts.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(part);
    }
}
