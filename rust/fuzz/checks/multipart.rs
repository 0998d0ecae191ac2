//! `multipart` against a reader that has the whole body and takes it apart plainly, and against
//! itself in other splits.

#[allow(clippy::duplicate_mod, reason = "each check is a module of its own")]
mod pick;

use sans_io::codec::json::{MODEL_BYTES_MAX, Model};
use sans_io::codec::multipart::{
    HEADER_BYTES_MAX, MultipartError, MultipartErrorKind as Kind, PARTS_MAX, Scanner,
};

use pick::{plain_holds_fields, plain_is_content, plain_parts, plain_pick};

/// Whether a field's text may be JSON with fields of its own, which nobody here reads.
fn holds_json(name: &str) -> bool {
    ["extra_body", "extra_args", "vllm_xargs", "custom_params", "nvext"].contains(&name)
}

/// Checks a body; its first line is the Content-Type, or a boundary for the usual one.
pub(crate) fn check(input: &[u8]) {
    let (first, body) = match input.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (b"x".as_slice(), input),
    };
    let content_type = if first.contains(&b';') {
        first.to_vec()
    } else {
        [b"multipart/form-data; boundary=", first].concat()
    };
    check_form(&content_type, body);
}

/// Panics when the scanner and the plain reader disagree about the form.
pub(crate) fn check_form(content_type: &[u8], body: &[u8]) {
    if Scanner::new(content_type).is_err() {
        return;
    }
    let boundary = plain_boundary(content_type);
    let seen = scan(content_type, [body]);
    splits_make_no_difference(content_type, body, &seen);
    match (plain_form(&boundary, body), &seen.end) {
        (Err(kind), Err(error)) => {
            assert!(same_error(error.kind, kind), "another error: {error:?}, not {kind:?}");
        }
        (Err(kind), Ok(())) => panic!("accepted a form with {kind:?}"),
        (Ok(_), Err(error)) => panic!("refused a good form: {error:?}"),
        (Ok(form), Ok(())) => {
            assert_eq!(seen.model.as_ref(), Some(&form.model), "another model");
            assert_eq!(seen.stream, form.stream, "another `stream`");
            assert_eq!(seen.picks, form.picks, "another adapter or host");
            prefixes_are_not_whole(content_type, body);
        }
    }
    let value = seen.model.map(|model| {
        (body[model.range.start as usize..model.range.end as usize].to_vec(), model.name)
    });
    assert!(
        value.is_none_or(|(bytes, name)| bytes == name.as_bytes()),
        "the range holds something else"
    );
}

/// Which of several errors of one Content-Disposition is told does not matter.
fn same_error(one: Kind, other: Kind) -> bool {
    let disposition = [Kind::DispositionMalformed, Kind::NameMalformed, Kind::NameMissing];
    one == other || disposition.contains(&one) && disposition.contains(&other)
}

/// All that a scanner tells after the last byte.
#[derive(Debug, PartialEq)]
struct Seen {
    end: Result<(), MultipartError>,
    model: Option<Model>,
    stream: bool,
    /// Whether it picks an adapter, and whether it names a host.
    picks: [bool; 2],
}

fn scan<'a>(content_type: &[u8], pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut scanner = Scanner::new(content_type).expect("it was good before");
    let mut fed = Ok(());
    for piece in pieces {
        let now = scanner.feed(piece);
        assert!(fed.is_ok() || fed == now, "an error is not final");
        fed = now;
    }
    assert!(fed.is_ok() || fed == scanner.end(), "the end forgets the error");
    Seen {
        end: scanner.end(),
        model: scanner.model().cloned(),
        stream: scanner.stream(),
        picks: [scanner.picks_adapter(), scanner.names_host()],
    }
}

