//! Which tensor of a file gets which type.
//!
//! The mixtures are llama.cpp's (`llama_tensor_get_type` in
//! `src/llama-quant.cpp`): tensors that suffer most get more bits.

use std::fmt;
use std::str::FromStr;

use inference_core::Error;
use inference_gguf::BlockType;

macro_rules! file_types {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal, $text:literal, $base:ident;)*) => {
        /// A kind of GGUF file, as `general.file_type` numbers it: the type of
        /// most tensors, and how those that suffer most differ.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FileType {
            $($(#[doc = $doc])* $name,)*
        }

        impl FileType {
            /// Every kind that is written.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name, for example `Q4_K_M`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The number in files.
            #[must_use]
            pub fn id(self) -> u32 {
                match self { $(Self::$name => $id,)* }
            }

            /// The type of most tensors.
            #[must_use]
            pub fn base(self) -> BlockType {
                match self { $(Self::$name => BlockType::$base,)* }
            }
        }
    };
}

file_types! {
    /// 32-bit floats.
    F32 = 0, "F32", F32;
    /// 16-bit floats.
    F16 = 1, "F16", F16;
    /// 16-bit brain floats.
    Bf16 = 32, "BF16", Bf16;
    /// 8 bits.
    Q8_0 = 7, "Q8_0", Q8_0;
    /// 6 bits.
    Q6K = 18, "Q6_K", Q6K;
    /// 5 bits, some tensors 6.
    Q5KM = 17, "Q5_K_M", Q5K;
    /// 5 bits.
    Q5KS = 16, "Q5_K_S", Q5K;
    /// 4 bits, some tensors 6.
    Q4KM = 15, "Q4_K_M", Q4K;
    /// 4 bits, a few tensors 5.
    Q4KS = 14, "Q4_K_S", Q4K;
    /// 3 bits, some tensors 5.
    Q3KL = 13, "Q3_K_L", Q3K;
    /// 3 bits, some tensors 4 and 5.
    Q3KM = 12, "Q3_K_M", Q3K;
    /// 3 bits.
    Q3KS = 11, "Q3_K_S", Q3K;
    /// 2 bits, some tensors 3 and 4.
    Q2K = 10, "Q2_K", Q2K;
    /// 5 bits with minima, blocks of 32.
    Q5_1 = 9, "Q5_1", Q5_1;
    /// 5 bits, blocks of 32.
    Q5_0 = 8, "Q5_0", Q5_0;
    /// 4 bits with minima, blocks of 32.
    Q4_1 = 3, "Q4_1", Q4_1;
    /// 4 bits, blocks of 32.
    Q4_0 = 2, "Q4_0", Q4_0;
    /// 4 bits by a table, blocks of 32.
    Iq4Nl = 25, "IQ4_NL", Iq4Nl;
    /// 4 bits by a table, superblocks of 256.
    Iq4Xs = 30, "IQ4_XS", Iq4Xs;
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FileType {
    type Err = Error;

    /// Reads a name in any case. `Q3_K`, `Q4_K` and `Q5_K` stand for their
    /// mixtures `_M`.
    fn from_str(name: &str) -> Result<Self, Error> {
        let upper = name.to_ascii_uppercase();
        let upper = match upper.as_str() {
            "Q3_K" => "Q3_K_M",
            "Q4_K" => "Q4_K_M",
            "Q5_K" => "Q5_K_M",
            other => other,
        };
        Self::ALL.iter().copied().find(|kind| kind.as_str() == upper).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            Error::invalid_option("type", format!("`{name}`"), known.join(", "))
        })
    }
}

/// What the choice depends on beside the tensor.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) file_type: FileType,
    /// Every matrix gets the base type.
    pub(crate) pure: bool,
    pub(crate) has_importance: bool,
    /// `general.architecture`.
    pub(crate) architecture: String,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) experts: usize,
    /// There is no `output.weight`.
    pub(crate) tied: bool,
}

/// The part of a model that a tensor is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Embedding,
    Head,
    Value,
    Key,
    AttentionOutput,
    Down,
    Other,
}

impl Role {
    fn of(name: &str) -> Self {
        let has = |part: &str| name.contains(part);
        match name {
            "output.weight" => Self::Head,
            "token_embd.weight" => Self::Embedding,
            // The fused weight is as sensitive as the values in it.
            _ if has("attn_qkv.weight") || has("attn_v.weight") => Self::Value,
            _ if has("attn_k.weight") => Self::Key,
            _ if has("attn_output.weight") => Self::AttentionOutput,
            _ if has("ffn_down") => Self::Down,
            _ => Self::Other,
        }
    }
}

/// A type, and whether it is another than wanted because of the row's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) kind: BlockType,
    pub(crate) instead_of: Option<BlockType>,
}

