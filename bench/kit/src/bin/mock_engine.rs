//! An engine that costs next to nothing: fixed responses, in the shapes of vLLM, as fast as sockets
//! allow.
//!
//! `mock_engine '{"listen": "http://127.0.0.1:9000"}'` runs until it is stopped.
#![allow(clippy::print_stderr)]

use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use gpustack_fast_bench_kit::address::{Acceptor, Address, BoxedConnection, Listening};
use gpustack_fast_bench_kit::responses::{self, Order};
use gpustack_fast_bench_kit::{http1, runtime, settings};
use serde::Deserialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: Address,
    /// The name that responses carry.
    #[serde(default = "default_model")]
    model: String,
    /// Threads that accept from the one listening socket.
    #[serde(default = "default_threads")]
    threads: usize,
    #[serde(default = "default_frame_bytes")]
    frame_bytes: usize,
}

fn default_model() -> String {
    "mock".to_owned()
}

fn default_threads() -> usize {
    1
}

fn default_frame_bytes() -> usize {
    responses::FRAME_BYTES
}

/// Whole messages, made once.
struct Wire {
    completion: Vec<u8>,
    models: Vec<u8>,
    stream_head: &'static [u8],
    frame: Vec<u8>,
    usage: Vec<u8>,
    end: Vec<u8>,
}

impl Wire {
    fn new(settings: &Settings) -> Self {
        let model = &settings.model;
        let models = format!(r#"{{"object":"list","data":[{{"id":"{model}","object":"model"}}]}}"#);
        let mut end = responses::chunk(responses::DONE);
        end.extend_from_slice(b"0\r\n\r\n");
        Self {
            completion: whole(&responses::completion(model)),
            models: whole(models.as_bytes()),
            stream_head: b"HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                           transfer-encoding: chunked\r\n\r\n",
            frame: responses::chunk(&responses::frame(model, settings.frame_bytes)),
            usage: responses::chunk(&responses::usage_frame(model)),
            end,
        }
    }
}

fn whole(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: application/json\r\ncontent-length: \
         {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// One client connection, until it closes; an error here is the client's leaving.
async fn serve(connection: BoxedConnection, wire: Rc<Wire>) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(connection);
    let mut incoming = http1::Incoming::new(read);
    let mut body = Vec::new();
    loop {
        let head = incoming.head().await?;
        body.clear();
        let keep = |piece: &[u8]| {
            body.extend_from_slice(piece);
            Ok(())
        };
        incoming.body(http1::framing(&head)?, keep).await?;
        if head.starts_with(b"POST ") {
            respond(&mut write, Order::find(&body), &wire).await?;
        } else {
            write.write_all(&wire.models).await?;
        }
    }
}

async fn respond(
    write: &mut (impl AsyncWrite + Unpin),
    order: Order,
    wire: &Wire,
) -> io::Result<()> {
    let Some(frames) = order.frames else {
        return write.write_all(&wire.completion).await;
    };
    write.write_all(wire.stream_head).await?;
    for _ in 0..frames {
        if order.pause > 0 {
            tokio::time::sleep(Duration::from_millis(order.pause)).await;
        }
        // One write for each frame, as vLLM does.
        write.write_all(&wire.frame).await?;
    }
    if order.usage {
        write.write_all(&wire.usage).await?;
    }
    write.write_all(&wire.end).await
}

async fn accept(acceptor: Acceptor, wire: Rc<Wire>) -> io::Result<()> {
    loop {
        let connection = acceptor.accept().await?;
        tokio::task::spawn_local(serve(connection, wire.clone()));
    }
}

fn work(listening: Listening, settings: &Settings) -> io::Result<()> {
    let wire = Rc::new(Wire::new(settings));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime()?, async { accept(listening.into_acceptor()?, wire).await })
}

fn run(settings: &Settings) -> io::Result<()> {
    let listening = settings.listen.listen()?;
    std::thread::scope(|scope| {
        for _ in 1..settings.threads {
            let share = listening.share()?;
            scope.spawn(move || work(share, settings));
        }
        work(listening, settings)
    })
}

fn main() -> ExitCode {
    let outcome = settings::<Settings>().and_then(|settings| {
        run(&settings).map_err(|error| format!("The mock engine cannot go on: {error}."))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("mock_engine: {sentence}");
            ExitCode::FAILURE
        }
    }
}
