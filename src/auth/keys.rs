//! Keys from files. The type of a key determines its algorithm.

use jsonwebtoken::{Algorithm, DecodingKey};

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
    pub fn of_secret(kid: Option<String>, secret: &Secret) -> Self {
        Self {
            kid,
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

/// The keys in a file: a JWKS, one or more PEM public keys, or the bytes of a secret.
pub fn parse(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let keys = if bytes.trim_ascii_start().starts_with(b"{") {
        jwks::parse(bytes, jwks::From::File)?
    } else if memchr::memmem::find(bytes, b"-----BEGIN").is_some() {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not PEM: it is not text")?;
        pem::public_keys(text)?
    } else {
        vec![Key::of_secret(None, &secret(bytes)?)]
    };
    check_count(&keys)?;
    Ok(keys)
}

pub fn check_count(keys: &[Key]) -> Result<(), String> {
    match keys.len() {
        0..=KEYS_MAX => Ok(()),
        many => Err(format!("it has {many} keys, more than {KEYS_MAX}")),
    }
}

/// The bytes of a secret. A public key is rejected: used as a secret, anyone who knows it could sign tokens.
pub fn secret(bytes: &[u8]) -> Result<Secret, String> {
    let text = bytes.trim_ascii();
    let public = [&b"ssh-"[..], b"ecdsa-sha2-", b"-----BEGIN", b"{"];
    let base64: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let decoded = data_encoding::BASE64.decode(&base64).unwrap_or_default();
    if public.iter().any(|start| text.starts_with(start)) || is_der(bytes) || is_der(&decoded) {
        return Err(
            "it looks like a key, not like a secret: use a public key in PEM (BEGIN PUBLIC KEY) or a JWKS".into(),
        );
    }
    Secret::new(bytes)
}

/// Whether this is a DER SEQUENCE of the right length, as all key files in DER are.
fn is_der(bytes: &[u8]) -> bool {
    match *bytes {
        [0x30, length @ 0..=0x7f, ref rest @ ..] => rest.len() == usize::from(length),
        [0x30, 0x81, length, ref rest @ ..] => rest.len() == usize::from(length),
        [0x30, 0x82, high, low, ref rest @ ..] => {
            rest.len() == usize::from(u16::from_be_bytes([high, low]))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_rejected_as_secrets() {
        let der = [&[0x30, 0x2a][..], &[7; 42]].concat();
        let base64 = data_encoding::BASE64.encode(&der);
        let long = [&[0x30, 0x82, 0x01, 0x22][..], &[7; 290]].concat();
        for public in [
            &der[..],
            base64.as_bytes(),
            &long,
            b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJPZ",
            b"{\"kty\": \"oct\"} and more than 32 bytes",
        ] {
            secret(public).expect_err("public");
        }
        secret(&[0x30; 32]).expect("a secret like any other");
        secret(&[b'x'; 31]).expect_err("short");
        secret(b"0123456789abcdef0123456789abcd \n").expect_err("too short when trimmed");
    }

    #[test]
    fn a_ticket_key_is_not_the_key() {
        let secret = Secret::new(&[b'x'; 32]).expect("long enough");
        let key = Key::of_secret(None, &secret);
        assert_ne!(key.ticket.as_ref().map(Secret::bytes), Some(secret.bytes()));
        assert!(
            !format!("{key:?} {secret:?}").contains("120"),
            "bytes are not printed"
        );
    }
}
