//! The reader of clients' requests against itself in other reads, and against a plain one that goes
//! line by line.

use bytes::BytesMut;
use sans_io::codec::http1::{
    Chunk, Decoder,
    request::{HeadError, HeadReader, MAX_FIELDS, MAX_HEAD, RequestHead},
};

/// Panics when a request means something else in other reads, or to the plain reader.
pub(crate) fn check(request: &[u8]) {
    let expected = read(request, request.len().max(1));
    for size in [1, 2, 3, 7, 64] {
        let found = read(request, size);
        // A mistake in a head that never ends is found now or later.
        let both_broken = matches!(
            (&expected, &found),
            (Head::Broken(_) | Head::More, Head::Broken(_) | Head::More)
        );
        assert!(found == expected || both_broken, "{size}: {found:?}, not {expected:?}");
    }
    let plain = plain(request);
    match &expected {
        Head::Read(_) => assert_eq!(Some(&expected), plain.as_ref()),
        // The plain reader does not know which paths and methods there can be, nor how many empty
        // lines.
        Head::Broken(HeadError::Target | HeadError::TooLarge | HeadError::TargetTooLong) => {}
        Head::Broken(_) | Head::More => assert_eq!(plain, None, "{expected:?}"),
    }
}

/// What was read of a request.
#[derive(Debug, PartialEq)]
enum Head {
    More,
    Broken(HeadError),
    Read(Read),
}

#[derive(Debug, PartialEq)]
struct Read {
    line: [String; 2],
    minor: u8,
    fields: Vec<(String, Vec<u8>)>,
    /// None: chunked.
    length: Option<u64>,
    keep_alive: bool,
    behind: Vec<u8>,
}

fn read(request: &[u8], size: usize) -> Head {
    let (mut reader, mut buffer) = (HeadReader::default(), BytesMut::new());
    let mut taken = 0;
    for piece in request.chunks(size) {
        buffer.extend_from_slice(piece);
        taken += piece.len();
        match reader.take(&mut buffer) {
            Ok(None) => {}
            Ok(Some(head)) => {
                return Head::Read(whole(head, &[&buffer, &request[taken..]].concat()));
            }
            Err(unreadable) => return Head::Broken(unreadable.error),
        }
    }
    Head::More
}

fn whole(head: RequestHead, behind: &[u8]) -> Read {
    Read {
        line: [head.method.to_string(), origin_form(head.uri.to_string())],
        minor: u8::from(format!("{:?}", head.version) == "HTTP/1.1"),
        fields: by_name(
            head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())),
        ),
        length: match head.decoder {
            Decoder::Length(length) => Some(length),
            Decoder::Chunked(Chunk::Size) => None,
            other => panic!("no framing of a request: {other:?}"),
        },
        keep_alive: head.keep_alive,
        behind: behind.to_vec(),
    }
}

/// A target that is a path, as it is. A URL is put into normal form by its reader, which the plain
/// one does not know.
fn origin_form(target: String) -> String {
    if target.starts_with('/') { target } else { String::new() }
}

/// Fields in the order of their names; those of one name stay in theirs.
fn by_name(fields: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// Reads the same by splitting lines. None: it is not whole, or not in order.
fn plain(request: &[u8]) -> Option<Head> {
    let mut rest = request;
    while let Some(behind) = rest.strip_prefix(b"\r\n") {
        rest = behind;
    }
    let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
    if end + 4 > MAX_HEAD {
        return None;
    }
    let behind = rest[end + 4..].to_vec();
    let head: String = rest[..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = head.split("\r\n");
    let [method, target, version] = lines.next()?.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let minor = ["HTTP/1.0", "HTTP/1.1"].iter().position(|known| *known == version)? as u8;
    // A fragment is no part of a target, and would be lost.
    if !is_token(method)
        || target.is_empty()
        || target.chars().any(|c| c <= ' ' || c == '\x7f' || c == '#')
    {
        return None;
    }
    let target = String::from_utf8(target.chars().map(|c| c as u8).collect()).ok()?;
    let fields = lines.map(field).collect::<Option<Vec<_>>>()?;
    if fields.len() > MAX_FIELDS {
        return None;
    }
    let all = |name: &'static str| {
        fields.iter().filter(move |field| field.0 == name).map(|field| &field.1)
    };
    let lengths: Vec<_> = all("content-length").collect();
    let codings: Vec<_> = all("transfer-encoding").collect();
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => Some(0),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(length.parse().ok()?)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && minor == 1 => None,
        _ => return None,
    };
    let words: Vec<String> = all("connection")
        .flat_map(|value| value.split(','))
        .map(|word| word.trim_matches([' ', '\t']).to_ascii_lowercase())
        .collect();
    let says = |word: &str| words.iter().any(|known| known == word);
    let fields = fields
        .iter()
        .map(|(name, value)| (name.clone(), value.chars().map(|c| c as u8).collect::<Vec<u8>>()));
    Some(Head::Read(Read {
        line: [method.to_owned(), origin_form(target)],
        minor,
        length,
        keep_alive: !says("close") && (minor == 1 || says("keep-alive")),
        fields: by_name(fields),
        behind,
    }))
}

/// One field: its name in lower case, and its value.
fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    let is_text = |c: char| c == '\t' || c >= ' ' && c != '\x7f';
    (is_token(name) && value.chars().all(is_text))
        .then(|| (name.to_ascii_lowercase(), value.to_owned()))
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}
