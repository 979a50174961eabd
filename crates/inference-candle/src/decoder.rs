//! The decoder: a description and weights, put together.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use inference_core::{Error, Quantization, Result};

use crate::decoder_adapter::AdaptedMap;
use crate::layer_weights::{LayerWeights, ModelWeights, Storage};
use crate::project::{AdapterRows, project};
use crate::{
    AttentionBlock, AttentionSpec, BatchView, DecoderConfig, KvCache, Linear, MlpBlock, Norm, Ops,
    Rope, StepContext, Weight, WeightSource, WeightType,
};

/// One layer: attention, then the MLP.
#[derive(Debug)]
pub struct DecoderLayer {
    /// The attention half.
    pub attention: AttentionBlock,
    /// The MLP half.
    pub mlp: MlpBlock,
}

/// A decoder-only transformer on the operations of one device.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    ops: Arc<dyn Ops>,
    embedding: Weight,
    layers: Vec<DecoderLayer>,
    final_norm: Norm,
    head: Arc<dyn Linear>,
    ropes: Vec<Rope>,
    parameters: u64,
    weight_bytes: u64,
    storage: Storage,
}

impl Decoder {
    /// A decoder from its description and weights.
    ///
    /// The shape of every weight is checked against the description before
    /// anything is allocated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// naming the tensor that is missing or misshapen, or the field of the
    /// description that is out of range.
    pub fn new(
        config: DecoderConfig,
        weights: &dyn WeightSource,
        ops: Arc<dyn Ops>,
    ) -> Result<Self> {
        Self::with_progress(config, weights, ops, &mut |_| ())
    }

    /// As [`new`](Self::new), and calls `progress` with the number of layers
    /// that are ready, after each.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_progress(
        config: DecoderConfig,
        weights: &dyn WeightSource,
        ops: Arc<dyn Ops>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        config.validate("config.json")?;
        let mut weights = ModelWeights::find(&config, weights)?;
        let norm =
            |weight: &Weight| Norm::new(&*ops, weight, config.norm_eps, config.norm_unit_offset);
        let mut layers = Vec::with_capacity(weights.layers.len());
        // By value: what was copied from the files goes with each layer that
        // packed it.
        for (index, layer) in std::mem::take(&mut weights.layers).into_iter().enumerate() {
            layers.push(build_layer(&config, index, &layer, &*ops, &norm)?);
            progress(index + 1);
        }
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        let (final_norm, head) = (norm(&weights.final_norm)?, ops.linear(head, None)?);
        let ropes = config.ropes.iter().cloned().map(Rope::new).collect();
        Ok(Self {
            ops,
            layers,
            final_norm,
            head,
            ropes,
            embedding: weights.embedding,
            parameters: weights.parameters,
            weight_bytes: weights.bytes,
            storage: weights.storage,
            config,
        })
    }

    /// Computes a step: f32 logits of the tokens at `logit_rows`,
    /// `[logit_rows, vocab]`.
    ///
    /// With a cache, keys and values are stored in it and earlier positions
    /// are read from it. Without, every sequence begins at position 0, and the
    /// result can be differentiated with respect to weights made by
    /// [`Weight::from_tensor`] if the operations are the reference's; that is
    /// how models are trained, with several sequences in one call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// for a token or row that is out of range,
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn forward(
        &self,
        tokens: &[u32],
        batch: &BatchView<'_>,
        cache: Option<&mut dyn KvCache>,
        logit_rows: &[usize],
    ) -> Result<Tensor> {
        self.check(tokens, batch, logit_rows)?;
        self.ops.step(self, tokens, batch, cache, logit_rows)
    }

    /// Whether tokens, batch and rows fit the model and each other.
    pub(crate) fn check(
        &self,
        tokens: &[u32],
        batch: &BatchView<'_>,
        logit_rows: &[usize],
    ) -> Result<()> {
        let invalid = |what: &str, expected: String, found: String| {
            Err(Error::invalid_input(what, expected, found))
        };
        let vocab = self.config.vocab_size;
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return invalid("token id", format!("below {vocab}"), id.to_string());
        }
        if let Some(row) = logit_rows.iter().find(|row| **row >= tokens.len()) {
            return invalid("logit row", format!("below {}", tokens.len()), row.to_string());
        }
        let mut end = 0;
        for sequence in batch.sequences {
            if sequence.start != end || sequence.len == 0 {
                let expected = format!("tokens from {end} on, at least one");
                return invalid("sequence", expected, format!("{sequence:?}"));
            }
            end = end.saturating_add(sequence.len);
        }
        if end != tokens.len() || batch.positions.len() != tokens.len() || end == 0 {
            let expected = "sequences and positions that cover the tokens, at least one";
            let positions = batch.positions.len();
            let found = format!("{end} and {positions} for {} tokens", tokens.len());
            return invalid("batch", expected.to_owned(), found);
        }
        for group in batch.adapters {
            let outside = group.rows.last().is_none_or(|row| *row as usize >= tokens.len());
            if outside || !group.rows.is_sorted_by(|a, b| a < b) {
                let expected = format!("ascending rows below {}, at least one", tokens.len());
                return invalid("rows of an adapter", expected, format!("{:?}", group.rows));
            }
        }
        Ok(())
    }

    /// The description.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The operations that it runs on.
    #[must_use]
    pub fn ops(&self) -> &Arc<dyn Ops> {
        &self.ops
    }

    /// The embedding, `[vocab, hidden]`.
    #[must_use]
    pub fn embedding(&self) -> &Weight {
        &self.embedding
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// The norm before the head.
    #[must_use]
    pub fn final_norm(&self) -> &Norm {
        &self.final_norm
    }

    /// The output head, hidden to vocabulary.
    #[must_use]
    pub fn head(&self) -> &Arc<dyn Linear> {
        &self.head
    }

    /// The rotary embeddings.
    #[must_use]
    pub fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    /// Number of parameters; tied ones count once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// How most of the weights' bytes are stored.
    #[must_use]
    pub fn weight_type(&self) -> WeightType {
        self.storage.kind
    }

    /// The quantization of those.
    #[must_use]
    pub fn quantization(&self) -> Option<Quantization> {
        self.storage.quantization
    }

    /// Bytes of the weights as stored; tied ones count once.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}

/// The reference of [`Ops::step`]: embedding, layers, final norm, head.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn step<O: Ops + ?Sized>(
    ops: &O,
    decoder: &Decoder,
    tokens: &[u32],
    batch: &BatchView<'_>,
    mut cache: Option<&mut dyn KvCache>,
    logit_rows: &[usize],
) -> Result<Tensor> {
    let error = |e| Error::engine("decoder", e);
    let config = &decoder.config;
    let ropes = decoder
        .ropes
        .iter()
        .map(|rope| rope.angles(batch, ops.device()))
        .collect::<Result<Vec<_>>>()?;
    let context = StepContext { batch, ropes: &ropes };
    let mut x = scaled(ops.embedding(&decoder.embedding, tokens)?, config.embedding_scale)?;
    for layer in &decoder.layers {
        x = ops.attention_block(&layer.attention, &x, &context, reborrow(&mut cache))?;
        x = ops.mlp_block(&layer.mlp, &x, &context)?;
    }
    if logit_rows.is_empty() {
        // A part of a prompt that only fills the KV pool.
        let shape = (0, config.vocab_size);
        return Tensor::zeros(shape, DType::F32, ops.device()).map_err(error);
    }
    if !logit_rows.iter().copied().eq(0..tokens.len()) {
        let rows: Vec<u32> = logit_rows.iter().map(|row| *row as u32).collect();
        let rows = Tensor::new(rows.as_slice(), ops.device()).map_err(error)?;
        x = x.index_select(&rows, 0).map_err(error)?;
    }
    let x = decoder.final_norm.forward(ops, &x)?;
    let adapters = AdapterRows::select(batch.adapters, logit_rows);
    let logits = project(ops, &decoder.head, AdaptedMap::Head, &x, &adapters)?;
    capped(scaled(logits, config.logit_scale)?, config.logit_softcap)
}

