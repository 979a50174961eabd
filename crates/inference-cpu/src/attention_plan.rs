//! How a step's attention is cut into pieces that threads share.
//!
//! An item is some queries of one sequence with one key/value head. It folds
//! the chunks of its keys itself, or, where there are too few items for the
//! threads (decoding at depth), is cut further into pieces of some chunks each,
//! whose partial results the last piece to finish folds in the same order. So
//! how a step is cut decides who computes, never what.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use inference_candle::{AttentionSpec, BatchView};
use inference_engine::StepSequence;

use crate::kernels::{CHUNK, Partials, padded_head};

/// Rows (query, head) of one item, at least those of one query: enough to pay
/// for the widening of a chunk, few enough for their results to stay in cache.
const ITEM_ROWS: usize = 48;

/// Pieces that each thread should find, so that none waits for long.
const PIECES_PER_THREAD: usize = 4;

/// Work of the smallest piece, in keys times rows.
const MIN_PIECE: usize = 8 * CHUNK;

/// Rows that an item costs at least: fewer do not make reading keys cheaper.
const MIN_ROWS: usize = 4;

/// The pieces of one step's attention. They are the same for all layers with
/// one [`AttentionSpec`]. Reused, it allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pieces: Vec<Piece>,
    shared: Vec<Shared>,
    /// Partial results of shared items.
    partials: Vec<f32>,
    work: usize,
}

/// Queries of one sequence and one key/value head, and some of their keys.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The sequence's index in the batch.
    pub(crate) sequence: usize,
    pub(crate) kv_head: usize,
    /// Within the sequence's part of the step.
    pub(crate) queries: Range<usize>,
    /// Chunks of the sequence's positions.
    pub(crate) chunks: Range<usize>,
    /// The index in [`Plan::shared`], where it is not a whole item.
    pub(crate) shared: Option<usize>,
}

/// An item that several pieces compute.
#[derive(Debug)]
pub(crate) struct Shared {
    /// All chunks of the item.
    pub(crate) chunks: Range<usize>,
    /// Where its partial results begin: for each chunk those of all rows.
    at: usize,
    /// Elements of one chunk's partial results.
    chunk_len: usize,
    pieces: usize,
    remaining: AtomicUsize,
}

