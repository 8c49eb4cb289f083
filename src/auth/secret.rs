//! Secrets that are never printed.

use std::fmt;

use aws_lc_rs::hmac;

/// Shortest secret, in bytes: the length of the hash of HS256 (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// A shared secret; it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Whitespace at the end is ignored, because editors and shells append a line feed.
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.trim_ascii_end();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "a secret must have at least {SECRET_BYTES_MIN} bytes, this one has {}: create one with \
                 `openssl rand -hex 32`",
                bytes.len()
            ));
        }
        Ok(Self(bytes.to_vec()))
    }

    pub fn from_environment(name: &str) -> Option<Result<Self, String>> {
        use std::os::unix::ffi::OsStrExt;
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(Self::new(value.as_bytes()).map_err(|error| format!("{name}: {error}")))
    }

    /// A random secret for this process only.
    pub fn random() -> Self {
        Self(rand::random::<[u8; SECRET_BYTES_MIN]>().to_vec())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Derives a secret for one purpose, from which this one cannot be computed.
    pub fn derive(&self, purpose: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        Self(hmac::sign(&key, purpose.as_bytes()).as_ref().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
