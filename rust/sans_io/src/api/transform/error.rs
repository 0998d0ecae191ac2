//! The error of a transformation.

/// A response that is not what its endpoint gives, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// The end of a stream is missing: the engine died.
    #[error("it closed the connection before the end of its event stream")]
    Incomplete,
    /// The response is not of the kind that its endpoint gives. The text is a whole sentence.
    #[error("{0}")]
    Unusable(String),
}
