//! TLS toward clients: the certificate, read again when its files change, and the handshake.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustix::fs::{Mode, OFlags};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use crate::client::validity::{Validity, validity};
use sans_io::seam;

/// The time between two checks of the files, in milliseconds.
const CHECK_MS: u64 = 60_000;
/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;
/// The first byte of a TLS connection: a record that carries a handshake.
const HANDSHAKE: u8 = 0x16;
/// HTTP/2 in a handshake (ALPN).
const HTTP2: &[u8] = b"h2";

/// The certificate of the TLS listeners.
#[derive(Debug)]
pub(crate) struct Tls {
    files: seam::Tls,
    /// For new connections.
    current: ArcSwap<InForce>,
    /// The state of the files at the last check.
    seen: Mutex<Stamps>,
    /// Read for a reload that is not published yet.
    read_again: Mutex<Option<(Arc<InForce>, Stamps)>>,
    /// The time of the next check, in milliseconds of the data plane's clock.
    next_check: AtomicU64,
}

/// What the files held.
#[derive(Debug)]
struct InForce {
    config: Arc<ServerConfig>,
    /// The server's own certificate, and those between it and a root.
    chain: Vec<CertificateDer<'static>>,
    /// The time in which the server's own certificate is good; None: it cannot be read from it.
    validity: Option<Validity>,
}

/// A certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error(
        "The TLS {what} file {} cannot be read: {source}. Give the path of a PEM file that this \
         user may read.", file.display()
    )]
    Read {
        /// `certificate` or `key`.
        what: &'static str,
        /// Its path.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file that is no PEM.
    #[error(
        "The TLS {what} file {} is no valid PEM: {}. Write it anew, as it was issued.",
        file.display(), reason(source)
    )]
    Pem {
        /// `certificate` or `key`.
        what: &'static str,
        /// Its path.
        file: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// A certificate file without a certificate.
    #[error(
        "The TLS certificate file {} holds no certificate. It must hold the server's own in PEM, \
         and behind it those between it and a root.", .0.display()
    )]
    NoCertificate(PathBuf),
    /// A certificate file with something else in the place of a certificate.
    #[error(
        "What the TLS certificate file {} holds first is damaged, or no certificate. Write it \
         anew, as it was issued.", .0.display()
    )]
    NotReadable(PathBuf),
    /// A key file without a key.
    #[error(
        "The TLS key file {} holds no private key in PEM. An encrypted key must be decrypted \
         first.", .0.display()
    )]
    NoKey(PathBuf),
    /// The key of another certificate.
    #[error(
        "The TLS key in {} does not belong to the certificate in {}. Give the key that the \
         certificate was made for; the server's own certificate comes first in its file.",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The certificate's path.
        certificate: PathBuf,
        /// The key's path.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// A certificate or key that rustls cannot use for another reason.
    #[error(
        "The TLS certificate {} and key {} cannot be used: {source}. Supported are RSA keys of 2048 \
         bits or more, and those of ECDSA on P-256 or P-384, and Ed25519.",
        certificate.display(), key.display()
    )]
    Unusable {
        /// The certificate's path.
        certificate: PathBuf,
        /// The key's path.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// The modification time and size of the certificate's and the key's file; None: not readable.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads the certificate and its key.
    pub(crate) fn load(files: &seam::Tls) -> Result<Self, TlsError> {
        // Before the files are read, so that a change meanwhile is found by the next check.
        let seen = Mutex::new(stamps(files));
        let current = ArcSwap::new(Arc::new(read(files)?));
        Ok(Self {
            files: files.clone(),
            current,
            seen,
            read_again: Mutex::default(),
            next_check: AtomicU64::new(CHECK_MS),
        })
    }

    /// Whether a check of the files is due; true for one worker only. `clock`: the data plane's, in
    /// milliseconds.
    pub(crate) fn is_check_due(&self, clock: u64) -> bool {
        let due = self.next_check.load(Ordering::Relaxed);
        let next = clock + CHECK_MS;
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        clock >= due && self.next_check.compare_exchange(due, next, order, failed).is_ok()
    }

    /// Reads files that have changed; false: none has. Files that cannot be used leave the old
    /// certificate in place, and are read again after their next change: a certificate may be
    /// renewed a moment before its key.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        // Files may be slow, and a reload must not wait for them here.
        let before = *self.seen();
        let mut now = stamps(&self.files);
        if before == now {
            return Ok(false);
        }
        let files = read(&self.files).inspect_err(|error| {
            // It may be that this machine has no descriptor at the moment: as if it had not been
            // there, so that the next check reads it.
            if let TlsError::Read { file, .. } = error {
                now[usize::from(*file != self.files.certificate)] = None;
            }
        });
        let mut seen = self.seen();
        if *seen != before {
            // Meanwhile a reload has put into force what it had read.
            return Ok(false);
        }
        *seen = now;
        self.current.store(Arc::new(files?));
        Ok(true)
    }

    fn seen(&self) -> MutexGuard<'_, Stamps> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files, changed or not, and keeps what they hold for [`Tls::take_up`]; whether the
    /// certificate is another than the one in force.
    pub(crate) fn read_again(&self) -> Result<bool, TlsError> {
        let now = stamps(&self.files);
        let files = read(&self.files);
        let mut waiting = self.read_again.lock().unwrap_or_else(PoisonError::into_inner);
        // A reload that came to nothing may have left one.
        *waiting = None;
        let files = files?;
        let is_other = files.chain != self.current.load().chain;
        *waiting = Some((Arc::new(files), now));
        Ok(is_other)
    }

    /// Puts what was read for a reload into force, for new connections.
    pub(crate) fn take_up(&self) {
        let read = self.read_again.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((files, stamps)) = read {
            let mut seen = self.seen();
            *seen = stamps;
            self.current.store(files);
        }
    }

    /// The time in which the certificate that is in force is good; None: it cannot be read from it.
    pub(crate) fn validity(&self) -> Option<Validity> {
        self.current.load().validity
    }

    /// Shakes hands with a client. Before it fails, an alert tells the client the reason.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let accepted =
            TlsAcceptor::from(Arc::clone(&self.current.load().config)).accept(stream).await;
        match &accepted {
            Ok(stream) => debug!(http2 = agreed_on_http2(stream), "TLS handshake done"),
            Err(error) => debug!(%error, "TLS handshake failed"),
        }
        accepted
    }
}

