//! The specimen's arithmetic: a model whose every logit depends on every token
//! before it, and whose greedy text is valid UTF-8.

use inference_core::TokenId;

use crate::vocabulary::{EOS, VOCAB_SIZE};

/// What is kept of a position: all that the later ones need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kv {
    pub(crate) hash: u64,
    /// Continuation bytes that the character under way still needs.
    pub(crate) missing: u8,
}

pub(crate) const KV_BYTES: u64 = size_of::<Kv>() as u64;

/// SplitMix64; Steele et al., *Fast Splittable Pseudorandom Number Generators*,
/// 2014.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in [0, 1).
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The position of `token` after the one before it.
pub(crate) fn step(weights: u64, before: Option<Kv>, token: TokenId) -> Kv {
    let hash = before.map_or(weights, |kv| kv.hash);
    let missing = match token {
        0xc3 => 1,
        0xe5 => 2,
        0x80..=0xbf => before.map_or(0, |kv| kv.missing.saturating_sub(1)),
        _ => 0,
    };
    Kv { hash: mix(hash ^ u64::from(token)), missing }
}

/// What comes after a position, `[VOCAB_SIZE]`.
pub(crate) fn logits(kv: Kv) -> Vec<f32> {
    let liking = |token: TokenId| match token {
        0x80..=0xbf if kv.missing > 0 => 20.0,
        _ if kv.missing > 0 => 0.0,
        0x20 | 0x61..=0x7a => 6.0,
        // Two leads: of é and its like, and of ideographs.
        0xc3 | 0xe5 => 7.0,
        EOS => 1.0,
        _ => 0.0,
    };
    let logit = |token: TokenId| {
        liking(token) + 4.0 * unit(mix(kv.hash.wrapping_add(u64::from(token) << 32))) as f32
    };
    (0..VOCAB_SIZE as TokenId).map(logit).collect()
}

/// The greedy continuation of a prompt, end-of-sequence tokens being ordinary
/// ones, straight from the definition: for references.
pub(crate) fn greedy(weights: u64, prompt: &[TokenId], tokens: usize) -> (Vec<TokenId>, Vec<f32>) {
    let after = |ids: &[TokenId]| {
        let last = ids.iter().fold(None, |kv, id| Some(step(weights, kv, *id)));
        logits(last.unwrap())
    };
    let (mut ids, first) = (prompt.to_vec(), after(prompt));
    for _ in 0..tokens {
        let row = after(&ids);
        ids.push((0..VOCAB_SIZE).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as TokenId);
    }
    (ids.split_off(prompt.len()), first)
}
