//! Errors of a form, in words for the client.

use std::fmt;

use super::limits::{BOUNDARY_MAX, HEADER_BYTES_MAX, PARTS_MAX};
use crate::codec::json::MODEL_BYTES_MAX;

/// The error of a form, and where it is. Displayed to the client: whole sentences that repeat
/// nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultipartError {
    /// The kind of error.
    pub kind: MultipartErrorKind,
    /// The byte of the body that shows it, counted from 0. For an error of a part's header: where
    /// the header begins; of a field's value: where the value begins; of the Content-Type: 0.
    pub offset: u64,
}

/// Kinds of errors of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultipartErrorKind {
    /// The Content-Type is not multipart/form-data.
    NotFormData,
    /// The Content-Type's parameters are not well-formed, or say something twice.
    ContentTypeMalformed,
    /// The Content-Type has no boundary or an empty one.
    BoundaryMissing,
    /// The boundary is too long or has a character that RFC 2046 does not allow.
    BoundaryIllegal,
    /// The Content-Type names a character set that is not UTF-8.
    OtherCharset,
    /// The body has no byte.
    Empty,
    /// The body has no delimiter.
    NoDelimiter,
    /// The body ends before its closing delimiter.
    Truncated,
    /// A line of the form ends with LF alone.
    BareLineFeed,
    /// The text before the first delimiter is too long.
    PreambleTooLong,
    /// The boundary stands in the text before the first delimiter.
    BoundaryInPreamble,
    /// White space follows the boundary of the first delimiter.
    PaddedFirstLine,
    /// Something other than white space follows the closing delimiter.
    TrailingData,
    /// More than [`PARTS_MAX`] parts.
    TooManyParts,
    /// A part's header is longer than [`HEADER_BYTES_MAX`].
    HeaderTooLong,
    /// A line of a part's header is no `name: value`.
    HeaderMalformed,
    /// A part has no `Content-Disposition`.
    DispositionMissing,
    /// A part's `Content-Disposition` is not well-formed, not `form-data`, or says something twice
    /// or unknown.
    DispositionMalformed,
    /// A part has no `name`.
    NameMissing,
    /// A part's `name` is one that readers understand differently.
    NameMalformed,
    /// A delimiter follows a part's header at once.
    DataMissing,
    /// The form has no field `model`.
    ModelMissing,
    /// The form has a second field `model`.
    ModelTwice,
    /// A field is `model` for some readers alone: `model[]`.
    ModelOtherwise,
    /// `model` is sent as a file.
    ModelIsAFile,
    /// `model` has a transfer encoding.
    ModelEncoded,
    /// `model` is empty or blank.
    ModelEmpty,
    /// `model` is longer than [`MODEL_BYTES_MAX`].
    ModelTooLong,
    /// `model` holds a line break, or begins with the boundary.
    ModelNotOneLine,
    /// `model` is not UTF-8.
    ModelNotUnicode,
}

impl std::error::Error for MultipartError {}

impl fmt::Display for MultipartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use MultipartErrorKind as Kind;
        match self.kind {
            Kind::NotFormData
            | Kind::ContentTypeMalformed
            | Kind::BoundaryMissing
            | Kind::BoundaryIllegal
            | Kind::OtherCharset => self.content_type(f),
            Kind::ModelMissing
            | Kind::ModelTwice
            | Kind::ModelOtherwise
            | Kind::ModelIsAFile
            | Kind::ModelEncoded
            | Kind::ModelEmpty
            | Kind::ModelTooLong
            | Kind::ModelNotOneLine
            | Kind::ModelNotUnicode => self.model(f),
            Kind::HeaderTooLong
            | Kind::HeaderMalformed
            | Kind::DispositionMissing
            | Kind::DispositionMalformed
            | Kind::NameMissing
            | Kind::NameMalformed
            | Kind::DataMissing => self.part(f),
            _ => self.form(f),
        }
    }
}

impl MultipartError {
    fn form(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use MultipartErrorKind as Kind;
        let at = self.offset;
        match self.kind {
            Kind::Empty => f.write_str("The request body is empty; send a form (multipart/form-data)."),
            Kind::NoDelimiter => f.write_str(
                "The request body has no line of two dashes and the boundary that its Content-Type names; send both from \
                 the same client library, with CR LF at the ends of lines.",
            ),
            Kind::Truncated => {
                write!(f, "The request body ends after {at} bytes, before its closing delimiter; \
                    send the whole form.")
            }
            Kind::BareLineFeed => {
                write!(f, "The request body has a line of its form that ends with LF alone, at \
                    byte {at}; end lines with CR LF.")
            }
            Kind::PreambleTooLong => write!(
                f,
                "The request body has more than {HEADER_BYTES_MAX} bytes before its first \
                 delimiter; begin with the form."
            ),
            Kind::BoundaryInPreamble => write!(
                f,
                "The request body has its boundary in the text before the first delimiter, before \
                 byte {at}; begin with the form."
            ),
            Kind::PaddedFirstLine => write!(
                f,
                "The request body has white space behind its first boundary, at byte {at}; end the \
                 line with CR LF there."
            ),
            Kind::TrailingData => {
                write!(f, "The request body goes on after its closing delimiter, at byte {at}; \
                    send one form only.")
            }
            Kind::TooManyParts => {
                write!(f, "The request body has more than {PARTS_MAX} parts; send fewer.")
            }
            _ => f.write_str("The request body is no form; send one (multipart/form-data)."),
        }
    }

