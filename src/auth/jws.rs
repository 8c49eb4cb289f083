//! Parses the compact form of a JWS (RFC 7515), without trusting anything in it yet.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};

use super::Denied;

/// The supported algorithms. The key determines which one verifies a token, never the token's header.
pub const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("HS256", Algorithm::HS256),
    ("RS256", Algorithm::RS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

#[derive(Deserialize)]
pub struct Header {
    pub alg: String,
    pub kid: Option<String>,
    pub typ: Option<String>,
    /// Extensions that must be understood. None are supported.
    crit: Option<IgnoredAny>,
}

pub struct Jws<'a> {
    pub header: Header,
    /// Header and payload, as signed.
    message: &'a [u8],
    payload: Vec<u8>,
    signature: &'a str,
}

impl<'a> Jws<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Denied> {
        let parts = Denied::Malformed("it must be three parts of base64url, separated by dots");
        let (message, signature) = text.rsplit_once('.').ok_or_else(|| parts.clone())?;
        let (header, payload) = message.split_once('.').ok_or_else(|| parts.clone())?;
        let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes());
        let (Ok(header), Ok(payload), Ok(_)) = (decode(header), decode(payload), decode(signature))
        else {
            return Err(parts);
        };
        let header: Header = serde_json::from_slice(&header)
            .map_err(|_| Denied::Malformed("its header must be a JSON object with `alg`"))?;
        if header.crit.is_some() {
            return Err(Denied::Malformed(
                "its header has `crit`, which this service does not support",
            ));
        }
        let message = message.as_bytes();
        Ok(Self {
            header,
            message,
            payload,
            signature,
        })
    }

    pub fn algorithm(&self) -> Result<Algorithm, Denied> {
        let name = self.header.alg.as_str();
        match ALGORITHMS.iter().find(|(known, _)| *known == name) {
            Some((_, algorithm)) => Ok(*algorithm),
            None if name.eq_ignore_ascii_case("none") => Err(Denied::Algorithm(
                "unsigned tokens (`alg` none) are not accepted",
            )),
            None => Err(Denied::Algorithm(
                "the token's `alg` must be HS256, RS256, ES256 or EdDSA",
            )),
        }
    }

    pub fn is_signed_by(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        let verified = jsonwebtoken::crypto::verify(self.signature, self.message, key, algorithm);
        verified.unwrap_or(false)
    }

    /// Parses the payload. Do not trust it before [`Jws::is_signed_by`].
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, Denied> {
        serde_json::from_slice(&self.payload).map_err(|error| Denied::Claims(error.to_string()))
    }
}
