//! Requests for a model of which nothing runs: they wait until it wakes, a few of them, and not for
//! ever.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{
    io::Write,
    net::Shutdown,
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use harness::{
    Client, Engine, PATIENCE, Plane, Response, json_response, read_request, request, request_with,
};
use sans_io::test_support;
use serde_json::{Value, json};

const BODY: &str = r#"{"model":"m"}"#;

/// An engine that responds to each request with a JSON document.
fn engine() -> Engine {
    Engine::start(true, |_, mut stream| {
        while read_request(&mut stream).is_some() {
            stream.write_all(&json_response("{}")).unwrap();
        }
    })
}

/// As many wait as the first number says, for as many seconds as the second one does.
fn wake(queue: u32, timeout: f64) -> Value {
    json!({"wake": {"queue": queue, "timeout": timeout}})
}

/// A plane whose model sleeps.
fn asleep(engine: &Engine, wake: Value, workers: usize) -> Plane {
    let builder = Plane::builder().engines(&[engine]).workers(workers).model(wake);
    builder.instance(json!({"state": "sleeping"})).start()
}

/// Publishes that it runs.
fn wakes(plane: &Plane, engine: &Engine, model: Value) {
    plane.publish_changed(&[engine], model, json!({}));
}

fn begun(plane: &Plane) -> Client {
    let mut client = plane.connect();
    client.write(request(BODY).as_bytes());
    client
}

/// The models that were asked for, by the events so far.
fn wanted(plane: &Plane) -> Vec<String> {
    let polled = plane.poll();
    let events = polled["events"].as_array().unwrap().iter();
    events
        .filter(|event| event["type"] == "model_wanted")
        .map(|event| event["model"].as_str().unwrap().to_owned())
        .collect()
}

/// Checks a 503 that says when to come again.
fn assert_refused(response: &Response, because: &str) {
    assert_eq!(response.status, 503);
    assert_eq!(response.field("retry-after"), Some("10"));
    let text = response.text();
    assert!(text.contains("no_running_instance") && text.contains(because), "{text}");
}

#[test]
fn a_request_waits_until_its_model_runs() {
    let engine = engine();
    let plane = asleep(&engine, wake(64, 600.0), 2);
    let mut client = begun(&plane);
    plane.until_waiting(1);
    assert_eq!(wanted(&plane), ["m"]);
    plane.publish_changed(&[&engine], wake(64, 600.0), json!({"state": "waking"}));
    plane.until_page("gpustack_fast_waiting_requests{model=\"m\"} 1");
    wakes(&plane, &engine, wake(64, 600.0));
    assert_eq!(client.response().status, 200);
    plane.until_waiting(0);
    plane.assert_idle();
    assert_eq!(wanted(&plane), Vec::<String>::new(), "it was told once");
}

#[test]
fn a_wake_storm_is_one_wake_and_no_more_wait_than_there_are_places() {
    let engine = engine();
    let plane = asleep(&engine, wake(64, 600.0), 2);
    let (refused, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..8 {
            let (refused, plane) = (refused.clone(), &plane);
            scope.spawn(move || {
                let mut clients: Vec<_> = (0..125).map(|_| begun(plane)).collect();
                for client in &mut clients {
                    let response = client.response();
                    refused.send(response.status).unwrap();
                    if response.status != 200 {
                        assert_refused(&response, "(wake_queue)");
                    }
                }
            });
        }
        drop(refused);
        plane.until_page("gpustack_fast_wake_refused_total{model=\"m\",reason=\"queue_full\"} 936");
        plane.until_waiting(64);
        assert_eq!(wanted(&plane), ["m"]);
        wakes(&plane, &engine, wake(64, 600.0));
    });
    let statuses: Vec<_> = told.iter().collect();
    let of = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((of(200), of(503)), (64, 936));
    plane.assert_idle();
}

