//! Safetensors as GGUF: names, forms, metadata, tokenizer.

use std::cell::RefCell;

use inference_core::{Error, Result};
use inference_gguf::{BlockType, GgufFile, GgufWriter};
use inference_text::TextParts;

use super::QuantizeOptions;
use super::describe::describe;
use super::from_gguf::requantizing;
use super::recipe::Recipe;
use super::rope_tensors::rope_tensors;
use super::tensors::{Data, NewTensor, Plan, choose, note, note_unmatched};
use crate::checkpoint::Checkpoint;
use crate::config::gguf::{GgufArchitecture, gguf_architectures};
use crate::layer_weights::ModelWeights;
use crate::weights::{GgufNames, TensorForm};
use crate::{DecoderConfig, MlpSpec, ModelFiles, RopeScaling, Weight, WeightSource, WeightType};

pub(super) fn plan(
    files: &ModelFiles,
    options: &QuantizeOptions,
    has_importance: bool,
) -> Result<Plan> {
    let mut checkpoint = Checkpoint::open(files.clone())?;
    let source: Box<dyn WeightSource> = match &options.adapter {
        None => checkpoint.weights()?,
        Some(adapter) => {
            let (merged, unmatched) = adapter.apply(&checkpoint)?;
            checkpoint.config.tied_head &= !merged.unties_head();
            note_unmatched(options, &unmatched);
            Box::new(merged)
        }
    };
    let config = &checkpoint.config;
    let model_type = &*config.architecture;
    let Some(architecture) = GgufArchitecture::by_model_type(model_type) else {
        let known = gguf_architectures().collect::<Vec<_>>().join(", ");
        return Err(Error::unsupported_model("config.json", "model_type", model_type, known));
    };
    let mut header = GgufWriter::new();
    describe(&mut header, config, architecture)?;
    header.set("general.type", "model");
    let name = files.name();
    let name = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    header.set("general.name", name);
    header.set("general.quantization_version", 2_u32);
    header.set("general.file_type", options.file_type.id());
    let pre = options.pre_tokenizer.as_deref();
    let notes =
        TextParts::write_gguf(&mut header, |file| files.read(file), config.vocab_size, pre)?;
    for message in notes {
        note(options, message);
    }
    let experts = config.layers.iter().find_map(|layer| match layer.mlp {
        MlpSpec::Moe { experts, .. } => Some(experts),
        MlpSpec::Gated { .. } => None,
    });
    let recipe = Recipe {
        file_type: options.file_type,
        pure: options.pure,
        has_importance,
        architecture: architecture.name.to_owned(),
        layers: config.layers.len(),
        heads: config.num_heads,
        kv_heads: config.num_kv_heads,
        experts: experts.unwrap_or(0),
        tied: config.tied_head,
    };
    if architecture.name == "llama" && config.layers.iter().any(|layer| layer.window.is_some()) {
        let message =
            "llama.cpp knows no sliding window for this architecture and attends beyond it";
        note(options, message.to_owned());
    }
    let mut tensors = Vec::new();
    for (name, values) in rope_tensors(config)? {
        let (name, shape) = (name.to_owned(), vec![values.len()]);
        let data = Data::Values(values);
        tensors.push(NewTensor { name, shape, kind: BlockType::F32, data });
    }
    let parameters = stored_tensors(config, architecture, &*source, options, &mut tensors)?;
    for tensor in &mut tensors {
        if matches!(tensor.data, Data::Weights { .. }) {
            tensor.kind = choose(&recipe, options, &tensor.name, &tensor.shape);
        }
    }
    let wanted = config.clone();
    let check = Box::new(move |file: &GgufFile| same_decoder(&wanted, file));
    Ok(Plan { header, tensors, source, parameters, check })
}

/// Adds the tensors of all weights that the decoder uses.
fn stored_tensors(
    config: &DecoderConfig,
    architecture: &GgufArchitecture,
    source: &dyn WeightSource,
    options: &QuantizeOptions,
    tensors: &mut Vec<NewTensor>,
) -> Result<u64> {
    let recorder = Recorder { inner: source, asked: RefCell::default() };
    let parameters = ModelWeights::find(config, &recorder)?.parameters;
    let asked = recorder.asked.into_inner();
    let names = GgufNames::new(config, architecture);
    // The embedding is asked for first; its prefix is that of all but the head.
    let suffix = format!("{}.weight", config.names.embedding);
    let root = asked.first().and_then(|first| first.name.strip_suffix(&suffix)).unwrap_or("");
    let root = root.to_owned();
    let usual = config.names.roots.first().copied().unwrap_or_default();
    for Asked { name, shape, kind } in asked {
        let plain = match name.strip_prefix(&root) {
            Some(rest) if !name.starts_with(config.names.head) => format!("{usual}{rest}"),
            _ => name.clone(),
        };
        let Some(tensor) = names.tensor(&plain) else {
            let what = format!("tensor `{name}`");
            return Err(Error::unsupported_model("weights", what, "no place in GGUF", "others"));
        };
        if !matches!(kind, WeightType::Dense(_)) && !options.requantize {
            return Err(requantizing(options, &name, &kind.to_string()));
        }
        // Norms that have the one already keep it.
        let form = match tensor.form {
            TensorForm::PlusOne if !config.norm_unit_offset => TensorForm::Same,
            form => form,
        };
        if tensor.expert.is_some()
            && let Some(last) = tensors.iter_mut().rfind(|known| known.name == tensor.name)
            && let Data::Weights { names, .. } = &mut last.data
        {
            names.push(name);
            if let Some(count) = last.shape.first_mut() {
                *count += 1;
            }
            continue;
        }
        let shape = match tensor.expert {
            Some(_) => [vec![1], shape].concat(),
            None => shape,
        };
        let data = Data::Weights { names: vec![name], form };
        tensors.push(NewTensor { name: tensor.name, shape, kind: BlockType::F32, data });
    }
    Ok(parameters)
}

