//! The engine's runner over a llama.cpp context.

use inference_core::{Error, ErrorKind, Result};
use inference_engine::{
    BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence,
};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use crate::kv_plan::KvPlan;
use crate::session::Session;

/// A context whose sequences are the engine's KV blocks: a block holds a whole
/// sequence, and its number is llama.cpp's sequence id.
pub(crate) struct LlamaRunner {
    session: Session,
    /// Lent to the session for a step.
    batch: Option<LlamaBatch<'static>>,
    /// Tokens that one batch can have.
    capacity: usize,
    /// Positions that each sequence of llama.cpp holds.
    held: Vec<usize>,
    /// Whether sequences share the memory of positions, and can forget some.
    shares: bool,
    spec: RunnerSpec,
    memory: MemoryUsage,
}

/// Takes away what sequence `.0` holds from position `.1` on.
type Cut = (u32, u32);

impl LlamaRunner {
    /// A runner of a context made as planned, for `capacity` tokens per step.
    /// `memory` says what weights and one sequence take.
    pub(crate) fn new(
        session: Session,
        vocab_size: usize,
        plan: &KvPlan,
        capacity: usize,
        memory: MemoryUsage,
    ) -> Self {
        let KvPlan { context_len, sequences, shares, .. } = *plan;
        Self {
            session,
            batch: Some(LlamaBatch::new(capacity, 1)),
            capacity,
            held: vec![0; sequences],
            shares,
            spec: RunnerSpec::new(vocab_size, context_len, context_len, sequences),
            memory,
        }
    }

    /// The sequence of llama.cpp that holds a sequence of the engine.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for what the engine must not ask.
    fn place(&self, sequence: &StepSequence) -> Result<usize> {
        let place = match sequence.block_table.first() {
            Some(block) => *block as usize,
            None => usize::MAX,
        };
        let end = sequence.position.saturating_add(sequence.len);
        match self.held.get(place) {
            Some(held) if *held >= sequence.position && end <= self.spec.context_len => Ok(place),
            held => {
                let context_len = self.spec.context_len;
                let expected = match held {
                    Some(held) => format!("a position up to {held}, an end up to {context_len}"),
                    None => format!("a block below {}", self.held.len()),
                };
                Err(Error::invalid_input("sequence", expected, format!("{sequence:?}")))
            }
        }
    }

    /// Writes a step into llama.cpp's batch.
    fn fill(&mut self, step: &StepBatch, batch: &mut LlamaBatch<'_>) -> Result<Vec<Cut>> {
        if step.tokens.len() > self.capacity {
            let expected = format!("at most {} tokens", self.capacity);
            return Err(Error::invalid_input("step", expected, step.tokens.len().to_string()));
        }
        let places: Vec<_> =
            step.sequences.iter().map(|sequence| self.place(sequence)).collect::<Result<_>>()?;
        let mut cuts = Vec::new();
        let mut rows = step.logit_rows.iter().copied().peekable();
        batch.clear();
        for (sequence, place) in step.sequences.iter().zip(places) {
            if self.held[place] > sequence.position {
                cuts.push((number(place)?, number(sequence.position)?));
                self.held[place] = sequence.position;
            }
            let id = [number(place)?];
            for index in sequence.start..sequence.start + sequence.len {
                let token = LlamaToken(number(step.tokens[index] as usize)?);
                let position = number(sequence.position + index - sequence.start)?;
                let wanted = rows.next_if_eq(&index).is_some();
                batch
                    .add(token, position, &id, wanted)
                    .map_err(|error| Error::engine("filling a llama.cpp batch", error))?;
            }
        }
        Ok(cuts)
    }
}

/// A count as llama.cpp has it.
fn number<N: TryFrom<usize>>(value: usize) -> Result<N> {
    N::try_from(value).map_err(|_| {
        Error::invalid_input("step", "numbers that llama.cpp can count", value.to_string())
    })
}

