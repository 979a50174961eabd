//! How large llama.cpp's KV cache is.

use inference_core::{Error, KvDtype, LoadOptions, Result};
use inference_gguf::{Metadata, Value};

use crate::options;

/// The bound on the KV cache where no budget is given: 1 GiB.
const DEFAULT_KV_BUDGET: u64 = 1 << 30;

/// llama.cpp rounds the positions of a sequence up to a multiple of this.
const ROUNDING: usize = 256;

/// What the metadata says about keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    /// The model's own longest sequence.
    pub(crate) context_len: usize,
    /// Elements of keys and values of one position, all layers. Counted as if
    /// every layer had attention over the whole context.
    pub(crate) position_elements: u64,
    pub(crate) num_layers: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    /// Of queries and keys.
    pub(crate) head_dim: usize,
    /// Of values.
    pub(crate) value_dim: usize,
}

impl KvShape {
    /// Reads the keys of `architecture`.
    ///
    /// # Errors
    ///
    /// `InvalidModel` naming the key.
    pub(crate) fn read(metadata: &Metadata, architecture: &str) -> Result<Self> {
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| metadata.size(&key(name));
        let required = |name: &str| {
            let missing = || metadata.invalid(&key(name), "a number", "nothing");
            size(name)?.filter(|value| *value > 0).ok_or_else(missing)
        };
        let num_layers = required("block_count")?;
        let hidden_size = required("embedding_length")?;
        // One number, or one for each layer.
        let per_layer = |name: &str| -> Result<Option<Vec<usize>>> {
            let key = key(name);
            if matches!(metadata.get(&key)?, Some(Value::Array(_))) {
                let numbers = metadata.numbers(&key)?.unwrap_or_default();
                return Ok(Some(numbers.into_iter().map(|number| number as usize).collect()));
            }
            Ok(metadata.size(&key)?.map(|heads| vec![heads; num_layers]))
        };
        let heads = per_layer("attention.head_count")?.unwrap_or_default();
        let kv_heads = per_layer("attention.head_count_kv")?.unwrap_or_else(|| heads.clone());
        let num_heads = heads.iter().copied().max().unwrap_or(0);
        let usual = hidden_size.checked_div(num_heads).unwrap_or(0);
        let key_dim = size("attention.key_length")?.unwrap_or(usual);
        let value_dim = size("attention.value_length")?.unwrap_or(usual);
        let all_kv_heads: usize = kv_heads.iter().sum();
        Ok(Self {
            context_len: required("context_length")?,
            position_elements: (all_kv_heads as u64)
                .saturating_mul(key_dim.saturating_add(value_dim) as u64),
            num_layers,
            hidden_size,
            num_heads,
            num_kv_heads: kv_heads.iter().copied().max().unwrap_or(0),
            head_dim: key_dim,
            value_dim,
        })
    }
}

/// The KV cache of a load: one stream of llama.cpp, of `cells` positions, for
/// each sequence that can be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvPlan {
    /// Longest sequence, in tokens.
    pub(crate) context_len: usize,
    /// Positions of a sequence that llama.cpp has room for.
    pub(crate) cells: usize,
    /// Sequences that have room at once.
    pub(crate) sequences: usize,
    /// Whether sequences share the memory of positions, so that a prefix can be
    /// of several. Otherwise each has its own, and looks at no other's.
    pub(crate) shares: bool,
    /// Bytes of one sequence's room.
    pub(crate) sequence_bytes: u64,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

