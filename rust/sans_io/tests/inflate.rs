//! `inflate`: bodies of real encoders whatever the split, and everything that a damaged or hostile
//! body can be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use proptest::prelude::*;
use sans_io::codec::inflate::{Caps, Coding, InflateError, Inflater, coding};

const CAPS: Caps = Caps { decoded: 64 << 20, ratio: 1 << 20 };
const TEXT: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"hi hi hi hi hi"}]}"#;

/// `gzip.compress(TEXT, mtime=0)` by Python 3.11.
const PYTHON_GZIP: &[u8] =
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\xca\xcd\x4f\x49\xcd\x51\xb2\x52\xca\x55\xd2\x51\xca\
    \x4d\x2d\x2e\x4e\x4c\x4f\x2d\x56\xb2\x8a\xae\x56\x2a\xca\xcf\x49\x05\x8a\x97\x16\xa7\x16\x01\xa5\x92\
    \xf3\xf3\x4a\x52\xf3\x4a\x80\x02\x19\x99\x0a\x48\x48\xa9\x36\xb6\x16\x00\x47\xd1\x8a\xed\x45\x00\x00\
    \x00";
/// `zlib.compress(TEXT)` by Python 3.11.
const PYTHON_ZLIB: &[u8] =
    b"\x78\x9c\xab\x56\xca\xcd\x4f\x49\xcd\x51\xb2\x52\xca\x55\xd2\x51\xca\x4d\x2d\x2e\x4e\x4c\x4f\x2d\x56\
    \xb2\x8a\xae\x56\x2a\xca\xcf\x49\x05\x8a\x97\x16\xa7\x16\x01\xa5\x92\xf3\xf3\x4a\x52\xf3\x4a\x80\x02\
    \x19\x99\x0a\x48\x48\xa9\x36\xb6\x16\x00\x13\x86\x16\x9c";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn bare_deflate(text: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// With a checksum, as the `zstd` program writes it.
fn zstd(text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Each format with a body that says `text`.
fn encoded(text: &[u8]) -> [(Coding, Vec<u8>); 4] {
    [
        (Coding::Gzip, gzip(text)),
        (Coding::Deflate, zlib(text)),
        (Coding::Deflate, bare_deflate(text, 6)),
        (Coding::Zstd, zstd(text)),
    ]
}

/// Decodes pieces into portions of `most` bytes.
fn decode<'a>(
    coding: Coding,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    most: usize,
    caps: Caps,
) -> Result<Vec<u8>, InflateError> {
    let mut inflater = Inflater::new(coding, caps);
    let mut whole = Vec::new();
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        while !piece.is_empty() {
            let mut out = BytesMut::new();
            let result = inflater.decode(&mut piece, &mut out, most);
            assert!(out.len() <= most, "more than was asked for");
            whole.extend_from_slice(&out);
            if let Err(error) = result {
                assert_eq!(
                    inflater.decode(&mut piece, &mut out, most),
                    Err(error),
                    "an error is final"
                );
                assert_eq!(inflater.end(), Err(error), "the end forgets the error");
                return Err(error);
            }
        }
    }
    inflater.end().map(|()| whole)
}

fn decode_all(coding: Coding, body: &[u8]) -> Result<Vec<u8>, InflateError> {
    decode(coding, [body], 1 << 16, CAPS)
}

#[test]
fn bodies_of_every_encoder_are_decoded_in_every_split() {
    let long = TEXT.repeat(1000);
    for text in [b"".as_slice(), b"x", TEXT, &long] {
        for (coding, body) in encoded(text) {
            for size in [1, 2, 7, 4096, usize::MAX] {
                for most in [1, 13, 1 << 16] {
                    let pieces = body.chunks(size.min(body.len()));
                    assert!(
                        decode(coding, pieces, most, CAPS).as_deref() == Ok(text),
                        "{coding:?} {size} {most}"
                    );
                }
            }
        }
    }
}

#[test]
fn bodies_of_python_are_decoded() {
    assert_eq!(decode_all(Coding::Gzip, PYTHON_GZIP).as_deref(), Ok(TEXT));
    assert_eq!(decode_all(Coding::Deflate, PYTHON_ZLIB).as_deref(), Ok(TEXT));
    // With `wbits=-15` it writes what is inside.
    assert_eq!(
        decode_all(Coding::Deflate, &PYTHON_ZLIB[2..PYTHON_ZLIB.len() - 4]).as_deref(),
        Ok(TEXT)
    );
}

#[test]
fn bare_deflate_is_told_from_zlib_at_every_level() {
    for text in [b"".as_slice(), b"a", TEXT, &TEXT.repeat(2000)] {
        for level in 0..=9 {
            let body = bare_deflate(text, level);
            assert!(decode_all(Coding::Deflate, &body).as_deref() == Ok(text), "level {level}");
        }
    }
}

