//! What is measured: tokens per second of one kind of work.

use std::fmt;

use serde_json::{Value, json};

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// Reading `tokens` tokens behind `depth` others.
    Prefill { tokens: usize, depth: usize },
    /// Generating behind `depth` tokens: one sequence, or so many at once.
    Decode { depth: usize, batch: Option<usize> },
}

impl Row {
    /// Tokens that a sequence holds in the end.
    pub(super) fn context(self, generate: usize) -> usize {
        match self {
            Self::Prefill { tokens, depth } => depth + tokens + 1,
            Self::Decode { depth, .. } => depth + generate + 1,
        }
    }

    /// The seed of a prompt in a round: another one for each row, round and
    /// sequence, or what is measured would lie in the prefix cache. Each of
    /// the three has at most 2^20 values (the command line sees to it).
    pub(super) fn prompt_seed(self, round: u64, sequence: u64) -> u64 {
        let (kind, number) = match self {
            Self::Prefill { depth, .. } => (0, depth),
            Self::Decode { batch, .. } => (1, batch.unwrap_or(0)),
        };
        kind << 63 | (number as u64) << 42 | round << 21 | sequence
    }

    /// Tokens before the measured ones.
    pub(super) fn depth(self) -> usize {
        match self {
            Self::Prefill { depth, .. } | Self::Decode { depth, .. } => depth,
        }
    }

    pub(super) fn to_json(self) -> Value {
        match self {
            Self::Prefill { tokens, depth } => json!({ "prefill": tokens, "depth": depth }),
            Self::Decode { depth, batch } => json!({ "decode": batch, "depth": depth }),
        }
    }

    /// The row that [`to_json`](Self::to_json) wrote.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
        let depth = number(&value["depth"])?;
        if let Some(tokens) = number(&value["prefill"]) {
            return Some(Self::Prefill { tokens, depth });
        }
        value.get("decode").map(|batch| Self::Decode { depth, batch: number(batch) })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { tokens, depth } => write!(f, "prefill of {tokens} at depth {depth}"),
            Self::Decode { depth, batch: None } => write!(f, "decode at depth {depth}"),
            Self::Decode { depth, batch: Some(batch) } => {
                write!(f, "decode at depth {depth}, {batch} at once")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prompt_is_read_twice() {
        let mut seeds = std::collections::HashSet::new();
        let decode = |batch| Row::Decode { depth: 128, batch: Some(batch) };
        let prefill = |depth| Row::Prefill { tokens: 64, depth };
        for row in [prefill(0), prefill(384), prefill(1 << 20), decode(1), decode(8)] {
            for (round, sequence) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (1 << 20, 1 << 20)] {
                assert!(seeds.insert(row.prompt_seed(round, sequence)), "{row}");
            }
        }
    }

    #[test]
    fn rows_cross_the_pipe_unchanged() {
        for row in [
            Row::Prefill { tokens: 512, depth: 0 },
            Row::Decode { depth: 64, batch: None },
            Row::Decode { depth: 128, batch: Some(8) },
        ] {
            assert_eq!(Row::from_json(&row.to_json()), Some(row));
        }
        assert_eq!(Row::from_json(&json!({ "depth": 1 })), None);
    }
}
