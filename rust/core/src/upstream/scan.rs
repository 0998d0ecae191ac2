//! The scan of a request's body while it is received.

use crate::body_limits::BodyLimits;
use sans_io::{
    api::error::{ApiError, Cause},
    codec::{
        json::{Model, Scanner},
        multipart,
    },
};

/// The way in which a body is scanned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading<'a> {
    /// Not at all: it passes through.
    Carry,
    /// As a JSON object with a `model`.
    Json,
    /// As a JSON object with a `model` and perhaps a `previous_response_id`.
    JsonOfResponse,
    /// As a form with a field `model`. The value is the request's `Content-Type`.
    Form(&'a [u8]),
}

/// The scanner of one body.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the upload is boxed, and this is the usual variant")]
pub(super) enum Scan {
    /// The body passes through.
    None,
    Json(Scanner),
    Form(Box<multipart::Scanner>),
}

impl Scan {
    /// A scan of which nothing was read yet. Fails with a 400 for a form without a usable boundary.
    pub(super) fn new(reading: Reading<'_>, limits: &BodyLimits) -> Result<Self, ApiError> {
        Ok(match reading {
            Reading::Carry => Self::None,
            Reading::Json => Self::Json(Scanner::new(limits.configured.max_nesting)),
            Reading::JsonOfResponse => {
                let mut scanner = Scanner::new(limits.configured.max_nesting);
                scanner.retain_previous_response_id();
                Self::Json(scanner)
            }
            Reading::Form(content_type) => {
                Self::Form(Box::new(multipart::Scanner::new(content_type).map_err(|error| {
                    ApiError::new(Cause::BadRequest, error.to_string()).closing()
                })?))
            }
        })
    }

    /// Reads the next piece. Fails with a 400 that closes the connection, since more of the
    /// malformed body may follow.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        let rejected = |error: String| ApiError::new(Cause::BadRequest, error).closing();
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.feed(piece).map_err(|error| rejected(error.to_string())),
            Self::Form(scanner) => scanner.feed(piece).map_err(|error| rejected(error.to_string())),
        }
    }

    /// Judges the body at its end. Fails with a 400 where it is incomplete or names no model.
    pub(super) fn end(&self) -> Result<(), ApiError> {
        let rejected = |error: String| ApiError::new(Cause::BadRequest, error);
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.end().map_err(|error| rejected(error.to_string())),
            Self::Form(scanner) => scanner.end().map_err(|error| rejected(error.to_string())),
        }
    }

    /// The model; None: not seen yet.
    pub(super) fn model(&self) -> Option<&Model> {
        match self {
            Self::None => None,
            Self::Json(scanner) => scanner.model(),
            Self::Form(scanner) => scanner.model(),
        }
    }

    /// Whether the client asks for a stream, in the bytes read so far.
    pub(super) fn asks_stream(&self) -> bool {
        match self {
            Self::None => false,
            Self::Json(scanner) => scanner.stream(),
            Self::Form(scanner) => scanner.stream(),
        }
    }

    /// Whether nothing that is still to come can name a model or pick an adapter.
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::None => true,
            Self::Json(scanner) => scanner.is_finished(),
            Self::Form(scanner) => scanner.is_finished(),
        }
    }

    /// Rejects (403) a body that picks an adapter or another model than `model`, in the bytes read
    /// so far.
    pub(super) fn forbid_adapters(&self) -> Result<(), ApiError> {
        let picks = match self {
            Self::None => false,
            Self::Json(scanner) => scanner.picks_adapter(),
            Self::Form(scanner) => scanner.picks_adapter(),
        };
        if picks { Err(adapter_forbidden().closing()) } else { Ok(()) }
    }

    /// The scanner of a JSON body; None: the body is no JSON, or not scanned.
    pub(super) fn json(&self) -> Option<&Scanner> {
        match self {
            Self::Json(scanner) => Some(scanner),
            Self::None | Self::Form(_) => None,
        }
    }
}

/// 403: the request picks what its caller may not use.
pub(crate) fn adapter_forbidden() -> ApiError {
    let message = "A field of this request (such as lora, lora_path, adapter_id, models or \
        fallbacks, or a model in the query) picks an adapter or another model than `model`, and \
        the engine serves some that this caller may not use. Leave the field out and name what \
        should respond in `model`, or use a key for all models of this engine.";
    ApiError::new(Cause::Forbidden, message)
}
