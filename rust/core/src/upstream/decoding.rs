//! The decompression of a body while it comes.

use bytes::{Bytes, BytesMut};

use sans_io::codec::inflate::{Caps, Coding, InflateError, Inflater};

/// The size of the pieces in which a body is decoded, in bytes.
const DECODED: usize = 64 * 1024;

/// The decompression of one body.
#[derive(Debug)]
pub(crate) struct Decoding {
    inflater: Inflater,
    /// Bytes that were received and are not decoded yet.
    encoded: Bytes,
    /// The last piece was full, so there may be more inside the inflater.
    more: bool,
    /// Nothing has come yet.
    untouched: bool,
}

impl Decoding {
    /// A body of this coding; a piece beyond the limits is an error.
    pub(crate) fn new(coding: Coding, caps: Caps) -> Self {
        let inflater = Inflater::new(coding, caps);
        Self { inflater, encoded: Bytes::new(), more: false, untouched: true }
    }

    /// Takes the next bytes of the body, where those before have no more to give.
    pub(crate) fn feed(&mut self, encoded: Bytes) {
        self.untouched &= encoded.is_empty();
        self.encoded = encoded;
    }

    /// Whether nothing of the body has come.
    pub(crate) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Whether more may be decoded of the bytes received so far.
    pub(crate) fn has_input(&self) -> bool {
        self.more || !self.encoded.is_empty()
    }

    /// Decodes one piece; an empty one: more must be received.
    pub(crate) fn next(&mut self) -> Result<Bytes, InflateError> {
        let mut plain = BytesMut::new();
        self.inflater.decode(&mut self.encoded, &mut plain, DECODED)?;
        self.more = plain.len() >= DECODED;
        Ok(plain.freeze())
    }

    /// Judges the body at its end.
    pub(crate) fn end(&self) -> Result<(), InflateError> {
        self.inflater.end()
    }

    /// The memory that it holds, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.inflater.memory()
    }
}
