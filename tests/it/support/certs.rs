//! Certificates from a test's own authority, and clients that trust it.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use newsfeed::tls::{Files, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs, pki_types::ServerName,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate for loopback.
pub struct Issued {
    pub der: Vec<u8>,
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self) -> Issued {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued {
            der: certificate.der().to_vec(),
            cert: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Over HTTP/1.1.
    pub fn http_client(&self) -> reqwest::Client {
        let certificate = reqwest::Certificate::from_der(self.0.der()).expect("a certificate");
        reqwest::Client::builder()
            .tls_certs_only([certificate])
            .build()
            .expect("a client")
    }

    /// A connection that speaks one of `protocols`.
    pub async fn connect(
        &self,
        address: SocketAddr,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let socket = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
    }
}

/// A folder with a certificate and its key, as an operator sets it up.
pub struct Folder {
    folder: TempDir,
}

impl Folder {
    pub fn with(issued: &Issued) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let this = Self { folder };
        this.put(&issued.cert, &issued.key);
        this
    }

    pub fn put(&self, cert: &str, key: &str) {
        fs::write(self.cert(), cert).expect("written");
        fs::write(self.key(), key).expect("written");
    }

    pub fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    pub fn open(&self) -> Result<Arc<Tls>, newsfeed::tls::Error> {
        Tls::open(Files {
            cert: self.cert(),
            key: self.key(),
        })
    }
}
