//! Language models on Candle: one parametric decoder, its weights, the
//! operations that it runs on, and a runner for the engine.
//!
//! # From files to a model
//!
//! ```text
//! config.json or GGUF ───▶ DecoderConfig ──┐
//! *.safetensors or GGUF ──▶ WeightSource ──┼──▶ Decoder ──▶ CandleRunner ──▶ engine ──▶ TextModel
//! a backend's Ops ─────────────────────────┘
//! ```
//!
//! [`load_model`] goes the whole way. It is what every backend on Candle
//! calls, with operations of its own or, on a device that has none yet, with
//! the reference's:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use candle_core::Device;
//! use inference_candle::{ReferenceOps, load_model};
//! use inference_core::{LoadOptions, ModelSource};
//!
//! let ops = Arc::new(ReferenceOps::new(Device::Cpu));
//! let source = ModelSource::from("models/Qwen3-0.6B");
//! let model = load_model("cpu", &source, &LoadOptions::new(), ops)?;
//! println!("{} parameters", model.info().parameters);
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! # One decoder
//!
//! An architecture is data. [`DecoderConfig`] says which norms, rotary
//! embeddings, windows, caps, multipliers and experts there are; a file of
//! some thirty lines per architecture in `config/` fills it from
//! `config.json`, as transformers 4 and 5 write it. [`architectures`] lists
//! them. To add one, write that file, name it in `config.rs`, and compare with
//! the reference's logits in `tests/parity.rs`. What cannot be described is
//! refused by the name of the field.
//!
//! # Two levels of operations
//!
//! [`Ops`] is what a device provides: operations (linear, norm, rope,
//! attention, gates) and the blocks made of them ([`Ops::attention_block`],
//! [`Ops::mlp_block`], [`Ops::step`]). All have a default in plain Candle,
//! [`mod@reference`], which is the oracle for tests. A backend overrides single
//! operations first, and blocks where fusing them pays; the description of
//! the model, [`Decoder`] with its layers, is the same for both.
//!
//! Activations are f32 `[tokens, features]`: the tokens of all sequences of a
//! step one after the other, without padding. [`BatchView`] says which rows
//! are whose.
//!
//! # Weights
//!
//! Weights stay as they are stored. [`SafetensorsFiles`] and [`GgufWeights`]
//! hold mapped and checked files; [`Weight`] shares the mapped bytes down to
//! the operations, which use them in place, pack them, or upload them in their
//! stored type. No widened copy of a model is held.
//!
//! Dense weights are f32, f16 or bf16. Quantized ones are rows of ggml's
//! blocks, or rows of a [`RowCodec`] ([`QuantizedWeights`]). The reference
//! computes blocks with Candle's kernels where it has one for the type; other
//! quantized weights, and all where the precision is exact, it decodes a
//! bounded block of rows at a time ([`Weight::decode_rows`]).
//!
//! # Quantization
//!
//! [`LoadOptions::quantize`](inference_core::LoadOptions::quantize) turns
//! dense matrices into blocks while a model loads. [`quantize_model`] writes a
//! GGUF file from safetensors or GGUF; [`FileType`] says which types.
//!
//! # Quantized safetensors
//!
//! They stay in their codes and are decoded row by row
//! ([`QuantizedWeights`]): MLX affine (4 and 8 bits, groups of 32, 64 and 128,
//! the embedding too), GPTQ (4 bits, both versions of the format, activation
//! order), AWQ (4 bits, `gemm`), and FP8 e4m3 with a scale per tensor, output
//! or block (`fp8`, `fbgemm_fp8`, `compressed-tensors`). Other methods are
//! refused by their `quant_method`. Activations are f32: what a config says
//! about quantizing them is not followed.
//!
//! # GGUF
//!
//! [`DecoderConfig::from_gguf`] translates metadata to the fields of
//! `config.json` ([`gguf_architectures`] lists what llama.cpp calls the
//! architectures), [`GgufWeights`] the names of tensors. Llama.cpp writes some
//! architectures with the rows of queries and keys interleaved for its rotary
//! embedding: those are copied back into halves, everything else is used where
//! it lies. Where GGUF has no key, llama.cpp's default counts: Gemma 2's and
//! 3's queries are scaled by the size of a head. A sliding window counts where
//! a file has one, though llama.cpp ignores that of `llama` and `phi3`.
//!
//! # Same answer, whatever the company
//!
//! Nothing here makes a token's result depend on other tokens of the batch or
//! on how its prompt was cut into steps: attention reads keys as the KV pool
//! stores them, experts are summed in a fixed order, and rotary embeddings
//! that depend on the length of the context (dynamic, longrope) go by the
//! length of the sequence's prompt. Bit-identity then is a property of the
//! operations. The CPU backend's have it; the reference's do not promise it,
//! because Candle picks its matrix product by shape.
//!
//! # Adapters
//!
//! A [`DecoderAdapter`] is an adapter's factors as maps of the same operations;
//! [`BatchView::adapters`] says which rows of a step it changes, and
//! [`project`] applies it. [`CandleRunner::adapters`] is the pool from which
//! the engine's requests choose by name ([`AdapterPool`]): it reads PEFT,
//! mlx-lm and GGUF adapters, keeps them within a budget, and unloads one when
//! nobody uses it any more.
//!
//! Applied are low-rank changes (with `lora_bias`), whole weights and biases of
//! attention, gated MLPs and the head; fused maps (`qkv_proj`, `gate_up_proj`)
//! get their rows of `B`. Weight decomposition (DoRA), and changes of
//! embeddings, norms, experts and routers, are refused by the module's name.
//!
//! # Training
//!
//! An adapter is trained on the decoder that serves, where that is on the CPU
//! ([`TrainableModel`](inference_core::TrainableModel)): each half of a layer has
//! a way back of its own over frozen maps
//! ([`Linear::forward_exact`], [`Linear::input_gradient`]), computed with
//! [`Ops::multiply`] on the threads of [`Ops::for_each`].
//!
//! All weights can be trained too. Without a KV pool, over weights that are
//! variables, and on the reference operations, a decoder can be differentiated:
//!
//! ```
//! use std::sync::Arc;
//!
//! use candle_core::{Device, Var};
//! use inference_candle::{BatchView, Decoder, DecoderConfig, ReferenceOps, TensorWeights};
//! use inference_engine::StepSequence;
//!
//! let json = br#"{"model_type": "llama", "vocab_size": 16, "hidden_size": 8,
//!     "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 1,
//!     "tie_word_embeddings": true}"#;
//! let config = DecoderConfig::from_json("config.json", json)?;
//! let mut variables = Vec::new();
//! for (name, shape) in [
//!     ("model.embed_tokens.weight", vec![16, 8]),
//!     ("model.norm.weight", vec![8]),
//!     ("model.layers.0.input_layernorm.weight", vec![8]),
//!     ("model.layers.0.post_attention_layernorm.weight", vec![8]),
//!     ("model.layers.0.self_attn.q_proj.weight", vec![8, 8]),
//!     ("model.layers.0.self_attn.k_proj.weight", vec![8, 8]),
//!     ("model.layers.0.self_attn.v_proj.weight", vec![8, 8]),
//!     ("model.layers.0.self_attn.o_proj.weight", vec![8, 8]),
//!     ("model.layers.0.mlp.gate_proj.weight", vec![12, 8]),
//!     ("model.layers.0.mlp.up_proj.weight", vec![12, 8]),
//!     ("model.layers.0.mlp.down_proj.weight", vec![8, 12]),
//! ] {
//!     variables.push((name, Var::randn(0_f32, 0.5, shape, &Device::Cpu)?));
//! }
//! let weights: TensorWeights = variables
//!     .iter()
//!     .map(|(name, variable)| (name.to_string(), variable.as_tensor().clone()))
//!     .collect();
//! let decoder = Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu()))?;
//!
//! // Two sequences of three tokens in one call; logits of all six.
//! let block_table = Vec::new();
//! let first = StepSequence { start: 0, len: 3, position: 0, prompt_len: 3, adapter: None, block_table };
//! let sequences = [first.clone(), StepSequence { start: 3, ..first }];
//! let batch = BatchView { sequences: &sequences, positions: &[0, 1, 2, 0, 1, 2], adapters: &[] };
//! let logits = decoder.forward(&[1, 2, 3, 4, 5, 6], &batch, None, &[0, 1, 2, 3, 4, 5])?;
//! assert_eq!(logits.dims(), [6, 16]);
//! let gradients = logits.sqr()?.mean_all()?.backward()?;
//! assert!(variables.iter().all(|(_, variable)| gradients.get(variable).is_some()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Variables may be updated in place between calls.
//!
//! # Features
//!
//! `cuda` and `metal` enable Candle's devices of that name.
//!
//! `extra-architectures` adds architectures outside the parametric decoder,
//! computed by candle-transformers where its logits are those of transformers
//! ([`extra_architectures`]):
//!
//! | `model_type` | refused by the name of the field |
//! |---|---|
//! | `falcon` | `activation` other than a tanh GELU (so that of the released models), `alibi`, `new_decoder_architecture`, several key/value heads |
//! | `gpt_bigcode` | `multi_query: false`, more than 8192 positions |
//! | `helium` | biases |
//! | `mamba` | sizes and epsilon other than the usual, an untied head |
//! | `mamba2` | `n_groups` above 1, an untied head, time step limits |
//! | `olmo` | |
//! | `phi` | `qk_layernorm` |
//! | `stablelm` | `qk_layernorm`, `use_parallel_residual` |
//! | `starcoder2` | an untied head; the context is at most the sliding window |
//!
//! Left out: MPT (candle-transformers ignores the weights of its norms), and
//! those that it does not have, such as GPT-NeoX. Every running sequence has
//! an instance of the model over shared weights, so that several can run; the
//! sequences of a step are computed one after the other. Weights are widened
//! to f32, computing is Candle's (`threads`, `affinity`, `quantize` and a
//! `kv_dtype` are refused), and there is no attention inspection. A slot keeps
//! its state until the next sequence takes it; `kv_budget` bounds all of them.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod accepts;
mod adapter_pool;
mod attention_block;
mod capabilities;
mod checkpoint;
mod config;
mod decoder;
mod decoder_adapter;
mod extra;
mod files;
mod generation_config;
mod inspect;
mod json;
mod kv_cache;
mod kv_plan;
mod layer_weights;
mod load;
mod matrix;
mod merge_model;
mod merged_weights;
mod mlp_block;
mod module_table;
mod moe;
mod norm;
mod ops;
mod project;
mod quantize;
mod quantized;
pub mod reference;
mod rope;
mod runner;
mod training;
mod weight;
mod weights;

