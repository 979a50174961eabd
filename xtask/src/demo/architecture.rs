//! The shape of the demonstration model, and where its training begins.

use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};

use super::random::Random;
use super::tokenizer::{BOS, END, EOS, VOCAB_SIZE, special_id};
use crate::Result;

const HIDDEN: usize = 192;
const LAYERS: usize = 3;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const INTERMEDIATE: usize = 448;

/// Longest sequence, in tokens.
pub(crate) const CONTEXT: usize = 512;

/// Standard deviation of the initial weights.
const INIT_STD: f64 = 0.02;

/// `config.json`, in the names of Llama.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": INTERMEDIATE,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "initializer_range": INIT_STD,
        "bos_token_id": special_id(BOS),
        "eos_token_id": [special_id(EOS), special_id(END)],
        "torch_dtype": "float16",
    })
}

/// Name and shape of every weight, in the order of their names.
pub(crate) fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB_SIZE, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut push = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        push("input_layernorm", &[HIDDEN]);
        push("self_attn.q_proj", &[HEADS * HEAD_DIM, HIDDEN]);
        push("self_attn.k_proj", &[KV_HEADS * HEAD_DIM, HIDDEN]);
        push("self_attn.v_proj", &[KV_HEADS * HEAD_DIM, HIDDEN]);
        push("self_attn.o_proj", &[HIDDEN, HEADS * HEAD_DIM]);
        push("post_attention_layernorm", &[HIDDEN]);
        push("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        push("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        push("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    shapes.sort();
    shapes
}

/// Number of weights.
pub(crate) fn parameters() -> usize {
    shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// The weights before training: norms are 1, matrices normal with deviation
/// 0.02, those that write to the residual stream divided by sqrt(2 * layers)
/// (Radford et al., *Language Models are Unsupervised Multitask Learners*,
/// 2019).
pub(crate) fn initial_weights(seed: u64) -> Result<Vec<(String, Var)>> {
    let mut random = Random::new(seed, 2);
    let mut weights = Vec::new();
    for (name, shape) in shapes() {
        let count: usize = shape.iter().product();
        let residual = name.contains("o_proj") || name.contains("down_proj");
        let std = if residual { INIT_STD / (2.0 * LAYERS as f64).sqrt() } else { INIT_STD };
        let values: Vec<f32> = match shape.len() {
            1 => vec![1.0; count],
            _ => (0..count).map(|_| (random.normal() * std) as f32).collect(),
        };
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        weights.push((name, var));
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_one_and_four_million_parameters() {
        assert!((1_000_000..=4_000_000).contains(&parameters()), "{}", parameters());
    }

    #[test]
    fn the_beginning_is_repeatable() {
        let one = initial_weights(3).unwrap();
        let two = initial_weights(3).unwrap();
        for ((name, a), (_, b)) in one.iter().zip(&two) {
            let a = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let b = b.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(a, b, "{name}");
        }
    }
}
