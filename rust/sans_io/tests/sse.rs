//! `sse`: line ends in every mix, names and ends of streams, and agreement with a reader that goes
//! line by line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "../../fuzz/checks/sse.rs"]
mod agreement;

use proptest::prelude::*;
use sans_io::api::endpoints::ModelPlace;
use sans_io::{
    api::stream_fields::{ResponseIdFinder, is_terminal, rename_model},
    codec::sse::{frames, last_edge},
};

#[test]
fn a_frame_ends_behind_its_empty_line_whatever_the_line_ends() {
    for (stream, edge) in [
        ("data: a\n\n", 9),
        ("data: a\r\n\r\n", 11),
        ("data: a\r\r", 9),
        ("data: a\n\r\n", 10),
        ("data: a\r\n\n", 10),
        ("data: a\r\n\rd", 10),
        ("data: a\n\rd", 9),
        ("data: a\n\ndata: b\n\nda", 18),
    ] {
        agreement::check(stream.as_bytes());
        assert_eq!(last_edge(stream.as_bytes(), 0), Some(edge), "{stream:?}");
    }
}

#[test]
fn an_unfinished_frame_has_no_edge() {
    for stream in
        ["", "d", "data: a", "data: a\n", "data: a\r\n", "data: a\r", "data: a\nevent: b\n"]
    {
        agreement::check(stream.as_bytes());
        assert_eq!(last_edge(stream.as_bytes(), 0), None, "{stream:?}");
    }
}

#[test]
fn a_final_cr_waits_for_its_lf_unless_the_stream_ends_lines_with_cr_alone() {
    assert_eq!(last_edge(b"data: a\r\n\r", 0), None);
    assert_eq!(last_edge(b"data: a\r\n\r\n", 10), Some(11));
    assert_eq!(last_edge(b"data: a\r\n\rd", 10), Some(10));
    assert_eq!(last_edge(b"data: a\r\r", 0), Some(9));
    assert_eq!(last_edge(b"\r", 0), None);
}

#[test]
fn an_lf_that_comes_after_its_cr_was_counted_is_an_empty_frame() {
    assert_eq!(last_edge(b"\n", 0), Some(1));
    assert_eq!(frames(b"\ndata: a\n\n").collect::<Vec<_>>(), [b"\n".as_slice(), b"data: a\n\n"]);
    assert!(!is_terminal(b"\n"));
}

#[test]
fn other_separators_of_unicode_end_no_line() {
    for stream in
        ["data: a\u{85}\u{85}", "data: a\u{2028}\u{2028}", "data: a\u{b}\u{b}", "data: a\u{c}\u{c}"]
    {
        agreement::check(stream.as_bytes());
        assert_eq!(last_edge(stream.as_bytes(), 0), None, "{stream:?}");
    }
}

#[test]
fn frames_are_whole_and_the_rest_is_left() {
    let stream = b": ping\n\nevent: x\r\ndata: 1\r\n\r\ndata: 2\r\rdata: 3\n";
    let expected: [&[u8]; 3] = [b": ping\n\n", b"event: x\r\ndata: 1\r\n\r\n", b"data: 2\r\r"];
    assert_eq!(frames(stream).collect::<Vec<_>>(), expected);
}

#[test]
fn a_frame_of_megabytes_in_one_byte_reads_is_looked_at_once() {
    // Two million looks at all of it would take hours; the test would not end.
    let stream = [b"data: ".as_slice(), &vec![b'x'; 2 << 20], b"\n\n"].concat();
    for end in 0..stream.len() {
        assert_eq!(last_edge(&stream[..end], end.saturating_sub(1)), None);
    }
    assert_eq!(last_edge(&stream, stream.len() - 1), Some(stream.len()));
}

#[test]
fn the_name_is_replaced_and_nothing_else() {
    let stream = concat!(
        ": the \"model\":\"x\" of a comment\n",
        "data: {\"id\": 1.10, \"model\" : \"a/b\",\"choices\":[{\"model\":\"a/b\"}] }\n\n",
        "event: e\r\ndata:{\"mod\\u0065l\":\"\\u0061/b\"}\r\nid: {\"model\":\"x\"}\r\n\r\n",
        "data: [DONE]\n\n",
    );
    let expected = concat!(
        ": the \"model\":\"x\" of a comment\n",
        "data: {\"id\": 1.10, \"model\" : \"public\",\"choices\":[{\"model\":\"a/b\"}] }\n\n",
        "event: e\r\ndata:{\"mod\\u0065l\":\"public\"}\r\nid: {\"model\":\"x\"}\r\n\r\n",
        "data: [DONE]\n\n",
    );
    agreement::check(stream.as_bytes());
    let renamed =
        rename_model(stream.as_bytes(), ModelPlace::TopLevel, b"\"public\"").unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(&renamed), expected);
}