impl Recipe {
    /// The type of a tensor whose shape has the outermost dimension first;
    /// `None` where it is none that is quantized: a vector, a norm, a router.
    pub(crate) fn choose(&self, name: &str, shape: &[usize]) -> Option<Choice> {
        if !is_matrix(name, shape) {
            return None;
        }
        let base = self.file_type.base();
        let wanted = if base.is_dense() || self.pure { base } else { self.mixed(name, shape) };
        let columns = shape.last().copied().unwrap_or(1);
        let kind = fitting(wanted, columns);
        Some(Choice { kind, instead_of: (kind != wanted).then_some(wanted) })
    }

    fn mixed(&self, name: &str, shape: &[usize]) -> BlockType {
        use FileType as F;
        let base = self.file_type.base();
        let role = Role::of(name);
        if role == Role::Head || role == Role::Embedding && self.tied {
            let columns = shape.last().copied().unwrap_or(1);
            let whole = columns.is_multiple_of(base.block_values());
            return if whole && base != BlockType::Q8_0 { BlockType::Q6K } else { BlockType::Q8_0 };
        }
        let layer = layer_of(name).unwrap_or(0);
        let grouped = self.heads >= 4 * self.kv_heads;
        let first = |part: usize| layer < self.layers / part;
        match (role, self.file_type) {
            // Small beside the rest of eight experts.
            (Role::Value | Role::Key, _) if self.experts == 8 => BlockType::Q8_0,
            (Role::Value, kind) => {
                let chosen = match kind {
                    F::Q2K if grouped => BlockType::Q4K,
                    F::Q2K => BlockType::Q3K,
                    F::Q3KM if layer < 2 => BlockType::Q5K,
                    F::Q3KM => BlockType::Q4K,
                    F::Q3KL => BlockType::Q5K,
                    F::Iq4Nl | F::Iq4Xs if grouped => BlockType::Q5K,
                    F::Q4KM | F::Q5KM if self.wants_more(layer) => BlockType::Q6K,
                    F::Q4KS if layer < 4 => BlockType::Q5K,
                    _ => base,
                };
                // Eight heads share the values of a 70B model.
                let small = matches!(chosen, BlockType::Q3K | BlockType::Q4K);
                if small && self.is_70b() { BlockType::Q5K } else { chosen }
            }
            (Role::Down, kind) => match kind {
                F::Q2K => BlockType::Q3K,
                F::Q3KM if first(16) => BlockType::Q5K,
                F::Q3KM => BlockType::Q4K,
                F::Q3KL => BlockType::Q5K,
                F::Q4KM | F::Q5KM if self.wants_more(layer) => BlockType::Q6K,
                F::Iq4Nl | F::Iq4Xs if first(8) && !self.has_importance => BlockType::Q5K,
                F::Q4KS if first(8) => BlockType::Q5K,
                F::Q4_0 if first(8) && self.has_importance => BlockType::Q4_1,
                F::Q5_0 if first(8) && self.has_importance => BlockType::Q5_1,
                _ => base,
            },
            (
                Role::AttentionOutput,
                F::Q2K | F::Q3KS | F::Q3KM | F::Q4KS | F::Q4KM | F::Iq4Nl | F::Iq4Xs,
            ) if self.experts == 8 => BlockType::Q5K,
            (Role::AttentionOutput, _) if self.experts == 8 => base,
            (Role::AttentionOutput, kind) => match kind {
                F::Q2K => BlockType::Q3K,
                F::Q3KM => BlockType::Q4K,
                F::Q3KL => BlockType::Q5K,
                _ => base,
            },
            _ => base,
        }
    }

    /// The first and last eighth of the layers, and every third between.
    fn wants_more(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }

    fn is_70b(&self) -> bool {
        let shared = self.architecture == "qwen2" || self.heads != self.kv_heads;
        matches!(self.architecture.as_str(), "llama" | "qwen2") && self.layers == 80 && shared
    }
}

/// Whether a tensor is quantized at all.
pub(crate) fn is_matrix(name: &str, shape: &[usize]) -> bool {
    // Dimensions of one do not count.
    let dimensions = shape.iter().skip_while(|dim| **dim == 1).count();
    dimensions >= 2
        && name.ends_with("weight")
        && !name.contains("_norm.weight")
        && !name.contains("ffn_gate_inp.weight")
}

/// The type, or for rows that are no whole blocks of it the next one of
/// smaller blocks, at last F16.
pub(crate) fn fitting(kind: BlockType, columns: usize) -> BlockType {
    if columns.is_multiple_of(kind.block_values()) {
        return kind;
    }
    match kind {
        BlockType::Q2K | BlockType::Q3K => fitting(BlockType::Q4_0, columns),
        BlockType::Q4K => fitting(BlockType::Q5_0, columns),
        BlockType::Q5K => fitting(BlockType::Q5_1, columns),
        BlockType::Q6K => fitting(BlockType::Q8_0, columns),
        BlockType::Iq4Xs => fitting(BlockType::Iq4Nl, columns),
        _ => BlockType::F16,
    }
}

