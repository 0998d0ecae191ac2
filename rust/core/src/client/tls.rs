//! TLS toward clients: the certificate, read from files and read again when they change, and the
//! handshake.

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

use sans_io::seam::documents;

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

    /// Takes up files that have changed; true if there were any. If they cannot be used the old
    /// certificate stays, and they are tried again when they change once more (the certificate may
    /// be renewed a moment before its key).
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

    /// Greets a client. The connection ends if that fails, after the alert that tells the client
    /// why.
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
        .map_err(|error| {
            format!("The TLS certificate file {certificate} is no valid PEM: {error:?}.")
        })?;
    if chain.is_empty() {
        return Err(format!(
            "The TLS certificate file {certificate} holds no certificate. It must hold the \
             server's own in PEM, and behind it those between it and a root."
        ));
    }
    let private_key = PrivateKeyDer::from_pem_slice(&read_file("key", key)?).map_err(|_| {
        format!(
            "The TLS key file {key} holds no private key in PEM. An encrypted key must be \
            decrypted first."
        )
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key))
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!(
                    "The TLS key in {key} does not belong to the certificate in {certificate}. \
                    Give the key that the certificate was made for; the server's own certificate \
                    comes first in its file."
                )
            }
            error => format!(
                "The TLS certificate {certificate} and key {key} cannot be used: \
                {error}."
            ),
        })?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read_file(what: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error: io::Error| {
        format!(
            "The TLS {what} file {path} cannot be read: {error}. Give the path of a PEM file that \
             this user may read."
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A certificate and its key, in PEM.
    fn issue() -> (String, String) {
        let issued = rcgen::generate_simple_self_signed(["plane.test".to_owned()]).unwrap();
        (issued.cert.pem(), issued.signing_key.serialize_pem())
    }

    /// Writes a file as a renewal does: another one takes its place. The times of two renewals must
    /// differ.
    fn replace(path: &str, text: &str, number: u64) {
        let fresh = format!("{path}.new");
        std::fs::write(&fresh, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + number);
        std::fs::File::options().append(true).open(&fresh).unwrap().set_modified(time).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn path(folder: &Path, name: &str) -> String {
        folder.join(name).display().to_string()
    }

    #[test]
    fn renewed_files_are_taken_up_and_half_renewed_ones_are_not() {
        let folder =
            std::env::temp_dir().join(format!("gpustack-fast-renewal-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = documents::Tls {
            certificate: path(&folder, "certificate.pem"),
            key: path(&folder, "key.pem"),
        };
        let (old, new) = (issue(), issue());
        replace(&files.certificate, &old.0, 1);
        replace(&files.key, &old.1, 1);
        let tls = Tls::load(&files).unwrap();
        let first = tls.current.load_full();
        assert_eq!(tls.refresh(), Ok(false), "nothing has changed");

        replace(&files.certificate, &new.0, 2);
        assert!(tls.refresh().unwrap_err().contains("does not belong"));
        assert!(Arc::ptr_eq(&first, &tls.current.load_full()), "the old one stays");
        assert_eq!(tls.refresh(), Ok(false), "and it is said once");

        replace(&files.key, &new.1, 2);
        assert_eq!(tls.refresh(), Ok(true));
        assert!(!Arc::ptr_eq(&first, &tls.current.load_full()));
        std::fs::remove_file(&files.key).unwrap();
        assert!(tls.refresh().unwrap_err().contains("cannot be read"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_asker_alone_looks_and_not_before_its_time() {
        let folder =
            std::env::temp_dir().join(format!("gpustack-fast-look-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = documents::Tls {
            certificate: path(&folder, "certificate.pem"),
            key: path(&folder, "key.pem"),
        };
        let (certificate, key) = issue();
        replace(&files.certificate, &certificate, 1);
        replace(&files.key, &key, 1);
        let tls = Tls::load(&files).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        assert!(!tls.is_look_due(LOOK_MS - 1));
        assert!(tls.is_look_due(LOOK_MS));
        assert!(!tls.is_look_due(LOOK_MS + 1));
        assert!(tls.is_look_due(3 * LOOK_MS));
    }
}
