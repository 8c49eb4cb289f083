//! The service that a command speaks to.

use std::time::Duration;

use super::{DEFAULT_URL, Error, api::Client, token::TokenArgs, trust::Trust};

/// What every command that is a client of one service is told about it.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// Base URL of the service
    #[arg(long, env = "NEWSFEED_URL", default_value = DEFAULT_URL)]
    url: String,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    trust: Trust,
    /// Seconds to wait for a service that cannot be reached or is busy (up to 86400)
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    wait: u32,
}

impl Connection {
    /// For commands that wait for a service to come.
    pub fn client(&self) -> Result<Client, Error> {
        let client = Client::new(&self.url, self.token.read()?, &self.trust)?;
        Ok(client.patient_for(Duration::from_secs(self.wait.into())))
    }

    /// For commands whose user sits before them: fails at once where no service is.
    pub async fn reached(&self) -> Result<Client, Error> {
        let client = self.client()?;
        client.probe().await?;
        Ok(client)
    }
}