fn cut(context: &mut LlamaContext<'_>, cuts: &[Cut]) -> Result<()> {
    for (sequence, position) in cuts {
        let removed = context
            .clear_kv_cache_seq(Some(*sequence), Some(*position), None)
            .map_err(|error| Error::engine("forgetting positions", error))?;
        if !removed {
            let what = format!("llama.cpp cannot forget the positions from {position} on");
            return Err(Error::engine_message(what));
        }
    }
    Ok(())
}

impl ModelRunner for LlamaRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, step: &StepBatch) -> Result<Vec<f32>> {
        let lost = || Error::engine_message("an earlier step of llama.cpp did not end");
        let mut batch = self.batch.take().ok_or_else(lost)?;
        let cuts = match self.fill(step, &mut batch) {
            Ok(cuts) => cuts,
            Err(error) => {
                self.batch = Some(batch);
                return Err(error);
            }
        };
        let rows: Vec<i32> =
            step.logit_rows.iter().map(|row| number(*row)).collect::<Result<_>>()?;
        let vocab_size = self.spec.vocab_size;
        let compute = move |context: &mut LlamaContext<'_>, batch: &mut LlamaBatch<'_>| {
            cut(context, &cuts)?;
            context.decode(batch).map_err(|error| Error::engine("llama.cpp", error))?;
            let mut logits = Vec::with_capacity(rows.len() * vocab_size);
            for row in rows {
                logits.extend_from_slice(context.get_logits_ith(row));
            }
            Ok(logits)
        };
        let (batch, logits) = self.session.run(move |context| {
            let logits = compute(context, &mut batch);
            (batch, logits)
        })?;
        self.batch = Some(batch);
        let logits: Vec<f32> = logits?;
        for sequence in &step.sequences {
            let place = self.place(sequence)?;
            self.held[place] = sequence.position + sequence.len;
        }
        let bytes = size_of_val(&*logits) as u64;
        self.memory.activations = self.memory.activations.max(bytes);
        Ok(logits)
    }

    fn survives(&self, error: &Error) -> bool {
        // Refused before anything was computed.
        error.kind() == ErrorKind::InvalidInput
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        self.shares.then_some(self as &mut dyn KvBlocks)
    }

    fn memory(&self) -> MemoryUsage {
        self.memory
    }
}

/// llama.cpp reads and writes the state of a sequence in a form of its own, so
/// blocks can be shared and copied, but not be read.
impl KvBlocks for LlamaRunner {
    fn can_be_read(&self) -> bool {
        false
    }

    fn format(&self) -> String {
        "llama.cpp".to_owned()
    }

    fn position_bytes(&self) -> u64 {
        self.memory.kv_block / self.spec.block_size.max(1) as u64
    }

    fn sharing_class(&self, _prompt_len: usize) -> u64 {
        // Factors of rotary frequencies are chosen by the room of a sequence.
        0
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()> {
        let held = self.held.get(from as usize).copied().unwrap_or(0);
        if held < len || to as usize >= self.held.len() {
            let expected = format!("{len} positions, of a block below {}", self.held.len());
            return Err(Error::invalid_input("block to copy", expected, format!("{from} to {to}")));
        }
        let (source, target) = (number::<i32>(from as usize)?, number::<i32>(to as usize)?);
        let end = number(len)?;
        self.session.run(move |context| {
            cut(context, &[(to, 0)])?;
            // The positions are then of both: nothing is moved.
            context
                .copy_kv_cache_seq(source, target, Some(0), Some(end))
                .map_err(|error| Error::engine("sharing positions", error))
        })??;
        self.held[to as usize] = len;
        Ok(())
    }

    fn read_block(&mut self, _block: BlockId, _len: usize) -> Result<Vec<u8>> {
        Err(Error::unsupported("llama.cpp", "kv_snapshot"))
    }

    fn write_block(&mut self, _block: BlockId, _len: usize, _bytes: &[u8]) -> Result<()> {
        Err(Error::unsupported("llama.cpp", "kv_snapshot"))
    }
}
