//! What arrives as bytes, mutated: nothing panics, what is refused has a code, and what is taken is read back the same.
//!
//! A target is a function from an input to what is wrong, and a few inputs to begin with ([`hammer`]); it runs for
//! `NEWSFEED_FUZZ_SECONDS` (1 if not set, 10 in CI). A failure prints the input and the seed; `NEWSFEED_FUZZ_SEED` runs
//! it again.

mod bytes;
mod mutate;
mod requests;
mod tokens;

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Inputs a target runs at least, however slow the machine.
const INPUTS_MIN: usize = 200;

fn seconds() -> u64 {
    let seconds = std::env::var("NEWSFEED_FUZZ_SECONDS");
    seconds.map_or(1, |seconds| seconds.parse().expect("a number of seconds"))
}

fn seed() -> u64 {
    let seed = std::env::var("NEWSFEED_FUZZ_SEED");
    seed.map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"))
}

/// Runs `target` on mutations of `corpus`, and on mutations of those, until its time is over.
async fn hammer(
    name: &str,
    corpus: &[Vec<u8>],
    mut target: impl AsyncFnMut(&[u8]) -> Result<(), String>,
) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(seconds());
    let mut pool = corpus.to_vec();
    let mut inputs = 0;
    while inputs < INPUTS_MIN.max(corpus.len()) || Instant::now() < end {
        let input = match corpus.get(inputs) {
            Some(input) => input.clone(),
            None => mutate::mutated(&mut rng, &pool),
        };
        inputs += 1;
        if let Err(wrong) = target(&input).await {
            panic!(
                "{name}, NEWSFEED_FUZZ_SEED={seed}: {wrong}\ninput {inputs}: {:?}",
                String::from_utf8_lossy(&input)
            );
        }
        // Some of what was made is made more of.
        if rng.random_ratio(1, 8) {
            let at = rng.random_range(0..pool.len());
            match pool.len() < 64 + corpus.len() {
                true => pool.push(input),
                false if at >= corpus.len() => pool[at] = input,
                false => {}
            }
        }
    }
    println!("{name}: {inputs} inputs, seed {seed}");
}
