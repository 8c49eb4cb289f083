//! The sources of keys, and when they are reloaded. If reloading fails, the failure is logged and the previous keys stay in
//! use. A key is removed only when its source is read successfully without it.

use std::{
    io::{self, Read},
    path::PathBuf,
    time::Duration,
};

use reqwest::redirect;
use tokio::time::Instant;

use super::{
    args::{AuthArgs, JwksUrl},
    jwks,
    keys::{self, KEYS_BYTES_MAX, Key},
    secret::Secret,
    token::Ring,
};

/// Shortest interval between fetches of the JWKS that unknown `kid`s cause.
pub const UNKNOWN_KID_PAUSE: Duration = Duration::from_secs(10);
/// Timeout of fetching a JWKS.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// All sources of keys. Those that are not configured are empty.
pub struct Sources {
    secret: Option<Secret>,
    keys: Option<File<Vec<Key>>>,
    jwks: Option<Jwks>,
    ticket: Option<File<Secret>>,
    /// Signs tickets if there is no other key for them.
    random: Secret,
}

impl Sources {
    pub async fn open(args: &AuthArgs) -> Result<Self, String> {
        let secret = args.secret.clone().transpose()?;
        let keys = match args.auth_keys.clone() {
            Some(path) => Some(File::open(path, keys::parse).await?),
            None => None,
        };
        let ticket = match args.auth_ticket_key.clone() {
            Some(path) => Some(File::open(path, keys::secret).await?),
            None => None,
        };
        let jwks = match args.auth_jwks_url.clone() {
            Some(url) => Some(Jwks::open(url).await?),
            None => None,
        };
        let sources = Self {
            secret,
            keys,
            jwks,
            ticket,
            random: Secret::random(),
        };
        if sources.shared_ticket_keys().is_empty() {
            tracing::warn!(
                "tickets work on this node only, because no key is shared between nodes: set --auth-ticket-key if there \
                 are several nodes"
            );
        }
        Ok(sources)
    }

    fn all_keys(&self) -> Vec<Key> {
        let of_secret = self
            .secret
            .iter()
            .map(|secret| Key::of_secret(None, secret));
        let of_file = self
            .keys
            .iter()
            .flat_map(|file| file.content.iter().cloned());
        let of_url = self.jwks.iter().flat_map(|jwks| jwks.keys.iter().cloned());
        of_secret.chain(of_file).chain(of_url).collect()
    }

    fn shared_ticket_keys(&self) -> Vec<Secret> {
        match &self.ticket {
            Some(file) => vec![keys::ticket_key(&file.content)],
            None => self
                .all_keys()
                .into_iter()
                .filter_map(|key| key.ticket)
                .collect(),
        }
    }

    pub fn ring(&self) -> Ring {
        let mut tickets = self.shared_ticket_keys();
        if tickets.is_empty() {
            tickets.push(self.random.clone());
        }
        Ring::new(self.all_keys(), tickets)
    }

    /// Reloads changed files. Returns whether any has new keys.
    pub async fn read_files(&mut self) -> bool {
        let keys = match &mut self.keys {
            Some(file) => file.look(keys::parse).await,
            None => false,
        };
        let ticket = match &mut self.ticket {
            Some(file) => file.look(keys::secret).await,
            None => false,
        };
        keys || ticket
    }

    /// Fetches the JWKS. Returns whether that succeeded.
    pub async fn fetch(&mut self) -> bool {
        match &mut self.jwks {
            Some(jwks) => jwks.fetch_or_tell().await,
            None => false,
        }
    }

    /// Like [`Self::fetch`], but not soon after the last time.
    pub async fn fetch_for_unknown_kid(&mut self) -> bool {
        match &mut self.jwks {
            Some(jwks) if jwks.asked.elapsed() >= UNKNOWN_KID_PAUSE => jwks.fetch_or_tell().await,
            _ => false,
        }
    }

    pub fn has_jwks(&self) -> bool {
        self.jwks.is_some()
    }
}

/// A file, and its last valid content.
struct File<T> {
    path: PathBuf,
    content: T,
    /// What was read last, valid or not.
    seen: Result<Vec<u8>, io::ErrorKind>,
}

impl<T> File<T> {
    async fn open(path: PathBuf, parse: fn(&[u8]) -> Result<T, String>) -> Result<Self, String> {
        let bytes = read(path.clone()).await;
        let content = bytes
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|bytes| parse(bytes));
        let content = content.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            path,
            content,
            seen: bytes.map_err(|error| error.kind()),
        })
    }

    /// Returns whether the content changed and is valid.
    async fn look(&mut self, parse: fn(&[u8]) -> Result<T, String>) -> bool {
        let bytes = read(self.path.clone()).await;
        let found = bytes.as_ref().map(Clone::clone).map_err(io::Error::kind);
        if found == self.seen {
            return false;
        }
        self.seen = found;
        let path = self.path.display();
        match bytes
            .map_err(|error| error.to_string())
            .and_then(|bytes| parse(&bytes))
        {
            Ok(content) => {
                tracing::info!(%path, "file changed and was reloaded");
                self.content = content;
                true
            }
            Err(error) => {
                tracing::error!(%path, "CANNOT USE THE CHANGED FILE; its previous keys stay in use: {error}");
                false
            }
        }
    }
}

async fn read(path: PathBuf) -> io::Result<Vec<u8>> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?
            .take(KEYS_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)?;
        match bytes.len() {
            0..=KEYS_BYTES_MAX => Ok(bytes),
            _ => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it is larger than {KEYS_BYTES_MAX} bytes"),
            )),
        }
    });
    read.await?
}

/// A JWKS at a URL, and its last valid keys.
struct Jwks {
    http: reqwest::Client,
    url: JwksUrl,
    keys: Vec<Key>,
    asked: Instant,
}

impl Jwks {
    async fn open(url: JwksUrl) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(FETCH_TIME_MAX)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| cause(&error))?;
        let mut jwks = Self {
            http,
            url,
            keys: Vec::new(),
            asked: Instant::now(),
        };
        jwks.keys = jwks
            .fetch()
            .await
            .map_err(|error| format!("the JWKS at {}: {error}", jwks.url))?;
        Ok(jwks)
    }

    async fn fetch_or_tell(&mut self) -> bool {
        self.asked = Instant::now();
        match self.fetch().await {
            Ok(keys) => {
                self.keys = keys;
                true
            }
            Err(error) => {
                tracing::error!(url = %self.url, "CANNOT FETCH THE JWKS; its previous keys stay in use: {error}");
                false
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let asked = self.http.get(self.url.url()).send().await;
        let mut answer = asked.map_err(|error| cause(&error.without_url()))?;
        if answer.status() != 200 {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| cause(&error.without_url()))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > KEYS_BYTES_MAX {
                return Err(format!("it is larger than {KEYS_BYTES_MAX} bytes"));
            }
        }
        let keys = jwks::parse(&body, jwks::From::Url)?;
        keys::check_count(&keys)?;
        Ok(keys)
    }
}

/// The root cause: reqwest's own message says only that sending failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
