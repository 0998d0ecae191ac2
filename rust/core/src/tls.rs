//! TLS toward clients: the certificate, read from files and read again when they change, and the handshake.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::documents;

/// How often the files are looked at, in milliseconds.
const LOOK_MS: u64 = 60_000;
/// The first byte of a TLS connection: a record that carries a handshake.
const HANDSHAKE: u8 = 0x16;
/// What HTTP/2 is called in a handshake.
const HTTP2: &[u8] = b"h2";

/// What TLS listeners speak with.
#[derive(Debug)]
pub(crate) struct Tls {
    files: documents::Tls,
    current: ArcSwap<ServerConfig>,
    seen: Mutex<Stamps>,
    /// When the files are looked at next, by the data plane's clock.
    next_look: AtomicU64,
}

/// What tells a new file from an old one: of the certificate and of the key.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads both files. The error is a sentence for the operator.
    pub(crate) fn load(files: &documents::Tls) -> Result<Self, String> {
        // Looked at before they are read: what changes meanwhile is seen as a change later.
        let seen = Mutex::new(stamps(files));
        let current = ArcSwap::new(Arc::new(read(files)?));
        Ok(Self { files: files.clone(), current, seen, next_look: AtomicU64::new(LOOK_MS) })
    }

    /// Whether it is time to look at the files; true for one asker only.
    pub(crate) fn is_look_due(&self, clock: u64) -> bool {
        let due = self.next_look.load(Ordering::Relaxed);
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        clock >= due && self.next_look.compare_exchange(due, clock + LOOK_MS, order, failed).is_ok()
    }

    /// Takes up files that have changed; true if there were any. If they cannot be used the old certificate stays, and
    /// they are tried again when they change once more (the certificate may be renewed a moment before its key).
    pub(crate) fn refresh(&self) -> Result<bool, String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        self.current.store(Arc::new(read(&self.files)?));
        Ok(true)
    }

    /// Greets a client. The connection ends if that fails, after the alert that tells the client why.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current.load_full()).accept(stream).await
    }
}

/// Whether what a client sends first begins a handshake.
pub(crate) async fn begins_handshake(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    // A client that ends without a byte gets the handshake's own error.
    Ok(stream.peek(&mut first).await? == 0 || first[0] == HANDSHAKE)
}

/// Whether both sides have agreed on HTTP/2.
pub(crate) fn agreed_on_http2<T>(stream: &TlsStream<T>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

fn stamps(files: &documents::Tls) -> Stamps {
    [&files.certificate, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(files: &documents::Tls) -> Result<ServerConfig, String> {
    let documents::Tls { certificate, key } = files;
    let chain = CertificateDer::pem_slice_iter(&read_file("certificate", certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("The TLS certificate file {certificate} is no valid PEM: {error:?}."))?;
    if chain.is_empty() {
        return Err(format!(
            "The TLS certificate file {certificate} holds no certificate. It must hold the server's own in PEM, and behind it those between it and a root."
        ));
    }
    let private_key = PrivateKeyDer::from_pem_slice(&read_file("key", key)?).map_err(|_| {
        format!("The TLS key file {key} holds no private key in PEM. An encrypted key must be decrypted first.")
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key))
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("The TLS key in {key} does not belong to the certificate in {certificate}. Give the key that the certificate was made for; the server's own certificate comes first in its file.")
            }
            error => format!("The TLS certificate {certificate} and key {key} cannot be used: {error}."),
        })?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read_file(what: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error: io::Error| {
        format!(
            "The TLS {what} file {path} cannot be read: {error}. Give the path of a PEM file that this user may read."
        )
    })
}
