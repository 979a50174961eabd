//! One question with its answer, and which ones training never sees.

use serde_json::{Value, json};

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// Is a sentence positive or negative?
    Sentiment,
    /// The sum of two digits.
    Sums,
    /// A short word, written backwards.
    Reversing,
    /// The colour of a thing.
    Colours,
}

impl Task {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Sentiment, Self::Sums, Self::Reversing, Self::Colours];

    /// The name in files and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sentiment => "sentiment",
            Self::Sums => "sums",
            Self::Reversing => "reversing",
            Self::Colours => "colours",
        }
    }
}

/// A question with its only right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) task: Task,
    /// What the split hashes: two instances with one key are on one side.
    pub(crate) key: String,
    pub(crate) prompt: String,
    pub(crate) answer: String,
}

impl Instance {
    /// Whether training never sees this instance: one key in ten.
    pub(crate) fn is_held_out(&self) -> bool {
        is_held_out(&format!("{}\n{}", self.task.name(), self.key))
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({"task": self.task.name(), "prompt": self.prompt, "answer": self.answer})
    }
}

/// Whether `key` is among the tenth of all keys that training never sees.
pub(crate) fn is_held_out(key: &str) -> bool {
    fnv1a(key.as_bytes()).is_multiple_of(10)
}

/// FNV-1a, 64 bits (Fowler, Noll & Vo), with the final mix of MurmurHash3 so
/// that a remainder depends on all bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out() {
        let held_out = (0..10_000).filter(|i| is_held_out(&format!("key {i}"))).count();
        assert!((900..1100).contains(&held_out), "{held_out} of 10000");
    }
}
