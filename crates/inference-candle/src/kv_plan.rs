//! How large the KV pool is.

use inference_core::{Error, KvDtype, LoadOptions, Result};

use crate::{DecoderConfig, KvLayout};

/// Tokens per KV block.
pub const BLOCK_SIZE: usize = 16;

/// The bound on the KV pool where no budget is given: 1 GiB.
pub const DEFAULT_KV_BUDGET: u64 = 1 << 30;

/// The KV pool of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvPlan {
    pub(crate) layout: KvLayout,
    /// Longest sequence, in tokens.
    pub(crate) context_len: usize,
    /// What the user should know.
    pub(crate) note: Option<String>,
}

impl KvPlan {
    /// The pool that `options` ask for: enough blocks for `slots` sequences of
    /// the full context, within the budget, and always for one. Without
    /// `context_len` the context shrinks to what the budget holds.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) for a
    /// context beyond the model's or a type that its heads cannot have,
    /// [`Exhausted`](inference_core::ErrorKind::Exhausted) where the budget
    /// cannot hold one sequence.
    pub(crate) fn new(config: &DecoderConfig, options: &LoadOptions, slots: usize) -> Result<Self> {
        let limit = config.context_len;
        if let Some(asked) = options.context_len.filter(|asked| !(1..=limit).contains(asked)) {
            let expected = format!("1 to the model's limit of {limit} tokens");
            return Err(Error::invalid_option("context_len", asked, expected));
        }
        let dtype = options.kv_dtype.unwrap_or(KvDtype::F32);
        let mut layout = KvLayout {
            num_layers: config.num_layers(),
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            block_size: BLOCK_SIZE,
            num_blocks: 0,
            dtype,
        };
        layout.validate()?;
        let block_bytes = layout.block_bytes().max(1);
        let budget = options.kv_budget.unwrap_or(DEFAULT_KV_BUDGET);
        let affordable = usize::try_from(budget / block_bytes).unwrap_or(usize::MAX);
        let wanted = options.context_len.unwrap_or(limit);
        let per_sequence = wanted.div_ceil(BLOCK_SIZE);
        let exhausted = |blocks: usize| Error::Exhausted {
            resource: "kv_budget, in bytes".to_owned(),
            needed: (blocks as u64).saturating_mul(block_bytes),
            available: budget,
        };
        let mut context_len = wanted;
        let mut note = None;
        if affordable < per_sequence {
            if options.context_len.is_some() {
                return Err(exhausted(per_sequence));
            }
            if affordable == 0 {
                return Err(exhausted(1));
            }
            context_len = affordable * BLOCK_SIZE;
            note = Some(format!(
                "the context is {context_len} tokens instead of {limit}, because the KV budget \
                 of {budget} bytes holds no more; kv_budget raises it"
            ));
        }
        layout.num_blocks = per_sequence.saturating_mul(slots).min(affordable);
        Ok(Self { layout, context_len, note })
    }
}
