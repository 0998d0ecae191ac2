//! Decompresses request bodies while they arrive: gzip, deflate and zstd.
//!
//! Decoded bytes come out in portions of the caller's choice. Both their number and their ratio to
//! the encoded ones are capped, so that a small body cannot become a large one in memory. Damage is
//! detected where the format can tell: gzip and zlib by their checksums, zstd by its own where the
//! sender has added one.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// Decoded bytes that are exempt from the ratio: the start of a good body can be all alike.
const RATIO_FREE: u64 = 1 << 20;

/// The most bytes that are decoded in one step.
const STEP: usize = 16 << 10;

/// The windows of deflate and of gzip, as a power of two; there is no larger one.
const WINDOW_BITS: u8 = 15;

/// The memory of a decoder of deflate: its window and its tables, in bytes.
const DEFLATE_MEMORY: usize = 48 << 10;

/// The largest window of zstd, as a power of two: 8 MB, all that RFC 9659 lets a sender use.
const ZSTD_WINDOW_LOG: u32 = 23;

/// zstd's error code for a larger window. `zstd_errors.h` promises to keep the number.
const ZSTD_WINDOW_TOO_LARGE: usize = 16_usize.wrapping_neg();

/// A content coding (RFC 9110 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952; several members may follow each other.
    Gzip,
    /// RFC 1950, or bare RFC 1951 as some clients send it.
    Deflate,
    /// RFC 8878; several frames may follow each other.
    Zstd,
}

/// The coding that a request's `Content-Encoding` names; None for a body that is not compressed.
/// The error: it names another one, or several.
pub fn coding(headers: &HeaderMap) -> Result<Option<Coding>, UnknownCoding> {
    let mut fields = headers.get_all(CONTENT_ENCODING).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(UnknownCoding);
    }
    match field.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(None),
        // RFC 9110 8.4.1.3: equivalent.
        b"gzip" | b"x-gzip" => Ok(Some(Coding::Gzip)),
        b"deflate" => Ok(Some(Coding::Deflate)),
        b"zstd" => Ok(Some(Coding::Zstd)),
        _ => Err(UnknownCoding),
    }
}

/// A `Content-Encoding` that is not supported, or more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCoding;

impl std::error::Error for UnknownCoding {}

impl fmt::Display for UnknownCoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "The request's Content-Encoding is not one that this server decodes; \
             send gzip, deflate or zstd, one of them, or the body as it is without Content-Encoding.",
        )
    }
}

/// Limits of one decoded body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// The most decoded bytes.
    pub decoded: u64,
    /// The most decoded bytes for each encoded one; checked once more than 1 MiB was decoded.
    pub ratio: u32,
}

/// A body that cannot be decoded. Displayed to the client: a whole sentence that repeats nothing of
/// the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// The body is not of its coding, or was damaged.
    Broken,
    /// The body ends too early.
    Truncated,
    /// Something follows what the coding calls the end.
    TrailingData,
    /// zstd with a window of more than 8 MB.
    Window,
    /// More decoded bytes than [`Caps::decoded`].
    TooLarge {
        /// The cap.
        limit: u64,
    },
    /// More decoded bytes for each encoded one than [`Caps::ratio`].
    Ratio {
        /// The cap.
        limit: u32,
    },
}

impl InflateError {
    /// Whether a cap was exceeded (413); else the body itself is wrong (400).
    pub fn is_too_large(self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Ratio { .. })
    }
}

impl std::error::Error for InflateError {}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => f.write_str(
                "The request body is not what its Content-Encoding says, or was damaged; \
                 compress it again, or send it as it is without Content-Encoding.",
            ),
            Self::Truncated => f.write_str(
                "The compressed request body ends too early; send the \
                whole body.",
            ),
            Self::TrailingData => f.write_str(
                "The compressed request body goes on after its end; send one compressed body and \
                 nothing behind it.",
            ),
            Self::Window => f.write_str(
                "The request body is compressed by zstd with a window of more than 8 MB; \
                 use a lower level, or a window of at most 8 MB as RFC 9659 asks.",
            ),
            Self::TooLarge { limit } => {
                write!(
                    f,
                    "The request body is larger than {limit} bytes once it is decoded; send \
                    less."
                )
            }
            Self::Ratio { limit } => write!(
                f,
                "The request body becomes more than {limit} times larger when it is decoded; send \
                 it without Content-Encoding."
            ),
        }
    }
}

/// Decodes one body.
pub struct Inflater {
    decoder: Decoder,
    caps: Caps,
    /// Encoded bytes read so far.
    read: u64,
    /// Decoded bytes so far.
    written: u64,
    /// The first byte of the caller's input was read already. It stays there while more is to come
    /// out, so that an empty input means that all output is out.
    held: bool,
    failed: Option<InflateError>,
}

