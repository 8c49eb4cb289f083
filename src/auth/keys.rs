//! Keys from files. The type of a key determines its algorithm.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::de::IgnoredAny;

use super::{jwks, pem, secret::Secret};

/// Largest key file or JWKS response, in bytes.
pub const KEYS_BYTES_MAX: usize = 256 * 1024;
/// Most keys in a file or response. A token without `kid` is tried with each of them.
pub const KEYS_MAX: usize = 32;

/// The purpose for which the key of tickets is derived.
const TICKET_PURPOSE: &str = "newsfeed ticket v1";

/// A key that verifies tokens. `DecodingKey` does not print its content.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its `kid`. A key without one is tried for every token.
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub verifier: DecodingKey,
    /// For a shared secret: the key for tickets derived from it.
    pub ticket: Option<Secret>,
}

impl Key {
    pub fn of_secret(secret: &Secret) -> Self {
        Self {
            kid: None,
            algorithm: Algorithm::HS256,
            verifier: DecodingKey::from_secret(secret.bytes()),
            ticket: Some(ticket_key(secret)),
        }
    }

    pub fn public(kid: Option<String>, algorithm: Algorithm, verifier: DecodingKey) -> Self {
        Self {
            kid,
            algorithm,
            verifier,
            ticket: None,
        }
    }
}

/// Derives the key for tickets, so that a ticket's signature is never valid for a token, even if both use the same file.
pub fn ticket_key(secret: &Secret) -> Secret {
    secret.derive(TICKET_PURPOSE)
}

/// The form of a file of public keys. A file keeps the form it had at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Jwks,
    Pem,
}

impl Form {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jwks => "a JWKS",
            Self::Pem => "PEM",
        }
    }
}

/// Public keys in a file. Nothing in such a file ever becomes a secret.
pub struct Public {
    pub form: Form,
    pub keys: Vec<Key>,
}

/// The public keys in a file: a JWKS, or one or more keys in PEM.
pub fn public(bytes: &[u8]) -> Result<Public, String> {
    let bytes = without_mark(bytes);
    let (form, keys) = match what(bytes) {
        What::Object => (Form::Jwks, jwks::parse(bytes)?),
        What::Pem => {
            let text = std::str::from_utf8(bytes).map_err(|_| "it is not PEM: it is not text")?;
            (Form::Pem, pem::public_keys(text)?)
        }
        other => {
            return Err(format!(
                "it is {}. This file must be a JWKS or public keys in PEM; a secret for HS256 belongs in the file of \
                 --auth-secret-file",
                other.description()
            ));
        }
    };
    check_count(&keys)?;
    Ok(Public { form, keys })
}

pub fn check_count(keys: &[Key]) -> Result<(), String> {
    match keys.len() {
        0..=KEYS_MAX => Ok(()),
        many => Err(format!("it has {many} keys, more than {KEYS_MAX}")),
    }
}

/// `bytes` without the byte order mark that some editors write in front of UTF-8.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// What a file has, as far as its bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Object,
    Pem,
    Empty,
    Utf16,
    Der,
    Ssh,
    Array,
    Html,
    /// Hex or base64.
    Encoded,
    Text,
    Bytes,
}

fn what(bytes: &[u8]) -> What {
    let text = bytes.trim_ascii();
    let starts = |start: &[u8]| text.starts_with(start);
    let holds = |part: &[u8]| memchr::memmem::find(bytes, part).is_some();
    let encoded = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=\r\n".contains(byte);
    if text.is_empty() {
        What::Empty
    } else if starts(b"\xff\xfe") || starts(b"\xfe\xff") || holds(b"-\0-\0-\0") {
        What::Utf16
    } else if is_der(bytes) {
        What::Der
    } else if starts(b"{") {
        What::Object
    } else if holds(b"-----BEGIN ") {
        What::Pem
    } else if starts(b"ssh-") || starts(b"ecdsa-sha2-") || starts(b"sk-ssh-") || is_ssh(bytes) {
        What::Ssh
    } else if starts(b"[") {
        What::Array
    } else if starts(b"<") {
        What::Html
    } else if text.iter().all(encoded) {
        What::Encoded
    } else if std::str::from_utf8(bytes).is_ok() {
        What::Text
    } else {
        What::Bytes
    }
}

