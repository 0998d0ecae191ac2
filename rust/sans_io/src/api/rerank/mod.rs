//! Reranking: Jina's request and response in front of engines that speak three dialects.
//!
//! | engine | request | response |
//! | --- | --- | --- |
//! | vLLM | `POST /v1/rerank`: Jina's | `results` with documents, whatever was asked |
//! | llama.cpp | `POST /v1/rerank`: Jina's | `results` without documents |
//! | text-embeddings-inference | `POST /rerank`: `{"query", "texts"}` | `[{"index", "score"}]`, no usage |
//!
//! Further engines and providers, behind an address of somebody else's, answer Jina's request in
//! shapes of their own, and every one of these is read: the ranking as a list, or under `results`
//! (Jina, Cohere, Bedrock), `data` (Voyage, Pinecone, Mixedbread), `rankings` (NVIDIA), or one of
//! these under `output` (`DashScope`); the score as `relevance_score`, `score`, `relevanceScore` or
//! `logit`; a document as an object or a string; tokens in `usage` or in Cohere's `meta.tokens`. A
//! ranking without any `index` is in the order of the documents.
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

mod request;
mod response;

use std::fmt;

pub use request::request;
pub use response::response;

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
