//! The scan of a request's body while it arrives.

use crate::limits::BodyLimits;
use sans_io::{
    api::error::{ApiError, Cause},
    codec::{
        json::{Model, Scanner},
        multipart,
    },
};

/// The reading of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading<'a> {
    /// Not at all: it is only carried.
    Carry,
    /// As a JSON object with a `model`.
    Json,
    /// As a JSON object that may name an earlier response.
    JsonOfResponse,
    /// As a form with a field `model`; its `Content-Type`.
    Form(&'a [u8]),
}

/// The scanner of one body.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lies in a box already, and is the usual one")]
pub(super) enum Scan {
    None,
    Json(Scanner),
    Form(Box<multipart::Scanner>),
}

impl Scan {
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

    /// Reads the next piece.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        let rejected = |error: String| ApiError::new(Cause::BadRequest, error).closing();
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.feed(piece).map_err(|error| rejected(error.to_string())),
            Self::Form(scanner) => scanner.feed(piece).map_err(|error| rejected(error.to_string())),
        }
    }

    /// Judges the body as a whole, when no more comes.
    pub(super) fn end(&self) -> Result<(), ApiError> {
        let rejected = |error: String| ApiError::new(Cause::BadRequest, error);
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.end().map_err(|error| rejected(error.to_string())),
            Self::Form(scanner) => scanner.end().map_err(|error| rejected(error.to_string())),
        }
    }

    /// The model, once it was seen.
    pub(super) fn model(&self) -> Option<&Model> {
        match self {
            Self::None => None,
            Self::Json(scanner) => scanner.model(),
            Self::Form(scanner) => scanner.model(),
        }
    }

    /// Whether the client asks for a stream, as far as was seen.
    pub(super) fn asks_stream(&self) -> bool {
        match self {
            Self::None => false,
            Self::Json(scanner) => scanner.stream(),
            Self::Form(scanner) => scanner.stream(),
        }
    }

    /// The scanner of a JSON body.
    pub(super) fn json(&self) -> Option<&Scanner> {
        match self {
            Self::Json(scanner) => Some(scanner),
            Self::None | Self::Form(_) => None,
        }
    }
}
