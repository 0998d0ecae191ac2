//! `multipart`: forms that readers take apart differently, by name, forms as real clients write
//! them, and agreement with a plain reader on generated ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "../../fuzz/checks/multipart.rs"]
mod agreement;

use proptest::prelude::*;
use sans_io::codec::json::MODEL_BYTES_MAX;
use sans_io::codec::multipart::{HEADER_BYTES_MAX, MultipartErrorKind as Kind, PARTS_MAX, Scanner};

const FORM_DATA: &str = "multipart/form-data; boundary=x";
const MODEL: &str = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n";

/// Reads a whole form, compared with the plain reader and in splits on the way.
fn scan_as(content_type: &str, body: impl AsRef<[u8]>) -> (Scanner, Result<(), Kind>) {
    agreement::check_form(content_type.as_bytes(), body.as_ref());
    let mut scanner = Scanner::new(content_type.as_bytes()).expect("a good Content-Type");
    let result = scanner.feed(body.as_ref()).and_then(|()| scanner.end());
    (scanner, result.map_err(|error| error.kind))
}

fn scan(body: impl AsRef<[u8]>) -> (Scanner, Result<(), Kind>) {
    scan_as(FORM_DATA, body)
}

/// The name found in a form that must be good.
#[track_caller]
fn name_as(content_type: &str, body: impl AsRef<[u8]>) -> String {
    let (scanner, result) = scan_as(content_type, body);
    assert_eq!(result, Ok(()));
    scanner.model().map(|model| model.name.clone()).unwrap_or_default()
}

#[track_caller]
fn name(body: impl AsRef<[u8]>) -> String {
    name_as(FORM_DATA, body)
}

#[track_caller]
fn rejection(body: impl AsRef<[u8]>) -> Kind {
    scan(body).1.expect_err("the form should be refused")
}

fn part(disposition: &str, value: &str) -> String {
    format!("--x\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n")
}

/// A form of these parts.
fn form(parts: &[&str]) -> String {
    format!("{}--x--\r\n", parts.concat())
}

#[test]
fn the_model_is_found_with_its_place() {
    let body = form(&[&part("name=\"prompt\"", "hi"), &part("name=\"model\"", "whisper-1")]);
    assert_eq!(name(&body), "whisper-1");
    let range = scan(&body).0.model().map(|model| model.range.clone()).unwrap_or_default();
    assert_eq!(&body[range.start as usize..range.end as usize], "whisper-1");
}

#[test]
fn the_model_is_known_at_its_delimiter_before_the_body_ends() {
    let mut scanner = Scanner::new(FORM_DATA.as_bytes()).unwrap();
    scanner.feed(MODEL.as_bytes()).unwrap();
    scanner.feed(b"--x\r").unwrap();
    assert_eq!(scanner.model(), None);
    scanner.feed(b"\n").unwrap();
    assert_eq!(scanner.model().map(|model| model.name.as_str()), Some("m"));
}

#[test]
fn the_model_may_follow_megabytes() {
    let file = part("name=\"file\"; filename=\"a.wav\"", &"RIFF\r\n--".repeat(1 << 19));
    let mut scanner = Scanner::new(FORM_DATA.as_bytes()).unwrap();
    for piece in form(&[&file, MODEL]).as_bytes().chunks(1000) {
        scanner.feed(piece).unwrap();
    }
    assert_eq!(scanner.end(), Ok(()));
    assert_eq!(scanner.model().map(|model| model.name.as_str()), Some("m"));
}