#[test]
fn several_members_are_one_body() {
    for (coding, encode) in [(Coding::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Coding::Zstd, zstd)] {
        let body = [encode(b"one, "), encode(b""), encode(b"two")].concat();
        for size in [1, 5, body.len()] {
            assert_eq!(
                decode(coding, body.chunks(size), 2, CAPS).as_deref(),
                Ok(b"one, two".as_slice()),
                "{coding:?}"
            );
        }
        let cut = &body[..body.len() - 1];
        assert_eq!(decode_all(coding, cut), Err(InflateError::Truncated), "{coding:?}");
    }
}

#[test]
fn a_skippable_frame_of_zstd_is_passed_over() {
    let body = [&zstd(b"one, "), b"\x5A\x2A\x4D\x18\x03\x00\x00\x00abc".as_slice(), &zstd(b"two")]
        .concat();
    assert_eq!(decode_all(Coding::Zstd, &body).as_deref(), Ok(b"one, two".as_slice()));
}

#[test]
fn gzip_with_every_field_of_its_header_is_decoded() {
    let mut encoder = flate2::GzBuilder::new()
        .filename("a.json")
        .comment("made by a client")
        .extra(b"xy\x01\x00z".as_slice())
        .write(Vec::new(), Compression::fast());
    encoder.write_all(TEXT).unwrap();
    let body = encoder.finish().unwrap();
    assert_eq!(decode(Coding::Gzip, body.chunks(1), 8, CAPS).as_deref(), Ok(TEXT));
}

#[test]
fn a_body_that_is_cut_off_anywhere_is_refused() {
    for (coding, body) in encoded(TEXT) {
        for end in 0..body.len() {
            let result = decode(coding, body[..end].chunks(5), 16, CAPS);
            assert_eq!(result, Err(InflateError::Truncated), "{coding:?} after {end} bytes");
        }
    }
}

#[test]
fn a_flipped_bit_never_makes_another_text() {
    for (coding, body) in
        [(Coding::Gzip, gzip(TEXT)), (Coding::Deflate, zlib(TEXT)), (Coding::Zstd, zstd(TEXT))]
    {
        let mut refused = 0;
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let result = decode(coding, damaged.chunks(3), 1 << 16, CAPS);
            refused += usize::from(result.is_err());
            assert!(result.is_err() || result.as_deref() == Ok(TEXT), "{coding:?}, bit {bit}");
        }
        // A few bits say nothing of the text: gzip's time, its system.
        assert!(
            refused > body.len() * 8 / 2,
            "{coding:?}: only {refused} of {} bits",
            body.len() * 8
        );
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    for (coding, body) in encoded(TEXT) {
        for rest in [b"x".as_slice(), b"\0\0\0\0", b"\r\n", TEXT] {
            let body = [&body, rest].concat();
            assert_eq!(decode_all(coding, &body), Err(InflateError::TrailingData), "{coding:?}");
            assert_eq!(
                decode(coding, body.chunks(1), 1, CAPS),
                Err(InflateError::TrailingData),
                "{coding:?}"
            );
        }
    }
}

#[test]
fn a_body_that_is_not_compressed_is_refused() {
    for coding in [Coding::Gzip, Coding::Deflate, Coding::Zstd] {
        assert_eq!(decode_all(coding, TEXT), Err(InflateError::Broken), "{coding:?}");
        assert_eq!(decode(coding, [], 1, CAPS), Err(InflateError::Truncated), "{coding:?}");
    }
    assert_eq!(decode_all(Coding::Gzip, &zlib(TEXT)), Err(InflateError::Broken));
    assert_eq!(decode_all(Coding::Zstd, &gzip(TEXT)), Err(InflateError::Broken));
}

#[test]
fn a_bomb_is_stopped_at_the_size_cap() {
    let zeros = vec![0; 8 << 20];
    for (coding, body) in encoded(&zeros) {
        for limit in [0, 1, 1 << 20, (8 << 20) - 1] {
            let caps = Caps { decoded: limit, ..CAPS };
            let mut inflater = Inflater::new(coding, caps);
            let (mut input, mut out) = (Bytes::from(body.clone()), BytesMut::new());
            let result = inflater.decode(&mut input, &mut out, usize::MAX);
            assert_eq!(result, Err(InflateError::TooLarge { limit }), "{coding:?}");
            assert!(out.len() as u64 <= limit + 1, "{coding:?} decoded {} bytes", out.len());
        }
        let exact = Caps { decoded: 8 << 20, ..CAPS };
        assert!(
            decode(coding, [body.as_slice()], 1 << 16, exact).as_deref() == Ok(zeros.as_slice()),
            "{coding:?}"
        );
    }
}

