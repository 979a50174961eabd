//! A deterministic runner without a model, for tests of the engine and of
//! what is built on it. Feature `test-support`.
//!
//! Its "keys and values" are the token and its position, stored in simulated
//! KV blocks; the logits of a row are a hash of the whole history *as read
//! back from the blocks* that the step names. So a wrong block table, a block
//! shared by two sequences, a wrong position or a lost token changes the
//! logits, as it would with a real model, while the company of other sequences
//! and the cutting of prompts into steps must not. A step can have a
//! [cost](StepCosts), and [go wrong](FaultRates); its positions then hold
//! nothing of use.
//!
//! ```
//! use inference_core::{GenerateOptions, ModelInfo, TextModel};
//! use inference_engine::sim_runner::{SimRunner, SimSpec};
//! use inference_engine::{EngineModel, EngineOptions, ModelParts};
//!
//! let (runner, control) = SimRunner::new(SimSpec::default());
//! let parts = ModelParts::new(ModelInfo::default());
//! let model = EngineModel::start(Box::new(runner), parts, EngineOptions::default())?;
//! let options = GenerateOptions::new().with_max_tokens(3);
//! assert_eq!(model.generate(vec![1, 2].into(), options)?.count(), 3);
//! assert_eq!(control.batches().len(), 3);
//! # Ok::<(), inference_core::Error>(())
//! ```

mod control;
mod costs;
mod faults;

use std::collections::BTreeSet;

use inference_core::{AttentionSnapshot, Error, LayerAttention, Result, TokenId};

use crate::adapters::AdapterId;
use crate::runner::{
    BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence,
};

pub use control::SimControl;
pub use costs::{SimClock, StepCosts};
pub use faults::{FaultRates, InjectedFault, SimFault};

use control::{Orders, Script};

/// Sizes and costs of a simulated model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimSpec {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub context_len: usize,
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Whether attention can be inspected.
    pub inspects_attention: bool,
    /// Whether blocks can be shared, copied and moved
    /// ([`ModelRunner::kv_blocks`]).
    pub shares_blocks: bool,
    /// Whether those blocks can be read and written.
    pub reads_blocks: bool,
    /// Prompts longer than this have keys and values of their own, as with
    /// rotary embeddings that depend on the length of the prompt: the sharing
    /// class is 1 for them and 0 for others.
    pub long_prompt: usize,
    /// What a step costs.
    pub costs: StepCosts,
    /// Whether the costs are waited for.
    pub clock: SimClock,
}

impl Default for SimSpec {
    fn default() -> Self {
        Self {
            vocab_size: 64,
            context_len: 512,
            block_size: 4,
            num_blocks: 512,
            inspects_attention: false,
            shares_blocks: true,
            reads_blocks: true,
            long_prompt: usize::MAX,
            costs: StepCosts::default(),
            clock: SimClock::Virtual,
        }
    }
}

impl SimSpec {
    /// Sets the size of the vocabulary.
    #[must_use]
    pub fn with_vocab_size(mut self, tokens: usize) -> Self {
        self.vocab_size = tokens;
        self
    }

    /// Sets the longest sequence.
    #[must_use]
    pub fn with_context_len(mut self, tokens: usize) -> Self {
        self.context_len = tokens;
        self
    }

    /// Sets the pool: tokens per block, and blocks.
    #[must_use]
    pub fn with_blocks(mut self, block_size: usize, num_blocks: usize) -> Self {
        self.block_size = block_size;
        self.num_blocks = num_blocks;
        self
    }

    /// Sets what a step costs, and whether the costs are waited for.
    #[must_use]
    pub fn with_costs(mut self, costs: StepCosts, clock: SimClock) -> Self {
        self.costs = costs;
        self.clock = clock;
        self
    }

    /// Sets whether attention can be inspected.
    #[must_use]
    pub fn with_attention(mut self, inspects: bool) -> Self {
        self.inspects_attention = inspects;
        self
    }

    /// Sets whether blocks can be shared, copied and moved.
    #[must_use]
    pub fn with_shared_blocks(mut self, shares: bool) -> Self {
        self.shares_blocks = shares;
        self
    }

    /// Sets whether shared blocks can be read and written.
    #[must_use]
    pub fn with_readable_blocks(mut self, reads: bool) -> Self {
        self.reads_blocks = reads;
        self
    }

    /// Sets the longest prompt whose keys and values are of the common kind.
    #[must_use]
    pub fn with_long_prompt(mut self, tokens: usize) -> Self {
        self.long_prompt = tokens;
        self
    }
}

/// The "keys and values" of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    position: usize,
    token: TokenId,
    /// The sharing class of the prompt that it was computed for.
    class: u64,
}

/// Bytes of a [`Held`] outside of the pool.
const HELD_BYTES: usize = 21;

