//! TLS: loads the certificate and key files, reloads them when they change, and bounds handshakes in time and number.

mod handshakes;

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use self::handshakes::Handshakes;

/// Longest handshake. A client that takes longer is disconnected.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How often the files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Protocols for ALPN (RFC 7301), most preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Paths of the certificate and its key, in PEM format.
#[derive(Debug, Clone)]
pub struct Files {
    /// The server's certificate, followed by the chain of its issuers.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {} ({flag}): {source}", file.display())]
    Read {
        flag: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    #[error("{} ({flag}) has no {what} in PEM format (a block that begins with {begins})", file.display())]
    Nothing {
        flag: &'static str,
        file: PathBuf,
        what: &'static str,
        begins: &'static str,
    },
    #[error("{} ({flag}) is not valid PEM: {reason}", file.display())]
    Pem {
        flag: &'static str,
        file: PathBuf,
        reason: String,
    },
    #[error("the key in {} does not belong to the first certificate in {}: --tls-cert and --tls-key must be a pair", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("the certificate in {} and the key in {} cannot be used: {reason}", cert.display(), key.display())]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        reason: String,
    },
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// The contents of both files.
struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    /// A hash of the contents, because modification times do not always tell them apart.
    fn fingerprint(&self) -> u64 {
        use twox_hash::XxHash3_64;
        XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&self.cert), &self.key)
    }
}

impl Files {
    fn read(&self) -> Result<Pair, Error> {
        let read = |flag, file: &PathBuf| {
            fs::read(file).map_err(|source| Error::Read {
                flag,
                file: file.clone(),
                source,
            })
        };
        Ok(Pair {
            cert: read(CERT, &self.cert)?,
            key: read(KEY, &self.key)?,
        })
    }

    fn config(&self, pair: &Pair) -> Result<ServerConfig, Error> {
        let no_certificate = || Error::Nothing {
            flag: CERT,
            file: self.cert.clone(),
            what: "certificate",
            begins: "-----BEGIN CERTIFICATE-----",
        };
        let chain = CertificateDer::pem_slice_iter(&pair.cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::Pem {
                flag: CERT,
                file: self.cert.clone(),
                reason: error.to_string(),
            })?;
        if chain.is_empty() {
            return Err(no_certificate());
        }
        let key = PrivateKeyDer::from_pem_slice(&pair.key).map_err(|error| match error {
            pem::Error::NoItemsFound => Error::Nothing {
                flag: KEY,
                file: self.key.clone(),
                what: "private key",
                begins: "-----BEGIN PRIVATE KEY-----",
            },
            error => Error::Pem {
                flag: KEY,
                file: self.key.clone(),
                reason: error.to_string(),
            },
        })?;
        let unusable = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => Error::Mismatch {
                cert: self.cert.clone(),
                key: self.key.clone(),
            },
            error => Error::Unusable {
                cert: self.cert.clone(),
                key: self.key.clone(),
                reason: error.to_string(),
            },
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        // Clients resume their sessions without a new signature, which matters when all of them reconnect at once.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
        Ok(config)
    }
}

/// The TLS configuration in use.
pub struct Tls {
    files: Files,
    current: ArcSwap<ServerConfig>,
    /// The fingerprint of the pair in use.
    fingerprint: AtomicU64,
    handshakes: Handshakes,
}

impl Tls {
    /// Reads the files. Blocks the thread.
    pub fn open(files: Files) -> Result<Arc<Self>, Error> {
        let pair = files.read()?;
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(files.config(&pair)?),
            fingerprint: AtomicU64::new(pair.fingerprint()),
            handshakes: Handshakes::default(),
            files,
        }))
    }

    /// Reads the files again. If they contain a new pair, it is used for new connections. Returns whether they do.
    /// After an error the old pair stays in use. Blocks the thread.
    pub fn reload(&self) -> Result<bool, Error> {
        let pair = self.files.read()?;
        if pair.fingerprint() == self.fingerprint.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.current.store(Arc::new(self.files.config(&pair)?));
        self.fingerprint
            .store(pair.fingerprint(), Ordering::Relaxed);
        Ok(true)
    }

    /// Reloads the files when they change, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        // The error of the last check and how often it was repeated. It is logged when it occurs the second time, because
        // the two files are replaced one after the other and do not match in between.
        let (mut wrong, mut times) = (None, 0);
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
            .await
            .is_some()
        {
            let tls = Arc::clone(&self);
            let Ok(looked) = tokio::task::spawn_blocking(move || tls.reload()).await else {
                return;
            };
            let found = match looked {
                Ok(true) => {
                    tracing::info!(cert = %self.files.cert.display(), "a new certificate is in use");
                    None
                }
                Ok(false) => None,
                Err(error) => Some(error.to_string()),
            };
            times = if found == wrong { times + 1 } else { 0 };
            wrong = found;
            if let (Some(error), 1) = (&wrong, times) {
                tracing::error!(
                    %error,
                    "THE NEW CERTIFICATE OR KEY CANNOT BE USED: the old ones stay in use until the certificate expires"
                );
            }
        }
    }

    /// Performs the handshake. `None` if it failed, took too long or was ended in favour of newer ones.
    pub async fn accept<S>(&self, socket: S) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut slot = self.handshakes.begin();
        let handshake = TlsAcceptor::from(self.current.load_full()).accept(socket);
        let failed: &dyn std::fmt::Display = &tokio::select! {
            done = timeout(HANDSHAKE_TIME_MAX, handshake) => match done {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => "timed out".to_owned(),
            },
            () = slot.is_taken() => "ended as the oldest of too many handshakes".to_owned(),
        };
        tracing::debug!(error = %failed, "TLS handshake failed");
        None
    }
}
