//! `codec::json`: bodies that clients send, by name, and agreement with `serde_json` on generated
//! ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "../../fuzz/checks/json.rs"]
mod agreement;

use std::ops::Range;

use proptest::prelude::*;
use sans_io::codec::json::{
    Finder, MODEL_BYTES_MAX, NESTING_MAX, RESPONSE_ID_BYTES_MAX, ScanErrorKind, Scanner,
};

/// Reads a whole body, compared with `serde_json` and in splits on the way.
fn scan(body: impl AsRef<[u8]>) -> (Scanner, Result<(), ScanErrorKind>) {
    agreement::check(body.as_ref());
    let mut scanner = Scanner::new(64);
    let result = scanner.feed(body.as_ref()).and_then(|()| scanner.end());
    (scanner, result.map_err(|error| error.kind))
}

/// The name found in a body that must be good.
#[track_caller]
fn name(body: impl AsRef<[u8]>) -> String {
    let (scanner, result) = scan(body);
    assert_eq!(result, Ok(()));
    scanner.model().map(|model| model.name.clone()).unwrap_or_default()
}

#[track_caller]
fn rejection(body: impl AsRef<[u8]>) -> ScanErrorKind {
    scan(body).1.expect_err("the body should be refused")
}

#[track_caller]
fn assert_syntax_error(body: impl AsRef<[u8]>) {
    assert!(matches!(rejection(body), ScanErrorKind::Syntax(_)));
}

#[test]
fn the_model_is_found_with_its_place() {
    let body = br#" { "messages": [] , "model" : "smollm2" } "#;
    assert_eq!(name(body), "smollm2");
    let (scanner, _) = scan(body);
    let range = scanner.model().map(|model| model.range.clone()).unwrap_or_default();
    assert_eq!(&body[range.start as usize..range.end as usize], b"\"smollm2\"");
}

