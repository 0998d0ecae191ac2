//! Reads headers: the boundary of the request's Content-Type, and of a part its name, whether it is
//! a file, and its encoding.

use memchr::memchr;
use memchr::memmem;

use super::error::MultipartErrorKind;
use super::limits::BOUNDARY_MAX;
use crate::codec::adapters::{Picks, is_model_otherwise, picks_in_text};

/// The boundary that a Content-Type names; never empty.
pub(super) fn boundary(content_type: &[u8]) -> Result<&[u8], MultipartErrorKind> {
    let (media_type, rest) =
        content_type.split_at(memchr(b';', content_type).unwrap_or(content_type.len()));
    if !media_type.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(MultipartErrorKind::NotFormData);
    }
    let mut parameters = Parameters { rest };
    let mut boundary = None;
    while let Some(parameter) =
        parameters.next().map_err(|_| MultipartErrorKind::ContentTypeMalformed)?
    {
        let start = rest.len() - parameter.length_from_name - parameters.rest.len();
        let name = parameter.name.to_ascii_lowercase();
        match name.as_slice() {
            b"boundary" if boundary.is_some() => {
                return Err(MultipartErrorKind::ContentTypeMalformed);
            }
            // cpp-httplib takes what follows the first `boundary=`, wherever it stands.
            b"boundary"
                if memmem::find(&rest[..start].to_ascii_lowercase(), b"boundary=").is_some() =>
            {
                return Err(MultipartErrorKind::ContentTypeMalformed);
            }
            b"boundary" => boundary = Some(parameter.value),
            // Starlette decodes names and values with it.
            b"charset" if !is_utf_8(parameter.value) => {
                return Err(MultipartErrorKind::OtherCharset);
            }
            // Some readers decode the forms of RFC 2231 into a plain parameter.
            _ if name.contains(&b'*') => return Err(MultipartErrorKind::ContentTypeMalformed),
            _ => {}
        }
    }
    match boundary {
        None | Some([]) => Err(MultipartErrorKind::BoundaryMissing),
        Some(boundary) if is_boundary(boundary) => Ok(boundary),
        Some(_) => Err(MultipartErrorKind::BoundaryIllegal),
    }
}

fn is_utf_8(charset: &[u8]) -> bool {
    charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"utf8")
}

fn is_boundary(text: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(byte);
    text.len() <= BOUNDARY_MAX && text.iter().all(legal) && !text.ends_with(b" ")
}

/// The field of the form that a part is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Field {
    Model,
    /// Only some readers take it for `model`.
    ModelOtherwise,
    Stream,
    /// It can do something else than `model` says.
    Pick(Picks),
    #[default]
    Other,
}

/// The header of a part as far as it was read.
#[derive(Default)]
pub(super) struct PartHeader {
    pub(super) field: Field,
    disposition: bool,
    file: bool,
    encoded: bool,
}

impl PartHeader {
    /// Reads one line. It is not empty and comes without its line end.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<(), MultipartErrorKind> {
        let (name, rest) = line.split_at(token(line));
        let value = match rest.split_first() {
            Some((b':', value)) if !name.is_empty() && value.iter().all(|&byte| is_text(byte)) => {
                value.trim_ascii()
            }
            _ => return Err(MultipartErrorKind::HeaderMalformed),
        };
        if name.eq_ignore_ascii_case(b"content-disposition") {
            if self.disposition {
                return Err(MultipartErrorKind::DispositionMalformed);
            }
            self.disposition = true;
            self.read_disposition(value)?;
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let plain: [&[u8]; 3] = [b"7bit", b"8bit", b"binary"];
            self.encoded |= !plain.iter().any(|plain| value.eq_ignore_ascii_case(plain));
        }
        Ok(())
    }

    fn read_disposition(&mut self, value: &[u8]) -> Result<(), MultipartErrorKind> {
        let (kind, rest) = value.split_at(memchr(b';', value).unwrap_or(value.len()));
        if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
            return Err(MultipartErrorKind::DispositionMalformed);
        }
        let mut parameters = Parameters { rest };
        let (mut field, mut filename, mut extended) = (None, false, false);
        while let Some(parameter) =
            parameters.next().map_err(|_| MultipartErrorKind::DispositionMalformed)?
        {
            // Each once, and no other: engines' parsers take the last of two, decode `name*`, or
            // find a `name` inside of what they do not know.
            match parameter.name.to_ascii_lowercase().as_slice() {
                b"name" if field.is_none() => {
                    field = Some(parameter.field().ok_or(MultipartErrorKind::NameMalformed)?);
                }
                b"filename" if !filename => filename = true,
                b"filename*" if !extended => extended = true,
                _ => return Err(MultipartErrorKind::DispositionMalformed),
            }
        }
        self.file = filename || extended;
        self.field = field.ok_or(MultipartErrorKind::NameMissing)?;
        Ok(())
    }

    /// Checks the header as a whole. `second`: an earlier part was the field `model`.
    pub(super) fn check(&mut self, second: bool) -> Result<(), MultipartErrorKind> {
        if !self.disposition {
            return Err(MultipartErrorKind::DispositionMissing);
        }
        match self.field {
            Field::Model if self.file => return Err(MultipartErrorKind::ModelIsAFile),
            Field::Model if self.encoded => return Err(MultipartErrorKind::ModelEncoded),
            Field::Model if second => return Err(MultipartErrorKind::ModelTwice),
            Field::ModelOtherwise => return Err(MultipartErrorKind::ModelOtherwise),
            Field::Stream if self.file => self.field = Field::Other,
            _ => {}
        }
        Ok(())
    }
}