/// The number in `blk.N.`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use inference_fixtures::dir;
    use inference_gguf::{GgufFile, TensorType};

    use super::*;

    #[test]
    fn types_are_those_that_llama_cpp_chose() {
        let Some(folder) = dir("gguf") else { return };
        let mut files = 0;
        for (model, names) in [
            (
                "llama-h256",
                &[
                    "f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m",
                    "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
                ][..],
            ),
            ("stories260k", &["f32", "f16", "bf16", "q8_0", "q4_0"]),
            ("gemma3", &["f32", "q8_0"]),
            ("qwen2", &["q8_0"]),
            ("qwen3", &["q8_0"]),
        ] {
            for name in names {
                let path = folder.join(model).join(format!("{model}-{name}.gguf"));
                let file = GgufFile::open(&path).unwrap();
                let metadata = file.metadata();
                let architecture = metadata.text("general.architecture").unwrap().unwrap();
                let size = |key: &str| {
                    metadata.size(&format!("{architecture}.{key}")).unwrap().unwrap_or(0)
                };
                let recipe = Recipe {
                    file_type: name.parse().unwrap(),
                    pure: false,
                    has_importance: false,
                    architecture: architecture.to_owned(),
                    layers: size("block_count"),
                    heads: size("attention.head_count"),
                    kv_heads: size("attention.head_count_kv"),
                    experts: size("expert_count"),
                    tied: file.tensor("output.weight").is_none(),
                };
                assert_eq!(size_of_type(&file), Some(recipe.file_type.id()), "{name}");
                for tensor in file.tensors() {
                    let choice = recipe.choose(tensor.name(), tensor.shape());
                    let kind = choice.map_or(BlockType::F32, |choice| choice.kind);
                    let named = format!("{model} {name} {}", tensor.name());
                    assert_eq!(TensorType::Known(kind), tensor.kind(), "{named}");
                }
                files += 1;
            }
        }
        assert_eq!(files, 22);
    }

    fn size_of_type(file: &GgufFile) -> Option<u32> {
        let id = file.metadata().size("general.file_type").unwrap();
        id.and_then(|id| u32::try_from(id).ok())
    }

    /// Larger than any fixture; by the rules themselves.
    #[test]
    fn mixtures_follow_the_layer() {
        let recipe = |file_type| Recipe {
            file_type,
            pure: false,
            has_importance: true,
            architecture: "llama".to_owned(),
            layers: 32,
            heads: 32,
            kv_heads: 8,
            experts: 0,
            tied: false,
        };
        let choose = |file_type, name: &str, shape: [usize; 2]| {
            recipe(file_type).choose(name, &shape).map(|choice| choice.kind)
        };
        let square = [4096, 4096];
        let kinds: Vec<_> = (0..32)
            .map(|layer| format!("blk.{layer}.ffn_down.weight"))
            .filter(|name| choose(FileType::Q4KM, name, square) == Some(BlockType::Q6K))
            .collect();
        assert_eq!(kinds.len(), 16, "{kinds:?}");
        let down = "blk.3.ffn_down.weight";
        assert_eq!(choose(FileType::Q4KS, down, square), Some(BlockType::Q5K));
        assert_eq!(choose(FileType::Q4_0, down, square), Some(BlockType::Q4_1));
        let value = "blk.20.attn_v.weight";
        assert_eq!(choose(FileType::Q2K, value, [1024, 4096]), Some(BlockType::Q4K));
        assert_eq!(choose(FileType::Q3KM, value, [1024, 4096]), Some(BlockType::Q4K));
        assert_eq!(choose(FileType::Q4KM, "blk.0.attn_q.weight", [32, 48]), Some(BlockType::F16));
        assert_eq!(choose(FileType::Q4KM, "blk.0.attn_q.weight", [32, 96]), Some(BlockType::Q5_0));
        assert_eq!(choose(FileType::Q4KM, "blk.0.attn_norm.weight", square), None);
        assert_eq!(choose(FileType::Q4KM, "blk.0.attn_q.bias", square), None);
        let large = Recipe { layers: 80, heads: 64, kv_heads: 8, ..recipe(FileType::Q4KS) };
        let kind = large.choose("blk.40.attn_v.weight", &[1024, 8192]).map(|c| c.kind);
        assert_eq!(kind, Some(BlockType::Q5K));
        let experts = Recipe { experts: 8, ..recipe(FileType::Q4KM) };
        let kind = experts.choose("blk.9.attn_k.weight", &[1024, 4096]).map(|c| c.kind);
        assert_eq!(kind, Some(BlockType::Q8_0));
    }

    #[test]
    fn names_are_read_back() {
        for kind in FileType::ALL {
            assert_eq!(kind.as_str().to_lowercase().parse::<FileType>().unwrap(), *kind);
        }
        assert_eq!("q4_k".parse::<FileType>().unwrap(), FileType::Q4KM);
        assert!("q9".parse::<FileType>().is_err());
    }
}