#[test]
fn the_name_is_found_in_data_of_several_lines() {
    let stream = b"data: {\ndata:   \"model\":\nevent: e\ndata: \"a\"\ndata: }\n\n";
    agreement::check(stream);
    let renamed = rename_model(stream, ModelPlace::TopLevel, b"\"public\"").unwrap_or_default();
    assert_eq!(renamed, b"data: {\ndata:   \"model\":\nevent: e\ndata: \"public\"\ndata: }\n\n");
}

#[test]
fn a_value_that_two_lines_of_data_break_is_no_name() {
    for stream in
        ["data: {\"model\":\"a\ndata: b\"}\n\n", "data: {\"x\":1\ndata: 2,\"model\":\"a\"}\n\n"]
    {
        agreement::check(stream.as_bytes());
        assert_eq!(
            rename_model(stream.as_bytes(), ModelPlace::TopLevel, b"\"public\""),
            None,
            "{stream:?}"
        );
    }
}

#[test]
fn the_name_is_replaced_at_its_place_alone() {
    let stream = concat!(
        "event: response.created\n",
        "data: {\"response\":{\"id\":\"r\",\"tools\":[{\"model\":\"a\"}],\"model\":\"a\"},\"model\":\"a\"}\n\n",
        "event: message_start\r\ndata: \
         {\"model\":\"a\",\"message\":{\"x\":{\"model\":\"a\"},\ndata: \"model\" : \"a\"}}\r\n\r\n",
        "data: {\"response\":\"model\",\"message\":null,\"a\":[{\"response\":{\"model\":\"a\"}}]}\n\n",
    );
    agreement::check(stream.as_bytes());
    for (place, marker) in [
        (
            ModelPlace::TopLevel,
            ["},\"model\":\"a\"}\n\n", "data: {\"model\":\"a\",\"message"].as_slice(),
        ),
        (ModelPlace::Response, &["}],\"model\":\"a\"}"]),
        (ModelPlace::Message, &["\"model\" : \"a\""]),
    ] {
        let mut expected = stream.to_owned();
        for marker in marker {
            expected = expected.replace(marker, &marker.replace("\"a\"", "\"public\""));
        }
        let renamed = rename_model(stream.as_bytes(), place, b"\"public\"").unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&renamed), expected, "{place:?}");
    }
    assert_eq!(rename_model(stream.as_bytes(), ModelPlace::Nowhere, b"\"public\""), None);
}

fn response_id(frames: &[u8]) -> Option<String> {
    let mut finder = ResponseIdFinder::new();
    finder.feed_frames(frames);
    finder.found().map(str::to_owned)
}

#[test]
fn the_id_of_a_response_is_that_of_the_first_event_that_has_one() {
    let stream = concat!(
        ": ping\n\ndata: {\"id\":\"no\",\"item\":{\"id\":\"no\"}}\n\n",
        "event: response.created\ndata: \
         {\"response\":{\"output\":[{\"id\":\"no\"}],\"id\":\"resp_\\u0031\"}}\n\n",
        "data: {\"response\":{\"id\":\"resp_2\"}}\n\n",
    );
    agreement::check(stream.as_bytes());
    assert_eq!(response_id(stream.as_bytes()).as_deref(), Some("resp_1"));
    for stream in [
        "",
        "data: [DONE]\n\n",
        "data: {\"response\":{\"id\":null}}\n\n",
        "data: {\"response\":{\"id\":\"\\ud800\"}}\n\n",
    ] {
        assert_eq!(response_id(stream.as_bytes()), None, "{stream:?}");
    }
}

