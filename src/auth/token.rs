//! Verifies tokens with a set of keys.

use std::sync::Arc;

use super::{
    Denied, Grant,
    cache::{Cache, Digest},
    claims::{Claims, Nulls, Rules},
    jws::Jws,
    keys::Key,
    secret::Secret,
};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The accepted values of a token's `typ`, if it has one (RFC 9068). Other JWTs, such as tickets, are not tokens.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// All keys at one time. When the keys change, a new ring with an empty cache replaces it, so that tokens of a removed key
/// are forgotten.
pub struct Ring {
    keys: Vec<Key>,
    /// At least one. The first one signs tickets, and all verify them.
    pub(super) tickets: Vec<Secret>,
    cache: Cache,
}

impl Ring {
    pub fn new(keys: Vec<Key>, tickets: Vec<Secret>) -> Self {
        Self {
            keys,
            tickets,
            cache: Cache::default(),
        }
    }

    /// The cached grant of a token, if it is still valid.
    pub fn remembered(
        &self,
        token: &str,
        rules: &Rules,
        now_us: u64,
    ) -> Option<Result<Arc<Grant>, Denied>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let digest = Digest::of(token);
        let grant = self.cache.get(&digest)?;
        Some(match rules.in_time(&grant, now_us) {
            Ok(()) => Ok(grant),
            Err(denied) => {
                self.cache.remove(&digest);
                Err(denied)
            }
        })
    }

    pub fn verify(&self, token: &str, rules: &Rules, now_us: u64) -> Result<Arc<Grant>, Denied> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denied::TOO_LONG);
        }
        if let Some(known) = self.remembered(token, rules, now_us) {
            return known;
        }
        let jws = Jws::parse(token)?;
        self.check_signature(&jws)?;
        jws.claims::<Nulls>()?.refuse()?;
        let grant = Arc::new(jws.claims::<Claims>()?.grant(rules)?);
        rules.in_time(&grant, now_us)?;
        self.cache.insert(Digest::of(token), Arc::clone(&grant));
        Ok(grant)
    }

    /// Whether one of the keys has the `kid` of this token. A key without `kid` may be meant by any token, but that says
    /// nothing about keys that are not here.
    pub fn names_key_of(&self, token: &str) -> bool {
        let kid = Jws::parse(token).ok().and_then(|jws| jws.header.kid);
        kid.is_some_and(|kid| self.keys.iter().any(|key| key.kid.as_ref() == Some(&kid)))
    }

    fn check_signature(&self, jws: &Jws<'_>) -> Result<(), Denied> {
        let algorithm = jws.algorithm()?;
        let typ = jws.header.typ.as_ref().map(|typ| typ.to_ascii_lowercase());
        if typ.is_some_and(|typ| !TYPES.contains(&&*typ)) {
            return Err(Denied::Malformed("its `typ` is not that of a token"));
        }
        // A key without `kid` may be the right one for any token.
        let named = |key: &&Key| match (&jws.header.kid, &key.kid) {
            (Some(wanted), Some(has)) => wanted == has,
            _ => true,
        };
        let named: Vec<&Key> = self.keys.iter().filter(named).collect();
        if named.is_empty() {
            return Err(Denied::KeyUnknown);
        }
        let mut fit = named
            .into_iter()
            .filter(|key| key.algorithm == algorithm)
            .peekable();
        if fit.peek().is_none() {
            return Err(Denied::Algorithm(
                "the token's `alg` does not fit the key that would verify it: get a new token from its issuer",
            ));
        }
        match fit.any(|key| jws.is_signed_by(&key.verifier, algorithm)) {
            true => Ok(()),
            false => Err(Denied::Signature),
        }
    }
}
