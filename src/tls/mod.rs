//! TLS: certificate and key from their files, read again when they change, and handshakes within bounds.

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
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use self::handshakes::Handshakes;

/// Longest handshake; a client has sent its part of it by then, or is cut.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// In the order we like them (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where certificate and key are, in PEM.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, then those that vouch for it.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why a pair of files is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {} of {flag}: {source}", file.display())]
    Read {
        flag: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    #[error("{} of {flag} has no {what} in PEM (a block that begins with {begins})", file.display())]
    Nothing {
        flag: &'static str,
        file: PathBuf,
        what: &'static str,
        begins: &'static str,
    },
    #[error("{} of {flag} is no PEM: {reason}", file.display())]
    Pem {
        flag: &'static str,
        file: PathBuf,
        reason: String,
    },
    #[error("the key of {} is not that of the first certificate of {}: give --tls-cert and --tls-key files that belong together", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("the certificate of {} and the key of {} cannot be used: {reason}", cert.display(), key.display())]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        reason: String,
    },
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// What the files hold.
struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    /// Tells contents apart, as times of files do not always.
    fn print(&self) -> u64 {
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
        // Clients that come back, all at once after a restart of a proxy, need no signature of ours.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
        Ok(config)
    }
}

/// What connections are made secure with.
pub struct Tls {
    files: Files,
    current: ArcSwap<ServerConfig>,
    /// Of the pair in use.
    print: AtomicU64,
    handshakes: Handshakes,
}

impl Tls {
    /// Reads the files; blocks.
    pub fn open(files: Files) -> Result<Arc<Self>, Error> {
        let pair = files.read()?;
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(files.config(&pair)?),
            print: AtomicU64::new(pair.print()),
            handshakes: Handshakes::default(),
            files,
        }))
    }

    /// Takes what the files hold now, if it is another pair than the one in use, for the connections to come; else the
    /// one in use stays. Says whether it is another. Blocks.
    pub fn reload(&self) -> Result<bool, Error> {
        let pair = self.files.read()?;
        if pair.print() == self.print.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.current.store(Arc::new(self.files.config(&pair)?));
        self.print.store(pair.print(), Ordering::Relaxed);
        Ok(true)
    }

    /// Follows the files until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        // What was wrong at the last look, and how often in a row. Whoever replaces two files does it one after the
        // other: what is wrong once is no news yet.
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
                    "THE NEW CERTIFICATE OR KEY CANNOT BE USED: the old one stays in use until it expires"
                );
            }
        }
    }

    /// The handshake; `None` if there was none within its bounds.
    pub async fn accept(&self, socket: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut turn = self.handshakes.begin();
        let handshake = TlsAcceptor::from(self.current.load_full()).accept(socket);
        let failed: &dyn std::fmt::Display = &tokio::select! {
            done = timeout(HANDSHAKE_TIME_MAX, handshake) => match done {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => "it took too long".to_owned(),
            },
            () = turn.is_over() => "there are too many, and it is the oldest".to_owned(),
        };
        tracing::debug!(error = %failed, "a handshake failed");
        None
    }
}