#[test]
fn a_bomb_is_stopped_at_the_ratio_cap() {
    for (coding, body) in encoded(&vec![b' '; 8 << 20]) {
        let caps = Caps { decoded: u64::MAX, ratio: 100 };
        let result = decode(coding, body.chunks(100), 1 << 16, caps);
        assert_eq!(result, Err(InflateError::Ratio { limit: 100 }), "{coding:?}");
    }
    for (coding, body) in encoded(&vec![b' '; 1 << 20]) {
        let caps = Caps { decoded: u64::MAX, ratio: 1 };
        assert!(
            decode(coding, [body.as_slice()], 1 << 16, caps).is_ok(),
            "{coding:?}: the first MiB is free"
        );
    }
}

#[test]
fn the_end_is_told_while_decoded_bytes_wait() {
    for (coding, body) in encoded(&vec![b'a'; 100_000]) {
        let mut inflater = Inflater::new(coding, CAPS);
        let (mut input, mut out) = (Bytes::from(body), BytesMut::new());
        inflater.decode(&mut input, &mut out, 10).unwrap();
        assert_eq!(out.len(), 10);
        assert!(!input.is_empty(), "{coding:?}: more is to come out");
        assert_eq!(inflater.end(), Err(InflateError::Truncated), "{coding:?}");
    }
}

#[test]
fn a_window_over_8_mb_is_refused() {
    // A frame's header with a window of 2^23 bytes, then of 2^23 + 2^20.
    let frame = |window: u8| [0x28, 0xB5, 0x2F, 0xFD, 0x00, window, 0x01, 0x00, 0x00];
    assert_eq!(decode_all(Coding::Zstd, &frame(13 << 3)).as_deref(), Ok(b"".as_slice()));
    assert_eq!(decode_all(Coding::Zstd, &frame(13 << 3 | 1)), Err(InflateError::Window));
    assert_eq!(decode_all(Coding::Zstd, &frame(21 << 3)), Err(InflateError::Window));
}

#[test]
fn a_coding_is_found_by_its_name() {
    let named = |names: &[&'static [u8]]| {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(CONTENT_ENCODING, http::HeaderValue::from_bytes(name).unwrap());
        }
        coding(&headers)
    };
    assert_eq!(named(&[]), Ok(None));
    for (name, expected) in [
        (b"identity".as_slice(), None),
        (b"", None),
        (b"gzip", Some(Coding::Gzip)),
        (b" GZip\t", Some(Coding::Gzip)),
        (b"x-gzip", Some(Coding::Gzip)),
        (b"deflate", Some(Coding::Deflate)),
        (b"zstd", Some(Coding::Zstd)),
    ] {
        assert_eq!(named(&[name]), Ok(expected), "{}", name.escape_ascii());
    }
    for name in [
        b"br".as_slice(),
        b"compress",
        b"gzip, gzip",
        b"gzip,",
        b"identity, gzip",
        b"gzip;q=1",
        b"gz\xff",
    ] {
        assert!(named(&[name]).is_err(), "{}", name.escape_ascii());
    }
    assert!(named(&[b"gzip", b"gzip"]).is_err());
    assert!(named(&[b"identity", b"gzip"]).is_err());
}

#[test]
fn errors_are_whole_sentences_and_tell_what_is_too_large() {
    let caps = [InflateError::TooLarge { limit: 7 }, InflateError::Ratio { limit: 7 }];
    let faults = [
        InflateError::Broken,
        InflateError::Truncated,
        InflateError::TrailingData,
        InflateError::Window,
    ];
    assert!(caps.into_iter().all(InflateError::is_too_large));
    assert!(!faults.into_iter().any(InflateError::is_too_large));
    let unknown =
        coding(&HeaderMap::from_iter([(CONTENT_ENCODING, http::HeaderValue::from_static("br"))]))
            .unwrap_err();
    for text in
        caps.into_iter().chain(faults).map(|error| error.to_string()).chain([unknown.to_string()])
    {
        assert!(text.starts_with("The ") && text.ends_with('.') && text.contains("; "), "{text}");
    }
}

proptest! {
    #[test]
    fn texts_come_back_whatever_the_pieces(
        words in prop::collection::vec("[a-c]{0,300}", 0..40),
        size in 1_usize..600,
        most in 1_usize..5000,
    ) {
        let text = words.concat().into_bytes();
        for (coding, body) in encoded(&text) {
            prop_assert_eq!(decode(coding, body.chunks(size), most, CAPS), Ok(text.clone()));
        }
    }

    #[test]
    fn no_bytes_make_it_fail_otherwise_than_by_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        start in 0_usize..40,
        size in 1_usize..50,
    ) {
        for (coding, body) in encoded(TEXT) {
            let body = [&body[..start.min(body.len())], &bytes].concat();
            let whole = decode(coding, [body.as_slice()], 1 << 16, CAPS);
            prop_assert_eq!(decode(coding, body.chunks(size), 100, CAPS), whole);
        }
    }
}