#[test]
fn forms_of_real_clients_are_read() {
    let curl = "--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name=\"file\"; \
        filename=\"a \\\"b\\\".wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--------------------------d74496d66958873e\
        \r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nw-1\r\n\
            --------------------------d74496d66958873e--\r\n";
    let curl_type = "multipart/form-data; boundary=------------------------d74496d66958873e";
    let httpx = "--9431149156168\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nw-1\r\n--9431149156168\r\n\
        Content-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nword\r\n--9431149156168\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"ä€.wav\"\r\nContent-Type: audio/x-wav\r\n\r\nRIFF\r\n\
        --9431149156168--\r\n";
    let browser = "------WebKitFormBoundaryAbC123\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\a%22.wav\"\
        \r\nContent-Type: audio/wav\r\n\r\n\r\n------WebKitFormBoundaryAbC123\r\nContent-Disposition: form-data; \
        name=\"model\"\r\n\r\nw-1\r\n------WebKitFormBoundaryAbC123--\r\n";
    let dotnet = "--51b1-a\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\n\
        w-1\r\n--51b1-a\r\nContent-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav\r\n\r\nRIFF\r\n\
        --51b1-a--\r\n";
    let requests = "--8f3d\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nw-1\r\n--8f3d\r\nContent-Disposition: \
        form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--8f3d--\r\n";
    let okhttp = "--7c-4\r\nContent-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: binary\r\n\
        Content-Type: text/plain; charset=UTF-8\r\nContent-Length: 3\r\n\r\nw-1\r\n--7c-4--\r\n";
    for (content_type, body) in [
        (curl_type, curl),
        ("multipart/form-data; boundary=9431149156168", httpx),
        ("multipart/form-data; boundary=----WebKitFormBoundaryAbC123", browser),
        ("multipart/form-data; boundary=\"51b1-a\"", dotnet),
        ("multipart/form-data; boundary=8f3d", requests),
        ("multipart/form-data; boundary=7c-4; charset=UTF-8", okhttp),
    ] {
        assert_eq!(name_as(content_type, body), "w-1", "{content_type}");
    }
}

#[test]
fn a_boundary_is_read_in_every_legal_form() {
    for content_type in [
        "multipart/form-data;boundary=x",
        "Multipart/Form-Data ; charset=UTF-8;BOUNDARY=\"x\"",
        "multipart/form-data; a=\"b;c\\\"\"; ; boundary=x;",
        " multipart/form-data\t;\tboundary=x\t",
    ] {
        assert_eq!(name_as(content_type, form(&[MODEL])), "m", "{content_type}");
    }
    for boundary in ["'()+_,-./:=? z", &"b".repeat(70), "----=_Part_0_1.2"] {
        let body = form(&[MODEL]).replace("--x", &format!("--{boundary}"));
        assert_eq!(
            name_as(&format!("multipart/form-data; boundary=\"{boundary}\""), body),
            "m",
            "{boundary}"
        );
    }
    let body = form(&[MODEL]).replace("--x", "------=_Part_0_1.2");
    assert_eq!(name_as("multipart/form-data; boundary=----=_Part_0_1.2", body), "m");
}

#[test]
fn a_wrong_content_type_is_refused() {
    let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
    for (content_type, kind) in [
        ("", Kind::NotFormData),
        ("application/json", Kind::NotFormData),
        ("multipart/mixed; boundary=x", Kind::NotFormData),
        ("multipart/form-data-x; boundary=x", Kind::NotFormData),
        ("multipart/form-data", Kind::BoundaryMissing),
        ("multipart/form-data; charset=utf-8", Kind::BoundaryMissing),
        ("multipart/form-data; boundary=", Kind::BoundaryMissing),
        ("multipart/form-data; boundary=\"\"", Kind::BoundaryMissing),
        (&long, Kind::BoundaryIllegal),
        ("multipart/form-data; boundary=\"x \"", Kind::BoundaryIllegal),
        ("multipart/form-data; boundary=a@b", Kind::BoundaryIllegal),
        ("multipart/form-data; boundary=\"a\\\"b\"", Kind::BoundaryIllegal),
        ("multipart/form-data; boundary=ä", Kind::ContentTypeMalformed),
        ("multipart/form-data; boundary=a b", Kind::ContentTypeMalformed),
        ("multipart/form-data; boundary = x", Kind::ContentTypeMalformed),
        ("multipart/form-data; boundary=\"x", Kind::ContentTypeMalformed),
        ("multipart/form-data; boundary", Kind::ContentTypeMalformed),
        ("multipart/form-data; boundary=x; boundary=x", Kind::ContentTypeMalformed),
        ("multipart/form-data; boundary*=utf-8''x", Kind::ContentTypeMalformed),
    ] {
        let error = Scanner::new(content_type.as_bytes()).expect_err(content_type);
        assert_eq!(error.kind, kind, "{content_type}");
    }
}

#[test]
fn a_boundary_that_readers_would_find_elsewhere_is_refused() {
    // cpp-httplib takes what follows the first `boundary=`; Python's readers end a quoted string
    // elsewhere.
    for parameters in [
        "xboundary=y; boundary=x",
        "a=\"boundary=y\"; boundary=x",
        "a=\"\\\\\"; b=\"; boundary=y\"; boundary=x",
    ] {
        let error = Scanner::new(format!("multipart/form-data; {parameters}").as_bytes())
            .expect_err(parameters);
        assert_eq!(error.kind, Kind::ContentTypeMalformed, "{parameters}");
    }
    assert!(Scanner::new(b"multipart/form-data; boundary=\"a=boundary=b\"; b=c").is_ok());
}