/// Whether the client's first byte begins a handshake.
pub(crate) async fn begins_handshake(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    // A client that ends without a byte gets the handshake's own error.
    Ok(stream.peek(&mut first).await? == 0 || first[0] == HANDSHAKE)
}

/// Whether both sides have agreed on HTTP/2.
pub(crate) fn agreed_on_http2<T>(stream: &TlsStream<T>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

fn stamps(files: &seam::Tls) -> Stamps {
    [&files.certificate, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(files: &seam::Tls) -> Result<InForce, TlsError> {
    let seam::Tls { certificate, key } = files.clone();
    let chain = CertificateDer::pem_slice_iter(&read_file("certificate", &certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            what: "certificate",
            file: certificate.clone(),
            source,
        })?;
    let Some(own) = chain.first() else {
        return Err(TlsError::NoCertificate(certificate));
    };
    let validity = validity(own);
    let private_key =
        PrivateKeyDer::from_pem_slice(&read_file("key", &key)?).map_err(|source| match source {
            pem::Error::NoItemsFound => TlsError::NoKey(key.clone()),
            source => TlsError::Pem { what: "key", file: key.clone(), source },
        })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(chain.clone(), private_key)
        })
        .map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate, key, source },
            rustls::Error::InvalidCertificate(_) => TlsError::NotReadable(certificate),
            source => TlsError::Unusable { certificate, key, source },
        })?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(InForce { config: Arc::new(config), chain, validity })
}

/// What is wrong with a PEM file. The library's own words would show its lines as numbers.
fn reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "it is cut off, for a line `-----END ...` is missing"
        }
        pem::Error::IllegalSectionStart { .. } => "a line `-----BEGIN ...` is not whole",
        pem::Error::Base64Decode(_) => "what is between `-----BEGIN` and `-----END` is damaged",
        _ => "it cannot be understood",
    }
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    read_plain(path).map_err(|source| TlsError::Read { what, file: path.to_path_buf(), source })
}

