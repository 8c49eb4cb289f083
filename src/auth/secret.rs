//! Secrets that are never printed, and the form in which they are given: hex or base64.

use std::{collections::HashMap, ffi::OsStr, fmt, os::unix::ffi::OsStrExt};

use aws_lc_rs::hmac;
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use super::keys;

/// Shortest secret, in bytes: the length of the hash of HS256 (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// A secret whose bytes vary less than this is refused, in bits. Of a million random secrets of 32 bytes, not one does.
const SECRET_BITS_MIN: f64 = 128.0;
/// Most secrets in a file. All verify tokens, so that a secret can be replaced while tokens of the old one are in use.
pub const SECRETS_MAX: usize = 8;

const FORM: &str =
    "a secret is at least 32 random bytes in hex or base64: create one with `openssl rand -hex 32`";
const CONVERT: &str =
    "to keep a secret that is text, convert it with `printf %s \"$TEXT\" | openssl base64 -A`";

/// A shared secret; it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secrets in a file or variable, one a line. The first one signs.
    pub fn list(bytes: &[u8]) -> Result<Vec<Self>, String> {
        let bytes = keys::without_mark(bytes);
        if let Some(key) = keys::kind_of_key(bytes) {
            return Err(format!(
                "it is {key}, not a secret: public keys belong in the file of --auth-keys; {FORM}"
            ));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| {
            format!("it is not text: {FORM}; convert raw bytes with `openssl base64 -A`")
        })?;
        let lines: Vec<&str> = text.split_ascii_whitespace().collect();
        match lines.len() {
            0 => Err(format!("it is empty: {FORM}")),
            1..=SECRETS_MAX => lines.into_iter().map(Self::parse).collect(),
            many => Err(format!(
                "it has {many} secrets, more than {SECRETS_MAX}: write each secret on one line; {FORM}"
            )),
        }
    }

    /// The secrets in an environment variable; `None` if it is empty or not set.
    pub fn from_environment(name: &str) -> Option<Result<Vec<Self>, String>> {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(Self::list(OsStr::as_bytes(&value)).map_err(|error| format!("{name}: {error}")))
    }

    /// Parses hex or base64, either alphabet, with or without padding. Text of hex digits only is hex.
    fn parse(text: &str) -> Result<Self, String> {
        let bytes = decoded(text)
            .ok_or_else(|| format!("it is neither hex nor base64: {FORM}; {CONVERT}"))?;
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "it has {} bytes, but a secret must have at least 32 bytes: {FORM}",
                bytes.len()
            ));
        }
        if let Some(key) = keys::kind_of_encoded_key(&bytes) {
            return Err(format!(
                "it is {key} in base64, not a secret: whoever knows the public key could sign tokens; {FORM}"
            ));
        }
        if repeats(&bytes) || bits(&bytes) < SECRET_BITS_MIN || is_words(text) {
            return Err(format!("it is too easy to guess: {FORM}; {CONVERT}"));
        }
        Ok(Self(bytes))
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

fn decoded(text: &str) -> Option<Vec<u8>> {
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    }
    [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD]
        .into_iter()
        .find_map(|base64| base64.decode(text.as_bytes()).ok())
}

/// Whether the bytes are a shorter block over and over, or count up or down in equal steps.
fn repeats(bytes: &[u8]) -> bool {
    let period = |block: usize| bytes.iter().zip(&bytes[block..]).all(|(a, b)| a == b);
    let blocks = (SECRET_BYTES_MIN - 1).min(bytes.len() / 2);
    let step = |pair: &[u8]| pair[1].wrapping_sub(pair[0]);
    let mut steps = bytes.windows(2).map(step);
    let first = steps.next();
    (1..=blocks).any(period) || steps.all(|step| Some(step) == first)
}

/// The information in the bytes in bits, judged by how often each of them occurs. It cannot tell a sentence from random
/// letters; it finds mistakes, such as a placeholder.
fn bits(bytes: &[u8]) -> f64 {
    let mut counts = HashMap::new();
    for byte in bytes {
        *counts.entry(byte).or_insert(0.0) += 1.0;
    }
    let all = bytes.len() as f64;
    counts
        .values()
        .map(|count| count * (all / count).log2())
        .sum()
}

