//! What a request for a ranking is made into, and its errors.

use std::fmt;

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
    pub(super) all: String,
    /// The end of each document's text, in bytes. It begins where the one before ends.
    pub(super) ends: Vec<u32>,
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