/// Notes which weights a decoder asks for.
struct Recorder<'a> {
    inner: &'a dyn WeightSource,
    asked: RefCell<Vec<Asked>>,
}

struct Asked {
    name: String,
    shape: Vec<usize>,
    kind: WeightType,
}

impl WeightSource for Recorder<'_> {
    fn contains(&self, name: &str) -> bool {
        self.inner.contains(name)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let weight = self.inner.get(name)?;
        let (shape, kind) = (weight.shape().to_vec(), weight.kind());
        self.asked.borrow_mut().push(Asked { name: name.to_owned(), shape, kind });
        Ok(weight)
    }
}

/// Checks that the file describes the decoder that it was made from: GGUF
/// fixes for an architecture what `config.json` may vary.
fn same_decoder(wanted: &DecoderConfig, file: &GgufFile) -> Result<()> {
    let read = DecoderConfig::from_gguf(file)?;
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * a.abs().max(b.abs());
    let differs = |what: &str, found: String, supported: String| {
        Err(Error::unsupported_model(
            "config.json",
            what,
            found,
            format!("{supported}, as GGUF has it"),
        ))
    };
    for (what, wanted, read) in [
        ("the attention scale", wanted.attention_scale, read.attention_scale),
        ("the embedding scale", wanted.embedding_scale, read.embedding_scale),
        ("the residual scale", wanted.residual_scale, read.residual_scale),
        ("the logit scale", wanted.logit_scale, read.logit_scale),
        ("rms_norm_eps", wanted.norm_eps, read.norm_eps),
        (
            "the soft cap of attention",
            wanted.attention_softcap.unwrap_or(0.0),
            read.attention_softcap.unwrap_or(0.0),
        ),
        (
            "the soft cap of logits",
            wanted.logit_softcap.unwrap_or(0.0),
            read.logit_softcap.unwrap_or(0.0),
        ),
    ] {
        if !near(wanted.into(), read.into()) {
            return differs(what, wanted.to_string(), read.to_string());
        }
    }
    macro_rules! same {
        ($($field:ident),*) => {$(
            if wanted.$field != read.$field {
                let (found, supported) = (&wanted.$field, &read.$field);
                return differs(stringify!($field), format!("{found:?}"), format!("{supported:?}"));
            }
        )*};
    }
    same!(
        vocab_size,
        hidden_size,
        num_heads,
        num_kv_heads,
        head_dim,
        context_len,
        norms,
        qk_norm,
        bias,
        activation,
        tied_head,
        fused_qkv,
        fused_gate_up
    );
    for (index, (wanted_layer, layer)) in wanted.layers.iter().zip(&read.layers).enumerate() {
        let rope = |config: &DecoderConfig, index: Option<usize>| {
            index.and_then(|index| config.ropes.get(index).cloned())
        };
        let ropes = (rope(wanted, wanted_layer.rope), rope(&read, layer.rope));
        let same_rope = match &ropes {
            (None, None) => true,
            (Some(a), Some(b)) => {
                near(a.theta, b.theta) && a.dim == b.dim && same_scaling(&a.scaling, &b.scaling)
            }
            _ => false,
        };
        if !same_rope {
            let what = format!("the rotary embedding of layer {index}");
            return differs(&what, format!("{:?}", ropes.0), format!("{:?}", ropes.1));
        }
        if wanted_layer.window != layer.window || wanted_layer.mlp != layer.mlp {
            let what = format!("layer {index}");
            return differs(&what, format!("{wanted_layer:?}"), format!("{layer:?}"));
        }
    }
    Ok(())
}

/// Whether a scaling is what was written of another.
fn same_scaling(wanted: &RopeScaling, read: &RopeScaling) -> bool {
    let near = |a: &f64, b: &f64| (a - b).abs() <= 1e-5 * a.abs().max(b.abs());
    match (wanted, read) {
        (RopeScaling::None, RopeScaling::None)
        // Tensors, written from the same formula.
        | (
            RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. },
            RopeScaling::Factors { .. },
        ) => true,
        (RopeScaling::Linear { factor: a }, RopeScaling::Linear { factor: b }) => near(a, b),
        (
            RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_context, truncate },
            RopeScaling::Yarn {
                factor: read_factor,
                beta_fast: read_fast,
                beta_slow: read_slow,
                attention_factor: read_attention,
                original_context: read_context,
                truncate: read_truncate,
            },
        ) => {
            near(factor, read_factor)
                && near(beta_fast, read_fast)
                && near(beta_slow, read_slow)
                && near(attention_factor, read_attention)
                && original_context == read_context
                && truncate == read_truncate
        }
        (
            RopeScaling::LongRope { attention_factor, original_context, .. },
            RopeScaling::LongRope {
                attention_factor: read_factor,
                original_context: read_context,
                ..
            },
        ) => near(attention_factor, read_factor) && original_context == read_context,
        _ => false,
    }
}
