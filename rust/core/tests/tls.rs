//! TLS toward clients, over real sockets, with rustls's own client and certificates made here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

#[path = "relay/harness.rs"]
mod harness;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use gpustack_fast_core::DataPlane;
use harness::{Client, Engine, PATIENCE, Plane, Stream, json_response, read_request, request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use sans_io::test_support;
use serde_json::{Value, json};

const BODY: &str = r#"{"model":"m","stream":true}"#;

/// A certificate for `plane.test`, and where its files are.
struct Files {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("gpustack-fast-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["plane.test".to_owned()]).unwrap();
        std::fs::write(folder.join("certificate.pem"), cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
        Self { folder, certificate: cert.der().clone() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn tls_field(certificate: &Path, key: &Path) -> Value {
    json!({"tls": {"certificate": certificate, "key": key}})
}

fn fields(files: &Files) -> Value {
    tls_field(&files.path("certificate.pem"), &files.path("key.pem"))
}

fn client_config(files: &Files, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(files.certificate.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn name() -> ServerName<'static> {
    "plane.test".try_into().unwrap()
}

fn connect_with(plane: &Plane, config: ClientConfig) -> Client {
    let stream = TcpStream::connect(&plane.address).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name()).unwrap();
    Client::over(Stream::Tls(Box::new(StreamOwned::new(connection, stream))))
}

fn connect(plane: &Plane, files: &Files) -> Client {
    connect_with(plane, client_config(files, &[&TLS13]))
}

fn echo() -> Engine {
    Engine::start(true, |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            if stream.write_all(&[head.as_bytes(), &request.body].concat()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn bodies_pass_over_both_versions_of_tls() {
    let (files, engine) = (Files::new(), echo());
    let plane = Plane::builder().engines(&[&engine]).with(fields(&files)).start();
    for version in [&TLS12, &TLS13] {
        let mut client = connect_with(&plane, client_config(&files, &[version]));
        for size in [0, 70_000, 3_000_000] {
            let body = format!(r#"{{"prompt":"{}","model":"m"}}"#, "é\\n ".repeat(size / 5));
            client.write(request(&body).as_bytes());
            let response = client.response();
            assert_eq!((response.status, response.whole), (200, true));
            assert!(response.body == body.as_bytes(), "{size} bytes over {version:?}");
        }
    }
    plane.assert_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_in_the_handshake() {
    let (files, engine) = (Files::new(), echo());
    let plane = Plane::builder().engines(&[&engine]).with(fields(&files)).start();
    for (offered, agreed) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let mut config = client_config(&files, &[&TLS13]);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = tokio::net::TcpStream::connect(&plane.address).await.unwrap();
        let stream = connector.connect(name(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
        if agreed != "h2" {
            continue;
        }
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let ask = || {
            let builder = http::Request::post("https://plane.test/v1/completions");
            builder
                .header("authorization", "Bearer secret")
                .body(Full::new(Bytes::from(BODY)))
                .unwrap()
        };
        let (first, second) = (sender.send_request(ask()), sender.send_request(ask()));
        for response in [first.await.unwrap(), second.await.unwrap()] {
            assert_eq!(response.collect().await.unwrap().to_bytes(), BODY);
        }
    }
    plane.assert_idle();
}

#[test]
fn who_speaks_no_tls_learns_it_and_nobody_else_suffers() {
    let files = Files::new();
    let plane = Plane::builder().with(fields(&files)).start();
    let mut plain = plane.connect();
    plain.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = plain.response();
    assert_eq!((response.status, response.whole), (400, true));
    assert!(String::from_utf8(response.body).unwrap().contains("HTTPS"));
    assert_eq!(plain.read_to_end(), b"", "and the connection ends");

    let mut broken = plane.connect();
    broken.write(&[0x16, 3, 1, 0, 4, 1, 0, 0, 0]);
    let alert = broken.read_to_end();
    assert_eq!(alert.first(), Some(&0x15), "an alert");
    let other_name: ServerName<'_> = "other.test".try_into().unwrap();
    let connection =
        ClientConnection::new(Arc::new(client_config(&files, &[&TLS13])), other_name).unwrap();
    let stream = TcpStream::connect(&plane.address).unwrap();
    assert!(
        StreamOwned::new(connection, stream).write_all(b"x").is_err(),
        "a client that does not trust us"
    );

    let mut client = connect(&plane, &files);
    client.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().status, 200);
    drop(client);
    plane.until_connections(0);
}

#[test]
fn a_client_that_never_finishes_its_handshake_is_cut() {
    let files = Files::new();
    let plane =
        Plane::builder().with(fields(&files)).with(json!({"timeouts": {"head": 0.2}})).start();
    let mut silent = plane.connect();
    assert_eq!(silent.read_to_end(), b"");
    let mut halting = plane.connect();
    halting.write(&[0x16, 3, 1]);
    halting.read_to_end();
    plane.until_connections(0);
}

#[test]
fn a_client_that_reads_slowly_and_steadily_gets_the_whole_of_its_response() {
    let engine = Engine::start(true, |_, mut stream| {
        read_request(&mut stream).unwrap();
        let _ = stream.write_all(&json_response(&"x".repeat(1_000_000)));
    });
    let files = Files::new();
    let timeouts = json!({"timeouts": {"send": 2.0}});
    let plane = Plane::builder().engines(&[&engine]).with(fields(&files)).with(timeouts).start();
    let mut client = connect(&plane, &files);
    client.write(request(BODY).as_bytes());
    // As fast that it takes a record, of 16 KB, well within the limit.
    let slowly = client.read_slowly(2_000, 60);
    let head = slowly.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    client.read_exact(&mut vec![0; 1_000_000 - (slowly.len() - head)]);
}

/// Ends what comes in a loop, when it is dropped.
struct Enough<'a>(&'a AtomicBool, &'a Plane);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.plane.drain(Duration::ZERO, Duration::ZERO);
    }
}

#[test]
fn handshakes_that_come_to_nothing_keep_no_client_with_a_key_out() {
    let files = Files::new();
    let engine = echo();
    let limits = json!({"limits": {"connections": 4}});
    let plane = Plane::builder().engines(&[&engine]).with(fields(&files)).with(limits).start();
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Enough(&enough, &plane);
        for number in 0..8 {
            let (plane, files, enough) = (&plane, &files, &enough);
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    // Some shake hands, and then say nothing.
                    let mut client =
                        if number == 0 { connect(plane, files) } else { plane.connect() };
                    let first: &[u8] = if number == 0 { b"" } else { &[0x16] };
                    let _ = client.try_write(first);
                    let _ = client.ends_without_a_reset();
                }
            });
        }
        for _ in 0..5 {
            let mut client = connect(&plane, &files);
            client.write(request(BODY).as_bytes());
            assert_eq!(client.response().status, 200);
        }
    });
}

#[test]
fn a_client_that_leaves_behind_bytes_of_its_own_ends_the_engines_work() {
    let files = Files::new();
    for politely in [true, false] {
        let ((began, begins), (ended, ends)) = (mpsc::channel(), mpsc::channel());
        let engine = Engine::start(true, move |_, mut stream| {
            read_request(&mut stream).unwrap();
            began.send(()).unwrap();
            assert!(matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_)));
            ended.send(()).unwrap();
        });
        let plane = Plane::builder().engines(&[&engine]).with(fields(&files)).start();
        let mut client = connect(&plane, &files);
        client.write(format!("{}\r\n", request(BODY)).as_bytes());
        begins.recv_timeout(PATIENCE).unwrap();
        if politely {
            client.close_notify();
        } else {
            client.shutdown(Shutdown::Write);
        }
        ends.recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("the engine goes on; politely: {politely}"));
        plane.assert_idle();
    }
}