/// Text that does not follow the grammar of parameters.
struct Malformed;

/// The parameters behind a media type or a disposition: `; name=token; name="quoted"`.
struct Parameters<'a> {
    rest: &'a [u8],
}

struct Parameter<'a> {
    name: &'a [u8],
    /// The value without its quotes, still escaped.
    value: &'a [u8],
    quoted: bool,
    /// The length of the text from the name on, with the blanks skipped behind it.
    length_from_name: usize,
}

impl<'a> Parameters<'a> {
    fn next(&mut self) -> Result<Option<Parameter<'a>>, Malformed> {
        self.rest = self.rest.trim_ascii_start();
        while let Some(rest) = self.rest.strip_prefix(b";") {
            self.rest = rest.trim_ascii_start();
            // RFC 9110 5.6.6 lets a parameter be empty.
            if !self.rest.is_empty() && !self.rest.starts_with(b";") {
                return self.parameter().map(Some);
            }
        }
        if self.rest.is_empty() { Ok(None) } else { Err(Malformed) }
    }

    fn parameter(&mut self) -> Result<Parameter<'a>, Malformed> {
        let from_name = self.rest;
        let (name, rest) = self.rest.split_at(token(self.rest));
        let rest = rest.strip_prefix(b"=").filter(|_| !name.is_empty()).ok_or(Malformed)?;
        let quoted = rest.strip_prefix(b"\"");
        let (value, rest) = match quoted {
            Some(rest) => quoted_text(rest)?,
            None => rest.split_at(rest.iter().take_while(|&&byte| is_plain(byte)).count()),
        };
        self.rest = rest.trim_ascii_start();
        let length_from_name = from_name.len() - self.rest.len();
        Ok(Parameter { name, value, quoted: quoted.is_some(), length_from_name })
    }
}

/// The text up to the closing quote, and the rest behind the quote.
fn quoted_text(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'"' if !escaped => {
                let (value, rest) = (&text[..at], &text[at + 1..]);
                // Python's readers count `\"` in `\\"` as an escaped quote and read on into the
                // next parameter.
                let ambiguous = value.ends_with(b"\\") && !rest.trim_ascii_start().is_empty();
                return if ambiguous { Err(Malformed) } else { Ok((value, rest)) };
            }
            _ if !is_text(byte) => return Err(Malformed),
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    Err(Malformed)
}

impl Parameter<'_> {
    /// The field with this name; None when engines may read different names out of it.
    ///
    /// A backslash is no part of a name that matters, so nothing need be unescaped; but only `\"`
    /// and `\\` mean the same to every reader. cpp-httplib splits a header at each `;`, quoted or
    /// not.
    fn field(&self) -> Option<Field> {
        let legal = if self.quoted { !self.value.contains(&b';') } else { self.is_token() };
        let mut rest = self.value;
        while let Some(at) = memchr(b'\\', rest) {
            if !matches!(rest.get(at + 1), Some(b'"' | b'\\')) {
                return None;
            }
            rest = &rest[at + 2..];
        }
        legal.then_some(match self.value {
            b"model" => Field::Model,
            b"stream" => Field::Stream,
            name if is_model_otherwise(name) => Field::ModelOtherwise,
            name => match picks_in_text(name) {
                Picks { model: false, host: false } => Field::Other,
                picks => Field::Pick(picks),
            },
        })
    }

    fn is_token(&self) -> bool {
        !self.value.is_empty() && token(self.value) == self.value.len()
    }
}

/// The length of the token of RFC 9110 5.6.2 at the start.
fn token(text: &[u8]) -> usize {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    text.iter().take_while(|&byte| is_token(byte)).count()
}

/// Whether a byte may stand in a header's value, quoted or not.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7F
}

/// Whether a byte may stand in a value without quotes: more than in a token, since boundaries come
/// unquoted too.
fn is_plain(byte: u8) -> bool {
    byte > b' ' && byte < 0x7F && !b";\"\\".contains(&byte)
}