impl Held {
    fn to_bytes(held: Option<Self>) -> [u8; HELD_BYTES] {
        let mut bytes = [0; HELD_BYTES];
        if let Some(Self { position, token, class }) = held {
            bytes[0] = 1;
            bytes[1..9].copy_from_slice(&(position as u64).to_le_bytes());
            bytes[9..13].copy_from_slice(&token.to_le_bytes());
            bytes[13..].copy_from_slice(&class.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |range| {
            let digits: &[u8] = bytes.get::<std::ops::Range<usize>>(range)?;
            Some(digits.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        };
        let (position, token, class) = (number(1..9)?, number(9..13)?, number(13..HELD_BYTES)?);
        (bytes[0] == 1).then_some(Self {
            position: position as usize,
            token: token as TokenId,
            class,
        })
    }
}

/// A deterministic runner; see the [module](self).
#[derive(Debug)]
pub struct SimRunner {
    spec: RunnerSpec,
    inspects_attention: bool,
    shares_blocks: bool,
    reads_blocks: bool,
    long_prompt: usize,
    /// `[num_blocks * block_size]`: what each slot of the pool holds.
    slots: Vec<Option<Held>>,
    control: SimControl,
    survives: bool,
    largest_step: usize,
}

impl SimRunner {
    /// A runner, and the control that stays with the test.
    #[must_use]
    pub fn new(spec: SimSpec) -> (Self, SimControl) {
        let SimSpec { vocab_size, context_len, block_size, num_blocks, .. } = spec;
        let control = SimControl::new(spec.costs, spec.clock);
        let runner = Self {
            spec: RunnerSpec::new(vocab_size, context_len, block_size, num_blocks),
            inspects_attention: spec.inspects_attention,
            shares_blocks: spec.shares_blocks,
            reads_blocks: spec.reads_blocks,
            long_prompt: spec.long_prompt,
            slots: vec![None; block_size * num_blocks],
            control: control.clone(),
            survives: false,
            largest_step: 0,
        };
        (runner, control)
    }

    /// The logits that follow `history`, `[vocab_size]`, computed without any
    /// block: what a correct engine leads to. For prompts of at most
    /// [`SimSpec::long_prompt`] tokens.
    #[must_use]
    pub fn expected_logits(vocab_size: usize, history: &[TokenId]) -> Vec<f32> {
        Self::expected_logits_in(vocab_size, 0, history)
    }

    /// [`expected_logits`](Self::expected_logits) of a prompt of any sharing
    /// class.
    #[must_use]
    pub fn expected_logits_in(vocab_size: usize, class: u64, history: &[TokenId]) -> Vec<f32> {
        let slots = history.iter().enumerate();
        let slots = slots.map(|(position, &token)| Some(Held { position, token, class }));
        logits(vocab_size, history_hash(slots))
    }

    /// Where the first `len` positions of a block are.
    fn block(&self, block: BlockId, len: usize) -> Result<std::ops::Range<usize>> {
        let RunnerSpec { block_size, num_blocks, .. } = self.spec;
        if block as usize >= num_blocks || len > block_size {
            let message = format!("{len} positions of block {block} are outside of the pool");
            return Err(Error::engine_message(message));
        }
        let start = block as usize * block_size;
        Ok(start..start + len)
    }

    fn slot(&self, sequence: &StepSequence, position: usize) -> Result<usize> {
        let block_size = self.spec.block_size;
        let missing = || Error::engine_message(format!("no block for position {position}"));
        let block: BlockId =
            sequence.block_table.get(position / block_size).copied().ok_or_else(missing)?;
        let slot = block as usize * block_size + position % block_size;
        if slot < self.slots.len() { Ok(slot) } else { Err(missing()) }
    }

    /// Puts what `keep` makes of each token of a step into its block.
    fn write(&mut self, batch: &StepBatch, keep: impl Fn(Held) -> Option<Held>) -> Result<()> {
        for sequence in &batch.sequences {
            let class = self.sharing_class(sequence.prompt_len);
            for offset in 0..sequence.len {
                let position = sequence.position + offset;
                let slot = self.slot(sequence, position)?;
                let token = batch.tokens[sequence.start + offset];
                self.slots[slot] = keep(Held { position, token, class });
            }
        }
        Ok(())
    }

    /// What the blocks of a sequence hold up to and including `position`.
    fn read(&self, sequence: &StepSequence, position: usize) -> Result<Vec<Option<Held>>> {
        (0..=position).map(|at| Ok(self.slots[self.slot(sequence, at)?])).collect()
    }

    /// The logits after what the blocks hold.
    fn row(&self, held: &[Option<Held>], script: Option<&Script>) -> Vec<f32> {
        let mut row = logits(self.spec.vocab_size, history_hash(held.iter().copied()));
        let Some(script) = script else { return row };
        let history: Vec<TokenId> = held.iter().flatten().map(|held| held.token).collect();
        if let Some(next) = script(&history)
            && let Some(logit) = row.get_mut(next as usize)
        {
            *logit = 1000.0;
        }
        row
    }
}

/// Whether `fault` makes NaN of the row after `held`, which belongs to sequence
/// `index` of `count`.
fn spoils(fault: Option<&SimFault>, index: usize, count: usize, held: &[Option<Held>]) -> bool {
    match fault {
        Some(SimFault::Nan(token)) => {
            held.first().copied().flatten().is_some_and(|first| first.token == *token)
        }
        Some(SimFault::NanSequence(n)) => n % count == index,
        _ => false,
    }
}

impl Drop for SimRunner {
    fn drop(&mut self) {
        self.control.note_drop();
    }
}

impl ModelRunner for SimRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    #[expect(clippy::panic, reason = "one of the faults that a test asks for")]
    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>> {
        let Orders { step, fault, script } = self.control.begin(batch);
        let everybody = batch.sequences.len();
        match &fault {
            Some(SimFault::Error { survives }) => {
                // What the step would have written is of no use.
                self.write(batch, |_| None)?;
                self.survives = *survives;
                self.control.note_fault(step, SimFault::Error { survives: *survives }, everybody);
                return Err(Error::engine_message("simulated failure"));
            }
            Some(SimFault::Panic) => {
                self.control.note_fault(step, SimFault::Panic, everybody);
                panic!("simulated panic");
            }
            _ => {}
        }
        self.largest_step = self.largest_step.max(batch.tokens.len());
        self.write(batch, Some)?;
        let vocab_size = self.spec.vocab_size;
        let mut values = Vec::with_capacity(batch.logit_rows.len() * vocab_size);
        let mut spoilt = BTreeSet::new();
        for &row in &batch.logit_rows {
            let unowned = || Error::engine_message(format!("row {row} belongs to no sequence"));
            let behind = batch.sequences.partition_point(|s| s.start <= row);
            let index = behind.checked_sub(1).ok_or_else(unowned)?;
            let sequence = &batch.sequences[index];
            if row >= sequence.start + sequence.len {
                return Err(unowned());
            }
            let history = self.read(sequence, sequence.position + row - sequence.start)?;
            if spoils(fault.as_ref(), index, everybody, &history) {
                spoilt.insert(index);
                values.resize(values.len() + vocab_size, f32::NAN);
            } else {
                values.extend(self.row(&history, script.as_ref()));
            }
        }
        match fault {
            Some(SimFault::Short) => {
                self.survives = false;
                let victims = values.pop().map_or(0, |_| everybody);
                self.control.note_fault(step, SimFault::Short, victims);
            }
            Some(fault) => self.control.note_fault(step, fault, spoilt.len()),
            None => {}
        }
        Ok(values)
    }

    fn survives(&self, _: &Error) -> bool {
        self.survives
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        if self.shares_blocks { Some(self) } else { None }
    }

    /// 1000 bytes of weights, 10 per block, and 1 per token of the largest
    /// step.
    fn memory(&self) -> MemoryUsage {
        MemoryUsage {
            weights: 1000,
            adapters: 0,
            kv_block: 10,
            activations: self.largest_step as u64,
        }
    }

    fn inspects_attention(&self) -> bool {
        self.inspects_attention
    }

    fn inspect_attention(
        &mut self,
        ids: &[TokenId],
        _: Option<AdapterId>,
    ) -> Result<AttentionSnapshot> {
        let values: Vec<f32> = ids.iter().map(|id| *id as f32).collect();
        let layer = LayerAttention::new(0, [1, 1, 1], values.clone(), values);
        Ok(AttentionSnapshot::new(ids.to_vec(), vec![layer]))
    }
}

impl KvBlocks for SimRunner {
    fn can_be_read(&self) -> bool {
        self.reads_blocks
    }

    fn format(&self) -> String {
        "sim".into()
    }

    fn position_bytes(&self) -> u64 {
        HELD_BYTES as u64
    }

    fn sharing_class(&self, prompt_len: usize) -> u64 {
        u64::from(prompt_len > self.long_prompt)
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()> {
        let (from, to) = (self.block(from, len)?, self.block(to, len)?);
        self.slots.copy_within(from, to.start);
        Ok(())
    }

    fn read_block(&mut self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        let range = self.block(block, len)?;
        Ok(self.slots[range].iter().flat_map(|held| Held::to_bytes(*held)).collect())
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        let range = self.block(block, len)?;
        if bytes.len() != len * HELD_BYTES {
            let expected = format!("{} bytes for {len} positions", len * HELD_BYTES);
            return Err(Error::invalid_input("KV block", expected, bytes.len().to_string()));
        }
        for (slot, bytes) in self.slots[range].iter_mut().zip(bytes.chunks_exact(HELD_BYTES)) {
            *slot = Held::from_bytes(bytes);
        }
        Ok(())
    }
}

/// FNV-1a over what the slots hold; an empty slot is a value of its own.
fn history_hash(slots: impl Iterator<Item = Option<Held>>) -> u64 {
    slots.fold(0xcbf2_9ce4_8422_2325, |hash, slot| {
        let value = slot.map_or(u64::MAX, |held| {
            held.class << 63 | (held.position as u64) << 32 | u64::from(held.token)
        });
        mix(hash ^ value)
    })
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast Splittable
/// Pseudorandom Number Generators").
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Values in `[-8, 8)`, one per token.
fn logits(vocab_size: usize, hash: u64) -> Vec<f32> {
    let unit = |bits: u64| (bits >> 40) as f32 / (1 << 24) as f32;
    (0..vocab_size as u64).map(|token| unit(mix(hash ^ mix(token))) * 16.0 - 8.0).collect()
}

#[cfg(test)]
mod tests;