#[test]
fn a_form_in_another_character_set_is_refused() {
    // Starlette decodes names and values by it: `name="+AG0-odel"` is `model` in UTF-7.
    for charset in ["utf-7", "utf-16", "latin-1", "\"utf-7\"", ""] {
        let error =
            Scanner::new(format!("multipart/form-data; boundary=x; charset={charset}").as_bytes());
        assert_eq!(error.expect_err(charset).kind, Kind::OtherCharset, "{charset}");
    }
}

#[test]
fn a_preamble_is_ignored() {
    assert_eq!(name(format!("This is a form.\r\n\r\n{}", form(&[MODEL]))), "m");
    assert_eq!(name(format!("\r\n{}", form(&[MODEL]))), "m");
    assert_eq!(
        rejection(format!("{}\r\n{}", "p".repeat(HEADER_BYTES_MAX + 1), form(&[MODEL]))),
        Kind::PreambleTooLong
    );
}

#[test]
fn a_preamble_that_readers_would_take_for_a_part_is_refused() {
    // cpp-httplib takes the first boundary wherever it stands.
    let hidden = format!("junk{}{}", part("name=\"model\"", "other"), form(&[MODEL]));
    assert_eq!(rejection(hidden), Kind::BoundaryInPreamble);
    assert_eq!(rejection(format!("--xy\r\n{}", form(&[MODEL]))), Kind::BoundaryInPreamble);
    assert_eq!(rejection(form(&[MODEL]).replacen("--x\r\n", "--x \r\n", 1)), Kind::PaddedFirstLine);
}

#[test]
fn white_space_may_follow_the_boundary_of_later_delimiters() {
    let body = form(&[&part("name=a", ""), &MODEL.replacen("--x\r\n", "--x \t \r\n", 1)]);
    assert_eq!(name(body.replace("--x--", "--x-- \t")), "m");
}

#[test]
fn a_line_that_only_begins_with_the_boundary_is_data() {
    for line in
        ["--xy", "--x-", "--x-y", "--x y", "--x \ry", "--x\ry", " --x", "a--x", "--", "--x\t--"]
    {
        let file = part("name=f; filename=f", &format!("a\r\n{line}\r\n\r\r\n--xx\r\nb"));
        assert_eq!(name(form(&[&file, MODEL])), "m", "{line}");
        assert_eq!(name(form(&[&part("name=f; filename=f", line), MODEL])), "m", "{line}");
    }
}

#[test]
fn a_whole_form_inside_a_file_is_data() {
    let inner = form(&[&part("name=\"model\"", "other")]);
    for inner in
        [inner.replace("--x", "--y"), inner.replace("--x", "--x2"), inner.replace("--x", "\n--x")]
    {
        assert_eq!(name(form(&[&part("name=f; filename=f", &inner), MODEL])), "m");
    }
}

#[test]
fn lines_that_end_with_a_line_feed_alone_are_refused() {
    assert_eq!(rejection(form(&[MODEL]).replace("\r\n", "\n")), Kind::BareLineFeed);
    assert_eq!(rejection(MODEL.replacen("\r\n", "\n", 1)), Kind::BareLineFeed);
    assert_eq!(rejection(MODEL.replacen("\"\r\n", "\"\n", 1)), Kind::BareLineFeed);
    assert_eq!(rejection(form(&[MODEL]).replace("m\r\n--x--", "m\r\n--x\n")), Kind::BareLineFeed);
}

#[test]
fn a_part_that_ends_with_its_header_is_refused() {
    // Go and RFC 2046 see a delimiter there, python-multipart and cpp-httplib data.
    assert_eq!(
        rejection("--x\r\nContent-Disposition: form-data; name=a\r\n\r\n--x--\r\n"),
        Kind::DataMissing
    );
    assert_eq!(name(form(&[&part("name=a", ""), MODEL])), "m");
}