#[test]
fn a_model_that_does_not_wake_in_time_is_a_503() {
    let engine = engine();
    let plane = asleep(&engine, wake(64, 0.05), 1);
    let mut client = begun(&plane);
    assert_refused(&client.response(), "(wake_timeout)");
    // The connection goes on, and so does the wait of the next one.
    client.write(request(BODY).as_bytes());
    assert_refused(&client.response(), "(wake_timeout)");
    plane.until_page("gpustack_fast_wake_refused_total{model=\"m\",reason=\"timeout\"} 2");
    assert_eq!(plane.until_waiting(0), ());
}

#[test]
fn without_a_wake_queue_the_503_comes_at_once() {
    let engine = engine();
    let plane = asleep(&engine, json!({"wake": null}), 1);
    let response = plane.ask(BODY);
    assert_eq!((response.status, response.field("retry-after")), (503, Some("2")));
    assert!(response.text().contains("No running instances"), "{}", response.text());
}

#[test]
fn a_client_that_leaves_gives_its_place_back_and_the_next_one_is_told_of_again() {
    let engine = engine();
    let plane = asleep(&engine, wake(1, 600.0), 1);
    let client = begun(&plane);
    plane.until_waiting(1);
    assert_refused(&plane.ask(BODY), "(wake_queue)");
    client.shutdown(Shutdown::Both);
    plane.until_waiting(0);
    assert_eq!(wanted(&plane), ["m"]);
    let _next = begun(&plane);
    plane.until_waiting(1);
    assert_eq!(wanted(&plane), ["m"]);
}

