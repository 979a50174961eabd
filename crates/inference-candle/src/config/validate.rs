//! Consistency of a description, before anything is allocated for it.

use inference_core::{Error, Result};

use super::{DecoderConfig, MlpSpec};
use crate::Rope;

impl DecoderConfig {
    /// Checks that sizes fit each other and numbers are usable; `file` names
    /// the source in errors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// naming the field.
    pub fn validate(&self, file: &str) -> Result<()> {
        self.validate_as(file, &|field| field.to_owned())
    }

    /// As [`validate`](Self::validate); `label` is what errors call a field.
    pub(crate) fn validate_as(&self, file: &str, label: &dyn Fn(&str) -> String) -> Result<()> {
        let invalid = |what: &str, expected: String, found: String| {
            Err(Error::invalid_model(file, label(what), expected, found))
        };
        for (what, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.context_len),
            ("num_hidden_layers", self.layers.len()),
        ] {
            if size == 0 {
                return invalid(what, "at least 1".to_owned(), "0".to_owned());
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({})", self.num_heads);
            return invalid("num_key_value_heads", expected, self.num_kv_heads.to_string());
        }
        let largest = [self.vocab_size, self.num_heads.saturating_mul(self.head_dim)];
        for size in largest {
            if size.checked_mul(self.hidden_size).is_none_or(|n| n > isize::MAX as usize / 8) {
                let expected = "weights that fit in memory".to_owned();
                return invalid("the sizes", expected, format!("{size} x {}", self.hidden_size));
            }
        }
        for (what, factor) in [
            ("the attention scale", self.attention_scale),
            ("the embedding scale", self.embedding_scale),
            ("the residual scale", self.residual_scale),
            ("the logit scale", self.logit_scale),
        ] {
            if !factor.is_finite() {
                return invalid(what, "a finite number".to_owned(), factor.to_string());
            }
        }
        for rope in &self.ropes {
            if rope.dim == 0 || !rope.dim.is_multiple_of(2) || rope.dim > self.head_dim {
                let expected = format!("an even number up to head_dim ({})", self.head_dim);
                return invalid("rotated elements", expected, rope.dim.to_string());
            }
            let last = self.context_len as f32;
            let usable = |frequency: &f32| (frequency * last).is_finite() && *frequency >= 0.0;
            let table = Rope::new(rope.clone());
            let contexts = [0, self.context_len];
            if !contexts.iter().all(|context| table.frequencies(*context).iter().all(usable)) {
                let expected = "finite angles".to_owned();
                return invalid("the rotary embedding", expected, format!("theta {}", rope.theta));
            }
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.rope.is_some_and(|rope| rope >= self.ropes.len()) {
                let what = format!("the rotary embedding of layer {index}");
                let expected = format!("below {}", self.ropes.len());
                return invalid(&what, expected, format!("{:?}", layer.rope));
            }
            if let MlpSpec::Moe { experts, experts_per_token, .. } = &layer.mlp
                && experts_per_token > experts
            {
                let expected = format!("at most the number of experts ({experts})");
                return invalid("num_experts_per_tok", expected, experts_per_token.to_string());
            }
        }
        Ok(())
    }
}
