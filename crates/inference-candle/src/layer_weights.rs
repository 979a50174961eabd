//! The weights of a decoder, found by name and checked against its
//! description; nothing is allocated here.

use std::sync::Arc;

use candle_core::DType;
use inference_core::{Error, Quantization, Result};

use crate::mlp_block::{GatedMlp, Mlp};
use crate::moe::Moe;
use crate::{
    DecoderConfig, LayerSpec, Linear, MlpSpec, NormLayout, Ops, QkNorm, Weight, WeightSource,
    WeightType,
};

/// The weights of a decoder.
pub(crate) struct ModelWeights {
    pub(crate) embedding: Weight,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Weight,
    /// `None` where the embedding is the head.
    pub(crate) head: Option<Weight>,
    /// Elements and bytes of all of them.
    pub(crate) parameters: u64,
    pub(crate) bytes: u64,
    /// How most of the bytes are stored.
    pub(crate) storage: Storage,
}

/// A way of storing weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) kind: WeightType,
    pub(crate) quantization: Option<Quantization>,
}

impl Storage {
    fn of(weight: &Weight) -> Self {
        Self { kind: weight.kind(), quantization: weight.quantization() }
    }
}

/// The weights of a layer.
pub(crate) struct LayerWeights {
    pub(crate) spec: LayerSpec,
    pub(crate) attention_norm: Option<Weight>,
    pub(crate) post_attention_norm: Option<Weight>,
    pub(crate) mlp_norm: Option<Weight>,
    pub(crate) post_mlp_norm: Option<Weight>,
    pub(crate) query: LinearWeights,
    pub(crate) key: LinearWeights,
    pub(crate) value: LinearWeights,
    pub(crate) output: LinearWeights,
    pub(crate) qk_norm: Option<(Weight, Weight)>,
    pub(crate) mlp: MlpWeights,
}

/// A weight with its bias.
pub(crate) struct LinearWeights {
    weight: Weight,
    bias: Option<Weight>,
}

impl LinearWeights {
    pub(crate) fn build(&self, ops: &dyn Ops) -> Result<Arc<dyn Linear>> {
        ops.linear(&self.weight, self.bias.as_ref())
    }
}

/// Gate, up and down.
pub(crate) struct GatedWeights([LinearWeights; 3]);

impl GatedWeights {
    fn build(&self, config: &DecoderConfig, ops: &dyn Ops) -> Result<GatedMlp> {
        let [gate, up, down] = &self.0;
        Ok(GatedMlp {
            gate: gate.build(ops)?,
            up: up.build(ops)?,
            down: down.build(ops)?,
            activation: config.activation,
        })
    }
}

/// The weights of an MLP.
pub(crate) enum MlpWeights {
    Gated(Box<GatedWeights>),
    Moe {
        router: Box<LinearWeights>,
        experts: Vec<GatedWeights>,
        experts_per_token: usize,
        normalize: bool,
    },
}

impl MlpWeights {
    pub(crate) fn build(&self, config: &DecoderConfig, ops: &dyn Ops) -> Result<Mlp> {
        Ok(match self {
            Self::Gated(weights) => Mlp::Gated(weights.build(config, ops)?),
            Self::Moe { router, experts, experts_per_token, normalize } => Mlp::Moe(Moe {
                router: router.build(ops)?,
                experts: experts
                    .iter()
                    .map(|expert| expert.build(config, ops))
                    .collect::<Result<_>>()?,
                experts_per_token: *experts_per_token,
                normalize: *normalize,
            }),
        })
    }
}

impl ModelWeights {
    /// Finds every weight that the description needs.
    pub(crate) fn find(config: &DecoderConfig, source: &dyn WeightSource) -> Result<Self> {
        let names = &config.names;
        let has = |root: &&&str| source.contains(&format!("{root}{}.weight", names.embedding));
        let roots = &names.roots;
        let root = roots.iter().find(has).or(roots.first()).copied().unwrap_or_default();
        let mut finder = Finder { config, source, parameters: 0, bytes: 0, storage: Vec::new() };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = finder.weight(&format!("{root}{}", names.embedding), &[vocab, hidden])?;
        let final_norm = finder.weight(&format!("{root}{}", names.final_norm), &[hidden])?;
        let head = match config.tied_head {
            true => None,
            false => Some(finder.weight(names.head, &[vocab, hidden])?),
        };
        let mut layers = Vec::new();
        for (index, spec) in config.layers.iter().enumerate() {
            layers.push(finder.layer(&format!("{root}layers.{index}."), spec)?);
        }
        let most = finder.storage.iter().max_by_key(|(_, bytes)| *bytes);
        Ok(Self {
            storage: most.map_or_else(|| Storage::of(&embedding), |(storage, _)| *storage),
            embedding,
            layers,
            final_norm,
            head,
            parameters: finder.parameters,
            bytes: finder.bytes,
        })
    }
}

struct Finder<'a> {
    config: &'a DecoderConfig,
    source: &'a dyn WeightSource,
    parameters: u64,
    bytes: u64,
    storage: Vec<(Storage, u64)>,
}

