//! Shared by the tests of the whole data plane: a running plane, a raw client, a scripted engine.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use gpustack_fast_core::DataPlane;
use rustls::{ClientConnection, StreamOwned};
use sans_io::test_support;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Nothing in these tests should take so long on a busy machine either: a test that hangs says where.
/// It is less than the product's own limits, which are a minute at least.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// The longest time for which a test may have a plane. A test that waits for ever for something
/// else than a client's socket ends by it, too.
const LONGEST_TEST: Duration = Duration::from_secs(300);

/// Ends this process, with the name of the test, unless what is returned is dropped in time.
fn end_what_waits_for_ever() -> mpsc::Sender<()> {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let (running, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(LONGEST_TEST) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Not by a macro: what these print is kept for the end of the test.
            let _ = writeln!(io::stderr(), "the test {test} waits for ever");
            std::process::exit(101);
        }
    });
    running
}

fn socket_path() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("gpustack-fast-relay-{}-{number}.sock", std::process::id()))
}

/// A socket of either kind.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// The same socket.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
            Self::Tls(_) => panic!("TLS has one state for both directions"),
        }
    }

    fn limit(&self, limit: Duration) {
        match self {
            Self::Tls(stream) => {
                stream.sock.set_read_timeout(Some(limit)).unwrap();
                stream.sock.set_write_timeout(Some(limit)).unwrap();
            }
            Self::Tcp(stream) => {
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(limit)).unwrap();
                stream.set_write_timeout(Some(limit)).unwrap();
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(limit)).unwrap();
                stream.set_write_timeout(Some(limit)).unwrap();
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Self::Tls(stream) = self { stream.flush() } else { Ok(()) }
    }
}

/// A request as an engine read it.
pub(crate) struct Request {
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The number behind `field` in the body.
    pub(crate) fn number(&self, field: &str) -> usize {
        let text = String::from_utf8_lossy(&self.body);
        let digits = text.split_once(field).unwrap().1;
        digits[..digits.find(|character: char| !character.is_ascii_digit()).unwrap()]
            .parse()
            .unwrap()
    }
}

fn read_line(stream: &mut impl Read) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// Reads a head: its first line, and its fields with names in lower case. None: the connection
/// ended.
fn read_head(stream: &mut impl Read) -> Option<(String, Vec<(String, String)>)> {
    let first = read_line(stream)?;
    let mut fields = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Some((first, fields));
        }
        let (name, value) = line.split_once(':').unwrap();
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

/// Reads chunks until the last; false: the connection ended before it.
fn read_chunks(stream: &mut impl Read, chunks: &mut Vec<Vec<u8>>) -> bool {
    while let Some(line) = read_line(stream) {
        let size = usize::from_str_radix(&line, 16).unwrap();
        let mut data = vec![0; size + 2];
        if stream.read_exact(&mut data).is_err() {
            return false;
        }
        if size == 0 {
            return true;
        }
        data.truncate(size);
        chunks.push(data);
    }
    false
}

/// Reads one whole request. None: the connection ended before it was whole.
pub(crate) fn read_request(stream: &mut Stream) -> Option<Request> {
    let (_, fields) = read_head(stream)?;
    let Some(length) = field(&fields, "content-length") else {
        let mut chunks = Vec::new();
        return read_chunks(stream, &mut chunks).then(|| Request { body: chunks.concat() });
    };
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(Request { body })
}

/// An engine that serves each connection with a script, on a thread of its own.
pub(crate) struct Engine {
    pub(crate) address: String,
    connections: Arc<AtomicUsize>,
}

impl Engine {
    /// The script gets the connection's number and its stream; the connection ends with it.
    pub(crate) fn start(
        unix: bool,
        script: impl Fn(usize, Stream) + Send + Sync + 'static,
    ) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let (script, count) = (Arc::new(script), Arc::clone(&connections));
        let serve = move |stream: Stream| {
            stream.limit(PATIENCE);
            let (script, number) = (Arc::clone(&script), count.fetch_add(1, Ordering::SeqCst));
            thread::spawn(move || script(number, stream));
        };
        let address = if unix {
            let path = socket_path();
            let listener = UnixListener::bind(&path).unwrap();
            thread::spawn(move || {
                listener.incoming().for_each(|stream| serve(Stream::Unix(stream.unwrap())));
            });
            format!("unix:{}", path.display())
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            thread::spawn(move || {
                listener.incoming().for_each(|stream| serve(Stream::Tcp(stream.unwrap())));
            });
            address
        };
        Self { address, connections }
    }

    /// The number of connections that it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(path) = self.address.strip_prefix("unix:") {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The setup of a plane: no engines, one worker and a TCP listener, unless set otherwise.
