//! A cache of verified tokens: verifying a signature costs more than everything else in a small request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;

use super::Grant;

/// Most tokens in the cache.
pub const CACHED_TOKENS_MAX: usize = 8192;

/// The SHA-256 of a token. The token itself is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(token: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        Self(std::array::from_fn(|index| digest.as_ref()[index]))
    }
}

/// Two generations of tokens. When the young one is full it replaces the old one, and tokens that were not used since are
/// dropped. A cache belongs to one set of keys and is dropped with it.
#[derive(Default)]
pub struct Cache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, Arc<Grant>>,
    old: HashMap<Digest, Arc<Grant>>,
}

impl Cache {
    pub fn get(&self, digest: &Digest) -> Option<Arc<Grant>> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grant) = generations.young.get(digest) {
            return Some(Arc::clone(grant));
        }
        let grant = generations.old.remove(digest)?;
        generations.insert(*digest, Arc::clone(&grant));
        Some(grant)
    }

    pub fn insert(&self, digest: Digest, grant: Arc<Grant>) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(digest, grant);
    }

    pub fn remove(&self, digest: &Digest) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.remove(digest);
        generations.old.remove(digest);
    }
}

impl Generations {
    fn insert(&mut self, digest: Digest, grant: Arc<Grant>) {
        if self.young.len() >= CACHED_TOKENS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, grant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_keeps_tokens_in_use() {
        let cache = Cache::default();
        let grant = |subject: &str| {
            Arc::new(Grant {
                kinds: None,
                ids: None,
                actors: None,
                readers: None,
                subject: Some(subject.into()),
                scopes: Default::default(),
                feeds: Default::default(),
                limits: Default::default(),
                begins_us: 0,
                expires_us: 1,
            })
        };
        let kept = Digest::of("kept");
        cache.insert(kept, grant("kept"));
        for number in 0..3 * CACHED_TOKENS_MAX {
            cache.insert(Digest::of(&number.to_string()), grant("other"));
            assert_eq!(cache.get(&kept).as_deref(), Some(&*grant("kept")));
        }
        let generations = cache.0.lock().expect("no panic");
        let (young, old) = (generations.young.len(), generations.old.len());
        assert!(young + old <= CACHED_TOKENS_MAX, "{young} {old}");
        drop(generations);
        assert_eq!(cache.get(&Digest::of("0")), None);
        cache.remove(&kept);
        assert_eq!(cache.get(&kept), None);
    }
}
