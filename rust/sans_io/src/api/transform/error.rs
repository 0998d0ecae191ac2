//! Why a response cannot be transformed.

/// A response that is not what its endpoint gives, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// Its end is missing: the engine died.
    #[error("it closed the connection before the end of its event stream")]
    Incomplete,
    /// It is not what its endpoint gives; a whole sentence.
    #[error("{0}")]
    Unusable(String),
}