pub(crate) struct PlaneBuilder {
    engines: Vec<String>,
    unix: bool,
    served_name: String,
    config: Value,
    model: Value,
    instance: Value,
}

/// A data plane that serves route `m` to the key `secret`.
#[expect(clippy::struct_field_names, reason = "it is the plane itself")]
pub(crate) struct Plane {
    pub(crate) plane: DataPlane,
    pub(crate) address: String,
    _running: mpsc::Sender<()>,
}

/// A table whose only route and model are called `m`. `changes`: in the model, and in each instance.
fn table(engines: &[String], served_name: &str, changes: [Value; 2]) -> String {
    let [of_model, of_instance] = changes;
    let instances = engines.iter().map(|address| {
        let mut instance = test_support::instance(address, address);
        test_support::change(&mut instance, of_instance.clone());
        instance
    });
    let mut model = test_support::model("m", served_name, instances.collect());
    test_support::change(&mut model, of_model);
    let route = test_support::route("m", vec![test_support::target("m", 1)]);
    test_support::table(vec![model], vec![route]).to_string()
}

fn addresses(engines: &[&Engine]) -> Vec<String> {
    engines.iter().map(|engine| engine.address.clone()).collect()
}

impl PlaneBuilder {
    /// The instances of the model.
    pub(crate) fn engines(mut self, engines: &[&Engine]) -> Self {
        self.engines = addresses(engines);
        self
    }

    /// Listens on a Unix socket, if true.
    pub(crate) fn listen_unix(mut self, unix: bool) -> Self {
        self.unix = unix;
        self
    }

    /// The number of workers.
    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.config["workers"] = workers.into();
        self
    }

    /// The engines' name for the model.
    pub(crate) fn served_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.served_name);
        self
    }

    /// Other values in the configuration than those of `test_support::config`.
    pub(crate) fn with(mut self, changes: Value) -> Self {
        test_support::change(&mut self.config, changes);
        self
    }

    /// Other values of the model than those of `test_support::model`.
    pub(crate) fn model(mut self, changes: Value) -> Self {
        self.model = changes;
        self
    }

    /// Other values of each instance than those of `test_support::instance`.
    pub(crate) fn instance(mut self, changes: Value) -> Self {
        self.instance = changes;
        self
    }

    /// Starts a plane with a key and a table.
    pub(crate) fn start(self) -> Plane {
        let Self { engines, unix, served_name, config, model, instance } = self;
        let path = socket_path();
        let listener = if unix {
            UnixListener::bind(&path).unwrap().into()
        } else {
            TcpListener::bind("127.0.0.1:0").unwrap().into()
        };
        let plane = DataPlane::new(config.to_string().as_bytes(), vec![listener]).unwrap();
        let digest = Sha256::new().chain_update([0xab]).chain_update("secret").finalize();
        let digest = digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        let keys = test_support::keys("ab", vec![test_support::key("k", &digest)]);
        plane.update_keys(keys.to_string().as_bytes()).unwrap();
        plane.publish(table(&engines, &served_name, [model, instance]).as_bytes()).unwrap();
        let started: Value = serde_json::from_slice(&plane.start().unwrap()).unwrap();
        let address = started["addresses"][0].as_str().unwrap().to_owned();
        Plane { plane, address, _running: end_what_waits_for_ever() }
    }
}

impl Plane {
    /// The usual setup.
    pub(crate) fn builder() -> PlaneBuilder {
        PlaneBuilder {
            engines: vec![],
            unix: false,
            served_name: "m".to_owned(),
            config: test_support::config(),
            model: json!({}),
            instance: json!({}),
        }
    }

