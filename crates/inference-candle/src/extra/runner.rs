//! The engine's runner over instances of one sequence each.

use inference_core::{Error, ErrorKind, Result};
use inference_engine::{MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence};

use super::instances::{Chunks, Instance, Prototype};

/// A model of which every sequence has an instance.
///
/// A KV block is as long as the context, so that a sequence has one, never
/// shared, and its number is the instance's. The sequences of a step are
/// computed one after the other.
pub(super) struct SequenceRunner {
    prototype: Box<dyn Prototype>,
    slots: Vec<Option<Slot>>,
    spec: RunnerSpec,
    memory: MemoryUsage,
}

struct Slot {
    instance: Box<dyn Instance>,
    /// Tokens that it has taken.
    taken: usize,
}

impl SequenceRunner {
    /// A runner for `slots` sequences of at most `context_len` tokens.
    pub(super) fn new(
        prototype: Box<dyn Prototype>,
        vocab: usize,
        context_len: usize,
        slots: usize,
        memory: MemoryUsage,
    ) -> Self {
        let spec = RunnerSpec::new(vocab, context_len, context_len, slots);
        let slots = std::iter::repeat_with(|| None).take(slots).collect();
        Self { prototype, slots, spec, memory }
    }

    fn check(&self, batch: &StepBatch) -> Result<()> {
        let vocab = self.spec.vocab_size;
        if let Some(id) = batch.tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::invalid_input("token id", format!("below {vocab}"), id.to_string()));
        }
        let mut end = 0;
        for sequence in &batch.sequences {
            let context = self.spec.context_len;
            let positions = sequence.position.saturating_add(sequence.len);
            if sequence.start != end || sequence.len == 0 || positions > context {
                let expected = format!("tokens from {end} on, at positions below {context}");
                return Err(Error::invalid_input("sequence", expected, format!("{sequence:?}")));
            }
            if slot(sequence).is_none_or(|slot| slot >= self.slots.len()) {
                let expected = format!("a block below {}", self.slots.len());
                return Err(Error::invalid_input("block table", expected, format!("{sequence:?}")));
            }
            end = end.saturating_add(sequence.len);
        }
        let rows = batch.logit_rows.iter().all(|row| *row < end);
        if end != batch.tokens.len() || !rows || !batch.logit_rows.is_sorted() {
            let expected = format!("sequences that cover {} tokens", batch.tokens.len());
            return Err(Error::invalid_input("batch", expected, format!("{end} tokens")));
        }
        Ok(())
    }

    /// Computes one sequence's tokens; `rows` are those of its logits, counted
    /// from its first token.
    fn sequence(
        &mut self,
        sequence: &StepSequence,
        tokens: &[u32],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let Some(place) = slot(sequence).and_then(|slot| self.slots.get_mut(slot)) else {
            return Err(Error::engine_message(format!("no block for {sequence:?}")));
        };
        let error = |e| Error::engine("the model", e);
        // Taken out, so that what fails half-way is not used again.
        let mut slot = match place.take() {
            _ if sequence.position == 0 => {
                Slot { instance: self.prototype.instance().map_err(error)?, taken: 0 }
            }
            Some(slot) if slot.taken == sequence.position => slot,
            _ => {
                let message = format!("no state of {} tokens for {sequence:?}", sequence.position);
                return Err(Error::engine_message(message));
            }
        };
        let chunks = self.prototype.chunks();
        let mut rows = rows.iter().copied().peekable();
        let mut start = 0;
        while start < tokens.len() {
            let several = match chunks {
                Chunks::Any => true,
                Chunks::First => slot.taken == 0,
                Chunks::Never => false,
            };
            // A call gives the logits of its last token only.
            let last = rows.peek().copied().unwrap_or(tokens.len() - 1);
            let end = if several { last + 1 } else { start + 1 };
            let part = tokens.get(start..end).unwrap_or_default();
            let output = slot.instance.forward(part, slot.taken).map_err(error)?;
            slot.taken += part.len();
            if rows.next_if_eq(&(end - 1)).is_some() {
                let values = output.flatten_all().and_then(|row| row.to_vec1::<f32>());
                let values = values.map_err(error)?;
                if values.len() != self.spec.vocab_size {
                    let found = format!("{} logits", values.len());
                    return Err(Error::engine_message(found));
                }
                logits.extend(values);
            }
            start = end;
        }
        *place = Some(slot);
        Ok(())
    }
}

/// The index of a sequence's instance: its block.
fn slot(sequence: &StepSequence) -> Option<usize> {
    sequence.block_table.first().and_then(|block| usize::try_from(*block).ok())
}

impl ModelRunner for SequenceRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>> {
        self.check(batch)?;
        let mut logits = Vec::with_capacity(batch.logit_rows.len() * self.spec.vocab_size);
        for sequence in &batch.sequences {
            let range = sequence.start..sequence.start + sequence.len;
            let rows: Vec<usize> = batch
                .logit_rows
                .iter()
                .filter(|row| range.contains(row))
                .map(|row| row - range.start)
                .collect();
            let tokens = batch.tokens.get(range).unwrap_or_default();
            self.sequence(sequence, tokens, &rows, &mut logits)?;
        }
        Ok(logits)
    }

    fn survives(&self, error: &Error) -> bool {
        // Refused before anything was computed.
        error.kind() == ErrorKind::InvalidInput
    }

    fn memory(&self) -> MemoryUsage {
        self.memory
    }
}
