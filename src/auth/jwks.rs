//! JSON Web Key Sets (RFC 7517).

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{
        AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations,
        PublicKeyUse,
    },
};
use serde::Deserialize;
use serde_json::Value;

use super::{keys::Key, pem::RSA_BYTES_MIN};

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The usable public keys of a set. Others are skipped, as the RFC prescribes, but there must be at least one. Shared
/// secrets (`oct`) are not usable: a set is public.
pub fn parse(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let set: Set = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not a JWKS ({{\"keys\": [...]}}): {error}"))?;
    let mut keys = Vec::new();
    let mut unusable = Vec::new();
    for (index, key) in set.keys.into_iter().enumerate() {
        match usable(key) {
            Ok(key) => keys.push(key),
            Err(reason) => unusable.push(format!("keys[{index}] {reason}")),
        }
    }
    if keys.is_empty() {
        return Err(format!(
            "it has no public key for RS256, ES256 or EdDSA: {}",
            unusable.join("; ")
        ));
    }
    for reason in unusable {
        tracing::warn!("key of the JWKS skipped: {reason}");
    }
    Ok(keys)
}

fn usable(key: Value) -> Result<Key, String> {
    let jwk: Jwk = serde_json::from_value(key).map_err(|_| "is not a JWK".to_owned())?;
    check_use(&jwk.common)?;
    let kid = jwk.common.key_id.clone();
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => {
            return Err(
                "is a shared secret, which a JWKS must not have: use --auth-secret-file".into(),
            );
        }
        AlgorithmParameters::RSA(key) if decoded(&key.n) < RSA_BYTES_MIN => {
            return Err("is an RSA key of less than 2048 bits".into());
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key)
            if key.curve == EllipticCurve::P256
                && (decoded(&key.x), decoded(&key.y)) == (32, 32) =>
        {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key)
            if key.curve == EllipticCurve::Ed25519 && decoded(&key.x) == 32 =>
        {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return Err("has an unsupported type or curve".into()),
    };
    check_algorithm(&jwk.common, name)?;
    let verifier = DecodingKey::from_jwk(&jwk).map_err(|_| "is malformed".to_owned())?;
    Ok(Key::public(kid, algorithm, verifier))
}

/// The decoded length of base64url text, in bytes; 0 if it is invalid.
fn decoded(text: &str) -> usize {
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_or(0, |bytes| bytes.len())
}

fn check_algorithm(common: &CommonParameters, own: KeyAlgorithm) -> Result<(), String> {
    match common.key_algorithm {
        Some(other) if other != own => Err(format!("is for an algorithm other than {own}")),
        _ => Ok(()),
    }
}

fn check_use(common: &CommonParameters) -> Result<(), String> {
    let signs = !matches!(&common.public_key_use, Some(other) if *other != PublicKeyUse::Signature);
    let operations = common.key_operations.as_ref();
    let verifies = operations.is_none_or(|all| all.contains(&KeyOperations::Verify));
    match signs && verifies {
        true => Ok(()),
        false => Err("is not for signatures".into()),
    }
}