    /// Publishes a table with other engines.
    pub(crate) fn publish(&self, engines: &[&Engine], served_name: &str) {
        let unchanged = [json!({}), json!({})];
        self.plane.publish(table(&addresses(engines), served_name, unchanged).as_bytes()).unwrap();
    }

    /// Publishes a table whose model and instances differ so from those of `test_support`.
    pub(crate) fn publish_changed(&self, engines: &[&Engine], model: Value, instance: Value) {
        self.plane.publish(table(&addresses(engines), "m", [model, instance]).as_bytes()).unwrap();
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        let stream = match self.address.strip_prefix("unix:") {
            Some(path) => Stream::Unix(UnixStream::connect(path).unwrap()),
            None => Stream::Tcp(
                TcpStream::connect(self.address.parse::<SocketAddr>().unwrap()).unwrap(),
            ),
        };
        Client::over(stream)
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, body: &str) -> Response {
        let mut client = self.connect();
        client.write(request(body).as_bytes());
        client.response()
    }

    /// Waits until the plane's `Stats` are as `holds` wants them.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let mut stats = Value::Null;
        for _ in 0..PATIENCE.as_millis() / 5 {
            stats = serde_json::from_slice(&self.plane.stats()).unwrap();
            if holds(&stats) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("never {what}: {stats}");
    }

    /// Waits until no request and no slot on any instance is left.
    pub(crate) fn assert_idle(&self) {
        self.until("idle", |stats| {
            let busy = stats["instances"]
                .as_array()
                .unwrap()
                .iter()
                .any(|instance| instance["outstanding"] != 0);
            stats["in_flight"] == 0 && !busy
        });
    }

    /// Revokes the key.
    pub(crate) fn revoke_keys(&self) {
        let none = test_support::keys("ab", vec![]);
        self.plane.update_keys(none.to_string().as_bytes()).unwrap();
    }

    /// Waits until so many clients are connected.
    pub(crate) fn until_connections(&self, count: u64) {
        self.until("as many connections", |stats| stats["connections"] == count);
    }

    /// Waits until so many requests run: their heads were read.
    pub(crate) fn until_running(&self, count: u64) {
        self.until("as many requests", |stats| stats["in_flight"] == count);
    }

    /// Waits until so many requests wait for the first model to wake.
    pub(crate) fn until_waiting(&self, count: u64) {
        self.until("as many that wait", |stats| stats["models"][0]["waiting"] == count);
    }

    /// Waits until so many requests have been given to engines.
    pub(crate) fn until_at_engines(&self, count: u64) {
        self.until("as many requests at engines", |stats| {
            let instances = stats["instances"].as_array().unwrap();
            let at = |instance: &Value| instance["outstanding"].as_u64().unwrap();
            instances.iter().map(at).sum::<u64>() == count
        });
    }

    pub(crate) fn poll(&self) -> Value {
        rmp_serde::from_slice(&self.plane.poll()).unwrap()
    }