impl KvPlan {
    /// The cache that `options` ask for: room for `slots` sequences of the
    /// whole context, within the budget, and always for one. `shares` asks for
    /// a prefix cache, which takes room for one more sequence. Without
    /// `context_len` the context shrinks to what the budget holds of one.
    ///
    /// # Errors
    ///
    /// `InvalidOption` for a context beyond the model's, `Exhausted` where the
    /// budget cannot hold one sequence.
    pub(crate) fn new(
        shape: &KvShape,
        options: &LoadOptions,
        slots: usize,
        shares: bool,
    ) -> Result<Self> {
        let limit = shape.context_len;
        if let Some(asked) = options.context_len.filter(|asked| !(1..=limit).contains(asked)) {
            let expected = format!("1 to the model's limit of {limit} tokens");
            return Err(Error::invalid_option("context_len", asked, expected));
        }
        let dtype = options.kv_dtype.unwrap_or(KvDtype::F16);
        let (_, bytes_of_32) = options::kv_type(dtype)?;
        let dims = [shape.head_dim, shape.value_dim];
        if dtype == KvDtype::Q8_0 && dims.iter().any(|dim| !dim.is_multiple_of(32)) {
            let expected = format!("f32, f16 or bf16 for heads of {} and {}", dims[0], dims[1]);
            return Err(Error::invalid_option("kv_dtype", dtype, expected));
        }
        let bytes = |cells: usize| {
            let elements = shape.position_elements.saturating_mul(cells as u64);
            elements.div_ceil(32).saturating_mul(bytes_of_32).max(1)
        };
        let budget = options.kv_budget.unwrap_or(DEFAULT_KV_BUDGET);
        let mut context_len = options.context_len.unwrap_or(limit);
        let mut cells = context_len.next_multiple_of(ROUNDING);
        let mut notes = Vec::new();
        if bytes(cells) > budget {
            let affordable = usize::try_from(budget / bytes(ROUNDING)).unwrap_or(usize::MAX);
            if options.context_len.is_some() || affordable == 0 {
                let least = if options.context_len.is_some() { cells } else { ROUNDING };
                return Err(Error::exhausted("kv_budget, in bytes", bytes(least), budget));
            }
            cells = affordable.saturating_mul(ROUNDING).min(cells);
            context_len = cells.min(limit);
            notes.push(format!(
                "the context is {context_len} tokens instead of {limit}, because the KV budget \
                 of {budget} bytes holds no more; kv_budget raises it"
            ));
        }
        let sequence_bytes = bytes(cells);
        let affordable = usize::try_from(budget / sequence_bytes).unwrap_or(usize::MAX);
        let wanted = slots + usize::from(shares);
        let sequences = wanted.min(affordable).clamp(1, options::MAX_SEQUENCES);
        if sequences < slots {
            notes.push(format!(
                "{sequences} instead of {slots} sequences run at once, because the KV budget of \
                 {budget} bytes holds no more; context_len or kv_budget change that"
            ));
        }
        Ok(Self { context_len, cells, sequences, shares, sequence_bytes, notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 KiB per position in f16.
    fn shape() -> KvShape {
        KvShape {
            context_len: 1000,
            position_elements: 512,
            num_layers: 2,
            hidden_size: 64,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 64,
            value_dim: 64,
        }
    }

    #[test]
    fn room_for_all_slots_unless_the_budget_says_otherwise() {
        let plan = KvPlan::new(&shape(), &LoadOptions::new(), 8, false).unwrap();
        assert_eq!((plan.context_len, plan.cells, plan.sequences), (1000, 1024, 8));
        assert_eq!(plan.sequence_bytes, 1 << 20);
        let plan = KvPlan::new(&shape(), &LoadOptions::new(), 8, true).unwrap();
        assert_eq!(plan.sequences, 9, "one more for what nobody uses");
        let plan =
            KvPlan::new(&shape(), &LoadOptions::new().with_kv_budget(3 << 20), 8, false).unwrap();
        assert_eq!((plan.context_len, plan.sequences), (1000, 3));
        assert!(plan.notes[0].contains("3 instead of 8"), "{:?}", plan.notes);
        let plan =
            KvPlan::new(&shape(), &LoadOptions::new().with_kv_budget(600 << 10), 8, false).unwrap();
        assert_eq!((plan.context_len, plan.cells, plan.sequences), (512, 512, 1));
        assert!(plan.notes[0].contains("512 tokens instead of 1000"), "{:?}", plan.notes);
    }

    #[test]
    fn the_type_of_keys_and_values_counts() {
        for (dtype, bytes) in [
            (KvDtype::F32, 2 << 20),
            (KvDtype::Bf16, 1 << 20),
            (KvDtype::Q8_0, (1 << 20) * 34 / 64),
        ] {
            let options = LoadOptions::new().with_kv_dtype(dtype);
            assert_eq!(
                KvPlan::new(&shape(), &options, 1, false).unwrap().sequence_bytes,
                bytes,
                "{dtype}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |options: LoadOptions| {
            KvPlan::new(&shape(), &options, 1, false).unwrap_err().to_string()
        };
        assert!(refused(LoadOptions::new().with_context_len(1001)).contains("context_len"));
        let small = LoadOptions::new().with_kv_budget(600 << 10);
        assert!(refused(small.with_context_len(513)).contains("kv_budget"));
        assert!(refused(LoadOptions::new().with_kv_budget(1000)).contains("kv_budget"));
        let narrow = KvShape { value_dim: 48, ..shape() };
        let blocks = LoadOptions::new().with_kv_dtype(KvDtype::Q8_0);
        let error = KvPlan::new(&narrow, &blocks, 1, false).unwrap_err();
        assert!(error.to_string().contains("kv_dtype"), "{error}");
    }
}