    fn content_type(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            MultipartErrorKind::BoundaryMissing => f.write_str(
                "The Content-Type names no boundary; let your client library set it, or send \
                 `multipart/form-data; boundary=` and the text that separates the parts.",
            ),
            MultipartErrorKind::BoundaryIllegal => write!(
                f,
                "The boundary in the Content-Type is longer than {BOUNDARY_MAX} characters or has one that is not allowed; \
                 use letters, digits and `'()+_,-./:=?`."
            ),
            MultipartErrorKind::OtherCharset => f.write_str(
                "The Content-Type names a character set that is not UTF-8; send the form in UTF-8 \
                 and leave `charset` out.",
            ),
            MultipartErrorKind::NotFormData => f.write_str(
                "The Content-Type is not multipart/form-data; send the request as a \
                    form of that type.",
            ),
            _ => f.write_str(
                "The Content-Type is not well-formed, or names a boundary more than once; send \
                 `multipart/form-data; boundary=` and the text that separates the parts.",
            ),
        }
    }

    fn part(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.kind {
            MultipartErrorKind::HeaderTooLong => write!(
                f,
                "The request body has a part whose header, at byte {at}, is longer than \
                 {HEADER_BYTES_MAX} bytes; send a shorter one."
            ),
            MultipartErrorKind::HeaderMalformed => write!(
                f,
                "The request body has a part whose header, at byte {at}, has a line that is no `name: value`; write one header a line \
                 and an empty line behind them."
            ),
            MultipartErrorKind::DispositionMissing => write!(
                f,
                "The request body has a part, at byte {at}, without a Content-Disposition; \
                 send `Content-Disposition: form-data; name=\"…\"` with each part."
            ),
            MultipartErrorKind::NameMissing => write!(
                f,
                "The request body has a part, at byte {at}, whose Content-Disposition has no `name`; \
                 send `form-data; name=\"…\"` with each part."
            ),
            MultipartErrorKind::NameMalformed => write!(
                f,
                "The request body has a part, at byte {at}, whose `name` is not one that every reader understands alike; \
                 put it in double quotes and use no `;` and no backslash in it."
            ),
            MultipartErrorKind::DataMissing => write!(
                f,
                "The request body has a part without data that ends at byte {at}; end its header with an empty line, and its data, \
                 empty or not, with another line end."
            ),
            _ => write!(
                f,
                "The request body has a part, at byte {at}, whose Content-Disposition is not well-formed; send one of \
                 `form-data; name=\"…\"`, for a file with `; filename=\"…\"`, and nothing else."
            ),
        }
    }

    fn model(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.kind {
            MultipartErrorKind::ModelMissing => f.write_str(
                "The form has no field `model`; name the model to use, as /v1/models lists it.",
            ),
            MultipartErrorKind::ModelTwice => {
                write!(f, "The form has a second field `model`, at byte {at}; send `model` once.")
            }
            MultipartErrorKind::ModelOtherwise => write!(
                f,
                "The name of a field is `model` with brackets, dots or white space, at byte {at}; \
                 send `model` once, under this name alone."
            ),
            MultipartErrorKind::ModelIsAFile => {
                write!(
                    f,
                    "`model` is sent as a file, at byte {at}; send it as a plain field, without a \
                     filename."
                )
            }
            MultipartErrorKind::ModelEncoded => write!(
                f,
                "`model` has a Content-Transfer-Encoding, at byte {at}; send the name as it is, \
                 without that header."
            ),
            MultipartErrorKind::ModelTooLong => {
                write!(
                    f,
                    "`model` is longer than {MODEL_BYTES_MAX} bytes; name the model as /v1/models \
                     lists it."
                )
            }
            MultipartErrorKind::ModelNotOneLine => f.write_str(
                "`model` holds a line break or the form's boundary; send the name alone.",
            ),
            MultipartErrorKind::ModelNotUnicode => {
                f.write_str("`model` is not valid UTF-8; name the model in UTF-8.")
            }
            _ => f.write_str("`model` is empty; name the model to use, as /v1/models lists it."),
        }
    }
}