pub use accepts::accepts;
pub use adapter_pool::{AdapterPool, DEFAULT_ADAPTER_BUDGET};
pub use attention_block::{AttentionBlock, StepContext};
pub use capabilities::capabilities;
pub use config::{
    Biases, DecoderConfig, LayerSpec, MlpSpec, NormLayout, QkNorm, RopeScaling, RopeSpec,
    WeightNames, architectures, gguf_architectures,
};
pub use decoder::{Decoder, DecoderLayer};
pub use decoder_adapter::{AdaptedMap, DecoderAdapter, Factors, LayerMap, MapDelta};
pub use extra::extra_architectures;
pub use files::ModelFiles;
pub use kv_cache::{KvCache, KvLayout};
pub use kv_plan::{BLOCK_SIZE, DEFAULT_KV_BUDGET};
pub use load::{load_model, load_on_device};
pub use matrix::MatrixView;
pub use merge_model::{MergeAdapter, MergeOptions, MergeReport, merge_model};
pub use merged_weights::MergedWeights;
pub use mlp_block::{GatedMlp, Mlp, MlpBlock};
pub use moe::{ExpertRows, Moe, Routing};
pub use norm::Norm;
pub use ops::{Activation, AttentionSpec, BatchView, Linear, Ops};
pub use project::{AdapterRows, project};
pub use quantize::{FileType, QuantizeOptions, QuantizeReport, quantize_model};
pub(crate) use quantized::quantization_methods;
pub use quantized::{QuantizationScheme, QuantizedWeights};
pub use reference::ReferenceOps;
pub use rope::{Rope, RopeAngles};
pub use runner::CandleRunner;
pub use weight::{RowCodec, Weight, WeightBytes, WeightType};
pub use weights::{GgufWeights, SafetensorsFiles, TensorWeights, WeightSource};
