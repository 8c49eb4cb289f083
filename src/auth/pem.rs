//! Keys as PEM (RFC 7468).

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use super::keys::Key;

/// Shortest modulus of an RSA key: 2048 bits.
pub const RSA_BYTES_MIN: usize = 256;

const BEGIN: &str = "-----BEGIN ";
/// The object identifier of the curve P-256, to distinguish it from other curves with keys of the same length.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The public keys in `text`, which must contain nothing else.
pub fn public_keys(text: &str) -> Result<Vec<Key>, String> {
    text.match_indices(BEGIN)
        .map(|(start, _)| {
            let rest = &text[start..];
            let end = rest[BEGIN.len()..].find(BEGIN).map(|end| end + BEGIN.len());
            public_key(&rest[..end.unwrap_or(rest.len())])
        })
        .collect()
}

fn label(block: &str) -> &str {
    let rest = block.strip_prefix(BEGIN).unwrap_or_default();
    rest.split("-----").next().unwrap_or_default()
}

fn der(block: &str) -> Result<Vec<u8>, String> {
    let broken = || "its PEM is broken".to_owned();
    let body = block
        .splitn(3, "-----")
        .nth(2)
        .and_then(|rest| rest.split("-----").next());
    let base64: Vec<u8> = body
        .ok_or_else(broken)?
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    data_encoding::BASE64.decode(&base64).map_err(|_| broken())
}

fn is_p256(der: &[u8]) -> bool {
    memchr::memmem::find(der, &P256).is_some()
}

fn public_key(block: &str) -> Result<Key, String> {
    match label(block) {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        private if private.ends_with("PRIVATE KEY") => {
            return Err(
                "it has a private key: use only the public key (openssl pkey -pubout)".into(),
            );
        }
        other => return Err(format!("it has a {other}: a PUBLIC KEY is needed")),
    }
    let (der, pem) = (der(block)?, block.as_bytes());
    let (algorithm, verifier) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (Algorithm::EdDSA, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        if !is_p256(&der) {
            return Err("it has an elliptic curve key that is not on P-256".into());
        }
        (Algorithm::ES256, key)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        if der.len() < RSA_BYTES_MIN {
            return Err("it has an RSA key of less than 2048 bits".into());
        }
        (Algorithm::RS256, key)
    } else {
        return Err("it has a public key that is neither RSA nor EC P-256 nor Ed25519".into());
    };
    Ok(Key::public(None, algorithm, verifier))
}

/// The private key in `text`, and its algorithm.
pub fn private_key(text: &str) -> Result<(Algorithm, EncodingKey), String> {
    let block = &text[text.find(BEGIN).unwrap_or_default()..];
    match label(block) {
        "PRIVATE KEY" | "RSA PRIVATE KEY" => {}
        "EC PRIVATE KEY" => {
            return Err(
                "it is in an old format: convert it with `openssl pkcs8 -topk8 -nocrypt`".into(),
            );
        }
        other => return Err(format!("it has a {other}: signing needs a PRIVATE KEY")),
    }
    let (der, pem) = (der(block)?, block.as_bytes());
    if let Ok(key) = EncodingKey::from_ed_pem(pem) {
        Ok((Algorithm::EdDSA, key))
    } else if let Some(key) = EncodingKey::from_ec_pem(pem).ok().filter(|_| is_p256(&der)) {
        Ok((Algorithm::ES256, key))
    } else if let Ok(key) = EncodingKey::from_rsa_pem(pem) {
        Ok((Algorithm::RS256, key))
    } else {
        Err("it has a private key that is neither RSA nor EC P-256 nor Ed25519".into())
    }
}
