//! The service that a command connects to.

use std::time::Duration;

use super::{DEFAULT_URL, Error, api::Client, token::TokenArgs, trust::Trust};

const URL_VARIABLE: &str = "NEWSFEED_URL";

/// Arguments of every command that connects to a service.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    // Not with clap's `env`: while the variable is set, usage lines would show `--url` as required.
    /// Base URL of the service [env: NEWSFEED_URL] [default: http://127.0.0.1:8080]
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    trust: Trust,
    /// Seconds to keep retrying while the service cannot be reached or is busy (up to 86400)
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    wait: u32,
}

impl Connection {
    /// For commands that wait until the service is available.
    pub fn client(&self) -> Result<Client, Error> {
        let given = self.url.clone();
        let given = given.or_else(|| {
            std::env::var(URL_VARIABLE)
                .ok()
                .filter(|url| !url.is_empty())
        });
        let url = given.as_deref().unwrap_or(DEFAULT_URL);
        let client = Client::new(url, self.token.read()?, &self.trust)?;
        Ok(client.patient_for(Duration::from_secs(self.wait.into())))
    }

    /// For interactive commands: fails immediately if no service listens at the address.
    pub async fn reached(&self) -> Result<Client, Error> {
        let client = self.client()?;
        client.probe().await?;
        Ok(client)
    }
}