/// Whether this is text in words, which only happens to be in the alphabet of base64: its letters are all small or all
/// capital. This is true of one in a billion random secrets.
fn is_words(text: &str) -> bool {
    let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let one_case = !text.bytes().any(|byte| byte.is_ascii_uppercase())
        || !text.bytes().any(|byte| byte.is_ascii_lowercase());
    !hex && one_case
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Secret, String> {
        Secret::list(text.as_bytes()).map(|mut all| all.remove(0))
    }

    #[test]
    fn hex_and_every_form_of_base64_are_the_same_secret() {
        // Both alphabets differ in it, and its length needs padding.
        let bytes: Vec<u8> = (0..40u8).map(|n| n.wrapping_mul(151) ^ 0xfb).collect();
        let hex = HEXLOWER_PERMISSIVE.encode(&bytes);
        for text in [
            hex.clone(),
            hex.to_uppercase(),
            format!("\u{feff}{hex}\r\n"),
            BASE64.encode(&bytes),
            BASE64_NOPAD.encode(&bytes),
            BASE64URL.encode(&bytes),
            format!("  {}\n\n", BASE64URL_NOPAD.encode(&bytes)),
        ] {
            assert_eq!(one(&text).expect(&text).bytes(), bytes, "{text}");
        }
        let two = Secret::list(
            format!("{hex}\n{}\n", BASE64.encode(&[&bytes[..], b"x"].concat())).as_bytes(),
        );
        assert_eq!(two.expect("two").len(), 2);
        Secret::list(format!("{hex}\n").repeat(9).as_bytes()).expect_err("too many");
        // One bad secret makes the file bad.
        Secret::list(format!("{hex}\nshort\n").as_bytes()).expect_err("short");
    }

    #[test]
    fn random_secrets_are_accepted() {
        for _ in 0..20_000 {
            let bytes: [u8; 32] = rand::random();
            one(&HEXLOWER_PERMISSIVE.encode(&bytes)).expect("random");
            one(&BASE64.encode(&bytes)).expect("random");
        }
    }

    #[test]
    fn what_is_not_random_is_refused() {
        let hex = |bytes: &[u8]| HEXLOWER_PERMISSIVE.encode(bytes);
        let der = [
            &[0x30, 0x2a, 0x30, 0x05][..],
            &[7, 200, 9, 77, 130].repeat(8),
        ]
        .concat();
        let ssh = [
            &b"\0\0\0\x0bssh-ed25519\0\0\0 "[..],
            &rand::random::<[u8; 32]>(),
        ]
        .concat();
        for (text, said) in [
            (String::new(), "empty"),
            (" \n".to_owned(), "empty"),
            (hex(&rand::random::<[u8; 31]>()), "31 bytes"),
            (BASE64.encode(&rand::random::<[u8; 31]>()), "31 bytes"),
            ("0".repeat(64), "easy to guess"),
            ("deadbeef".repeat(8), "easy to guess"),
            ("0123456789abcdef".repeat(4), "easy to guess"),
            (hex(&Vec::from_iter(0..64)), "easy to guess"),
            (
                "correct-horse-battery-staple-and-more-words-here".to_owned(),
                "easy to guess",
            ),
            (
                "CHANGEMECHANGEMEPLEASECHANGEMEBEFOREPRODUCTIONUS".to_owned(),
                "easy to guess",
            ),
            (
                "a secret of more than thirty-two bytes".to_owned(),
                "neither hex nor base64",
            ),
            (
                "not/base64!but-long-enough-to-be-a-secret".to_owned(),
                "neither hex nor base64",
            ),
            (BASE64.encode(&der), "DER"),
            (BASE64.encode(&ssh), "SSH"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJPZ".to_owned(), "SSH"),
            ("-----BEGIN PUBLIC KEY-----".to_owned(), "PEM"),
            ("{\"keys\": []}".to_owned(), "JSON"),
        ] {
            let error = one(&text).expect_err(&text);
            assert!(error.contains(said), "{text}: {error}");
            assert!(text.len() < 8 || !error.contains(text.trim()), "{error}");
        }
        // Text that was converted on purpose.
        one(&BASE64.encode(b"a secret of more than thirty-two bytes")).expect("converted");
        one(&BASE64.encode(hex(&rand::random::<[u8; 32]>()).as_bytes())).expect("converted");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = one(&"0123456789abcdef".repeat(4))
            .or(one(&HEXLOWER_PERMISSIVE.encode(&rand::random::<[u8; 32]>())));
        assert_eq!(format!("{:?}", secret.expect("a secret")), "[secret]");
    }
}