/// `cap * tanh(x / cap)`, where there is a cap.
pub(crate) fn capped(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    let Some(cap) = cap.map(f64::from) else { return Ok(x) };
    x.affine(1.0 / cap, 0.0)
        .and_then(|x| x.tanh()?.affine(cap, 0.0))
        .map_err(|e| Error::engine("decoder", e))
}

/// The pool for one layer's call. (`as_deref_mut` would borrow it for the
/// whole lifetime of the trait object.)
fn reborrow<'a>(cache: &'a mut Option<&mut dyn KvCache>) -> Option<&'a mut dyn KvCache> {
    match cache {
        Some(cache) => Some(&mut **cache),
        None => None,
    }
}

/// `x * scale`.
pub(crate) fn scaled(x: Tensor, scale: f32) -> Result<Tensor> {
    if scale == 1.0 {
        return Ok(x);
    }
    x.affine(f64::from(scale), 0.0).map_err(|e| Error::engine("decoder", e))
}

fn build_layer(
    config: &DecoderConfig,
    index: usize,
    weights: &LayerWeights,
    ops: &dyn Ops,
    norm: &dyn Fn(&Weight) -> Result<Norm>,
) -> Result<DecoderLayer> {
    let maybe_norm = |weight: &Option<Weight>| weight.as_ref().map(norm).transpose();
    let spec = AttentionSpec {
        num_heads: config.num_heads,
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        scale: config.attention_scale,
        softcap: config.attention_softcap,
        window: weights.spec.window,
    };
    // The norms of queries and keys have the epsilon and offset of the others.
    let qk_norm = match (config.qk_norm, &weights.qk_norm) {
        (Some(kind), Some((q, k))) => Some((kind, norm(q)?, norm(k)?)),
        _ => None,
    };
    let attention = AttentionBlock {
        layer: index,
        spec,
        rope: weights.spec.rope,
        input_norm: maybe_norm(&weights.attention_norm)?,
        output_norm: maybe_norm(&weights.post_attention_norm)?,
        query: weights.query.build(ops)?,
        key: weights.key.build(ops)?,
        value: weights.value.build(ops)?,
        output: weights.output.build(ops)?,
        qk_norm,
        residual_scale: config.residual_scale,
    };
    let mlp = MlpBlock {
        layer: index,
        input_norm: maybe_norm(&weights.mlp_norm)?,
        output_norm: maybe_norm(&weights.post_mlp_norm)?,
        mlp: weights.mlp.build(config, ops)?,
        residual_scale: config.residual_scale,
    };
    Ok(DecoderLayer { attention, mlp })
}
