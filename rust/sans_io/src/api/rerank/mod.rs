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

mod prepared;
mod request;
mod response;

pub use prepared::{Engine, Prepared, RerankError, Texts};
pub use request::request;
pub use response::response;
