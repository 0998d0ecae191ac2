//! `gpustack_fast._native`: the data plane as a Python extension module. Translation only: what
//! each call means is told in `_native.pyi`, and done in the core crate.

#![deny(unsafe_code)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "PyO3 makes the public items, and its arguments are owned"
)]

use std::{
    error::Error,
    io, iter,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use gpustack_fast_core as core;
use pyo3::{exceptions::PyOSError, prelude::*, types::PyBytes};

/// Python's allocator stays CPython's; this one serves the data plane. Its thread-local storage is
/// the local-dynamic kind, so that the module can be loaded late, after others have used up the
/// static space.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pyo3::import_exception!(gpustack_fast.errors, DataPlaneError);

fn error(error: core::DataPlaneError) -> PyErr {
    let mut causes = iter::successors(Error::source(&error), |&one| one.source());
    let system = causes.find_map(|one| one.downcast_ref::<io::Error>());
    raised(error.to_string(), system)
}

/// With the system's error as its cause: Python tells by its number whose fault it is.
fn raised(message: String, system: Option<&io::Error>) -> PyErr {
    let error = DataPlaneError::new_err(message);
    if let Some(number) = system.and_then(io::Error::raw_os_error) {
        let text = io::Error::from_raw_os_error(number).to_string();
        Python::attach(|py| error.set_cause(py, Some(PyOSError::new_err((number, text)))));
    }
    error
}

/// Duplicates a descriptor that Python goes on owning.
#[allow(
    unsafe_code,
    reason = "Python hands descriptors over as numbers, and only its caller can vouch for them"
)]
fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(DataPlaneError::new_err(format!("{fd} is no file descriptor.")));
    }
    // SAFETY: the number is not -1, and it is only borrowed for the one call that duplicates it,
    // which fails cleanly (EBADF) if nothing is open under it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map_err(|error| raised(format!("Descriptor {fd} cannot be used: {error}."), Some(&error)))
}

/// A length of time. `what`: its name, in the error.
fn seconds(what: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        DataPlaneError::new_err(format!("The {what} must be a number of seconds, 0 or more."))
    })
}

#[pyclass(frozen, module = "gpustack_fast._native")]
struct DataPlane(core::DataPlane);

#[pymethods]
impl DataPlane {
    #[new]
    fn new(config: &[u8], listeners: Vec<RawFd>) -> PyResult<Self> {
        let listeners = listeners.into_iter().map(duplicate).collect::<PyResult<_>>()?;
        core::DataPlane::new(config, listeners).map(Self).map_err(error)
    }

    fn start<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let started = self.0.start().map_err(error)?;
        Ok(PyBytes::new(py, &started))
    }

    fn read_certificate(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.0.read_certificate()).map_err(error)
    }

    fn publish(&self, table: &[u8]) -> PyResult<u64> {
        self.0.publish(table).map_err(error)
    }

    fn update_keys(&self, delta: &[u8]) -> PyResult<()> {
        self.0.update_keys(delta).map_err(error)
    }

    fn add_tokens(&self, tokens: &[u8]) -> PyResult<()> {
        self.0.add_tokens(tokens).map_err(error)
    }

    fn show_tokens(&self, tokens: &[u8]) -> PyResult<()> {
        self.0.show_tokens(tokens).map_err(error)
    }

    fn poll<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.poll())
    }

    fn fileno(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }

    fn stats<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.stats())
    }

    #[pyo3(signature = (deadline, *, idle_grace=0.0))]
    fn drain(&self, deadline: f64, idle_grace: f64) -> PyResult<()> {
        self.0.drain(seconds("deadline", deadline)?, seconds("idle grace", idle_grace)?);
        Ok(())
    }
}

/// Writes a line of Python's into the log; `level` is a number of `logging`'s.
#[pyfunction]
#[pyo3(signature = (level, subject, message, *, json, request_id=None, exception=None))]
fn log(
    level: u32,
    subject: &str,
    message: &str,
    json: bool,
    request_id: Option<&str>,
    exception: Option<&str>,
) {
    let level = match level {
        40.. => core::LogLevel::Error,
        30.. => core::LogLevel::Warn,
        20.. => core::LogLevel::Info,
        10.. => core::LogLevel::Debug,
        _ => core::LogLevel::Trace,
    };
    let format = if json { core::LogFormat::Json } else { core::LogFormat::Text };
    core::log(&core::ControlPlaneLine { level, format, subject, message, request_id, exception });
}

/// Shows a text to the person at the terminal, behind the lines so far.
#[pyfunction]
fn show(text: &str) {
    core::show(text);
}

/// Waits for the log's last lines, at most `limit` seconds; false if some are not written then.
#[pyfunction]
fn flush_log(py: Python<'_>, limit: f64) -> bool {
    let limit = Duration::try_from_secs_f64(limit).unwrap_or_default();
    py.detach(|| core::flush_log(limit))
}

#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::{DataPlane, flush_log, log, show};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
