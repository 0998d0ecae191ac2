//! The line before the data of a chunk, as it is written in both directions.

/// The room of a line: 16 digits, CR and LF.
const ROOM: usize = 18;

/// The line that begins a chunk: its size in hexadecimal digits (RFC 9112 7.1), and CR LF.
#[derive(Clone, Copy, Debug)]
pub struct SizeLine {
    bytes: [u8; ROOM],
    /// Where the digits begin.
    begin: usize,
}

impl SizeLine {
    /// The line of a chunk with this many bytes of data.
    pub fn new(size: usize) -> Self {
        let (mut bytes, mut begin, mut rest) = ([0; ROOM], ROOM - 2, size);
        bytes[begin..].copy_from_slice(b"\r\n");
        loop {
            begin -= 1;
            bytes[begin] = b"0123456789abcdef"[rest & 15];
            rest >>= 4;
            if rest == 0 {
                return Self { bytes, begin };
            }
        }
    }

    /// The line with its end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_size_is_hexadecimal() {
        for size in [0, 1, 10, 16, 0x1f00, 0xabc_def0, usize::MAX] {
            assert_eq!(SizeLine::new(size).as_bytes(), format!("{size:x}\r\n").as_bytes());
        }
    }
}