#[test]
fn a_truncated_form_is_refused_wherever_it_ends() {
    let body = form(&[&part("name=f; filename=f", "abc"), MODEL]);
    let whole = body.len() - 2;
    assert_eq!(rejection(""), Kind::Empty);
    for end in 1..whole {
        let kind = if end < 5 { Kind::NoDelimiter } else { Kind::Truncated };
        assert_eq!(rejection(&body[..end]), kind, "after {end} bytes");
    }
    assert_eq!(name(&body[..whole]), "m");
    assert_eq!(rejection("model=m"), Kind::NoDelimiter);
}

#[test]
fn what_follows_the_closing_delimiter_is_refused() {
    for rest in ["x", "\r\nepilogue", "-", "\0", MODEL] {
        assert_eq!(rejection(format!("{}{rest}", form(&[MODEL]))), Kind::TrailingData, "{rest}");
    }
    assert_eq!(name(format!("{} \t\r\n\n", form(&[MODEL]))), "m");
}

#[test]
fn names_are_read_in_every_legal_form() {
    for disposition in ["name=model", "NAME=\"model\"", "name=\"model\";", ";; \tname=\"model\"\t"]
    {
        assert_eq!(name(form(&[&part(disposition, "m")])), "m", "{disposition}");
    }
    let odd_header = "--x\r\nx-a: b\r\ncOnTeNt-DiSpOsItIoN:form-data;name=model\r\nContent-Type: \
        text/plain\r\n\r\nm\r\n";
    assert_eq!(name(form(&[odd_header])), "m");
}

#[test]
fn other_names_are_not_the_model() {
    for disposition in [
        "name=\"Model\"",
        "name=\"models[]\"",
        "name=\"a[model]\"",
        "name=\"%6Dodel\"",
        "name=\"mo\\\"del\"",
        "name=\"a\\\\b\"",
        "name=\"mödel\"",
        "name=\"\"",
        "name=\"a%22; %0D%0Aname\"; filename=\"\"",
        "name=\"f\"; filename=\"x; name=\\\"model\\\"\"",
        "filename=\"x; name=\\\"model\\\"\"; name=\"f\"",
        "filename=\"; name=model; \"; name=\"f\"",
        "name=f; filename*=UTF-8''model; filename=\"C:\\model\"",
        "name=f; filename=\"a\\\\\"",
    ] {
        let other = part(disposition, "other");
        if disposition.starts_with("name=\"a%22;") {
            assert_eq!(rejection(form(&[&other, MODEL])), Kind::NameMalformed);
        } else {
            assert_eq!(name(form(&[&other, MODEL])), "m", "{disposition}");
            assert_eq!(rejection(form(&[&other])), Kind::ModelMissing, "{disposition}");
        }
    }
}

#[test]
fn names_that_readers_understand_differently_are_refused() {
    for (disposition, kind) in [
        ("name=\"mod\\el\"", Kind::NameMalformed),
        ("name=\"a=model;\"", Kind::NameMalformed),
        ("name=<model>", Kind::NameMalformed),
        ("name=", Kind::NameMalformed),
        ("name*=utf-8''model", Kind::DispositionMalformed),
        ("name*0=model", Kind::DispositionMalformed),
        ("name=a; name=model", Kind::DispositionMalformed),
        ("name=a; x=\"; name=model; \"", Kind::DispositionMalformed),
        ("name=\"a\\\\\"; filename=\"; name=model; \"", Kind::DispositionMalformed),
        ("name=a; filename=a; filename=b", Kind::DispositionMalformed),
        ("name = model", Kind::DispositionMalformed),
        ("name=model x", Kind::DispositionMalformed),
        ("name=\"model", Kind::DispositionMalformed),
        ("name=\"model\\\"", Kind::DispositionMalformed),
        ("name=\"model\"x", Kind::DispositionMalformed),
        ("name=\"mo\0del\"", Kind::HeaderMalformed),
        ("filename=\"x; name=\\\"model\\\"\"", Kind::NameMissing),
        ("", Kind::NameMissing),
    ] {
        assert_eq!(rejection(form(&[&part(disposition, "other"), MODEL])), kind, "{disposition}");
    }
}

