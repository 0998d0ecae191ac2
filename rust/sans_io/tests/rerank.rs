//! `rerank`: what engines of three dialects are asked, and Jina's response made of what they say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use proptest::prelude::*;
use sans_io::api::rerank::{Engine, Prepared, RerankError, request, response};
use serde_json::{Value, json};

const REQUEST: &str = r#"{"model": "public", "query": "what", "documents": ["aa", "bbbb", "cc"]}"#;

fn prepared(body: &str, engine: Engine) -> Prepared {
    request(body.as_bytes(), engine, "served").unwrap()
}

fn ranking(prepared: &Prepared, engine_says: &str) -> Value {
    serde_json::from_slice(&response(engine_says.as_bytes(), prepared, "public").unwrap()).unwrap()
}

fn jina(results: &Value, prompt: u64, total: u64) -> Value {
    json!({"model": "public", "object": "list", "results": results, "usage": {"prompt_tokens": prompt, "total_tokens": total}})
}

#[test]
fn a_request_of_strings_goes_on_as_it_is() {
    let prepared = prepared(REQUEST, Engine::Jina);
    assert_eq!((prepared.body, prepared.path), (None, "/v1/rerank"));
    assert_eq!((prepared.top_n, prepared.return_documents), (None, true));
    assert_eq!(prepared.count, 3);
    let texts = [0, 1, 2, 3].map(|at| prepared.texts.get(at));
    assert_eq!(texts, [Some(r#""aa""#), Some(r#""bbbb""#), Some(r#""cc""#), None]);
}

#[test]
fn vllms_response_gets_jinas_shape() {
    let vllm = r#"{"id":"score-908777811d16bb86","model":"tiny","usage":{"prompt_tokens":20,"total_tokens":20},"results":[{"index":1,"document":{"text":"bbbb","multi_modal":null},"relevance_score":0.5800318121910095},{"index":0,"document":{"text":"aa","multi_modal":null},"relevance_score":0.5348483324050903},{"index":2,"document":{"text":"cc","multi_modal":null},"relevance_score":0.5247668027877808}]}"#;
    let expected = r#"{"model":"public","object":"list","results":[{"index":1,"document":{"text":"bbbb"},"relevance_score":0.5800318121910095},{"index":0,"document":{"text":"aa"},"relevance_score":0.5348483324050903},{"index":2,"document":{"text":"cc"},"relevance_score":0.5247668027877808}],"usage":{"prompt_tokens":20,"total_tokens":20}}"#;
    let made = response(vllm.as_bytes(), &prepared(REQUEST, Engine::Jina), "public").unwrap();
    assert_eq!(String::from_utf8(made).unwrap(), expected);
}

#[test]
fn documents_are_left_out_where_they_are_not_wanted() {
    let body = REQUEST.replace("\"query\"", "\"return_documents\":false,\"top_n\":1,\"query\"");
    let vllm = r#"{"results":[{"index":1,"document":{"text":"bbbb"},"relevance_score":1}],"usage":{"total_tokens":3}}"#;
    let expected = jina(&json!([{"index": 1, "relevance_score": 1}]), 3, 3);
    assert_eq!(ranking(&prepared(&body, Engine::Jina), vllm), expected);
}

#[test]
fn llama_cpps_response_gets_its_documents_and_its_order() {
    let llama = r#"{"model":"x","object":"list","usage":{"prompt_tokens":9,"total_tokens":9},"results":[{"index":0,"relevance_score":-7.5},{"index":1,"relevance_score":-1e-1},{"index":2,"relevance_score":null}]}"#;
    let expected = jina(
        &json!([
            {"index": 1, "document": {"text": "bbbb"}, "relevance_score": -0.1},
            {"index": 0, "document": {"text": "aa"}, "relevance_score": -7.5},
            {"index": 2, "document": {"text": "cc"}, "relevance_score": null},
        ]),
        9,
        9,
    );
    assert_eq!(ranking(&prepared(REQUEST, Engine::Jina), llama), expected);
    let made = response(llama.as_bytes(), &prepared(REQUEST, Engine::Jina), "public").unwrap();
    assert!(
        String::from_utf8(made).unwrap().contains(":-1e-1}"),
        "a score is as the engine wrote it"
    );
}

#[test]
fn tei_is_asked_in_its_own_words() {
    let body = r#"{"model":"public","query":"wh\u0061t","documents":["a\u0061",{"text":"b","title":"t"}],"top_n":1,"raw_scores":true,"truncate_prompt_tokens":5}"#;
    let prepared = prepared(body, Engine::Tei);
    let asked: Value = serde_json::from_slice(prepared.body.as_deref().unwrap()).unwrap();
    let expected = json!({"query": "what", "texts": ["aa", "b"], "return_text": false, "raw_scores": true, "truncate": true});
    assert_eq!((asked, prepared.path), (expected, "/rerank"));
    let expected =
        jina(&json!([{"index": 1, "document": {"text": "b"}, "relevance_score": 0.9}]), 0, 0);
    assert_eq!(
        ranking(&prepared, r#"[{"index":0,"score":0.1},{"index":1,"score":0.9}]"#),
        expected
    );
}

#[test]
fn objects_with_text_become_the_strings_that_engines_take() {
    let body = r#"{"documents":["x", {"text" : "\u00e9" } ,{"content":[{"text":"no"}]},{"text":"z"}], "query":"q","top_n":1,"x":1.10,"model":"public"}"#;
    let prepared = prepared(body, Engine::Jina);
    let expected = r#"{"documents":["x", "\u00e9" ,{"content":[{"text":"no"}]},"z"], "query":"q","top_n":1,"x":1.10,"model":"served"}"#;
    assert_eq!(String::from_utf8(prepared.body.clone().unwrap()).unwrap(), expected);
    let texts = [0, 1, 2, 3].map(|at| prepared.texts.get(at));
    assert_eq!(texts, [Some(r#""x""#), Some(r#""\u00e9""#), None, Some(r#""z""#)]);
    let vllm = r#"{"results":[{"index":2,"document":{"text":null,"multi_modal":{}},"relevance_score":1}]}"#;
    let expected =
        json!([{"index": 2, "document": {"text": null, "multi_modal": {}}, "relevance_score": 1}]);
    assert_eq!(ranking(&prepared, vllm)["results"], expected);
}

#[test]
fn at_most_top_n_results_are_given_best_first() {
    let engine = r#"{"results":[{"index":0,"relevance_score":1},{"index":1,"relevance_score":3},{"index":2,"relevance_score":2}]}"#;
    for (top_n, indexes) in [
        ("0", vec![1, 2, 0]),
        ("1", vec![1]),
        ("2", vec![1, 2]),
        ("9", vec![1, 2, 0]),
        ("null", vec![1, 2, 0]),
    ] {
        let body = REQUEST.replace("\"query\"", &format!("\"top_n\":{top_n},\"query\""));
        let made = ranking(&prepared(&body, Engine::Jina), engine);
        let found: Vec<u64> = made["results"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|result| result["index"].as_u64())
            .collect();
        assert_eq!(found, indexes, "top_n {top_n}");
    }
}

#[test]
fn a_wrong_request_is_refused_with_a_sentence() {
    for (members, word) in [
        (r#""documents":["a"]"#, "`query`"),
        (r#""query":null,"documents":["a"]"#, "`query`"),
        (r#""query":3,"documents":["a"]"#, "`query`"),
        (r#""query":"q""#, "`documents`"),
        (r#""query":"q","documents":null"#, "`documents`"),
        (r#""query":"q","documents":"a""#, "`documents`"),
        (r#""query":"q","documents":[]"#, "`documents`"),
        (r#""query":"q","documents":[1]"#, "`documents`"),
        (r#""query":"q","documents":["\ud800"]"#, "`documents`"),
        (r#""query":"q","documents":["a"],"documents":["b"]"#, "each member once"),
        (r#""query":"q","documents":["a"],"top_n":-1"#, "`top_n`"),
        (r#""query":"q","documents":["a"],"top_n":1.5"#, "`top_n`"),
        (r#""query":"q","documents":["a"],"top_n":"1""#, "`top_n`"),
        (r#""query":"q","documents":["a"],"return_documents":"no""#, "`return_documents`"),
        (r#""query":NaN,"documents":["a"]"#, "JSON"),
    ] {
        for engine in [Engine::Jina, Engine::Tei] {
            let error =
                request(format!("{{\"model\":\"m\",{members}}}").as_bytes(), engine, "served")
                    .unwrap_err();
            let sentence = error.to_string();
            assert!(
                matches!(error, RerankError::Request(_)) && sentence.contains(word),
                "{members}: {sentence}"
            );
            assert!(sentence.ends_with('.') && sentence.contains(' '), "{sentence}");
        }
    }
}

#[test]
fn what_tei_cannot_rank_is_refused() {
    for body in [
        r#"{"query":{"content":[]},"documents":["a"]}"#,
        r#"{"query":"q","documents":[{"image":"x"}]}"#,
        r#"{"query":"q","documents":["a",{"text":null}]}"#,
    ] {
        assert!(request(body.as_bytes(), Engine::Jina, "served").is_ok());
        assert!(
            matches!(request(body.as_bytes(), Engine::Tei, "served"), Err(RerankError::Request(_))),
            "{body}"
        );
    }
}

#[test]
fn a_response_that_ranks_nothing_is_refused() {
    let prepared = prepared(REQUEST, Engine::Jina);
    for body in [
        "",
        "x",
        "{}",
        r#"{"results":null}"#,
        r#"{"results":[{"index":3,"relevance_score":1}]}"#,
        r#"{"results":[{"index":-1,"relevance_score":1}]}"#,
        r#"{"results":[{"index":0}]}"#,
        r#"[{"score":1},{"index":0,"score":1}]"#,
        r#"{"results":[{"score":1}]}"#,
        r#"{"output":{"text":"x"}}"#,
        r#"{"output":"x","results":null,"data":null}"#,
        r#"{"data":{"index":0,"score":1}}"#,
        "[0.1,0.9]",
        r#"{"scores":[0.1,"x",0.9]}"#,
        r#"{"object":"list","data":[{"embedding":[0.5]}]}"#,
    ] {
        assert!(
            matches!(response(body.as_bytes(), &prepared, "public"), Err(RerankError::Response(_))),
            "{body}"
        );
    }
}

#[test]
fn the_most_documents_of_an_answer_may_have_voyages_name_or_a_point() {
    let wanted = |members: &str| {
        let body = REQUEST.replace("\"query\"", &format!("{members},\"query\""));
        request(body.as_bytes(), Engine::Jina, "served").map(|prepared| prepared.top_n)
    };
    assert_eq!(wanted(r#""top_n":2.0"#).unwrap(), Some(2));
    assert_eq!(wanted(r#""top_k":1"#).unwrap(), Some(1));
    assert_eq!(wanted(r#""top_k":1,"top_n":2"#).unwrap(), Some(2));
    assert_eq!(wanted(r#""top_k":"all""#).unwrap(), None);
    assert!(wanted(r#""top_n":1.5"#).is_err());
}

#[test]
fn every_shape_of_a_ranking_is_read() {
    let prepared = prepared(&REQUEST.replace("\"query\"", "\"top_n\":2,\"query\""), Engine::Jina);
    let expected = json!([
        {"index": 1, "document": {"text": "bbbb"}, "relevance_score": 0.9},
        {"index": 0, "document": {"text": "aa"}, "relevance_score": 0.1},
    ]);
    let results = |score: &str| json!([{"index": 1, score: 0.9}, {"index": 0, score: 0.1}]);
    for score in ["relevance_score", "score", "relevanceScore", "logit"] {
        for shape in [
            results(score),
            json!({"results": results(score)}),
            json!({"results": null, "data": results(score), "object": "list"}),
            json!({"rankings": results(score)}),
            json!({"output": {"results": results(score)}, "request_id": "x"}),
            json!({"output": results(score)}),
            json!({"output": {"data": results(score)}}),
        ] {
            assert_eq!(ranking(&prepared, &shape.to_string())["results"], expected, "{shape}");
        }
    }
    for in_order in [
        json!({"scores": [0.1, 0.9, 0.01]}),
        json!([0.1, 0.9, 0.01]),
        json!(["0.1", "0.9", "0.01"]),
        json!({"output": {"scores": ["0.1", 0.9, null]}}),
        json!({"data": [0.1, 0.9, 0.01]}),
    ] {
        assert_eq!(ranking(&prepared, &in_order.to_string())["results"], expected, "{in_order}");
    }
    let both = json!({"results": [{"index": 1, "score": 1, "relevance_score": 0.9}, {"index": 0, "score": 2, "relevance_score": 0.1}]});
    assert_eq!(ranking(&prepared, &both.to_string())["results"], expected);
    let in_order = json!([{"score": 0.1}, {"score": 0.9}, {"score": 0.01}]);
    assert_eq!(ranking(&prepared, &in_order.to_string())["results"], expected);
    for (counted, prompt, total) in [
        (json!({"usage": {"total_tokens": 5}}), 5, 5),
        (json!({"usage": {"input_tokens": 4, "total_tokens": 5}}), 4, 5),
        (json!({"meta": {"tokens": {"input_tokens": 4, "output_tokens": 0}}}), 4, 4),
        (json!({"meta": {"billed_units": {"search_units": 1}}}), 0, 0),
        (json!({"meta": "x", "usage": null}), 0, 0),
    ] {
        let mut shape = json!({"results": results("score")});
        shape.as_object_mut().unwrap().extend(counted.as_object().unwrap().clone());
        let usage = &ranking(&prepared, &shape.to_string())["usage"];
        assert_eq!(*usage, json!({"prompt_tokens": prompt, "total_tokens": total}), "{shape}");
    }
}

#[test]
fn a_document_that_comes_as_a_string_is_one_of_jinas() {
    let body = REQUEST.replace("\"cc\"", "{\"image\":\"x\"}");
    let says = r#"{"data":[{"index":2,"score":3,"document":"said"},{"index":1,"score":2},{"index":0,"score":1}]}"#;
    let made = ranking(&prepared(&body, Engine::Jina), says);
    assert_eq!(made["results"][0]["document"], json!({"text": "said"}));
}

proptest! {
    #[test]
    fn every_engine_gives_the_same_response(
        documents in prop::collection::vec((".{0,12}", any::<bool>(), -1000_i32..1000), 1..12),
        top_n in 0_usize..14,
        return_documents in any::<bool>(),
    ) {
        let written: Vec<Value> =
            documents.iter().map(|(text, object, _)| if *object { json!({"text": text}) } else { json!(text) }).collect();
        let body = json!({"model": "public", "query": "q", "documents": written, "top_n": top_n, "return_documents": return_documents});
        // The slow way: sort the indexes.
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by_key(|&at| -documents[at].2);
        order.truncate(if top_n == 0 { usize::MAX } else { top_n });
        let results: Vec<Value> = order.iter().map(|&at| {
            let (text, _, score) = &documents[at];
            if return_documents {
                json!({"index": at, "document": {"text": text}, "relevance_score": score})
            } else {
                json!({"index": at, "relevance_score": score})
            }
        }).collect();
        let ranked = |key: &str| -> Vec<Value> {
            documents.iter().enumerate().map(|(at, (_, _, score))| json!({"index": at, key: score})).collect()
        };
        for (engine, says) in [
            (Engine::Jina, json!({"results": ranked("relevance_score")})),
            (Engine::Tei, json!(ranked("score"))),
        ] {
            let prepared = request(body.to_string().as_bytes(), engine, "served").unwrap();
            if let Some(sent) = &prepared.body {
                let sent: Value = serde_json::from_slice(sent).unwrap();
                let texts: Vec<&str> = documents.iter().map(|(text, ..)| text.as_str()).collect();
                prop_assert_eq!(&sent[if engine == Engine::Tei { "texts" } else { "documents" }], &json!(texts));
            }
            prop_assert_eq!(ranking(&prepared, &says.to_string()), jina(&json!(results), 0, 0));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_fault(bytes in "(\\{|\\}|\\[|\\]|\"query\":|\"documents\":|\"text\":|\"results\":|\"index\":0|\"score\":1|\"a\"|,|1|null){0,16}") {
        let prepared = prepared(REQUEST, Engine::Jina);
        for engine in [Engine::Jina, Engine::Tei] {
            let _ = request(bytes.as_bytes(), engine, "served");
        }
        let _ = response(bytes.as_bytes(), &prepared, "public");
    }
}

#[test]
fn a_ranking_that_repeats_a_long_document_is_none() {
    let body = format!(r#"{{"query":"q","documents":["{}","b"]}}"#, "a".repeat(1_000));
    let prepared = prepared(&body, Engine::Tei);
    let again = vec![r#"{"index":0,"score":1}"#; 100].join(",");
    assert!(response(format!("[{again}]").as_bytes(), &prepared, "public").is_err());
    let once = r#"[{"index":0,"score":1},{"index":1,"score":1}]"#;
    assert!(response(once.as_bytes(), &prepared, "public").is_ok());
}

#[test]
fn a_ranking_is_of_the_documents_that_were_sent_each_with_a_score() {
    let ranks = |top_n: &str, results: &str| {
        let body = REQUEST.replace("\"query\"", &format!("\"top_n\":{top_n},\"query\""));
        let wrapped = format!(r#"{{"results":{results}}}"#);
        let bare = response(results.as_bytes(), &prepared(&body, Engine::Tei), "public");
        let jina = response(wrapped.as_bytes(), &prepared(&body, Engine::Jina), "public");
        assert_eq!(bare.is_ok(), jina.is_ok(), "{results}");
        jina.is_ok()
    };
    let rank = |index: &str, score: &str| format!(r#"{{"index":{index},"score":{score}}}"#);
    let of = |first: &str| format!("[{first},{},{}]", rank("1", "2"), rank("2", "3"));
    for score in ["1", "-0.5", "1e-400", "1E+3", "null"] {
        assert!(ranks("null", &of(&rank("0", score))), "{score}");
    }
    assert!(ranks("null", &of(&rank("0", r#""1.5""#))), "a number in quotes");
    for score in [r#""x""#, r#""""#, r#""1e999""#, r#""+1""#, "true", "[]", "{}", "1e999", "-1e400"]
    {
        assert!(!ranks("null", &of(&rank("0", score))), "{score}");
    }
    for index in ["1", "3", "-1", "0.0", r#""0""#, "null", "18446744073709551616"] {
        assert!(!ranks("null", &of(&rank(index, "1"))), "{index}");
    }
    let one = format!("[{}]", rank("1", "1"));
    for (top_n, results, good) in [
        ("null", "[]", false),
        ("1", "[]", false),
        ("null", &*one, false),
        ("0", &one, false),
        ("2", &one, false),
        ("1", &one, true),
        ("9", &one, false),
    ] {
        assert_eq!(ranks(top_n, results), good, "{top_n} {results}");
    }
}

#[test]
fn a_half_of_a_surrogate_pair_is_no_text() {
    for (text, is_text) in [
        (r"\ud83d\uDE00", true),
        (r"a\\ud83d", true),
        (r"\ud83d", false),
        (r"\ud83dx", false),
        (r"\ude00\ud83d", false),
        (r"\ud83d\ud83d\ude00", false),
    ] {
        let body = format!(r#"{{"query":"q","documents":["{text}"]}}"#);
        let made = request(body.as_bytes(), Engine::Tei, "served");
        assert_eq!(made.is_ok(), is_text, "{text}");
        assert_eq!(serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok(), is_text);
    }
}