/// The content of a plain file. A path may lead to a device that never ends, or to a pipe to which
/// nobody writes.
fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let no_wait = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, no_wait, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key, in PEM.
    fn issue() -> (String, String) {
        let issued = rcgen::generate_simple_self_signed(["plane.test".to_owned()]).unwrap();
        (issued.cert.pem(), issued.signing_key.serialize_pem())
    }

    /// A new folder for a test of this name, and the files in it.
    fn places(name: &str) -> (PathBuf, seam::Tls) {
        let name = format!("gpustack-fast-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let files =
            seam::Tls { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
        (folder, files)
    }

    /// Writes a file as a renewal does: another one takes its place. The times of two renewals must
    /// differ.
    fn replace(path: &Path, text: &str, number: u64) {
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + number);
        std::fs::File::options().append(true).open(&fresh).unwrap().set_modified(time).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    #[test]
    fn renewed_files_are_taken_up_and_half_renewed_ones_are_not() {
        let (folder, files) = places("renewal");
        let (old, new) = (issue(), issue());
        replace(&files.certificate, &old.0, 1);
        replace(&files.key, &old.1, 1);
        let tls = Tls::load(&files).unwrap();
        let first = tls.current.load_full();
        assert!(!tls.refresh().unwrap(), "nothing has changed");

        replace(&files.certificate, &new.0, 2);
        assert!(tls.refresh().unwrap_err().to_string().contains("does not belong"));
        assert!(Arc::ptr_eq(&first, &tls.current.load_full()), "the old one stays");
        assert!(!tls.refresh().unwrap(), "and it is said once");

        replace(&files.key, &new.1, 2);
        assert!(tls.refresh().unwrap());
        assert!(!Arc::ptr_eq(&first, &tls.current.load_full()));

        let second = tls.current.load_full();
        replace(&files.certificate, &old.0, 3);
        assert!(tls.read_again().is_err(), "half of a renewal is no reload");
        tls.take_up();
        replace(&files.key, &old.1, 3);
        assert!(tls.read_again().unwrap());
        assert!(Arc::ptr_eq(&second, &tls.current.load_full()), "not before it is published");
        tls.take_up();
        assert!(!Arc::ptr_eq(&second, &tls.current.load_full()));
        assert!(!tls.refresh().unwrap(), "the reload has read what is there");
        assert!(!tls.read_again().unwrap(), "and the next finds nothing new");
        std::fs::remove_file(&files.key).unwrap();
        assert!(tls.refresh().unwrap_err().to_string().contains("cannot be read"));
        assert!(!tls.refresh().unwrap(), "and it is said once");
        std::fs::create_dir(&files.key).unwrap();
        for _ in 0..2 {
            let error = tls.refresh().unwrap_err();
            assert!(error.to_string().contains("cannot be read"), "what is there is read again");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named_and_its_fault_is_told_in_words() {
        let (folder, files) = places("damaged");
        let (certificate, key) = issue();
        let damaged = |text: &str| {
            [
                (text[..text.len() / 2].to_owned(), "is cut off"),
                (text.replacen('\n', "\n!", 1), "is damaged"),
                (text.replacen("-----\n", "--\n", 1), "is not whole"),
            ]
        };
        for (cut, words) in damaged(&certificate) {
            replace(&files.certificate, &cut, 1);
            replace(&files.key, &key, 1);
            let error = Tls::load(&files).unwrap_err().to_string();
            assert!(
                error.contains("The TLS certificate file ") && error.contains(words),
                "{error}"
            );
            assert!(error.contains("certificate.pem is no valid PEM"), "{error}");
            assert!(!error.contains('['), "{error}");
        }
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        replace(&files.certificate, no_certificate, 2);
        replace(&files.key, &key, 2);
        let error = Tls::load(&files).unwrap_err().to_string();
        assert!(error.contains("certificate.pem holds first is damaged"), "{error}");
        assert!(!error.contains("key"), "{error}");

        replace(&files.certificate, &certificate, 2);
        for (cut, words) in damaged(&key) {
            replace(&files.key, &cut, 2);
            let error = Tls::load(&files).unwrap_err().to_string();
            assert!(error.contains("The TLS key file ") && error.contains(words), "{error}");
            assert!(error.contains("key.pem is no valid PEM"), "{error}");
            assert!(!error.contains('['), "{error}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_certificate_is_not_read_for_ever() {
        let image =
            std::env::temp_dir().join(format!("gpustack-fast-image-{}", std::process::id()));
        File::create(&image).unwrap().set_len(10 << 30).unwrap();
        for (path, reason) in [
            (Path::new("/dev/zero"), "it is no plain file"),
            (Path::new("/"), "it is no plain file"),
            (&*image, "it is larger than 16 MiB"),
        ] {
            let files = seam::Tls { certificate: path.to_owned(), key: path.to_owned() };
            let error = Tls::load(&files).unwrap_err().to_string();
            assert!(error.contains("cannot be read") && error.contains(reason), "{error}");
        }
        std::fs::remove_file(image).unwrap();
    }

    #[test]
    fn one_worker_alone_checks_and_not_before_its_time() {
        let (folder, files) = places("check");
        let (certificate, key) = issue();
        replace(&files.certificate, &certificate, 1);
        replace(&files.key, &key, 1);
        let tls = Tls::load(&files).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        assert!(!tls.is_check_due(CHECK_MS - 1));
        assert!(tls.is_check_due(CHECK_MS));
        assert!(!tls.is_check_due(CHECK_MS + 1));
        assert!(tls.is_check_due(3 * CHECK_MS));
    }
}