#[test]
fn the_id_of_a_response_is_found_while_it_passes() {
    let response = br#"{"output":[{"id":"no"}],"id":"resp_1","model":"m"}"#;
    for size in 1..response.len() {
        let mut finder = ResponseIdFinder::new();
        response.chunks(size).for_each(|piece| finder.feed(piece));
        assert_eq!(finder.found(), Some("resp_1"));
    }
    let marked = ["\u{feff}".as_bytes(), response].concat();
    for size in 1..marked.len() {
        let mut finder = ResponseIdFinder::new();
        marked.chunks(size).for_each(|piece| finder.feed(piece));
        assert_eq!(finder.found(), Some("resp_1"));
    }
    let mut finder = ResponseIdFinder::new();
    finder.feed_frames(b": ping\n\n");
    assert_eq!(finder.found(), None);
    finder.feed_frames(b"event: response.created\ndata: {\"response\":{\"id\":\"resp_1\"}}\n\n");
    finder.feed_frames(b"event: response.completed\ndata: {\"response\":{\"id\":\"resp_2\"}}\n\n");
    assert_eq!(finder.found(), Some("resp_1"));
}

#[test]
fn nothing_is_copied_when_no_name_changes() {
    for stream in [
        "data: [DONE]\n\n",
        ": ping\n\n",
        "data: {\"choices\":[]}\n\n",
        "data: {\"model\":\"public\"}\n\n",
        "data: {\"model\":null}\n\n",
        "data: {\"message\":{\"model\":\"a\"}}\n\n",
        "data: {\"model\":\ndata\n\n",
        "data: \"model\":\"a\"\n\n",
    ] {
        agreement::check(stream.as_bytes());
        assert_eq!(
            rename_model(stream.as_bytes(), ModelPlace::TopLevel, b"\"public\""),
            None,
            "{stream:?}"
        );
    }
}

#[test]
fn a_frame_that_ends_the_stream_is_known() {
    for frame in [
        "data: [DONE]\n\n",
        "data:[DONE]\r\n\r\n",
        "data: [DONE]",
        ": last\ndata: [DONE] \n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "event:error\ndata: {}\n\n",
        "data: {}\revent: response.completed\r\r",
        "event: response.failed\ndata: {}\n\n",
        "event: response.incomplete\ndata: {}\n\n",
    ] {
        agreement::check(frame.as_bytes());
        assert!(is_terminal(frame.as_bytes()), "{frame:?}");
    }
}

#[test]
fn a_frame_that_does_not_end_the_stream_is_known() {
    for frame in [
        "data: {\"a\":\"[DONE]\"}\n\n",
        "data: [DONE\n\n",
        ": data: [DONE]\n\n",
        "id: [DONE]\n\n",
        "data: \ndata: [DONE]\n\n",
        "event: message_stop\n\n",
        "event:  error\ndata: {}\n\n",
        "event: message_stop\nevent: ping\ndata: {}\n\n",
        "event: message_delta\ndata: message_stop\n\n",
        "event: response.created\ndata: {}\n\n",
        "\n",
    ] {
        agreement::check(frame.as_bytes());
        assert!(!is_terminal(frame.as_bytes()), "{frame:?}");
    }
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        2 => prop::sample::select(vec![
            "data: [DONE]", "data:[DONE]", "data", "event: error", "event: message_stop", ": ping", "id: 1", "data: {",
            "data: {\"response\":{\"id\":\"r\",\"model\":\"m\"}}", "data: {\"message\":{\"model\":\"m\"}}",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}", "data: \"usage\":{\"prompt_tokens\":1}}", "data: {\"choices\":[],",
            "data: }", "data: {\"model\":\"m\"}", "data: {\"a\":{\"model\":1},\"model\":\"x\\ny\"}", "data: \"model\":\"m\"",
        ])
        .prop_map(str::to_owned),
        1 => "(data|event|id|retry|x)?:? ?[a-z\\[\\]{}\":,\u{2028}\u{85}]{0,20}",
    ]
}

proptest! {
    #[test]
    fn streams_are_read_as_line_by_line(
        lines in prop::collection::vec((line(), prop::sample::select(vec!["\n", "\r\n", "\r"])), 0..24),
        cut in any::<prop::sample::Index>(),
    ) {
        let stream: String = lines.iter().flat_map(|(line, end)| [line.as_str(), end]).collect();
        agreement::check(stream.as_bytes());
        agreement::check(&stream.as_bytes()[..cut.index(stream.len() + 1)]);
    }

    #[test]
    fn any_bytes_are_read_as_line_by_line(bytes in prop::collection::vec(prop::sample::select(b"\r\nd: {\"".to_vec()), 0..40)) {
        agreement::check(&bytes);
    }
}