#[test]
fn the_model_is_known_before_the_body_ends() {
    let mut scanner = Scanner::new(64);
    assert_eq!(scanner.feed(br#"{"model":"m","mess"#), Ok(()));
    assert_eq!(scanner.model().map(|model| model.name.as_str()), Some("m"));
    assert!(!scanner.is_finished());
}

#[test]
fn a_second_model_is_refused() {
    assert_eq!(rejection(r#"{"model":"a","model":"b"}"#), ScanErrorKind::ModelTwice);
    assert_eq!(rejection(r#"{"model":"a","model":"a"}"#), ScanErrorKind::ModelTwice);
    assert_eq!(rejection(r#"{"model":"a","model":null}"#), ScanErrorKind::ModelTwice);
}

#[test]
fn a_second_model_is_refused_however_it_is_escaped() {
    assert_eq!(rejection(r#"{"model":"a","mod\u0065l":"b"}"#), ScanErrorKind::ModelTwice);
    assert_eq!(
        rejection(r#"{"\u006d\u006f\u0064\u0065\u006C":"a","model":"b"}"#),
        ScanErrorKind::ModelTwice
    );
}

#[test]
fn a_second_model_is_refused_behind_a_megabyte() {
    let padding = "x".repeat(1 << 20);
    for second in ["model", "\\u006dodel"] {
        let body = format!(r#"{{"model":"a","pad":"{padding}","{second}":"b"}}"#);
        assert_eq!(rejection(body), ScanErrorKind::ModelTwice);
    }
}

#[test]
fn an_escaped_key_is_the_model() {
    assert_eq!(name(r#"{"mod\u0065l":"a"}"#), "a");
}

#[test]
fn escapes_in_the_name_are_decoded() {
    assert_eq!(
        name(r#"{"model":"a\/b\"c\\d\b\f\n\r\t\u0041\u00e4\u20AC"}"#),
        "a/b\"c\\d\u{8}\u{c}\n\r\tAä€"
    );
    assert_eq!(name(r#"{"model":"\u0000"}"#), "\0");
}

#[test]
fn a_surrogate_pair_in_the_name_is_one_character() {
    assert_eq!(name(r#"{"model":"\ud83d\ude00!"}"#), "😀!");
    assert_eq!(name(r#"{"model":"\uD83D\uDE00"}"#), "😀");
}

#[test]
fn a_lone_surrogate_in_the_name_is_refused() {
    for model in [
        r"\ud83d",
        r"\ude00",
        r"\ud83d!",
        r"\ud83d\n",
        r"\ud83d\u0041",
        r"\ud83d\ud83d\ude00",
        r"\ude00\ud83d",
    ] {
        assert_eq!(
            rejection(format!(r#"{{"model":"a{model}"}}"#)),
            ScanErrorKind::ModelLoneSurrogate,
            "{model}"
        );
    }
}

#[test]
fn a_lone_surrogate_elsewhere_passes() {
    assert_eq!(name(r#"{"a":"\ud83d","\ud83d":1,"b":{"\ude00":"\ude00"},"model":"m"}"#), "m");
}

#[test]
fn a_key_with_half_a_pair_is_not_the_model() {
    assert_eq!(rejection(r#"{"model\ud83d":"a"}"#), ScanErrorKind::ModelMissing);
    assert_eq!(rejection(r#"{"\ud83dmodel":"a"}"#), ScanErrorKind::ModelMissing);
    assert_eq!(name(r#"{"\ud83d":1,"model":"a"}"#), "a");
}

#[test]
fn names_are_compared_exactly() {
    for key in [
        "Model",
        "MODEL",
        "model_",
        "_model",
        " model",
        "model ",
        "mode",
        "mоdel",
        "model\\u0000",
        "models",
    ] {
        assert_eq!(rejection(format!(r#"{{"{key}":"a"}}"#)), ScanErrorKind::ModelMissing, "{key}");
        assert_eq!(name(format!(r#"{{"{key}":"a","model":"b"}}"#)), "b", "{key}");
    }
    assert_eq!(name(r#"{"model":" a "}"#), " a ");
}

#[test]
fn a_nested_model_is_not_the_model() {
    assert_eq!(
        rejection(r#"{"a":{"model":"x"},"b":[{"model":"y"}],"c":"model"}"#),
        ScanErrorKind::ModelMissing
    );
    assert_eq!(name(r#"{"a":{"model":"x"},"model":"m","b":[{"model":"y"}],"c":"model"}"#), "m");
}

#[test]
fn a_model_inside_a_string_is_not_the_model() {
    assert_eq!(name(r#"{"a":"\",\"model\":\"x","model":"m"}"#), "m");
    assert_eq!(name(r#"{"a":"x\\\\","model":"m"}"#), "m");
    assert_syntax_error(r#"{"a":"x\\\","model":"m"}"#);
}

#[test]
fn the_model_may_follow_megabytes() {
    let body =
        format!(r#"{{"image":"data:image/png;base64,{}","model":"m"}}"#, "QUJD".repeat(5 << 20));
    assert_eq!(name(body), "m");
}

#[test]
fn numbers_that_doubles_cannot_hold_pass() {
    for number in [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-0.0",
        "1.10",
        "123456789012345678901234567890",
        "0E-7",
    ] {
        assert_eq!(
            name(format!(r#"{{"model":"m","a":{number},"b":[{number}]}}"#)),
            "m",
            "{number}"
        );
    }
}

#[test]
fn broken_numbers_and_words_are_refused() {
    let broken = [
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "--1",
        "0x1",
        "1_0",
        "-NaN",
        "Nan",
        "inf",
        "Infinit",
        "True",
        "-01",
        "1.Infinity",
        "1eInfinity",
        "1e+Infinity",
    ];
    for value in
        broken.into_iter().chain(["nul", "truee", "tru e", "1NaN", "'a'", "undefined", "-Infinit"])
    {
        assert_syntax_error(format!(r#"{{"model":"m","a":{value}}}"#));
    }
}

#[test]
fn broken_structure_is_refused() {
    for rest in [
        "",
        ",",
        ",}",
        ",1",
        ",\"a\"}",
        ",\"a\":}",
        ",\"a\" 1}",
        ",\"a\":1,}",
        "]",
        ",\"a\":[1,]}",
        ",\"a\":[}",
    ] {
        assert!(scan(format!(r#"{{"model":"m"{rest}"#)).1.is_err(), "{rest}");
    }
    for rest in [
        "\"a\":[1 2]}",
        "\"a\":[1}",
        "\"a\":{]}",
        "\"a\":[,1]}",
        "a:1}",
        "//\n\"a\":1}",
        "\"a\":\"\\x\"}",
    ] {
        assert_syntax_error(format!(r#"{{"model":"m",{rest}"#));
    }
    for string in ["\u{0}", "\n", "\t", "\u{1f}", "\\u12", "\\u12g4", "\\u+123", "\\U0041", "\\'"] {
        assert_syntax_error(format!(r#"{{"model":"m","a":"{string}"}}"#));
    }
}

#[test]
fn every_byte_is_judged_alike_at_every_place_of_a_string() {
    // Strings are read in words, blocks and single bytes; none of the ways may miss or invent an
    // end.
    for at in (0..48).chain(90..104) {
        for byte in 0..=u8::MAX {
            let mut text = [b'x'; 112];
            text[at] = byte;
            let before = br#"{"model":"m","a":""#;
            let body = [before.as_slice(), &text, b"\"}"].concat();
            let mut scanner = Scanner::new(64);
            let fault = scanner.feed(&body).and_then(|()| scanner.end()).err();
            // A control character is the fault itself; a quote or a backslash makes one of the byte
            // behind it.
            let expected = match byte {
                0..0x20 => Some(before.len() + at),
                b'"' | b'\\' => Some(before.len() + at + 1),
                _ => None,
            };
            assert_eq!(
                fault.map(|error| error.offset as usize),
                expected,
                "byte {byte:#x} at {at}"
            );
        }
    }
}

#[test]
fn white_space_of_any_amount_is_skipped() {
    let space = " \t\r\n".repeat(10_000);
    assert_eq!(name(format!(r#"{space}{{{space}"model"{space}:{space}"m"{space}}}{space}"#)), "m");
    for wrong in ["\u{b}", "\u{c}", "\u{a0}", "\u{2028}"] {
        assert!(scan(format!(r#"{{{wrong}"model":"m"}}"#)).1.is_err());
    }
}

#[test]
fn a_byte_order_mark_is_refused() {
    assert_eq!(rejection("\u{feff}{\"model\":\"m\"}"), ScanErrorKind::ByteOrderMark);
}

#[test]
fn utf_16_and_utf_32_are_refused() {
    let text = r#"{"model":"m"}"#;
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let wide: Vec<u8> =
        text.chars().flat_map(|character| u32::from(character).to_le_bytes()).collect();
    for body in [&little, &big, &wide] {
        assert_eq!(rejection(body), ScanErrorKind::NotUtf8);
        let marked = [b"\xff\xfe".as_slice(), body].concat();
        assert_eq!(rejection(marked), ScanErrorKind::ByteOrderMark);
    }
}

#[test]
fn bytes_that_are_not_utf_8_pass_outside_the_name() {
    assert_eq!(name(b"{\"a\xff\":\"\xc3(\",\"model\":\"m\"}"), "m");
    assert_eq!(rejection(b"{\"model\":\"m\xff\"}"), ScanErrorKind::ModelNotUnicode);
    assert_eq!(rejection(b"{\"model\":\"\xc3\"}"), ScanErrorKind::ModelNotUnicode);
    assert!(matches!(rejection(b"{\"model\":\"m\",\xff}"), ScanErrorKind::Syntax(_)));
}

#[test]
fn nesting_is_limited_and_does_not_recurse() {
    let nested = |depth: usize| {
        format!(r#"{{"model":"m","a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
    };
    assert_eq!(name(nested(64)), "m");
    assert_eq!(rejection(nested(65)), ScanErrorKind::TooDeep);
    assert_eq!(rejection(nested(100_000)), ScanErrorKind::TooDeep);
    let deepest = usize::from(NESTING_MAX);
    assert_eq!(Scanner::new(u16::MAX).feed(nested(deepest).as_bytes()), Ok(()));
    assert!(Scanner::new(u16::MAX).feed(nested(deepest + 1).as_bytes()).is_err());
}

#[test]
fn mixed_nesting_is_told_apart_at_every_depth() {
    let open: String =
        (0..300).map(|depth| if depth % 3 == 0 { r#"{"a":"# } else { "[" }).collect();
    let close: String =
        (0..300).rev().map(|depth| if depth % 3 == 0 { '}' } else { ']' }).collect();
    let whole = |close: &str| format!(r#"{{"model":"m","b":{open}1{close}}}"#);
    assert_eq!(Scanner::new(512).feed(whole(&close).as_bytes()), Ok(()));
    for at in 0..close.len() {
        let mut wrong = close.clone();
        wrong.replace_range(at..=at, if &close[at..=at] == "}" { "]" } else { "}" });
        assert!(Scanner::new(512).feed(whole(&wrong).as_bytes()).is_err(), "bracket {at}");
    }
}

#[test]
fn a_truncated_body_is_refused_wherever_it_ends() {
    let body = r#"{"a":[1,{"b":"\u00e4\n"},tru],"model":"m","c":-1.5e-3}"#.replace("tru]", "true]");
    assert_eq!(name(&body), "m");
    for end in 1..body.len() {
        assert_eq!(rejection(&body[..end]), ScanErrorKind::Truncated, "after {end} bytes");
    }
}

#[test]
fn an_empty_body_is_refused() {
    assert_eq!(rejection(""), ScanErrorKind::Empty);
    assert_eq!(rejection(" \r\n\t"), ScanErrorKind::Empty);
}

#[test]
fn what_follows_the_object_is_refused() {
    for rest in ["x", "{}", "{\"model\":\"m\"}", ",", "}", "\0", "\u{feff}"] {
        assert_eq!(
            rejection(format!(r#"{{"model":"m"}} {rest}"#)),
            ScanErrorKind::TrailingData,
            "{rest}"
        );
    }
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in
        ["[]", "[{\"model\":\"m\"}]", "\"model\"", "1", "null", "true", "model=m", "<xml/>", "NaN"]
    {
        assert_eq!(rejection(body), ScanErrorKind::NotAnObject, "{body}");
    }
}

#[test]
fn a_model_that_is_no_string_is_refused() {
    for value in [
        "null",
        "1",
        "-1",
        "true",
        "false",
        "[]",
        "[\"m\"]",
        "{}",
        "{\"model\":\"m\"}",
        "NaN",
        "Infinity",
    ] {
        assert_eq!(
            rejection(format!(r#"{{"model":{value}}}"#)),
            ScanErrorKind::ModelNotAString,
            "{value}"
        );
    }
}

#[test]
fn a_blank_model_is_refused() {
    for value in ["", " ", "\\n\\t", "\\u00a0", "\\u2003 ", "\u{3000}"] {
        assert_eq!(
            rejection(format!(r#"{{"model":"{value}"}}"#)),
            ScanErrorKind::ModelEmpty,
            "{value}"
        );
    }
}

#[test]
fn an_over_long_model_is_refused() {
    assert_eq!(
        name(format!(r#"{{"model":"{}"}}"#, "m".repeat(MODEL_BYTES_MAX))).len(),
        MODEL_BYTES_MAX
    );
    assert_eq!(
        name(format!(r#"{{"model":"{}"}}"#, r"\u006d".repeat(MODEL_BYTES_MAX))).len(),
        MODEL_BYTES_MAX
    );
    for value in [
        "m".repeat(MODEL_BYTES_MAX + 1),
        r"\n".repeat(MODEL_BYTES_MAX + 1),
        "ä".repeat(MODEL_BYTES_MAX),
    ] {
        assert_eq!(rejection(format!(r#"{{"model":"{value}"}}"#)), ScanErrorKind::ModelTooLong);
    }
}

#[test]
fn a_body_without_a_model_is_refused() {
    assert_eq!(rejection("{}"), ScanErrorKind::ModelMissing);
    assert_eq!(rejection(r#"{"messages":[]}"#), ScanErrorKind::ModelMissing);
}

#[test]
fn only_the_literal_true_streams() {
    let stream = |members: &str| scan(format!(r#"{{"model":"m"{members}}}"#)).0.stream();
    assert!(stream(r#","stream":true"#));
    assert!(stream(r#","str\u0065am" : true "#));
    for value in ["false", "null", "1", "\"true\"", "[true]", "{\"stream\":true}"] {
        assert!(!stream(&format!(r#","stream":{value}"#)), "{value}");
    }
    assert!(!stream(r#","a":{"stream":true},"Stream":true"#));
}

#[test]
fn the_last_stream_wins() {
    let stream = |members: &str| scan(format!(r#"{{"model":"m",{members}}}"#)).0.stream();
    assert!(!stream(r#""stream":true,"stream":false"#));
    assert!(!stream(r#""stream":true,"stream":[true]"#));
    assert!(stream(r#""stream":false,"str\u0065am":true"#));
}

#[test]
fn the_last_stream_options_are_found_whole() {
    let options = |body: &str| {
        let range = scan(body).0.stream_options().unwrap_or_default();
        body[range.start as usize..range.end as usize].to_owned()
    };
    let value = r#"{ "include_usage": true, "x": [1, "}"] }"#;
    assert_eq!(options(&format!(r#"{{"model":"m","stream_options": {value} ,"a":1}}"#)), value);
    assert_eq!(options(r#"{"model":"m","stream_options":null,"a":{"stream_options":1}}"#), "null");
    assert_eq!(options(r#"{"model":"m","stream_options":{},"stream_options":12}"#), "12");
    assert_eq!(options(r#"{"model":"m"}"#), "");
}

#[test]
fn options_are_open_from_their_first_byte_to_their_last() {
    let body = r#"{"stream_options":1,"a":{"stream_options":{}}, "str\u0065am_options" : {"x":[{}]} ,"model":"m"}"#;
    agreement::check(body.as_bytes());
    let (first, second) = (18..19, 71..81);
    assert_eq!(&body[second.clone()], r#"{"x":[{}]}"#);
    let mut scanner = Scanner::new(64);
    for at in 0..body.len() {
        scanner.feed(&body.as_bytes()[at..=at]).unwrap();
        // A number's end shows at the byte behind it.
        let open = if (18..19).contains(&at) {
            Some(first.start as u64)
        } else {
            (second.start..second.end - 1).contains(&at).then_some(second.start as u64)
        };
        assert_eq!(scanner.open_stream_options(), open, "after byte {at}");
    }
}

#[test]
fn the_end_of_the_object_is_told_with_its_brace() {
    let body = br#" {"a":{},"model":"m" } "#;
    let mut scanner = Scanner::new(64);
    assert_eq!(scanner.feed(&body[..21]), Ok(()));
    assert_eq!(scanner.object_end(), None);
    assert_eq!(scanner.feed(&body[21..]), Ok(()));
    assert_eq!(scanner.object_end(), Some(21));
}

#[test]
fn the_previous_response_is_told_where_it_was_asked_for() {
    let previous = |members: &str, keep: bool| {
        let body = format!(r#"{{"model":"m"{members}}}"#);
        agreement::check(body.as_bytes());
        let mut scanner = Scanner::new(64);
        if keep {
            scanner.retain_previous_response_id();
        }
        scanner.feed(body.as_bytes()).and_then(|()| scanner.end()).unwrap();
        scanner.previous_response_id().map(str::to_owned)
    };
    let id = r#","previous_response_id":"resp_\u0031""#;
    assert_eq!(previous(id, true).as_deref(), Some("resp_1"));
    assert_eq!(previous(id, false), None);
    assert_eq!(previous(r#","a":{"previous_response_id":"resp_1"}"#, true), None);
    assert_eq!(previous(&format!(r#"{id},"previous_response_id":null"#), true), None);
    assert_eq!(
        previous(&format!(r#","previous_response_id":"x"{id}"#), true).as_deref(),
        Some("resp_1")
    );
    assert_eq!(previous(r#","previous_response_id":"""#, true).as_deref(), Some(""));
}

#[test]
fn a_previous_response_that_cannot_be_is_no_error_and_no_id() {
    let longest = "x".repeat(RESPONSE_ID_BYTES_MAX);
    for (id, told) in [
        (longest.clone().into_bytes(), longest.as_str()),
        ([longest.as_bytes(), b"x"].concat(), "\0"),
        ("x\\n".repeat(200_000).into_bytes(), "\0"),
        (br"resp_\ud800".to_vec(), "\0"),
        (b"resp_\xff".to_vec(), "\0"),
    ] {
        let body =
            [br#"{"model":"m","previous_response_id":""#.as_slice(), &id, br#"","stream":true}"#]
                .concat();
        agreement::check(&body);
        let mut scanner = Scanner::new(64);
        scanner.retain_previous_response_id();
        scanner.feed(&body).and_then(|()| scanner.end()).unwrap();
        assert_eq!(scanner.previous_response_id(), Some(told));
        assert!(scanner.stream());
    }
}

#[test]
fn a_value_is_found_under_its_path_in_any_split() {
    let json = br#"{"a":{"id":1},"response":[{"id":"x"}],"response":{"a":{"id":"x"},"b":[{"id":"x"}],"id":"resp\u005f1"},"id":"z"}"#;
    for size in 1..json.len() {
        let mut finder = Finder::text_of(&["response", "id"]);
        let mut top = Finder::text_of(&["id"]);
        for piece in json.chunks(size) {
            finder.feed(piece);
            top.feed(piece);
        }
        assert_eq!(finder.found().map(|range| &json[range]), Some(br#""resp\u005f1""#.as_slice()));
        assert_eq!(finder.text(), Some("resp_1"));
        assert_eq!(top.text(), Some("z"));
    }
}

#[test]
fn a_value_of_another_kind_is_not_found() {
    for json in [
        r#"{"id":1,"id":"x"}"#,
        r#"{"id":null}"#,
        r#"{"id":{"id":"x"}}"#,
        r#"{"id" "x"}"#,
        r#"["id"]"#,
    ] {
        let mut finder = Finder::text_of(&["id"]);
        finder.feed(json.as_bytes());
        assert_eq!((finder.found(), finder.text()), (None, None), "{json}");
    }
}

#[test]
fn an_error_is_final_and_names_its_byte() {
    let mut scanner = Scanner::new(64);
    assert_eq!(scanner.feed(br#"{"model""#), Ok(()));
    let error = scanner.feed(b"x").expect_err("a key needs a colon");
    assert_eq!(error.offset, 8);
    assert_eq!(scanner.feed(br#":"m"}"#), Err(error));
    assert_eq!(scanner.end(), Err(error));
    assert!(!scanner.is_finished());
}

#[test]
fn errors_are_whole_sentences_that_repeat_nothing_of_the_body() {
    let secret = "hunter2";
    let (lone, long_name) = (
        format!("{{\"model\":\"{secret}\\ud800\"}}"),
        format!("{{\"model\":\"{}\"}}", secret.repeat(99)),
    );
    let bodies = [
        String::new(),
        secret.into(),
        format!("{{\"{secret}\":hunter}}"),
        format!("{{\"model\":\"m\"}}{secret}"),
        format!("{{\"{secret}"),
        format!("\u{feff}{secret}"),
        format!("\0{secret}"),
        format!("{{\"{secret}\":1}}"),
        format!("{{\"model\":[\"{secret}\"]}}"),
        format!("{{\"model\":\"\",\"{secret}\":1}}"),
        format!("{{\"model\":\"{secret}\",\"model\":1}}"),
        format!("{{\"{secret}\":{}", "[".repeat(65)),
        lone,
        long_name,
    ];
    for body in bodies {
        let mut scanner = Scanner::new(64);
        let error =
            scanner.feed(body.as_bytes()).and_then(|()| scanner.end()).expect_err("a bad body");
        let text = error.to_string();
        assert!(text.ends_with('.') && text.contains(' ') && !text.contains("hunter"), "{text}");
        assert!(text.starts_with("The request body") || text.starts_with("`model`"), "{text}");
    }
}

/// The range of the top-level `model`, quotes included.
fn find_model(json: &[u8]) -> Option<Range<usize>> {
    let mut finder = Finder::string(&["model"]);
    finder.feed(json);
    finder.found()
}

#[test]
fn the_model_of_a_response_is_found_in_whole_and_in_part() {
    let response = br#"{"id":"x","model":"Qwen/Qwen3-8B","choices":[{"model":"no"}]}"#;
    assert_eq!(find_model(response), Some(18..33));
    assert_eq!(find_model(&response[..33]), Some(18..33));
    assert_eq!(find_model(&response[..32]), None);
    assert_eq!(find_model(br#"{"model":"","broken"#), Some(9..11));
}

#[test]
fn a_response_that_is_odd_has_no_model() {
    for response in [
        "",
        "[DONE]",
        "{}",
        r#"{"model":null}"#,
        r#"{"a" "model":"m"}"#,
        r#"[{"model":"m"}]"#,
        r#"{"a":{"model":"m"}}"#,
    ] {
        assert_eq!(find_model(response.as_bytes()), None, "{response}");
    }
}

/// A key, with a liking for the ones that matter and their disguises.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("model".to_owned()),
        1 => Just("mod\\u0065l".to_owned()),
        1 => Just("Model".to_owned()),
        2 => Just("stream".to_owned()),
        2 => Just("stream_options".to_owned()),
        1 => Just("lora_path".to_owned()),
        2 => Just("custom_params".to_owned()),
        1 => Just("metadata".to_owned()),
        1 => Just("context_window_fallbacks".to_owned()),
        2 => Just("previous_response_id".to_owned()),
        4 => text(),
    ]
}

/// The inside of a JSON string, mostly a valid one.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => "[ -!#-\\[\\]-~äß€😀]{0,12}",
        1 => "[a-z ]{30,200}",
        4 => prop::sample::select(vec![
            "\\n", "\\\"", "\\\\", "\\/", "\\u0041", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "\\u", "\\x", "\n", "\\\",\\\"model",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
}

fn value() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "true",
        "false",
        "null",
        "NaN",
        "-Infinity",
        "0",
        "-0.0",
        "1e400",
        "-12.5E+3",
        "7",
        "01",
        "1.",
        "tru",
    ]);
    let leaf = prop_oneof![3 => text().prop_map(|text| format!("\"{text}\"")), 2 => word.prop_map(str::to_owned)];
    leaf.prop_recursive(5, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec((key(), inner), 0..5).prop_map(|members| object(&members)),
        ]
    })
}

fn object(members: &[(String, String)]) -> String {
    let members: Vec<String> =
        members.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn body() -> impl Strategy<Value = String> {
    prop::collection::vec((key(), value()), 0..6).prop_map(|members| object(&members))
}

proptest! {
    #[test]
    fn generated_bodies_are_judged_as_serde_json_does(body in body()) {
        agreement::check(body.as_bytes());
    }

    #[test]
    fn mutated_bodies_are_judged_as_serde_json_does(
        body in body(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut body = body.into_bytes();
        for (place, byte, change) in changes {
            let at = place.index(body.len() + 1);
            match change {
                0 => body.insert(at, byte),
                1 => body.truncate(at),
                _ => body.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            }
        }
        agreement::check(&body);
    }

    #[test]
    fn a_good_body_of_any_text_is_accepted(model in "[^ ].{0,40}", prompt in ".{0,300}", stream in any::<bool>()) {
        prop_assume!(!model.trim().is_empty());
        let body = serde_json::json!({"messages": [{"content": prompt}], "stream": stream, "model": model}).to_string();
        prop_assert_eq!(name(&body), model);
        prop_assert_eq!(scan(&body).0.stream(), stream);
    }
}

#[test]
fn a_member_that_picks_an_adapter_is_seen_unless_it_picks_nothing() {
    let picks = |member: &str| {
        let (scanner, result) = scan(format!(r#"{{"model":"m",{member}}}"#));
        assert_eq!(result, Ok(()), "{member}");
        scanner.picks_adapter()
    };
    for member in [
        r#""lora_path":"x""#,
        r#""lor\u0061":[{"id":0}]"#,
        r#""lora_request":{"lora_name":"x"}"#,
        r#""adapter_id":7"#,
        r#""models":["x"]"#,
        r#""context_window_fallbacks":[1]"#,
        r#""draft_model":"x""#,
        r#""lora":[1],"lora":[]"#,
        r#""lora":true"#,
        r#""Lora":"x""#,
        r#""MODEL":"x""#,
        r#""vllm_xargs":{"a":[{}],"model":"x"},"n":1"#,
        r#""custom_params":{"lor\u0061":1}"#,
        r#""extra_body":{"sampling_params":{"extra_args":{"lora":1}}}"#,
        r#""vllm_xargs":{"a":{"model":"x"},"lora":null},"n":1"#,
        r#""vllm_xargs":"model","custom_params":[{"lora":1}]"#,
        r#""custom_params":{"a":[1,[{}],"b",{"c":{"lora":1}}]}"#,
        r#""custom_params":{"metadata":{"lora":1},"a":{"lora":1}}"#,
        r#""custom_params":{"a":[{"b":1},{"lora":1}]}"#,
        r#""custom_params":{"a_name_that_is_longer_than_any_that_matters":{"lora":1}}"#,
        r#""options":[[],[[{"lora":{"a":[]}}]]],"n":1"#,
    ] {
        assert!(picks(member), "{member}");
    }
    for member in [
        r#""lora":null"#,
        r#""lora":[]"#,
        r#""lora_path":"""#,
        r#""lora":{}"#,
        r#""lora":false"#,
        r#""metadata":{"lora":"x"}"#,
        r#""x":"lora""#,
        r#""vllm_xargs":{"a":{"model":null},"lora":null},"n":1"#,
        r#""vllm_xargs":"model","custom_params":["lora",["model"],[{"a":"lora"}]]"#,
        r#""options":{},"top":{"lora":1}"#,
        r#""options":[{}],"top":[{"lora":1}],"options":[[]],"x":{"lora":1}"#,
        r#""extra_body":{"messages":[{"lora":1}],"tools":[{"parameters":{"model":{}}}]}"#,
        r#""parameters":{"grammar":{"type":"json","value":{"properties":{"model":{}}}}}"#,
        r#""sampling_params":{"structured_outputs":{"json":{"model":{"a":1}}}}"#,
        r#""extra_body":{"a":[{"chat_template_kwargs":{"model":"x"}},{"metadata":[{"lora":1}]}]}"#,
        r#""messages":[{"options":{"lora":1}}],"tools":[{"function":{"parameters":{"lora":1}}}]"#,
        r#""base_url":"x""#,
    ] {
        assert!(!picks(member), "{member}");
    }
}

#[test]
fn a_member_that_names_a_host_is_seen_in_every_purpose() {
    for (member, names) in [
        (r#""kv_transfer_params":{"remote_host":"x"}"#, true),
        (r#""bootstrap_room":[7]"#, true),
        (r#""extra_body":{"Base_URL":"x"}"#, true),
        (r#""sampling_params":{"n":1,"extra_args":{"kv_transfer_params":{"a":1}}}"#, true),
        (r#""extra_body":{"options":{"nvext":{"parameters":{"base_url":"x"}}}}"#, true),
        (r#""metadata":{"extra_args":{"base_url":"x"}}"#, false),
        (r#""extra_args":{"metadata":{"base_url":"x"}}"#, false),
        (r#""extra_args":[{"base_url":"x"}]"#, true),
        (r#""custom_params":{"a":{"b":[0,{"api_base":"x"}]}}"#, true),
        (r#""kv_transfer_params":{}"#, false),
        (r#""metadata":{"base_url":"x"}"#, false),
        (r#""lora":"x""#, false),
    ] {
        let body = format!(r#"{{"model":"m",{member},"n":1}}"#);
        let (scanner, result) = scan(&body);
        assert_eq!((result, scanner.names_host()), (Ok(()), names), "{member}");
        // Where `model` is nobody's business.
        for model in [r#""model":7"#, r#""model":"a","model":"b""#, r#""x":1"#] {
            let mut watching = Scanner::new(9);
            watching.watch();
            let body = format!("{{{model},{member}}}");
            assert_eq!(watching.feed(body.as_bytes()), Ok(()), "{body}");
            assert_eq!((watching.names_host(), watching.is_finished()), (names, true), "{body}");
        }
    }
}