#[test]
fn a_part_is_described_once_and_as_form_data() {
    let headers = |lines: &str| rejection(form(&[&format!("--x\r\n{lines}\r\na\r\n"), MODEL]));
    assert_eq!(headers(""), Kind::DispositionMissing);
    assert_eq!(headers("Content-Type: text/plain\r\n"), Kind::DispositionMissing);
    assert_eq!(
        headers("Content-Disposition: attachment; name=\"model\"\r\n"),
        Kind::DispositionMalformed
    );
    assert_eq!(
        headers("Content-Disposition: form-data name=\"model\"\r\n"),
        Kind::DispositionMalformed
    );
    let twice =
        "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=model\r\n";
    assert_eq!(headers(twice), Kind::DispositionMalformed);
    for line in [" name=model", "a b: c", ": a", "a", "a : b", "ä: b", "a: b\rc", "a: \u{1}", "--x"]
    {
        let lines = format!("Content-Disposition: form-data; name=a;\r\n{line}\r\n");
        assert_eq!(headers(&lines), Kind::HeaderMalformed, "{line}");
    }
}

#[test]
fn a_second_model_is_refused() {
    assert_eq!(rejection(form(&[MODEL, MODEL])), Kind::ModelTwice);
    for name in ["model[]", "model[0]", "[model]", " model", "model "] {
        let other = part(&format!("name=\"{name}\""), "n");
        assert_eq!(rejection(form(&[MODEL, &other])), Kind::ModelOtherwise, "{name}");
        assert_eq!(rejection(form(&[&other, MODEL])), Kind::ModelOtherwise, "{name}");
    }
    assert_eq!(
        rejection(form(&[MODEL, &part("name=f", "a"), &part("name=\"model\"", "")])),
        Kind::ModelTwice
    );
}

#[test]
fn a_model_that_is_a_file_is_refused() {
    for disposition in [
        "name=model; filename=\"\"",
        "filename=m; name=\"model\"",
        "name=model; filename*=UTF-8''m",
    ] {
        assert_eq!(
            rejection(form(&[&part(disposition, "m")])),
            Kind::ModelIsAFile,
            "{disposition}"
        );
        assert_eq!(
            rejection(form(&[MODEL, &part(disposition, "m")])),
            Kind::ModelIsAFile,
            "{disposition}"
        );
    }
}

#[test]
fn an_encoded_model_is_refused() {
    let encoded = |encoding: &str| {
        format!(
            "--x\r\ncontent-transfer-encoding: {encoding}\r\nContent-Disposition: form-data; \
             name=model\r\n\r\nm\r\n"
        )
    };
    for encoding in ["base64", "quoted-printable", "8bit, base64", ""] {
        assert_eq!(rejection(form(&[&encoded(encoding)])), Kind::ModelEncoded, "{encoding}");
    }
    for encoding in ["7bit", "8BIT", "binary"] {
        assert_eq!(name(form(&[&encoded(encoding)])), "m", "{encoding}");
    }
    assert_eq!(name(form(&[&encoded("base64").replace("name=model", "name=a"), MODEL])), "m");
}

#[test]
fn the_name_is_the_bytes_of_the_field() {
    for model in [
        " m ",
        "-",
        "--",
        "--y",
        "-x",
        "Qwen/Qwen3:8b",
        "ä€😀",
        "\t\0",
        "a--x",
        &"m".repeat(MODEL_BYTES_MAX),
    ] {
        assert_eq!(name(form(&[&part("name=model", model)])), model);
    }
}

#[test]
fn a_name_that_is_none_is_refused() {
    let model = |value: &str| rejection(form(&[&part("name=model", value)]));
    for blank in ["", " \t", "\u{a0}", "\u{3000}"] {
        assert_eq!(model(blank), Kind::ModelEmpty, "{blank:?}");
    }
    for lines in ["m\r\n", "m\n", "\rm", "m\r\n--xy", "--xy", "\r\n--x y"] {
        assert_eq!(model(lines), Kind::ModelNotOneLine, "{lines:?}");
    }
    assert_eq!(model(&"m".repeat(MODEL_BYTES_MAX + 1)), Kind::ModelTooLong);
    let body = [MODEL.strip_suffix("m\r\n").unwrap().as_bytes(), b"m\xff\r\n--x--"].concat();
    assert_eq!(rejection(body), Kind::ModelNotUnicode);
}

#[test]
fn a_form_without_a_model_is_refused() {
    assert_eq!(rejection("--x--"), Kind::ModelMissing);
    assert_eq!(rejection(form(&[&part("name=prompt", "model")])), Kind::ModelMissing);
}

