//! Mutated input: nothing panics, a refusal has a code, and accepted input is read back unchanged.
//!
//! A target is a function that returns what is wrong with the outcome of an input, and a corpus of inputs ([`hammer`]).
//! It runs for `NEWSFEED_FUZZ_SECONDS` (default 1; 10 in CI). A failure prints the input and the seed; set
//! `NEWSFEED_FUZZ_SEED` to repeat it.

mod bytes;
mod mutate;
mod requests;
mod tokens;

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Minimum number of inputs of a target, however slow the machine.
const INPUTS_MIN: usize = 200;

fn seconds() -> u64 {
    let seconds = std::env::var("NEWSFEED_FUZZ_SECONDS");
    seconds.map_or(1, |seconds| seconds.parse().expect("a number of seconds"))
}

fn seed() -> u64 {
    let seed = std::env::var("NEWSFEED_FUZZ_SEED");
    seed.map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"))
}

/// Runs `target` on `corpus`, on mutations of it, and on mutations of those, until the time is over.
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
        // Some mutations become seeds of more.
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