/// The first position that a query at `position` sees.
pub(crate) fn first_key(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// The positions that queries see: from the earliest to the latest.
pub(crate) fn keys_of(
    sequence: &StepSequence,
    queries: &Range<usize>,
    window: Option<usize>,
) -> Range<usize> {
    first_key(sequence.position + queries.start, window)..sequence.position + queries.end
}

/// Elements of the partial results of `rows` rows.
pub(crate) fn partials_len(rows: usize, head_dim: usize) -> usize {
    rows * (padded_head(head_dim) + 2)
}

/// Partial results of `rows` rows in [`partials_len`] elements from `start`.
pub(crate) fn partials_at(start: *mut f32, rows: usize, head_dim: usize) -> Partials {
    Partials { values: start, stats: start.wrapping_add(rows * padded_head(head_dim)) }
}

impl Plan {
    /// Cuts a step for `threads` threads.
    pub(crate) fn cut(&mut self, batch: &BatchView<'_>, spec: &AttentionSpec, threads: usize) {
        let group = spec.num_heads / spec.num_kv_heads;
        let queries_of_item = (ITEM_ROWS / group).max(1);
        let items = |sequence: &StepSequence| {
            let len = sequence.len;
            let starts = (0..len).step_by(queries_of_item);
            starts.map(move |start| start..(start + queries_of_item).min(len))
        };
        let cost = |sequence: &StepSequence, queries: &Range<usize>| {
            let rows = (queries.len() * group).max(MIN_ROWS);
            keys_of(sequence, queries, spec.window).len() * rows
        };
        let total: usize = batch
            .sequences
            .iter()
            .map(|sequence| items(sequence).map(|queries| cost(sequence, &queries)).sum::<usize>())
            .sum::<usize>()
            * spec.num_kv_heads;
        let piece_cost = (total / (threads * PIECES_PER_THREAD).max(1)).max(MIN_PIECE);
        self.work = total * spec.head_dim * 2;
        self.pieces.clear();
        self.shared.clear();
        let mut partials = 0;
        for (index, sequence) in batch.sequences.iter().enumerate() {
            for queries in items(sequence) {
                let keys = keys_of(sequence, &queries, spec.window);
                let chunks = keys.start / CHUNK..keys.end.div_ceil(CHUNK);
                let pieces = if threads == 1 { 1 } else { cost(sequence, &queries) / piece_cost };
                let chunks_of_piece = chunks.len().div_ceil(pieces.max(1)).max(1);
                let pieces = chunks.len().div_ceil(chunks_of_piece);
                for kv_head in 0..spec.num_kv_heads {
                    let shared = (pieces > 1).then_some(self.shared.len());
                    if shared.is_some() {
                        let chunk_len = partials_len(queries.len() * group, spec.head_dim);
                        self.shared.push(Shared {
                            chunks: chunks.clone(),
                            at: partials,
                            chunk_len,
                            pieces,
                            remaining: AtomicUsize::new(pieces),
                        });
                        partials += chunks.len() * chunk_len;
                    }
                    for first in chunks.clone().step_by(chunks_of_piece) {
                        self.pieces.push(Piece {
                            sequence: index,
                            kv_head,
                            queries: queries.clone(),
                            chunks: first..(first + chunks_of_piece).min(chunks.end),
                            shared,
                        });
                    }
                }
            }
        }
        if self.partials.len() < partials {
            self.partials.resize(partials, 0.0);
        }
    }

    /// The number of pieces, each of which is to be computed once.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Multiply-adds, about.
    pub(crate) fn work(&self) -> usize {
        self.work
    }

    pub(crate) fn piece(&self, index: usize) -> Option<&Piece> {
        self.pieces.get(index)
    }

    pub(crate) fn shared(&self, piece: &Piece) -> Option<&Shared> {
        self.shared.get(piece.shared?)
    }

    /// Where partial results lie: valid until the plan is cut anew.
    pub(crate) fn partials(&mut self) -> *mut f32 {
        self.partials.as_mut_ptr()
    }
}

impl Shared {
    /// The first element of a chunk's partial results.
    pub(crate) fn chunk(&self, chunk: usize) -> usize {
        self.at + (chunk - self.chunks.start) * self.chunk_len
    }

    /// Notes that a piece is computed; whether it was the last. What the others
    /// wrote is then visible, and the item can be computed anew.
    pub(crate) fn finish_piece(&self) -> bool {
        let last = self.remaining.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.remaining.store(self.pieces, Ordering::Relaxed);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_chunk_of_every_row_is_computed_once(
            sizes in prop::collection::vec((1usize..200, 0usize..3000), 1..5),
            (group, num_kv_heads) in (1usize..70, 1usize..4),
            window in prop::option::of(1usize..1000),
            threads in 1usize..9,
        ) {
            let sequences: Vec<_> = sizes
                .iter()
                .map(|(len, position)| StepSequence {
                    start: 0,
                    len: *len,
                    position: *position,
                    prompt_len: 1,
                    adapter: None,
                    block_table: Vec::new(),
                })
                .collect();
            let batch = BatchView { sequences: &sequences, positions: &[], adapters: &[] };
            let num_heads = group * num_kv_heads;
            let spec = AttentionSpec {
                num_heads, num_kv_heads, head_dim: 24, scale: 1.0, softcap: None, window,
            };
            let mut plan = Plan::default();
            plan.cut(&batch, &spec, threads);

            let mut found = HashSet::new();
            let mut partials = HashSet::new();
            for index in 0..plan.len() {
                let piece = plan.piece(index).unwrap();
                for chunk in piece.chunks.clone() {
                    for query in piece.queries.clone() {
                        prop_assert!(found.insert((piece.sequence, piece.kv_head, query, chunk)));
                    }
                    if let Some(shared) = plan.shared(piece) {
                        let rows = piece.queries.len() * group;
                        let at = shared.chunk(chunk);
                        prop_assert!(at + partials_len(rows, 24) <= plan.partials.len());
                        prop_assert!(partials.insert(at));
                    }
                }
            }
            for (index, sequence) in sequences.iter().enumerate() {
                for kv_head in 0..num_kv_heads {
                    for query in 0..sequence.len {
                        let keys = keys_of(sequence, &(query..query + 1), window);
                        for chunk in keys.start / CHUNK..keys.end.div_ceil(CHUNK) {
                            prop_assert!(found.contains(&(index, kv_head, query, chunk)));
                        }
                    }
                }
            }
            // The last piece of a shared item knows that it is.
            for _ in 0..2 {
                let mut last = 0;
                for index in 0..plan.len() {
                    let shared = plan.shared(plan.piece(index).unwrap());
                    last += usize::from(shared.is_some_and(Shared::finish_piece));
                }
                prop_assert_eq!(last, plan.shared.len());
            }
        }
    }

    #[test]
    fn one_token_at_depth_is_shared_by_all_threads() {
        let sequence = StepSequence {
            start: 0,
            len: 1,
            position: 4096,
            prompt_len: 1,
            adapter: None,
            block_table: Vec::new(),
        };
        let batch = BatchView { sequences: &[sequence], positions: &[], adapters: &[] };
        let spec = AttentionSpec {
            num_heads: 3,
            num_kv_heads: 1,
            head_dim: 64,
            scale: 1.0,
            softcap: None,
            window: None,
        };
        let mut plan = Plan::default();
        plan.cut(&batch, &spec, 4);
        assert!(plan.len() >= 8, "{} pieces", plan.len());
        plan.cut(&batch, &AttentionSpec { window: Some(300), ..spec }, 4);
        assert!(plan.piece(0).unwrap().chunks.start >= 29, "what no query sees is skipped");
    }
}
