//! What a model is, as a digest that does not read all of its weights.

use std::cell::RefCell;
use std::fmt::Write;

use inference_core::Result;
use sha2::{Digest, Sha256};

use super::WeightSource;
use crate::{DecoderConfig, Weight};

/// The weights of another source, noted as they are taken.
///
/// The digest is SHA-256 over the decoder's configuration and, of every weight
/// in the order in which it is taken, name, stored type, shape, and the values
/// of the first, the middle and the last row. Training and quantizing change
/// all rows, so models that differ have other digests; weights that were
/// changed on purpose in other rows alone do not.
pub(crate) struct Fingerprint {
    inner: Box<dyn WeightSource>,
    hash: RefCell<Sha256>,
}

impl Fingerprint {
    pub(crate) fn new(inner: Box<dyn WeightSource>, config: &DecoderConfig) -> Self {
        let hash = Sha256::new_with_prefix(format!("{config:?}"));
        Self { inner, hash: RefCell::new(hash) }
    }

    /// The digest of what was taken so far, in hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        let digest = self.hash.borrow().clone().finalize();
        digest.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn note(&self, name: &str, weight: &Weight) -> Result<()> {
        let mut hash = self.hash.borrow_mut();
        hash.update(format!("\n{name} {} {:?}", weight.kind(), weight.shape()));
        let last = weight.rows().saturating_sub(1);
        let mut row = vec![0.0f32; weight.columns()];
        if row.is_empty() || weight.rows() == 0 {
            return Ok(());
        }
        for index in [0, last / 2, last] {
            weight.decode_rows(index, &mut row)?;
            row.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        Ok(())
    }
}

impl WeightSource for Fingerprint {
    fn contains(&self, name: &str) -> bool {
        self.inner.contains(name)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let weight = self.inner.get(name)?;
        self.note(name, &weight)?;
        Ok(weight)
    }

    fn release_pages(&self) {
        self.inner.release_pages();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::DType;
    use inference_core::ModelSource;

    use super::*;
    use crate::{ModelFiles, SafetensorsFiles, WeightBytes, WeightType};

    fn config() -> DecoderConfig {
        let json = br#"{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2,
            "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 10,
            "max_position_embeddings": 64}"#;
        DecoderConfig::from_json("config.json", json).unwrap()
    }

    /// One weight `[5, 2]` of these values.
    struct One(Vec<f32>, &'static str);

    impl WeightSource for One {
        fn contains(&self, _: &str) -> bool {
            true
        }

        fn get(&self, _: &str) -> Result<Weight> {
            let bytes: Vec<u32> = self.0.iter().map(|v| v.to_bits()).collect();
            let bytes: &'static [u8] = bytemuck::cast_slice(bytes.leak());
            let bytes: WeightBytes = Arc::new(bytes);
            let len = self.0.len() * 4;
            let kind = WeightType::Dense(DType::F32);
            Weight::stored(self.1, vec![self.0.len() / 2, 2], kind, bytes, 0..len)
        }
    }

    fn digest(values: &[f32], name: &'static str, config: &DecoderConfig) -> String {
        let source = Fingerprint::new(Box::new(One(values.to_vec(), name)), config);
        source.get(name).unwrap();
        source.digest()
    }

    #[test]
    fn values_names_shapes_and_settings_change_it() {
        let values: Vec<f32> = (0..10).map(|v| v as f32).collect();
        let first = digest(&values, "a", &config());
        assert_eq!(first.len(), 64);
        assert_eq!(first, digest(&values, "a", &config()));
        let mut other = config();
        other.head_dim += 1;
        let mut digests =
            vec![first, digest(&values, "b", &config()), digest(&values, "a", &other)];
        digests.push(digest(&values[..8], "a", &config()));
        for index in [0, 5, 9] {
            let mut changed = values.clone();
            changed[index] += 0.5;
            digests.push(digest(&changed, "a", &config()));
        }
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 7);
    }

    #[test]
    fn a_model_has_the_same_one_each_time() {
        let Some(dir) = inference_fixtures::dir("tiny/qwen3") else { return };
        let digest = || {
            let files = ModelFiles::new(&ModelSource::from(dir.as_path())).unwrap();
            let source =
                Fingerprint::new(Box::new(SafetensorsFiles::open(&files).unwrap()), &config());
            source.get("model.norm.weight").unwrap();
            source.digest()
        };
        assert_eq!(digest(), digest());
    }
}
