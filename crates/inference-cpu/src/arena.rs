//! The buffers of a step, kept from one to the next.

use std::fmt;

use crate::recycled;

/// Steps after which buffers that none of them needed are given back.
const WINDOW: usize = 256;

/// How many times larger than needed buffers may be and are kept.
const SLACK: usize = 4;

/// Buffers of adapters, for the rows that one changes.
#[derive(Default)]
pub(crate) struct AdapterBuffers {
    /// Rows of the input that do not lie together, `[rows, in]`.
    pub(crate) gathered: Vec<f32>,
    /// The input times `A`, `[rows, rank]`.
    pub(crate) low: Vec<f32>,
    /// That times `B`, `[rows, out]`.
    pub(crate) high: Vec<f32>,
    /// What maps in the place of the model's give, `[rows, out]`.
    pub(crate) replaced: Vec<f32>,
}

/// Buffers that grow to what the largest step needs. What one holds at the
/// beginning of a step means nothing.
#[derive(Default)]
pub(crate) struct Arena {
    /// The residual stream, `[rows, hidden]`.
    pub(crate) x: Vec<f32>,
    /// A block's input, normalised; `[rows, hidden]`.
    pub(crate) input: Vec<f32>,
    /// What a block adds, `[rows, hidden]`.
    pub(crate) branch: Vec<f32>,
    /// Queries, `[rows, heads * head_dim]`.
    pub(crate) q: Vec<f32>,
    /// Keys, `[rows, kv_heads * head_dim]`.
    pub(crate) k: Vec<f32>,
    /// Values, as keys.
    pub(crate) v: Vec<f32>,
    /// What attention finds, as queries.
    pub(crate) attended: Vec<f32>,
    /// The gate of an MLP, then its product with `up`; `[rows, intermediate]`.
    pub(crate) gate: Vec<f32>,
    /// As the gate.
    pub(crate) up: Vec<f32>,
    /// What adapters need.
    pub(crate) adapters: AdapterBuffers,
    /// The rows that buffers are large enough for.
    rows: usize,
    /// The most rows of a step of this window, and its steps.
    wanted: usize,
    steps: usize,
}

impl Arena {
    /// Begins a step of so many rows.
    pub(crate) fn begin(&mut self, rows: usize) {
        self.steps += 1;
        self.wanted = self.wanted.max(rows);
        if self.steps == WINDOW {
            if self.rows > self.wanted.saturating_mul(SLACK) {
                *self = Self::default();
                recycled::forget();
            }
            (self.steps, self.wanted) = (0, rows);
        }
        self.rows = self.rows.max(rows);
    }
}

/// The first `len` elements of a buffer, which grows if it must.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        // A new one: there is nothing to be copied.
        *buffer = vec![0.0; len];
    }
    // In range: grown to it.
    buffer.get_mut(..len).unwrap_or_default()
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} rows)", self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_while_they_are_needed_and_given_back_after() {
        let mut arena = Arena::default();
        arena.begin(512);
        let at = sized(&mut arena.x, 512 * 4).as_ptr();
        for _ in 0..WINDOW - 2 {
            arena.begin(1);
            assert_eq!(sized(&mut arena.x, 4).as_ptr(), at);
        }
        // The window that knew the large step ends, and one that did not.
        for _ in 0..=WINDOW {
            arena.begin(1);
        }
        assert_eq!(arena.x.capacity(), 0);
        assert_eq!(sized(&mut arena.x, 4), [0.0; 4]);
    }
}