    /// Waits for the record of a request, and gives its end and the tokens that the engine has
    /// generated.
    pub(crate) fn end_and_tokens(&self) -> (String, Option<u64>) {
        for _ in 0..PATIENCE.as_millis() / 5 {
            if let Some(record) = self.poll()["records"].as_array().unwrap().first() {
                return (record[16].as_str().unwrap().to_owned(), record[14].as_u64());
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("no record");
    }

    /// Waits for the drain's end, and returns the number of requests that it has cut.
    pub(crate) fn drained(&self) -> u64 {
        for _ in 0..PATIENCE.as_millis() / 5 {
            let polled = self.poll();
            let events = polled["events"].as_array().unwrap();
            if let Some(event) = events.iter().find(|event| event["type"] == "drained") {
                return event["cut"].as_u64().unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("never drained: {}", String::from_utf8_lossy(&self.plane.stats()));
    }

    /// Waits until the `/metrics` page says this.
    pub(crate) fn until_page(&self, says: &str) {
        let mut page = String::new();
        for _ in 0..PATIENCE.as_millis() / 5 {
            page = self.metrics();
            if page.contains(says) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("never {says}: {page}");
    }

    /// The `/metrics` page.
    pub(crate) fn metrics(&self) -> String {
        let mut client = self.connect();
        client.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        String::from_utf8(client.response().body).unwrap()
    }

    /// The events of the next while, as JSON.
    pub(crate) fn events_in(&self, time: Duration) -> String {
        thread::sleep(time);
        self.poll()["events"].to_string()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(path) = self.address.strip_prefix("unix:") {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A response, as far as it was received.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// With names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The pieces, of a chunked response.
    pub(crate) chunks: Vec<Vec<u8>>,
    /// Whether the framing says that it is complete.
    pub(crate) whole: bool,
}

impl Response {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client of raw bytes.
pub(crate) struct Client {
    stream: Stream,
}

impl Client {
    /// Writes all of these bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// False: the other side takes no more.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A client over any stream.
    pub(crate) fn over(stream: Stream) -> Self {
        stream.limit(PATIENCE);
        Self { stream }
    }

    /// The same socket, for a thread that writes while this one reads.
    pub(crate) fn duplicate(&self) -> Stream {
        self.stream.duplicate()
    }

    /// Reads one head, as it is.
    pub(crate) fn head(&mut self) -> String {
        let (mut read, mut byte) = (Vec::new(), [0]);
        while !read.ends_with(b"\r\n\r\n") {
            self.read_exact(&mut byte);
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    /// Shuts the socket down, below TLS.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how).unwrap(),
            Stream::Unix(stream) => stream.shutdown(how).unwrap(),
            Stream::Tls(stream) => stream.sock.shutdown(how).unwrap(),
        }
    }

    /// Sends the end of TLS alone, and leaves the socket open.
    pub(crate) fn close_notify(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
    }

    /// Reads one response, by its framing.
    pub(crate) fn response(&mut self) -> Response {
        let (first, fields) = read_head(&mut self.stream).expect("a response");
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, fields, body: vec![], chunks: vec![], whole: false };
        let fields = &response.fields;
        if let Some(length) = field(fields, "content-length") {
            let length: u64 = length.parse().unwrap();
            response.whole =
                (&mut self.stream).take(length).read_to_end(&mut response.body).unwrap() as u64
                    == length;
        } else {
            assert_eq!(field(fields, "transfer-encoding"), Some("chunked"));
            response.whole = read_chunks(&mut self.stream, &mut response.chunks);
            response.body = response.chunks.concat();
        }
        response
    }

    /// Reads until `mark` was read.
    pub(crate) fn until(&mut self, mark: &[u8]) {
        let (mut read, mut byte) = (Vec::new(), [0]);
        while !read.ends_with(mark) {
            self.stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
    }

    /// Reads chunks until the last, which must come. What was read before ended with a chunk, but
    /// for its line break.
    pub(crate) fn until_last_chunk(&mut self) -> Vec<Vec<u8>> {
        self.read_exact(&mut [0; 2]);
        let mut chunks = Vec::new();
        assert!(read_chunks(&mut self.stream, &mut chunks), "the last chunk is missing");
        chunks
    }

    /// Reads so many bytes, so many times, ten times a second.
    pub(crate) fn read_slowly(&mut self, bytes: usize, times: usize) -> Vec<u8> {
        let mut read = vec![0; bytes * times];
        for piece in read.chunks_exact_mut(bytes) {
            thread::sleep(Duration::from_millis(100));
            self.read_exact(piece);
        }
        read
    }

    /// Fills a buffer.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) {
        self.stream.read_exact(buffer).unwrap();
    }

    /// Reads to the end: whether it was the orderly one.
    pub(crate) fn ends_without_a_reset(&mut self) -> bool {
        self.stream.read_to_end(&mut Vec::new()).is_ok()
    }

    /// Everything until the connection ends; a reset is an end.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut read) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        read
    }
}

/// A completion request.
pub(crate) fn request(body: &str) -> String {
    request_with(&format!("Content-Length: {}", body.len()), body)
}

/// A completion request with this framing field.
pub(crate) fn request_with(field: &str, body: &str) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n{field}\r\n\
         \r\n{body}"
    )
}

/// One chunk of a chunked body.
pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// A whole response with this body.
pub(crate) fn json_response(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The frames of an event stream.
pub(crate) fn events(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body).into_owned();
    text.split_terminator("\n\n").map(str::to_owned).collect()
}