impl Finder<'_> {
    /// The tensor `name.weight`.
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Weight> {
        self.tensor(&format!("{name}.weight"), shape)
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Weight> {
        let weight = self.source.get(name)?;
        if weight.shape() != shape {
            return Err(Error::invalid_model(
                "weights",
                format!("tensor `{}`", weight.name()),
                format!("shape {shape:?}"),
                format!("shape {:?}", weight.shape()),
            ));
        }
        if let WeightType::Dense(dtype) = weight.kind()
            && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        {
            let what = format!("type of tensor `{}`", weight.name());
            let found = format!("{dtype:?}");
            return Err(Error::unsupported_model("weights", what, found, "F32, F16, BF16"));
        }
        self.parameters = self.parameters.saturating_add(weight.elem_count() as u64);
        let bytes = weight.stored_bytes();
        self.bytes = self.bytes.saturating_add(bytes);
        let storage = Storage::of(&weight);
        match self.storage.iter_mut().find(|(known, _)| *known == storage) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.storage.push((storage, bytes)),
        }
        Ok(weight)
    }

    fn linear(
        &mut self,
        name: &str,
        out: usize,
        inner: usize,
        bias: bool,
    ) -> Result<LinearWeights> {
        let weight = self.weight(name, &[out, inner])?;
        let bias = match bias {
            true => Some(self.tensor(&format!("{name}.bias"), &[out])?),
            false => None,
        };
        Ok(LinearWeights { weight, bias })
    }

    /// Consecutive rows of one map as maps of their own.
    fn split<const N: usize>(
        &mut self,
        name: &str,
        rows: [usize; N],
        inner: usize,
        bias: bool,
    ) -> Result<[LinearWeights; N]> {
        let total = rows.iter().fold(0_usize, |sum, rows| sum.saturating_add(*rows));
        let whole = self.linear(name, total, inner, bias)?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(N);
        for rows in rows {
            let range = start..start + rows;
            let bias = whole.bias.as_ref().map(|bias| bias.narrow_rows(range.clone()));
            let weight = whole.weight.narrow_rows(range)?;
            parts.push(LinearWeights { weight, bias: bias.transpose()? });
            start += rows;
        }
        parts.try_into().map_err(|_| Error::engine_message("splitting a fused weight"))
    }

    fn layer(&mut self, prefix: &str, spec: &LayerSpec) -> Result<LayerWeights> {
        let config = self.config;
        let (names, hidden) = (&config.names, config.hidden_size);
        let (pre, post) = match config.norms {
            NormLayout::Pre => (true, false),
            NormLayout::Post => (false, true),
            NormLayout::PrePost => (true, true),
        };
        let mut norm = |wanted: bool, name: &str| {
            wanted.then(|| self.weight(&format!("{prefix}{name}"), &[hidden])).transpose()
        };
        let attention_norm = norm(pre, names.attention_norm)?;
        let post_attention_norm = norm(post, names.post_attention_norm)?;
        let mlp_norm = norm(pre, names.mlp_norm)?;
        let post_mlp_norm = norm(post, names.post_mlp_norm)?;

        let q_size = config.num_heads * config.head_dim;
        let kv_size = config.num_kv_heads * config.head_dim;
        let attention = |name: &str| format!("{prefix}self_attn.{name}");
        let bias = config.bias;
        let [query, key, value] = if config.fused_qkv {
            self.split(&attention("qkv_proj"), [q_size, kv_size, kv_size], hidden, bias.qkv)?
        } else {
            [
                self.linear(&attention("q_proj"), q_size, hidden, bias.qkv)?,
                self.linear(&attention("k_proj"), kv_size, hidden, bias.qkv)?,
                self.linear(&attention("v_proj"), kv_size, hidden, bias.qkv)?,
            ]
        };
        let output = self.linear(&attention("o_proj"), hidden, q_size, bias.output)?;
        let qk_sizes = match config.qk_norm {
            Some(QkNorm::PerHead) => Some((config.head_dim, config.head_dim)),
            Some(QkNorm::AllHeads) => Some((q_size, kv_size)),
            None => None,
        };
        let qk_norm = match qk_sizes {
            Some((q, k)) => Some((
                self.weight(&attention("q_norm"), &[q])?,
                self.weight(&attention("k_norm"), &[k])?,
            )),
            None => None,
        };
        let mlp = self.mlp(prefix, &spec.mlp)?;
        Ok(LayerWeights {
            spec: spec.clone(),
            attention_norm,
            post_attention_norm,
            mlp_norm,
            post_mlp_norm,
            query,
            key,
            value,
            output,
            qk_norm,
            mlp,
        })
    }

    fn mlp(&mut self, prefix: &str, spec: &MlpSpec) -> Result<MlpWeights> {
        let (names, hidden) = (&self.config.names, self.config.hidden_size);
        match spec {
            MlpSpec::Gated { intermediate } => {
                let name = |name: &str| format!("{prefix}mlp.{name}");
                let (size, bias) = (*intermediate, self.config.bias.mlp);
                let [gate, up] = if self.config.fused_gate_up {
                    self.split(&name("gate_up_proj"), [size, size], hidden, bias)?
                } else {
                    [
                        self.linear(&name("gate_proj"), size, hidden, bias)?,
                        self.linear(&name("up_proj"), size, hidden, bias)?,
                    ]
                };
                let down = self.linear(&name("down_proj"), hidden, size, bias)?;
                Ok(MlpWeights::Gated(Box::new(GatedWeights([gate, up, down]))))
            }
            MlpSpec::Moe { experts: count, experts_per_token, intermediate, normalize } => {
                let router =
                    self.linear(&format!("{prefix}{}", names.router), *count, hidden, false)?;
                let size = *intermediate;
                let mut experts = Vec::new();
                for index in 0..*count {
                    let [gate, up, down] = names
                        .expert
                        .map(|name| format!("{prefix}{}.{index}.{name}", names.experts));
                    experts.push(GatedWeights([
                        self.linear(&gate, size, hidden, false)?,
                        self.linear(&up, size, hidden, false)?,
                        self.linear(&down, hidden, size, false)?,
                    ]));
                }
                Ok(MlpWeights::Moe {
                    router: Box::new(router),
                    experts,
                    experts_per_token: *experts_per_token,
                    normalize: *normalize,
                })
            }
        }
    }
}