fn splits_make_no_difference(content_type: &[u8], body: &[u8], whole: &Seen) {
    if body.len() < 4096 {
        assert_eq!(&scan(content_type, body.chunks(1)), whole, "one byte at a time");
    }
    // The cut depends on the body only, so that a failure repeats.
    let first = body
        .iter()
        .fold(7, |sum: usize, &byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let (head, tail) = body.split_at(first % (body.len() + 1));
    assert_eq!(&scan(content_type, [head, b"", tail]), whole, "cut at {}", head.len());
    assert_eq!(
        &scan(content_type, body.chunks(2 + first % 13)),
        whole,
        "pieces of {}",
        2 + first % 13
    );
}

/// A part of a good form, cut before its closing dashes, is never a good form.
fn prefixes_are_not_whole(content_type: &[u8], body: &[u8]) {
    let dashes = body.iter().rposition(|&byte| byte == b'-').expect("a form is closed by dashes");
    for end in [dashes, dashes / 2, dashes * 7 / 8] {
        assert!(scan(content_type, [&body[..end]]).end.is_err(), "whole after {end} bytes");
    }
}

/// The fields of a good form.
struct Form {
    model: Model,
    stream: bool,
    /// Whether it picks an adapter, and whether it names a host.
    picks: [bool; 2],
}

/// The boundary of a Content-Type that the scanner takes, and so is well-formed.
fn plain_boundary(content_type: &[u8]) -> Vec<u8> {
    let text: String = content_type.iter().map(|&byte| char::from(byte)).collect();
    let parameters = plain_parameters(text.split_once(';').expect("it has a parameter").1)
        .expect("it is well-formed");
    let (_, boundary) =
        parameters.into_iter().find(|(name, _)| name == "boundary").expect("it has a boundary");
    boundary.trim_matches('"').bytes().collect()
}

/// Reads a form from its first byte to its last.
fn plain_form(boundary: &[u8], body: &[u8]) -> Result<Form, Kind> {
    if body.is_empty() {
        return Err(Kind::Empty);
    }
    let dashes = [b"--", boundary].concat();
    let (mut at, mut closed) = plain_preamble(&dashes, body)?;
    let (mut model, mut stream, mut parts) = (None, false, 0);
    let mut picks = [false; 2];
    while !closed {
        parts += 1;
        if parts > PARTS_MAX {
            return Err(Kind::TooManyParts);
        }
        let part = PlainPart::read(body, at)?;
        part.judge(model.is_some())?;
        let (end, next, last) = plain_data(&dashes, body, part.data, part.named("model"))?;
        let data = &body[part.data..end];
        if part.named("model") {
            model = Some(plain_model(data, part.data)?);
        } else if part.named("stream") && !part.file {
            stream = ["true", "1"].iter().any(|word| data.eq_ignore_ascii_case(word.as_bytes()));
        }
        for (picks, what) in picks.iter_mut().zip(["model", "host"]) {
            *picks |= part.picks(what) && !data.is_empty();
        }
        (at, closed) = (next, last);
    }
    if body[at..].iter().any(|byte| !b" \t\r\n".contains(byte)) {
        return Err(Kind::TrailingData);
    }
    Ok(Form { model: model.ok_or(Kind::ModelMissing)?, stream, picks })
}

/// The kinds of lines that begin with the boundary.
enum Line {
    /// A delimiter; behind it the body goes on there, and whether it is the closing one.
    Delimiter(usize, bool),
    Data,
    /// The body ends inside it.
    Cut,
    BareLineFeed,
}

/// The line whose boundary ends at `at`.
fn plain_line(body: &[u8], at: usize) -> Line {
    match body[at..] {
        [b'-', b'-', ..] => return Line::Delimiter(at + 2, true),
        [] | [b'-'] => return Line::Cut,
        [b'-', ..] => return Line::Data,
        _ => {}
    }
    let space = body[at..].iter().take_while(|byte| b" \t".contains(byte)).count();
    match body[at + space..] {
        [b'\r', b'\n', ..] => Line::Delimiter(at + space + 2, false),
        [] | [b'\r'] => Line::Cut,
        [b'\n', ..] => Line::BareLineFeed,
        _ => Line::Data,
    }
}

/// Where the body goes on behind the first delimiter, and whether that closes the form.
fn plain_preamble(dashes: &[u8], body: &[u8]) -> Result<(usize, bool), Kind> {
    let with_line_end = [b"\r\n", dashes].concat();
    let start = if body.starts_with(dashes) {
        Some(0)
    } else {
        find(body, &with_line_end, 0).map(|found| found + 2)
    };
    // What looks like the start of a delimiter at the body's end is not counted as preamble.
    let begun = (0..with_line_end.len())
        .rev()
        .find(|&length| body.ends_with(&with_line_end[..length]))
        .unwrap_or(0);
    let preamble = start.map_or(body.len() - begun, |start| start.saturating_sub(2));
    if preamble > HEADER_BYTES_MAX {
        return Err(Kind::PreambleTooLong);
    }
    let start = start.ok_or(Kind::NoDelimiter)?;
    let end = start + dashes.len();
    match plain_line(body, end) {
        Line::Cut if matches!(body.get(end), Some(b' ' | b'\t')) => Err(Kind::PaddedFirstLine),
        Line::Cut => Err(Kind::NoDelimiter),
        _ if matches!(body[end], b' ' | b'\t') => Err(Kind::PaddedFirstLine),
        Line::BareLineFeed => Err(Kind::BareLineFeed),
        Line::Data => Err(Kind::BoundaryInPreamble),
        Line::Delimiter(..) if find(&body[..preamble], dashes, 0).is_some() => {
            Err(Kind::BoundaryInPreamble)
        }
        Line::Delimiter(next, last) => Ok((next, last)),
    }
}

/// Where a part's data ends, where the body goes on behind the delimiter, and whether that closes
/// the form.
fn plain_data(
    dashes: &[u8],
    body: &[u8],
    start: usize,
    is_model: bool,
) -> Result<(usize, usize, bool), Kind> {
    let with_line_end = [b"\r\n", dashes].concat();
    let mut from = start - 2;
    loop {
        let found = find(body, &with_line_end, from);
        if is_model {
            let known = found.unwrap_or(body.len()).max(start);
            plain_name(&body[start..known], found.is_none().then_some(&with_line_end))?;
        }
        let Some(found) = found else {
            return Err(Kind::Truncated);
        };
        match plain_line(body, found + with_line_end.len()) {
            Line::Delimiter(..) if found < start => return Err(Kind::DataMissing),
            Line::Delimiter(next, last) => return Ok((found, next, last)),
            Line::BareLineFeed => return Err(Kind::BareLineFeed),
            Line::Cut => return Err(Kind::Truncated),
            Line::Data if is_model => return Err(Kind::ModelNotOneLine),
            Line::Data => from = found + with_line_end.len(),
        }
    }
}

/// Judges what is there of the model's name; `open`: more may follow, perhaps this delimiter that
/// has begun.
fn plain_name(name: &[u8], open: Option<&Vec<u8>>) -> Result<(), Kind> {
    let begun = open.and_then(|delimiter| {
        (0..delimiter.len()).rev().find(|&length| name.ends_with(&delimiter[..length]))
    });
    let name = &name[..name.len() - begun.unwrap_or(0)];
    match name.iter().position(|byte| b"\r\n".contains(byte)) {
        Some(at) if at <= MODEL_BYTES_MAX => Err(Kind::ModelNotOneLine),
        _ if name.len() > MODEL_BYTES_MAX => Err(Kind::ModelTooLong),
        _ => Ok(()),
    }
}

fn plain_model(data: &[u8], start: usize) -> Result<Model, Kind> {
    let name = std::str::from_utf8(data).map_err(|_| Kind::ModelNotUnicode)?;
    if name.trim().is_empty() {
        return Err(Kind::ModelEmpty);
    }
    Ok(Model { name: name.to_owned(), range: start as u64..(start + data.len()) as u64 })
}

/// A part's header.
struct PlainPart {
    name: Option<String>,
    file: bool,
    encoded: bool,
    /// Where the data begins.
    data: usize,
}

impl PlainPart {
    fn read(body: &[u8], start: usize) -> Result<Self, Kind> {
        let mut part = Self { name: None, file: false, encoded: false, data: start };
        loop {
            let line =
                body[part.data..].split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
            part.data += line.len();
            if part.data - start > HEADER_BYTES_MAX {
                return Err(Kind::HeaderTooLong);
            }
            if !line.ends_with(b"\n") {
                return Err(Kind::Truncated);
            }
            match line.strip_suffix(b"\r\n").ok_or(Kind::BareLineFeed)? {
                [] => return Ok(part),
                line => {
                    part.read_line(&line.iter().map(|&byte| char::from(byte)).collect::<String>())?;
                }
            }
        }
    }

    /// One line, each byte of it a character.
    fn read_line(&mut self, line: &str) -> Result<(), Kind> {
        let (name, value) = line.split_once(':').ok_or(Kind::HeaderMalformed)?;
        if !is_token(name) || value.chars().any(|c| c != '\t' && c.is_ascii_control()) {
            return Err(Kind::HeaderMalformed);
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "content-disposition" if self.name.is_some() => return Err(Kind::DispositionMalformed),
            "content-disposition" => self.read_disposition(value)?,
            "content-transfer-encoding" => {
                self.encoded |=
                    !["7bit", "8bit", "binary"].contains(&value.to_ascii_lowercase().as_str());
            }
            _ => {}
        }
        Ok(())
    }

    fn read_disposition(&mut self, value: &str) -> Result<(), Kind> {
        let (kind, rest) = value.split_once(';').unwrap_or((value, ""));
        if !kind.trim_matches([' ', '\t']).eq_ignore_ascii_case("form-data") {
            return Err(Kind::DispositionMalformed);
        }
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in plain_parameters(rest).ok_or(Kind::DispositionMalformed)? {
            if seen.contains(&name) || !["name", "filename", "filename*"].contains(&name.as_str()) {
                return Err(Kind::DispositionMalformed);
            }
            if name == "name" {
                self.name = Some(plain_field_name(&value)?);
            }
            self.file |= name != "name";
            seen.push(name);
        }
        if self.name.is_none() {
            return Err(Kind::NameMissing);
        }
        Ok(())
    }

    fn named(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    fn picks(&self, what: &str) -> bool {
        let parts = self.name.as_deref().filter(|name| *name != "model").map(plain_parts);
        let parts = parts.unwrap_or_default();
        let Some((first, below)) = parts.split_first() else { return false };
        let mut fields = below.iter().take_while(|part| !plain_is_content(part));
        holds_json(first)
            || plain_pick(first) == Some(what)
            || plain_holds_fields(first) && fields.any(|part| plain_pick(part) == Some(what))
    }

    fn judge(&self, second: bool) -> Result<(), Kind> {
        if self.name.is_none() {
            return Err(Kind::DispositionMissing);
        }
        match self.name.as_deref() {
            Some("model") if self.file => Err(Kind::ModelIsAFile),
            Some("model") if self.encoded => Err(Kind::ModelEncoded),
            Some("model") if second => Err(Kind::ModelTwice),
            Some(name) if name != "model" && plain_parts(name).first() == Some(&"model") => {
                Err(Kind::ModelOtherwise)
            }
            _ => Ok(()),
        }
    }
}

/// The name that a parameter's value, with its quotes, is for every reader.
fn plain_field_name(value: &str) -> Result<String, Kind> {
    let Some(quoted) = value.strip_prefix('"') else {
        return if is_token(value) { Ok(value.to_owned()) } else { Err(Kind::NameMalformed) };
    };
    let (mut name, mut characters) = (String::new(), quoted[..quoted.len() - 1].chars());
    while let Some(character) = characters.next() {
        match character {
            ';' => return Err(Kind::NameMalformed),
            '\\' => match characters.next() {
                Some(escaped @ ('"' | '\\')) => name.push(escaped),
                _ => return Err(Kind::NameMalformed),
            },
            _ => name.push(character),
        }
    }
    Ok(name)
}

/// Names in lower case and values with their quotes; `None` when the text is not well-formed.
fn plain_parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let parts = outside_quotes(text);
    for (at, part) in parts.iter().enumerate() {
        let part = part.trim_matches([' ', '\t', '\n', '\r', '\x0C']);
        if part.is_empty() {
            continue;
        }
        let (name, value) = part.split_once('=')?;
        let good = match value.strip_prefix('"') {
            Some(rest) => {
                closing_quote(rest) == Some(rest.len().wrapping_sub(1))
                    && !rest.contains(is_control)
            }
            None => value.chars().all(|c| c.is_ascii_graphic() && !";\"\\".contains(c)),
        };
        // `\\"` is read differently where more follows.
        let ambiguous = value.ends_with("\\\"") && at + 1 < parts.len();
        if !is_token(name) || !good || ambiguous {
            return None;
        }
        parameters.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Some(parameters)
}

fn is_control(character: char) -> bool {
    character != '\t' && character.is_ascii_control()
}

/// The text between semicolons that are not quoted.
fn outside_quotes(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(found) = text[at..].find(['"', ';']) {
        at += found;
        if text[at..].starts_with(';') {
            parts.push(&text[start..at]);
            start = at + 1;
            at += 1;
        } else {
            at = closing_quote(&text[at + 1..]).map_or(text.len(), |end| at + end + 2);
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Where the first quote is that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some(at),
            '\\' => _ = characters.next(),
            _ => {}
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn find(body: &[u8], what: &[u8], from: usize) -> Option<usize> {
    body.get(from..)?
        .windows(what.len())
        .position(|window| window == what)
        .map(|found| from + found)
}
