//! Prompts that no cache has seen.

use inference::{Prompt, TokenId};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Ids below this are special tokens of the embedded model.
const FIRST: u32 = 16;

/// `len` token ids of the embedded model; another seed has another beginning.
pub(super) fn ids(seed: u64, len: usize, vocab: usize) -> Vec<TokenId> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let range = (vocab as u32).saturating_sub(FIRST).max(1);
    (0..len).map(|_| FIRST + random.next_u32() % range).collect()
}

/// As a prompt.
pub(super) fn prompt(seed: u64, len: usize, vocab: usize) -> Prompt {
    Prompt::Tokens(ids(seed, len, vocab))
}