impl What {
    fn description(self) -> &'static str {
        match self {
            Self::Object => "a JSON object",
            Self::Pem => "PEM",
            Self::Empty => "empty",
            Self::Utf16 => "UTF-16 text: save it as UTF-8",
            Self::Der => {
                "a key in DER: convert it with `openssl pkey -pubin -in FILE -out keys.pem`"
            }
            Self::Ssh => "an SSH key: convert it with `ssh-keygen -e -m PKCS8 -f FILE`",
            Self::Array => "a JSON array: a JWKS is an object, {\"keys\": [...]}",
            Self::Html => "HTML or XML, perhaps an error page",
            Self::Encoded => "hex or base64, perhaps a secret",
            Self::Text => "text of another kind",
            Self::Bytes => "binary data of another kind",
        }
    }
}

/// What kind of key these bytes are, if they are one that must not be used as a secret: whoever knows a public key could
/// sign tokens.
pub fn kind_of_key(bytes: &[u8]) -> Option<&'static str> {
    match what(bytes) {
        What::Object | What::Array => Some("JSON"),
        What::Pem => Some("PEM"),
        What::Der => Some("a key in DER"),
        What::Ssh => Some("an SSH key"),
        What::Utf16 => Some("UTF-16 text"),
        What::Empty | What::Html | What::Encoded | What::Text | What::Bytes => None,
    }
}

/// The same for bytes that may be random: those that only begin like text are not meant.
pub fn kind_of_encoded_key(bytes: &[u8]) -> Option<&'static str> {
    let json = || serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    match what(bytes) {
        What::Utf16 => None,
        What::Object | What::Array if !json() => None,
        _ => kind_of_key(bytes),
    }
}

/// Whether this is a DER SEQUENCE of the right length that begins with a SEQUENCE or an INTEGER, as all keys in DER are.
fn is_der(bytes: &[u8]) -> bool {
    let (length, content) = match *bytes {
        [0x30, length @ 0..=0x7f, ref rest @ ..] => (length.into(), rest),
        [0x30, 0x81, length, ref rest @ ..] => (length.into(), rest),
        [0x30, 0x82, high, low, ref rest @ ..] => (u16::from_be_bytes([high, low]), rest),
        _ => return false,
    };
    content.len() == usize::from(length) && matches!(content.first(), Some(0x30 | 0x02))
}

/// Whether this is the binary form of an SSH public key: it begins with the length of its type and the type.
fn is_ssh(bytes: &[u8]) -> bool {
    let of_type = bytes.get(4..).is_some_and(|rest| {
        rest.starts_with(b"ssh-") || rest.starts_with(b"ecdsa-sha2-") || rest.starts_with(b"sk-")
    });
    of_type && bytes.starts_with(&[0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_of_public_keys_is_refused_with_what_it_is() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let utf16 = |big: bool| -> Vec<u8> {
            let units = format!("\u{feff}{pem}")
                .encode_utf16()
                .collect::<Vec<u16>>();
            let bytes = |unit: u16| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            };
            units.into_iter().flat_map(bytes).collect()
        };
        let der = [&[0x30, 0x2a, 0x30][..], &[7; 41]].concat();
        let long = [&[0x30, 0x82, 0x01, 0x22, 0x30][..], &[7; 289]].concat();
        for (said, bytes) in [
            ("empty", &b""[..]),
            ("empty", b"\xef\xbb\xbf \n"),
            ("UTF-16", &utf16(true)),
            ("UTF-16", &utf16(false)),
            // Without its mark.
            ("UTF-16", &utf16(false)[2..]),
            ("DER", &der),
            ("DER", &long),
            ("SSH", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJPZ me@here"),
            ("JSON array", b"[{\"kty\": \"OKP\"}]"),
            ("JSON array", b"\xef\xbb\xbf[]"),
            ("error page", b"<!DOCTYPE html><title>404 Not Found</title>"),
            ("perhaps a secret", &[b'7'; 64]),
            (
                "perhaps a secret",
                b"q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=",
            ),
            (
                "text of another kind",
                b"a secret of more than thirty-two bytes",
            ),
            ("binary data", &[0x9f; 64]),
        ] {
            let Err(error) = public(bytes) else {
                panic!("{said}: accepted");
            };
            assert!(error.contains(said), "{said}: {error}");
            assert!(
                error.contains("a JWKS or public keys in PEM")
                    && error.contains("--auth-secret-file"),
                "{error}"
            );
        }
        for marked in [
            pem.to_owned(),
            format!("\u{feff}{pem}"),
            format!("a comment\n{pem}"),
        ] {
            let found = public(marked.as_bytes()).expect("PEM");
            assert_eq!((found.form, found.keys.len()), (Form::Pem, 1));
        }
    }

    #[test]
    fn a_ticket_key_is_not_the_key() {
        let secret = Secret::random();
        let key = Key::of_secret(&secret);
        assert_ne!(key.ticket.as_ref().map(Secret::bytes), Some(secret.bytes()));
    }
}
