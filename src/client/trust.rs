//! Trusted certificates for HTTPS.

use std::path::PathBuf;

use reqwest::{Certificate, ClientBuilder};

use super::Error;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Trust {
    /// File with the CA certificates (PEM) to trust for HTTPS instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl Trust {
    pub fn apply(&self, client: ClientBuilder) -> Result<ClientBuilder, Error> {
        let Some(path) = &self.ca_file else {
            return Ok(client);
        };
        let pem = std::fs::read(path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(client.tls_certs_only(certificates)),
            _ => Err(Error::Arguments(format!(
                "{} (--ca-file) has no certificate in PEM",
                path.display()
            ))),
        }
    }
}
