//! Adapters that the suite writes itself: folders as PEFT reads them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use inference_core::{Error, ModelInfo, Result};

/// Rank of the factors.
const RANK: usize = 2;

/// A folder with an adapter, removed in the end.
///
/// It changes `o_proj` of every layer, which every decoder has under that
/// name, by factors that depend on the seed alone, and by so much that answers
/// change.
pub(crate) struct AdapterFolder {
    path: PathBuf,
}

impl AdapterFolder {
    /// An adapter for a model of these sizes.
    pub(crate) fn new(info: &ModelInfo, seed: u64) -> Result<Self> {
        Self::write(info, seed, false)
    }

    /// The same with a value that is no number.
    pub(crate) fn damaged(info: &ModelInfo) -> Result<Self> {
        Self::write(info, 1, true)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn write(info: &ModelInfo, seed: u64, damaged: bool) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("inference-conformance-adapter-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let failed = |error| Error::io(&path, "write", error);
        std::fs::create_dir_all(&path).map_err(failed)?;
        let this = Self { path: path.clone() };
        let config = format!(
            r#"{{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": {RANK}, "lora_alpha": 32,
            "lora_dropout": 0.0, "bias": "none", "target_modules": ["o_proj"]}}"#
        );
        std::fs::write(path.join("adapter_config.json"), config).map_err(failed)?;
        let mut bytes = safetensors(info, seed);
        if damaged && let Some(last) = bytes.last_chunk_mut::<4>() {
            *last = f32::NAN.to_le_bytes();
        }
        std::fs::write(path.join("adapter_model.safetensors"), bytes).map_err(failed)?;
        Ok(this)
    }
}

impl Drop for AdapterFolder {
    fn drop(&mut self) {
        // What is left behind is in the folder for such things.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The factors as a safetensors file: the length of the header, the header,
/// f32 values.
fn safetensors(info: &ModelInfo, seed: u64) -> Vec<u8> {
    let width = info.num_heads * info.head_dim;
    let (mut header, mut data) = (String::from("{"), Vec::new());
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for layer in 0..info.num_layers {
        for (factor, rows, columns) in [("lora_A", RANK, width), ("lora_B", info.hidden_size, RANK)]
        {
            let start = data.len();
            for _ in 0..rows * columns {
                // Marsaglia, Xorshift RNGs, 2003.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let value = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
                data.extend(value.to_le_bytes());
            }
            let comma = if header.len() > 1 { "," } else { "" };
            // Writing to a text does not fail.
            let _ = write!(
                header,
                r#"{comma}"base_model.model.model.layers.{layer}.self_attn.o_proj.{factor}.weight":{{"dtype":"F32","shape":[{rows},{columns}],"data_offsets":[{start},{}]}}"#,
                data.len()
            );
        }
    }
    header.push('}');
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}