#[test]
fn the_last_stream_says_whether_the_client_wants_one() {
    let stream = |values: &[&str]| {
        let parts: Vec<String> =
            values.iter().map(|value| part("name=\"stream\"", value)).collect();
        scan(form(&[MODEL, &parts.concat()])).0.stream()
    };
    for yes in ["true", "True", "TRUE", "1"] {
        assert!(stream(&[yes]), "{yes}");
        assert!(stream(&["false", yes]), "{yes}");
    }
    for no in ["", "false", "0", "true ", "truetruetrue", "11", "\r\n--xtrue", "true\r\n--x1"] {
        assert!(!stream(&["true", no]), "{no:?}");
    }
    assert!(!stream(&[]));
    let file = part("name=stream; filename=a", "true");
    assert!(!scan(form(&[MODEL, &file])).0.stream());
}

#[test]
fn what_grows_without_need_is_limited() {
    let long = |length: usize| {
        format!(
            "--x\r\nContent-Disposition: form-data; name=a\r\na: {}\r\n\r\n\r\n",
            "b".repeat(length)
        )
    };
    let rest = "Content-Disposition: form-data; name=a\r\na: \r\n\r\n".len();
    assert_eq!(name(form(&[&long(HEADER_BYTES_MAX - rest), MODEL])), "m");
    assert_eq!(rejection(form(&[&long(HEADER_BYTES_MAX - rest + 1), MODEL])), Kind::HeaderTooLong);
    let empty = part("name=a", "");
    assert_eq!(name(form(&[&empty.repeat(PARTS_MAX as usize - 1), MODEL])), "m");
    assert_eq!(rejection(form(&[&empty.repeat(PARTS_MAX as usize), MODEL])), Kind::TooManyParts);
}

#[test]
fn an_error_is_final_and_names_its_byte() {
    let mut scanner = Scanner::new(FORM_DATA.as_bytes()).unwrap();
    assert_eq!(scanner.feed(b"--x"), Ok(()));
    let error = scanner.feed(b"\n").expect_err("a line feed alone");
    assert_eq!((error.kind, error.offset), (Kind::BareLineFeed, 3));
    assert_eq!(scanner.feed(MODEL.as_bytes()), Err(error));
    assert_eq!(scanner.end(), Err(error));
}

#[test]
fn errors_are_whole_sentences_that_repeat_nothing_of_the_body() {
    let secret = "hunter2";
    let mut texts = Vec::new();
    for content_type in [
        format!("text/{secret}"),
        format!("multipart/form-data; a={secret}"),
        format!("multipart/form-data; boundary=\"{secret}"),
        format!("multipart/form-data; boundary={}", secret.repeat(20)),
        format!("multipart/form-data; boundary=x; charset={secret}"),
    ] {
        texts.push(
            Scanner::new(content_type.as_bytes()).expect_err("a bad Content-Type").to_string(),
        );
    }
    let header = |line: &str| form(&[&format!("--x\r\n{line}\r\n\r\n{secret}\r\n")]);
    for body in [
        String::new(),
        secret.into(),
        format!("{secret}--x\r\n\r\n--x--"),
        format!("--x {secret}"),
        format!("--x\n{secret}"),
        format!("{}{secret}", secret.repeat(HEADER_BYTES_MAX)),
        format!("--x\r\n{secret}"),
        header(secret),
        header(&format!("a: {secret}")),
        header(&format!("Content-Disposition: {secret}")),
        header(&format!("Content-Disposition: form-data; filename={secret}")),
        header(&format!("Content-Disposition: form-data; name=\"{secret}\\a\"")),
        header(&format!("a: {}", secret.repeat(HEADER_BYTES_MAX))),
        format!("--x\r\nContent-Disposition: form-data; name={secret}\r\n\r\n--x--"),
        form(&[&part(&format!("name={secret}"), secret)]),
        form(&[&part("name=model", secret), &part("name=model", secret)]),
        form(&[&part(&format!("name=model; filename={secret}"), secret)]),
        form(&[&part("name=model\r\nContent-Transfer-Encoding: base64", secret)]),
        form(&[&part("name=model", "")]),
        form(&[&part("name=model", &secret.repeat(99))]),
        form(&[&part("name=model", &format!("{secret}\r\n"))]),
        format!("{}{secret}", form(&[MODEL])),
        form(&[&part(&format!("name={secret}"), "").repeat(1001)]),
    ] {
        let mut scanner = Scanner::new(FORM_DATA.as_bytes()).unwrap();
        texts.push(
            scanner
                .feed(body.as_bytes())
                .and_then(|()| scanner.end())
                .expect_err("a bad form")
                .to_string(),
        );
    }
    for text in &texts {
        assert!(
            text.ends_with('.')
                && text.contains(' ')
                && !text.contains("hunter")
                && !text.contains("  "),
            "{text}"
        );
        assert!(["The ", "`model`"].iter().any(|start| text.starts_with(start)), "{text}");
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 28, "different faults are told apart");
}

