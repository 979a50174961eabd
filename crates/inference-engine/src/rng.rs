//! The seed contract: which random number belongs to which token.
//!
//! The uniform number for generated token `i` (counted from 0) of a request
//! with seed `s` is a pure function of `(s, i)`:
//!
//! 1. The key of ChaCha with 12 rounds (Bernstein, "ChaCha, a variant of
//!    Salsa20", with a 64-bit block counter and a 64-bit nonce) is `s` as eight
//!    little-endian bytes, followed by 24 zero bytes. The nonce is 0.
//! 2. `w` is the `i`-th 64-bit word of the key stream, little-endian: bytes
//!    `8 i` to `8 i + 7`.
//! 3. The number is `(w >> 11) / 2^53`, which lies in `[0, 1)`.
//!
//! A number does not depend on those that were drawn before, so nothing else that runs, and no
//! way of cutting work into steps, can change a request's numbers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// 32-bit words of key stream per number.
const WORDS_PER_NUMBER: u128 = 2;

/// The random numbers of one request.
#[derive(Clone, Debug)]
pub(crate) struct SeededUniform {
    generator: ChaCha12Rng,
    /// The token whose number the generator yields next: to set its position
    /// computes key stream for many tokens.
    next: usize,
}

impl SeededUniform {
    /// The numbers that belong to `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self { generator: ChaCha12Rng::from_seed(key), next: 0 }
    }

    /// The number in `[0, 1)` of generated token `index`.
    pub(crate) fn at(&mut self, index: usize) -> f64 {
        if index != self.next {
            self.generator.set_word_pos(index as u128 * WORDS_PER_NUMBER);
        }
        self.next = index + 1;
        let word = self.generator.next_u64();
        (word >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A seed for a request that brought none.
pub(crate) fn draw_seed() -> u64 {
    // The standard library keys every `RandomState` from the system's entropy.
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ChaCha12, 256-bit zero key, zero nonce: test case 1 of
    /// draft-strombergson-chacha-test-vectors.
    #[test]
    fn first_number_is_the_published_key_stream() {
        let first = u64::from_le_bytes([0x9b, 0xf4, 0x9a, 0x6a, 0x07, 0x55, 0xf9, 0x53]);
        let second = u64::from_le_bytes([0x81, 0x1f, 0xce, 0x12, 0x5f, 0x26, 0x83, 0xd5]);
        let unit = |word: u64| (word >> 11) as f64 / 9_007_199_254_740_992.0;
        let mut uniform = SeededUniform::new(0);
        assert_eq!(uniform.at(0), unit(first));
        assert_eq!(uniform.at(1), unit(second));
    }

    #[test]
    fn numbers_do_not_depend_on_the_order_of_asking() {
        let mut uniform = SeededUniform::new(42);
        let forward: Vec<f64> = (0..40).map(|i| uniform.at(i)).collect();
        let backward: Vec<f64> = (0..40).rev().map(|i| uniform.at(i)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        assert!(forward.iter().all(|u| (0.0..1.0).contains(u)));
        let mut other = SeededUniform::new(43);
        assert_ne!(forward, (0..40).map(|i| other.at(i)).collect::<Vec<_>>());
    }

    #[test]
    fn golden_values() {
        let mut uniform = SeededUniform::new(42);
        let values: Vec<f64> = [0, 1, 2, 100, 1 << 33].into_iter().map(|i| uniform.at(i)).collect();
        assert_eq!(values, GOLDEN_42);
    }

    /// Computed by an implementation of ChaCha written for this purpose.
    const GOLDEN_42: [f64; 5] = [
        0.4320298621284324,
        0.16107808043466643,
        0.6721561017244376,
        0.9836299419144373,
        0.5298637685727635,
    ];

    #[test]
    fn drawn_seeds_differ() {
        let seeds: std::collections::BTreeSet<u64> = (0..8).map(|_| draw_seed()).collect();
        assert_eq!(seeds.len(), 8);
    }
}
