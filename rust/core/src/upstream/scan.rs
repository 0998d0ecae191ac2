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
    /// As a JSON object, perhaps, that may name a host. `json`: by its `Content-Type`, or without
    /// one, an engine may read it as that.
    Watch { json: bool },
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
    Watched {
        scanner: Box<Scanner>,
        json: bool,
    },
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
            Reading::Watch { json } => {
                let mut scanner = Box::new(Scanner::new(limits.configured.max_nesting));
                scanner.watch();
                Self::Watched { scanner, json }
            }
            Reading::Form(content_type) => {
                Self::Form(Box::new(multipart::Scanner::new(content_type).map_err(|error| {
                    ApiError::new(Cause::BadRequest, error.to_string()).closing()
                })?))
            }
        })
    }

    /// Takes a JSON body without a model, into which that of the default route is put.
    pub(super) fn allow_no_model(&mut self) {
        if let Self::Json(scanner) = self {
            scanner.allow_no_model();
        }
    }

    /// Reads the next piece. Fails with a 400 that closes the connection, since more of the
    /// malformed body may follow.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        let rejected = |error: String| ApiError::new(Cause::BadRequest, error).closing();
        match self {
            Self::None => Ok(()),
            Self::Json(scanner) => scanner.feed(piece).map_err(|error| rejected(error.to_string())),
            // What is no JSON passes, unless engines may find more in it than was found here.
            Self::Watched { scanner, json } => match scanner.feed(piece) {
                Err(error) if *json && error.kind.may_hide() => Err(rejected(error.to_string())),
                _ => Ok(()),
            },
            Self::Form(scanner) => scanner.feed(piece).map_err(|error| rejected(error.to_string())),
        }
    }

    /// Judges the body at its end. Fails with a 400 where it is incomplete or names no model.
    pub(super) fn end(&self) -> Result<(), ApiError> {
        let rejected = |error: String| ApiError::new(Cause::BadRequest, error);
        match self {
            Self::None | Self::Watched { .. } => Ok(()),
            Self::Json(scanner) => scanner.end().map_err(|error| rejected(error.to_string())),
            Self::Form(scanner) => scanner.end().map_err(|error| rejected(error.to_string())),
        }
    }

    /// The model; None: not seen yet.
    pub(super) fn model(&self) -> Option<&Model> {
        match self {
            Self::None | Self::Watched { .. } => None,
            Self::Json(scanner) => scanner.model(),
            Self::Form(scanner) => scanner.model(),
        }
    }

    /// Whether the client asks for a stream, in the bytes read so far.
    pub(super) fn asks_stream(&self) -> bool {
        match self {
            Self::None | Self::Watched { .. } => false,
            Self::Json(scanner) => scanner.stream(),
            Self::Form(scanner) => scanner.stream(),
        }
    }

    /// Whether nothing that is still to come can name a model or pick an adapter.
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::None | Self::Watched { .. } => true,
            Self::Json(scanner) => scanner.is_finished(),
            Self::Form(scanner) => scanner.is_finished(),
        }
    }

    /// Rejects (403) a body that does what is forbidden, in the bytes read so far.
    pub(super) fn check(&self, forbidden: Forbidden) -> Result<(), ApiError> {
        let (picks, names_host) = match self {
            Self::None => (false, false),
            // Who may not pick may send no body that is not read.
            Self::Watched { scanner, .. } => (false, scanner.names_host()),
            Self::Json(scanner) => (scanner.picks_adapter(), scanner.names_host()),
            Self::Form(scanner) => (scanner.picks_adapter(), scanner.names_host()),
        };
        if forbidden.hosts && names_host {
            return Err(host_forbidden().closing());
        }
        if forbidden.adapters && picks { Err(adapter_forbidden().closing()) } else { Ok(()) }
    }

    /// The scanner of a JSON body; None: the body is no JSON, or not scanned.
    pub(super) fn json(&self) -> Option<&Scanner> {
        match self {
            Self::Json(scanner) => Some(scanner),
            Self::None | Self::Watched { .. } | Self::Form(_) => None,
        }
    }
}

/// What a body may not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forbidden {
    /// Pick an adapter, or another model than `model`.
    pub(crate) adapters: bool,
    /// Name a host to which the engine connects.
    pub(crate) hosts: bool,
}

/// 403: the request names a host, which its caller may not do.
pub(crate) fn host_forbidden() -> ApiError {
    let message = "A field of this request (such as kv_transfer_params, bootstrap_host, \
        disaggregated_params or base_url) sends the engine to a host that the request names. Leave \
        the field out, or use a key with the scope \"management\".";
    ApiError::new(Cause::Forbidden, message)
}

/// 403: the request picks what its caller may not use.
pub(crate) fn adapter_forbidden() -> ApiError {
    let message = "A field of this request (such as lora, lora_path, adapter_id, models or \
        fallbacks, or a model in the query) picks an adapter or another model than `model`, and \
        the engine serves some that this caller may not use. Leave the field out and name what \
        should respond in `model`, or use a key for all models of this engine.";
    ApiError::new(Cause::Forbidden, message)
}