/// A part, mostly a good one, with a liking for the names that matter.
fn any_part() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "model",
        "stream",
        "file",
        "lora_path",
        "\"lora[]\"",
        "\"options[lora]\"",
        "\"model[]\"",
        "\"model\"",
        "\"a;b\"",
        "\"mod\\el\"",
        "\"\\\"\"",
    ]);
    let more = prop::sample::select(vec![
        "",
        "",
        "",
        "; filename=\"a\"",
        "; filename*=utf-8''a",
        "; x=y",
        ";",
        "\r\na: b",
        "\r\na",
    ]);
    let value = prop_oneof![
        4 => prop::sample::select(vec!["m", "true", "", "1", "false"]).prop_map(str::to_owned),
        2 => "[a-z\r\n -]{0,12}",
        2 => prop::collection::vec(prop::sample::select(vec!["\r\n", "--x", "-", "--", "\r", "\n", "x", "a", " "]), 0..8)
            .prop_map(|words| words.concat()),
        1 => "m{500,530}",
    ];
    let padding = prop::sample::select(vec!["", "", "", "", " ", "\t ", "-", "y"]);
    (name, more, value, padding).prop_map(|(name, more, value, padding)| {
        format!(
            "--x{padding}\r\nContent-Disposition: form-data; name={name}{more}\r\n\r\n{value}\r\n"
        )
    })
}

fn any_form() -> impl Strategy<Value = Vec<u8>> {
    let preamble = prop::sample::select(vec!["", "", "", "", "\r\n", "a\r\n", "a", "--xy\r\n"]);
    let end = prop::sample::select(vec![
        "--x--\r\n",
        "--x--",
        "--x--",
        "--x-- ",
        "--x--a",
        "--x\r\n",
        "",
    ]);
    (preamble, prop::collection::vec(any_part(), 0..5), end).prop_map(|(preamble, parts, end)| {
        format!("{preamble}{}{end}", parts.concat()).into_bytes()
    })
}

proptest! {
    #[test]
    fn generated_forms_are_read_as_a_plain_reader_does(body in any_form()) {
        agreement::check(&[b"x\n", body.as_slice()].concat());
    }

    #[test]
    fn every_split_says_the_same(body in any_form(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let mut whole = Scanner::new(FORM_DATA.as_bytes()).unwrap();
        let mut split = Scanner::new(FORM_DATA.as_bytes()).unwrap();
        let _ = whole.feed(&body);
        for pair in cuts.windows(2) {
            let _ = split.feed(&body[pair[0]..pair[1]]);
        }
        prop_assert_eq!(whole.end(), split.end());
        prop_assert_eq!(whole.model(), split.model());
        prop_assert_eq!(whole.stream(), split.stream());
    }
}

#[test]
fn a_field_that_picks_an_adapter_is_seen_unless_it_is_empty() {
    let picks = |field: &str| {
        let (scanner, result) = scan(form(&[MODEL, field]));
        assert_eq!(result, Ok(()), "{field}");
        assert!(scanner.is_finished());
        scanner.picks_adapter()
    };
    assert!(picks(&part("name=\"lora\"", "x")));
    assert!(picks(&part("name=lora_path", "x")));
    assert!(picks(&part("name=\"adapter_id\"; filename=\"a\"", "x")));
    assert!(picks(&part("name=\"lora\"", "--xy")), "it begins like a delimiter");
    for name in ["lora[]", "[lora]", " lora", "lora.path", "options[lora]", "vllm_xargs[n]"] {
        assert!(picks(&part(&format!("name=\"{name}\""), "x")), "{name}");
    }
    for name in ["timestamp_granularities[]", "metadata[lora]", "options[n]"] {
        assert!(!picks(&part(&format!("name=\"{name}\""), "x")), "{name}");
    }
    assert!(!picks(&part("name=\"lora\"", "")));
    assert!(!picks(&part("name=\"prompt\"", "lora")));
}