#[test]
fn a_place_is_taken_before_the_body_has_come() {
    let engine = engine();
    let plane = asleep(&engine, wake(1, 600.0), 1);
    let mut client = plane.connect();
    let length = format!("Content-Length: {}", 4 << 20);
    client.write(request_with(&length, r#"{"model":"m","prompt":""#).as_bytes());
    plane.until_waiting(1);
    assert_eq!(wanted(&plane), ["m"]);
    wakes(&plane, &engine, wake(1, 600.0));
    client.write(&vec![b'a'; (4 << 20) - 25]);
    client.write(b"\"}");
    assert_eq!(client.response().status, 200);
    plane.until_waiting(0);
}

#[test]
fn those_who_waited_are_all_served_though_the_engine_is_given_one_at_a_time() {
    let engine = engine();
    let one = json!({"wake": {"queue": 8, "timeout": 600.0}, "max_in_flight": 1});
    let plane = asleep(&engine, one.clone(), 2);
    let mut clients: Vec<_> = (0..8).map(|_| begun(&plane)).collect();
    plane.until_waiting(8);
    wakes(&plane, &engine, one);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    plane.assert_idle();
}

#[test]
fn a_model_that_is_gone_and_one_that_is_given_up_end_the_wait() {
    let engine = engine();
    let plane = asleep(&engine, wake(8, 600.0), 1);
    let mut client = begun(&plane);
    plane.until_waiting(1);
    plane.publish_changed(&[&engine], json!({"wake": null}), json!({"state": "error"}));
    let response = client.response();
    assert!(response.status == 503 && response.text().contains("No running instances"));
    plane.publish_changed(&[&engine], wake(8, 600.0), json!({"state": "sleeping"}));
    let mut client = begun(&plane);
    plane.until_waiting(1);
    plane.plane.publish(test_support::table(vec![], vec![]).to_string().as_bytes()).unwrap();
    assert_eq!(client.response().status, 404);
}

#[test]
fn a_revoked_key_and_the_end_of_the_server_end_the_wait() {
    let engine = engine();
    let plane = asleep(&engine, wake(8, 600.0), 1);
    let mut client = begun(&plane);
    plane.until_waiting(1);
    plane.revoke_keys();
    assert_eq!(client.response().status, 401);
    let plane = asleep(&engine, wake(8, 600.0), 1);
    let mut client = begun(&plane);
    plane.until_waiting(1);
    plane.plane.drain(PATIENCE * 100, Duration::ZERO);
    let response = client.response();
    assert_eq!((response.status, client.read_to_end()), (503, vec![]));
    assert!(response.text().contains("server_stopping"), "{}", response.text());
    assert_eq!(plane.drained(), 0);
}

#[test]
fn where_somebody_else_accepts_those_who_wait_go_on_waiting() {
    let engine = engine();
    let plane = asleep(&engine, wake(8, 600.0), 1);
    let mut client = begun(&plane);
    plane.until_waiting(1);
    plane.plane.drain(PATIENCE * 100, PATIENCE);
    wakes(&plane, &engine, wake(8, 600.0));
    assert_eq!(client.response().status, 200);
    assert_eq!(plane.drained(), 0);
}

#[test]
fn a_fallback_takes_what_finds_no_place_and_what_waits_too_long() {
    let (sleeper, other) = (engine(), engine());
    let publish = |plane: &Plane, queue: u32| {
        let mut instance = test_support::instance("a", &sleeper.address);
        instance["state"] = "sleeping".into();
        let mut a = test_support::model("a", "a", vec![instance]);
        test_support::change(&mut a, wake(queue, 0.05));
        let b = test_support::model("b", "b", vec![test_support::instance("b", &other.address)]);
        let mut fallback = test_support::target("b", 0);
        fallback["fallback"] = json!(["5xx"]);
        let route = test_support::route("m", vec![test_support::target("a", 1), fallback]);
        let table = test_support::table(vec![a, b], vec![route]);
        plane.plane.publish(table.to_string().as_bytes()).unwrap();
    };
    let plane = Plane::builder().start();
    for (queue, wants) in [(1, 1), (0, 0)] {
        publish(&plane, queue);
        assert_eq!(plane.ask(BODY).status, 200);
        assert_eq!(wanted(&plane).len(), wants);
    }
    assert_eq!((sleeper.connections(), other.connections()), (0, 1));
}

#[test]
fn a_request_about_a_stored_response_waits_for_the_engine_that_keeps_it() {
    let (asked, requests) = mpsc::channel();
    let asked = Mutex::new(asked);
    let engine = Engine::start(true, move |_, mut stream| {
        while read_request(&mut stream).is_some() {
            asked.lock().unwrap().send(()).unwrap();
            let response = r#"{"id":"resp_1","object":"response","status":"completed"}"#;
            stream.write_all(&json_response(response)).unwrap();
        }
    });
    let plane = Plane::builder().engines(&[&engine]).start();
    let ask = |plane: &Plane, path: &str, body: &str| {
        let mut client = plane.connect();
        let request = request(body).replacen("/v1/completions", path, 1);
        client.write(request.as_bytes());
        client
    };
    let created = ask(&plane, "/v1/responses", BODY).response();
    assert_eq!(created.status, 200);
    requests.recv().unwrap();
    plane.publish_changed(&[&engine], wake(8, 600.0), json!({"state": "sleeping"}));
    let mut again = ask(&plane, "/v1/responses/resp_1/cancel", "");
    plane.until_waiting(1);
    wakes(&plane, &engine, wake(8, 600.0));
    assert_eq!(again.response().status, 200);
    requests.recv().unwrap();
    // An engine that has ended brings it back no more.
    plane.publish_changed(&[&engine], wake(8, 600.0), json!({"state": "sleeping"}));
    let mut again = ask(&plane, "/v1/responses/resp_1/cancel", "");
    plane.until_waiting(1);
    plane.publish_changed(&[], wake(8, 600.0), json!({}));
    assert_eq!(again.response().status, 404);
}

#[test]
fn an_error_has_the_shape_of_its_api() {
    let engine = engine();
    let plane = asleep(&engine, wake(0, 600.0), 1);
    let mut client = plane.connect();
    let body = r#"{"model":"m","max_tokens":1,"messages":[]}"#;
    client.write(request(body).replacen("/v1/completions", "/v1/messages", 1).as_bytes());
    let response = client.response();
    let said: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, said["type"].as_str()), (503, Some("error")));
}
