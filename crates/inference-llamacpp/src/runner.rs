//! The engine's runner over a llama.cpp context.

use std::fs;
use std::path::Path;

use inference_core::{Error, ErrorKind, Result};
use inference_engine::{
    BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence,
};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tempfile::NamedTempFile;

use crate::kv_plan::KvPlan;
use crate::session::Session;
use crate::state_file::StateLayout;

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
    /// How llama.cpp writes keys and values, where single positions can be read.
    layout: Option<StateLayout>,
    /// The type of keys and values.
    kv_format: String,
    spec: RunnerSpec,
    memory: MemoryUsage,
}

/// Takes away what sequence `.0` holds from position `.1` on.
type Cut = (u32, u32);

impl LlamaRunner {
    /// A runner of a context made as planned, for `capacity` tokens per step.
    /// `memory` says what weights and one sequence take, `kv_format` of what
    /// type keys and values are. Where sequences share positions, one token is
    /// computed: to see whether keys and values can be read.
    ///
    /// # Errors
    ///
    /// `Engine` with llama.cpp's reason, `Io` for the file of a state.
    pub(crate) fn new(
        session: Session,
        vocab_size: usize,
        plan: &KvPlan,
        capacity: usize,
        memory: MemoryUsage,
        kv_format: String,
    ) -> Result<Self> {
        let KvPlan { context_len, sequences, shares, .. } = *plan;
        let mut runner = Self {
            session,
            batch: Some(LlamaBatch::new(capacity, 1)),
            capacity,
            held: vec![0; sequences],
            shares,
            layout: None,
            kv_format,
            spec: RunnerSpec::new(vocab_size, context_len, context_len, sequences),
            memory,
        };
        if shares {
            let sequence = StepSequence {
                start: 0,
                len: 1,
                position: 0,
                prompt_len: 1,
                adapter: None,
                block_table: vec![0],
            };
            let (tokens, sequences) = (vec![0], vec![sequence]);
            runner.forward(&StepBatch { tokens, sequences, logit_rows: Vec::new() })?;
            runner.layout = StateLayout::of(&runner.state(0)?);
            if runner.layout.is_none() {
                tracing::debug!("llama.cpp writes the states of this model in a form of its own");
            }
            runner.forget(0)?;
        }
        Ok(runner)
    }

    /// The file that llama.cpp writes a sequence's state to.
    fn state(&mut self, place: usize) -> Result<Vec<u8>> {
        let file = StateFile::new()?;
        let (path, id) = (file.path().to_owned(), number(place)?);
        self.session.run(move |context| {
            let written = context.state_seq_save_file(path, id, &[]);
            written.map_err(|error| Error::engine("writing the state of a sequence", error))
        })??;
        file.read()
    }

    /// Empties a sequence.
    fn forget(&mut self, place: usize) -> Result<()> {
        let id = number(place)?;
        self.session.run(move |context| cut(context, &[(id, 0)]))??;
        self.held[place] = 0;
        Ok(())
    }

    fn layout(&self) -> Result<&StateLayout> {
        self.layout.as_ref().ok_or_else(|| Error::unsupported("llama.cpp", "kv_snapshot"))
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
        // Refused before anything was computed, or a file of a state.
        matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Io)
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        self.shares.then_some(self as &mut dyn KvBlocks)
    }

    fn memory(&self) -> MemoryUsage {
        self.memory
    }
}

/// Blocks are whole sequences. Keys and values go through files of llama.cpp's,
/// for those that share a context with others lie in no order of their own.
impl KvBlocks for LlamaRunner {
    fn can_be_read(&self) -> bool {
        self.layout.is_some()
    }

    fn format(&self) -> String {
        let rotations = self.layout.as_ref().map_or([0; 2], StateLayout::rotations);
        format!("{}, rotated by {rotations:?}", self.kv_format)
    }

    fn position_bytes(&self) -> u64 {
        match &self.layout {
            Some(layout) => layout.position_bytes() as u64,
            None => self.memory.kv_block / self.spec.block_size.max(1) as u64,
        }
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

    fn read_block(&mut self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        self.layout()?;
        let place = block as usize;
        let held = self.held.get(place).copied().unwrap_or(0);
        if held < len {
            let expected = format!("at most the {held} positions of block {block}");
            return Err(Error::invalid_input("positions to read", expected, len.to_string()));
        }
        if len == 0 {
            return Ok(Vec::new());
        }
        let file = self.state(place)?;
        self.layout()?.read(&file, len).ok_or_else(|| {
            let bytes = file.len();
            Error::engine_message(format!(
                "llama.cpp wrote a state of {bytes} bytes that does not hold {len} positions"
            ))
        })
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        let layout = self.layout()?;
        let place = block as usize;
        if place >= self.held.len() || len > self.spec.context_len {
            let expected =
                format!("a block below {}, {} positions", self.held.len(), self.spec.context_len);
            let found = format!("block {block}, {len} positions");
            return Err(Error::invalid_input("block to write", expected, found));
        }
        let expected = layout.position_bytes().saturating_mul(len);
        let state = layout.file(bytes).filter(|_| bytes.len() == expected).ok_or_else(|| {
            let expected = format!("{expected} bytes for {len} positions");
            Error::invalid_input("keys and values", expected, bytes.len().to_string())
        })?;
        self.forget(place)?;
        if len == 0 {
            return Ok(());
        }
        let file = StateFile::new()?;
        file.write(&state)?;
        let (path, id) = (file.path().to_owned(), number(place)?);
        self.session.run(move |context| {
            let read = context.state_seq_load_file(path, id, 0);
            read.map_err(|error| Error::engine("reading the state of a sequence", error))
        })??;
        self.held[place] = len;
        Ok(())
    }
}

/// A file between llama.cpp and this crate, for the user alone, and gone with
/// the value.
struct StateFile(NamedTempFile);

impl StateFile {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir();
        let file = NamedTempFile::new_in(&folder);
        file.map(Self).map_err(|error| Error::io(&folder, "make a file in", error))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self) -> Result<Vec<u8>> {
        fs::read(self.path()).map_err(|error| Error::io(self.path(), "read", error))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        fs::write(self.path(), bytes).map_err(|error| Error::io(self.path(), "write", error))
    }
}