impl Inflater {
    /// A decoder at a body's start.
    pub fn new(coding: Coding, caps: Caps) -> Self {
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(Members::default(), Decompress::new_gzip(WINDOW_BITS)),
            Coding::Deflate => Decoder::Deflate(Members::default(), None),
            Coding::Zstd => {
                let mut context = DCtx::create();
                // It fails for numbers that this one is not, and a smaller window is the default
                // then.
                let _ = context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG));
                Decoder::Zstd(Members::default(), context)
            }
        };
        Self { decoder, caps, read: 0, written: 0, held: false, failed: None }
    }

    /// Decodes from the front of `input` into `out` until `input` is used up or `out` holds `most`
    /// bytes.
    ///
    /// When `input` is empty, all that it encodes is in `out`. The rest of it belongs in front of
    /// the next input. An error is final: every later call repeats it.
    pub fn decode(
        &mut self,
        input: &mut Bytes,
        out: &mut BytesMut,
        most: usize,
    ) -> Result<(), InflateError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !input.is_empty() && out.len() < most {
            self.step(input, out, most).inspect_err(|&error| self.failed = Some(error))?;
        }
        Ok(())
    }

    /// The memory that it holds, in bytes. Deflate's window is always there; zstd's is made when a
    /// body says how large it is.
    pub fn memory(&self) -> usize {
        match &self.decoder {
            Decoder::Gzip(..) | Decoder::Deflate(..) => DEFLATE_MEMORY,
            Decoder::Zstd(_, context) => context.sizeof(),
        }
    }

    /// Checks the body as a whole when no more bytes come. The error is an earlier one of `decode`,
    /// or that the body is cut off.
    pub fn end(&self) -> Result<(), InflateError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.decoder.members().are_whole() && !self.held => Ok(()),
            None => Err(InflateError::Truncated),
        }
    }

    fn step(
        &mut self,
        input: &mut Bytes,
        out: &mut BytesMut,
        most: usize,
    ) -> Result<(), InflateError> {
        let held = usize::from(self.held);
        let before = out.len();
        // One byte over the cap shows that it is met.
        let allowed = usize::try_from(self.caps.decoded - self.written)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let room = STEP.min(most - before).min(allowed);
        out.resize(before + room, 0);
        let step = self.decoder.step(&input[held..], &mut out[before..]);
        let (read, written) = *step.as_ref().unwrap_or(&(0, 0));
        out.truncate(before + written);
        step?;
        self.read += read as u64;
        self.written += written as u64;
        self.check_caps()?;
        if read + written == 0 && input.len() > held {
            return Err(InflateError::Broken);
        }
        let done = held + read;
        self.held = written == room && done == input.len() && self.decoder.members().inside;
        input.advance(done - usize::from(self.held));
        Ok(())
    }

    fn check_caps(&self) -> Result<(), InflateError> {
        let Caps { decoded, ratio } = self.caps;
        if self.written > decoded {
            return Err(InflateError::TooLarge { limit: decoded });
        }
        if self.written > RATIO_FREE && self.written > self.read.saturating_mul(ratio.into()) {
            return Err(InflateError::Ratio { limit: ratio });
        }
        Ok(())
    }
}

impl fmt::Debug for Inflater {
    /// Shows how far the decoder is, and nothing of the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater")
            .field("read", &self.read)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Progress through the members of a body (zstd: its frames).
#[derive(Clone, Copy, Default)]
struct Members {
    /// One has begun and has not ended.
    inside: bool,
    /// One has ended.
    any: bool,
}

impl Members {
    fn are_whole(self) -> bool {
        self.any && !self.inside
    }

    /// Records whether a step has ended a member.
    fn note(&mut self, ended: bool) {
        self.inside = !ended;
        self.any |= ended;
    }
}

enum Decoder {
    Gzip(Members, Decompress),
    /// The first byte tells which of the two formats it is.
    Deflate(Members, Option<Decompress>),
    Zstd(Members, DCtx<'static>),
}

impl Decoder {
    fn members(&self) -> Members {
        match self {
            Self::Gzip(members, _) | Self::Deflate(members, _) | Self::Zstd(members, _) => *members,
        }
    }

    /// Decodes a part of `input` into a part of `out`, at most to the end of a member. Returns how
    /// many bytes of each were used. `input` is empty only inside of a member.
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        match self {
            Self::Gzip(members, inflate) => {
                if members.are_whole() {
                    if input.first() != Some(&0x1F) {
                        return Err(InflateError::TrailingData);
                    }
                    inflate.reset(true);
                }
                inflated(inflate, members, input, out)
            }
            Self::Deflate(members, _) if members.are_whole() => Err(InflateError::TrailingData),
            Self::Deflate(members, inflate) => {
                // In zlib's first byte the low half is 8. As the start of bare deflate it would be
                // a stored block with a bit set in its padding, which no encoder writes.
                let zlib = input.first().is_some_and(|byte| byte & 0x0F == 8);
                let inflate = inflate.get_or_insert_with(|| Decompress::new(zlib));
                inflated(inflate, members, input, out)
            }
            Self::Zstd(members, context) => {
                if members.are_whole() && !matches!(input.first(), Some(0x28 | 0x50..=0x5F)) {
                    return Err(InflateError::TrailingData);
                }
                unframed(context, members, input, out)
            }
        }
    }
}

/// One step of gzip, zlib or deflate.
fn inflated(
    inflate: &mut Decompress,
    members: &mut Members,
    input: &[u8],
    out: &mut [u8],
) -> Result<(usize, usize), InflateError> {
    let (read, written) = (inflate.total_in(), inflate.total_out());
    let status =
        inflate.decompress(input, out, FlushDecompress::None).map_err(|_| InflateError::Broken)?;
    members.note(status == Status::StreamEnd);
    Ok(((inflate.total_in() - read) as usize, (inflate.total_out() - written) as usize))
}

/// One step of zstd.
fn unframed(
    context: &mut DCtx<'static>,
    members: &mut Members,
    input: &[u8],
    out: &mut [u8],
) -> Result<(usize, usize), InflateError> {
    let mut input = InBuffer::around(input);
    let mut out = OutBuffer::around(out);
    match context.decompress_stream(&mut out, &mut input) {
        Ok(expected) => members.note(expected == 0),
        Err(ZSTD_WINDOW_TOO_LARGE) => return Err(InflateError::Window),
        Err(_) => return Err(InflateError::Broken),
    }
    Ok((input.pos(), out.pos()))
}
