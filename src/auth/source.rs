//! The files with keys, and what is known from all sources together. If reloading a file fails, the failure is logged and
//! its previous keys stay in use. A key is removed only when its source is read successfully without it.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};

use super::{
    args::AuthArgs,
    keys::{self, Form, KEYS_BYTES_MAX, Key, Public},
    secret::Secret,
    token::Ring,
};

/// The files of keys. Those that are not configured are empty.
pub struct Files {
    public: Option<File<Public>>,
    secrets: Option<File<Vec<Secret>>>,
    tickets: Option<File<Vec<Secret>>>,
}

impl Files {
    pub async fn open(args: &AuthArgs) -> Result<Self, String> {
        let open = async |path: &Option<PathBuf>| match path.clone() {
            Some(path) => File::open(path, Secret::list).await.map(Some),
            None => Ok(None),
        };
        Ok(Self {
            public: match args.auth_keys.clone() {
                Some(path) => Some(File::open(path, keys::public).await?),
                None => None,
            },
            secrets: open(&args.auth_secret_file).await?,
            tickets: open(&args.auth_ticket_key).await?,
        })
    }

    /// Reloads changed files. Returns whether any has new keys.
    pub async fn read(&mut self) -> bool {
        let mut new = false;
        if let Some(file) = &mut self.public {
            let form = file.content.form;
            new |= file.look(|bytes| of_form(form, keys::public(bytes)?)).await;
        }
        for file in [&mut self.secrets, &mut self.tickets].into_iter().flatten() {
            new |= file.look(Secret::list).await;
        }
        new
    }

    /// Tells `known` what the files have.
    pub fn tell(&self, known: &Known) {
        let public = self
            .public
            .iter()
            .flat_map(|file| file.content.keys.clone());
        let secrets = self.secrets.iter().flat_map(|file| file.content.clone());
        let tickets = self.tickets.as_ref().map(|file| file.content.clone());
        known.change(|keys| {
            keys.of_files = public.collect();
            keys.secrets = secrets.collect();
            keys.tickets = tickets;
        });
    }
}

/// A file that had one form at the start is not what the operator meant if it has another one now.
fn of_form(form: Form, found: Public) -> Result<Public, String> {
    match found.form == form {
        true => Ok(found),
        false => Err(format!(
            "it was {} when the service started and is {} now: restart the service if that is intended",
            form.name(),
            found.form.name()
        )),
    }
}

/// The keys of all sources, and the ring made of them.
pub struct Known {
    /// Locked for moments only, never across a read or a fetch.
    keys: Mutex<Keys>,
    ring: ArcSwap<Ring>,
    /// Signs tickets if there is no other key for them.
    random: Secret,
}

#[derive(Default)]
struct Keys {
    /// From the environment.
    fixed: Vec<Secret>,
    secrets: Vec<Secret>,
    of_files: Vec<Key>,
    of_url: Vec<Key>,
    /// The keys of tickets, if a file has them.
    tickets: Option<Vec<Secret>>,
}

impl Known {
    /// Knows the secrets of the environment.
    pub fn new(fixed: Vec<Secret>) -> Self {
        let keys = Keys {
            fixed,
            ..Keys::default()
        };
        let random = Secret::random();
        Self {
            ring: ArcSwap::from_pointee(keys.ring(&random)),
            keys: Mutex::new(keys),
            random,
        }
    }

    pub fn ring(&self) -> Guard<Arc<Ring>> {
        self.ring.load()
    }

    /// Replaces the keys of the JWKS at a URL.
    pub fn fetched(&self, found: Vec<Key>) {
        self.change(|keys| keys.of_url = found);
    }

    fn change(&self, change: impl FnOnce(&mut Keys)) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut keys);
        self.ring.store(Arc::new(keys.ring(&self.random)));
    }

    /// Whether other nodes with the same settings accept this node's tickets.
    pub fn shares_tickets(&self) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        !keys.shared_tickets().is_empty()
    }
}

impl Keys {
    fn ring(&self, random: &Secret) -> Ring {
        let mut tickets = self.shared_tickets();
        if tickets.is_empty() {
            tickets.push(random.clone());
        }
        Ring::new(self.all(), tickets)
    }

    fn all(&self) -> Vec<Key> {
        let secrets = self.fixed.iter().chain(&self.secrets).map(Key::of_secret);
        let public = self.of_files.iter().chain(&self.of_url).cloned();
        secrets.chain(public).collect()
    }

    fn shared_tickets(&self) -> Vec<Secret> {
        match &self.tickets {
            Some(secrets) => secrets.iter().map(keys::ticket_key).collect(),
            None => self
                .all()
                .into_iter()
                .filter_map(|key| key.ticket)
                .collect(),
        }
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
    async fn look(&mut self, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> bool {
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
