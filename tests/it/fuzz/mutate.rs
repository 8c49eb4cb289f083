//! Mutations of bytes, JSON and text.

use rand::{RngExt, rngs::StdRng};

const INPUT_BYTES_MAX: usize = 16 * 1024;

/// Pieces that are known to break parsers.
const PIECES: &[&[u8]] = &[
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    "\u{2028}\u{202e}\u{0}".as_bytes(),
    "\u{10ffff}".as_bytes(),
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\u0000",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[]",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
    b",",
    b":",
    b"null",
    b"true",
    b"-0",
    b"1e400",
    b"-1e-400",
    b"0.1234567890123456789012345678901234567890",
    b"18446744073709551616",
    b"170141183460469231731687303715884105728",
    b"00",
    b"\"id\":\"a\",",
    b"\"kind\":\"message\",",
    b"\"feeds\":[\"a\"],",
    b"\"data\":{\"a\":1,\"a\":2},",
    b"\"expect\":{\"feed\":\"a\",\"version\":null},",
    b"..",
    b"%00",
    b"vvvvvvvvvvvvvvvvvvvvvvvvvv",
];

/// A mutated copy of an input from `pool`.
pub fn mutated(rng: &mut StdRng, pool: &[Vec<u8>]) -> Vec<u8> {
    let mut input = pool[rng.random_range(0..pool.len())].clone();
    for _ in 0..rng.random_range(1..=4) {
        mutate(rng, &mut input, pool);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(rng: &mut StdRng, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
    let at = rng.random_range(0..=input.len());
    let to = rng.random_range(at..=input.len());
    match rng.random_range(0..9) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => input.truncate(at),
        3 => drop(input.drain(at..to)),
        4 => {
            let again = input[at..to].to_vec();
            let times = rng.random_range(1..=if again.len() < 32 { 200 } else { 2 });
            let again = again.repeat(times);
            input.splice(at..at, again);
        }
        5 => {
            let other = &pool[rng.random_range(0..pool.len())];
            let from = rng.random_range(0..=other.len());
            input.splice(at..to, other[from..].iter().copied());
        }
        6 if input.len() >= 2 => {
            let with = rng.random_range(0..input.len());
            let at = at.min(input.len() - 1);
            input.swap(at, with);
        }
        _ => {
            let piece = PIECES[rng.random_range(0..PIECES.len())];
            let to = if rng.random() { at } else { to };
            input.splice(at..to, piece.iter().copied());
        }
    }
}
