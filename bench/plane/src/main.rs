//! The data plane in a process without Python, so that valgrind and strace see nothing else. Never shipped.
//!
//! `plane CONFIGURATION KEYS TABLE` takes three documents of the seam, listens on a free port of the loopback, and
//! prints the `Started` document. For each line that it reads it polls the records, as Python does now and then, and
//! prints how many heap allocations the other threads have made so far. It ends when its input ends.
#![deny(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    io::{self, Write},
    net::TcpListener,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use gpustack_fast_core::DataPlane;
use mimalloc::MiMalloc;

/// The wheel's allocator, counted. It costs a few instructions for each allocation, the same ones at every commit.
struct Counted;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Not so on the main thread: what starting and polling allocate is not a request's.
    static IS_COUNTED: Cell<bool> = const { Cell::new(true) };
}

fn count() {
    if IS_COUNTED.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "an allocator can be wrapped in no other way")]
// SAFETY: each call is handed on as it is, so what MiMalloc promises holds here too. Counting does not allocate: the
// thread-local value is made at compile time and has no destructor.
unsafe impl GlobalAlloc for Counted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { MiMalloc.realloc(block, layout, size) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { MiMalloc.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn run() -> Result<(), String> {
    let documents: Vec<String> = std::env::args().skip(1).collect();
    let [configuration, keys, table] = documents.as_slice() else {
        return Err("Give three documents: plane CONFIGURATION KEYS TABLE.".to_owned());
    };
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(|error| format!("It cannot listen: {error}."))?;
    let failed = |error: gpustack_fast_core::DataPlaneError| error.to_string();
    let plane = DataPlane::new(configuration.as_bytes(), vec![listener.into()]).map_err(failed)?;
    plane.update_keys(keys.as_bytes()).map_err(failed)?;
    plane.publish(table.as_bytes()).map_err(failed)?;
    let started = plane.start().map_err(failed)?;
    serve(&plane, &started)
        .map_err(|error| format!("Whoever started it does not listen any more: {error}."))
}

/// Responds line by line, until the input ends.
fn serve(plane: &DataPlane, started: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(started)?;
    out.write_all(b"\n")?;
    out.flush()?;
    for line in io::stdin().lines() {
        line?;
        drop(plane.poll());
        writeln!(out, "{}", ALLOCATIONS.load(Ordering::Relaxed))?;
        out.flush()?;
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "the last words of a program")]
fn main() -> ExitCode {
    IS_COUNTED.set(false);
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("plane: {sentence}");
            ExitCode::FAILURE
        }
    }
}