#[test]
fn a_connection_ends_with_the_word_that_nothing_was_cut_off() {
    let (files, engine) = (Files::new(), echo());
    let plane = Plane::builder().engines(&[&engine]).with(fields(&files)).start();
    for field in ["Connection: close", "Connection: upgrade, close\r\nUpgrade: h2c"] {
        let mut client = connect(&plane, &files);
        client.write(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n").as_bytes());
        assert_eq!(client.response().status, 200);
        assert!(client.ends_without_a_reset(), "{field}");
    }
    plane.until_connections(0);
}

#[test]
fn the_management_api_learns_that_its_client_speaks_tls() {
    let (report, reported) = mpsc::channel();
    let api = Engine::start(true, move |_, mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        report.send(String::from_utf8(head).unwrap()).unwrap();
        stream.write_all(&harness::json_response("{}")).unwrap();
    });
    let socket = api.address.strip_prefix("unix:").unwrap();
    let files = Files::new();
    let plane =
        Plane::builder().with(fields(&files)).with(json!({"control_socket": socket})).start();
    let mut client = connect(&plane, &files);
    client
        .write(b"GET /v2/models HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: gopher\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let head = reported.recv_timeout(PATIENCE).unwrap();
    assert!(
        head.contains("\r\nx-forwarded-proto: https\r\n") && !head.contains("gopher"),
        "{head}"
    );
}

#[test]
fn a_drain_waits_for_no_handshake() {
    let files = Files::new();
    let plane = Plane::builder().with(fields(&files)).start();
    let mut halting = plane.connect();
    halting.write(&[0x16, 3, 1]);
    plane.until_connections(1);
    plane.plane.drain(PATIENCE * 100, Duration::ZERO);
    assert_eq!(plane.drained(), 0);
}

#[test]
fn files_that_cannot_be_used_are_rejected_with_the_cause() {
    let (files, other) = (Files::new(), Files::new());
    let (certificate, key) = (files.path("certificate.pem"), files.path("key.pem"));
    std::fs::write(files.path("empty.pem"), "nothing\n").unwrap();
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    std::fs::write(files.path("no-key.pem"), no_key).unwrap();
    for (certificate, key, cause, named) in [
        (&files.path("missing.pem"), &key, "cannot be read", "certificate file C"),
        (&certificate, &files.path("missing.pem"), "cannot be read", "key file K"),
        (&files.path("empty.pem"), &key, "holds no certificate", "certificate file C"),
        (&certificate, &certificate, "holds no private key", "key file K"),
        (&certificate, &other.path("key.pem"), "does not belong", "key in K"),
        (&certificate, &other.path("key.pem"), "does not belong", "the certificate in C"),
        (&certificate, &files.path("no-key.pem"), "cannot be used", "certificate C and key K"),
    ] {
        let mut config = test_support::config();
        test_support::change(&mut config, tls_field(certificate, key));
        let error = DataPlane::new(config.to_string().as_bytes(), vec![]).unwrap_err().to_string();
        let [certificate, key] = [certificate, key].map(|file| file.display().to_string());
        let named = named.replace('C', &certificate).replace('K', &key);
        assert!(error.contains(cause) && error.contains(&named), "{error}");
    }
}
