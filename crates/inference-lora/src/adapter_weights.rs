//! An adapter as tensors.

use std::collections::BTreeMap;

use candle_core::Tensor;

/// What an adapter changes, module by module, whatever the format of its files.
///
/// Modules have their names below the model's root, for example
/// `layers.0.self_attn.q_proj`, `embed_tokens` or `norm`; the output head is
/// `lm_head`. Tensors are f32, f16 or bf16, on the CPU.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AdapterWeights {
    /// Low-rank changes.
    pub modules: BTreeMap<String, ModuleDelta>,
    /// Weights that take the place of the model's, whole: `[out, in]`, or
    /// `[size]` of a norm (`modules_to_save` of PEFT).
    pub weights: BTreeMap<String, Tensor>,
    /// Biases that take the place of the model's, `[out]` (`bias` of PEFT).
    pub biases: BTreeMap<String, Tensor>,
}

impl AdapterWeights {
    /// An adapter of these low-rank changes.
    #[must_use]
    pub fn new(modules: BTreeMap<String, ModuleDelta>) -> Self {
        Self { modules, ..Self::default() }
    }

    /// The largest rank of its modules.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.modules.values().map(ModuleDelta::rank).max().unwrap_or(0)
    }

    /// Number of parameters.
    #[must_use]
    pub fn total_params(&self) -> usize {
        self.tensors().map(Tensor::elem_count).sum()
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tensors().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }

    /// Every tensor, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let factors = self.modules.values().flat_map(ModuleDelta::tensors);
        factors.chain(self.weights.values()).chain(self.biases.values())
    }
}

/// The low-rank change of one matrix `W`, `[out, in]`: `W + scaling * B * A`.
///
/// A map then computes `y += scaling * (x * A^T) * B^T`. Of an embedding,
/// `[vocabulary, features]`, a row of the table changes by
/// `scaling * B[id] * A`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModuleDelta {
    /// `A`, `[rank, in]`.
    pub a: Tensor,
    /// `B`, `[out, rank]`.
    pub b: Tensor,
    /// `alpha / rank`, or `alpha / sqrt(rank)` where rank-stabilized
    /// (Kalajdzievski, 2023).
    pub scaling: f32,
    /// `m`, `[out]`, of weight-decomposed adaptation (DoRA; Liu et al., 2024):
    /// each row of the changed matrix is scaled to that norm,
    /// `m / |W + scaling * B * A|` by row. Biases are not scaled.
    pub magnitude: Option<Tensor>,
    /// A bias of `B`, `[out]`, which `y` gets `scaling` times (`lora_bias` of
    /// PEFT).
    pub bias: Option<Tensor>,
}

impl ModuleDelta {
    /// The change of a matrix by `A`, `[rank, in]`, and `B`, `[out, rank]`.
    #[must_use]
    pub fn new(a: Tensor, b: Tensor, scaling: f32) -> Self {
        Self { a, b, scaling, magnitude: None, bias: None }
    }

    /// Sets the norms of the changed matrix' rows, `[out]` (DoRA).
    #[must_use]
    pub fn with_magnitude(mut self, magnitude: Tensor) -> Self {
        self.magnitude = Some(magnitude);
        self
    }

    /// Sets the bias of `B`, `[out]`.
    #[must_use]
    pub fn with_bias(mut self, bias: Tensor) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Rows of `A`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.dims().first().copied().unwrap_or(0)
    }

    /// Its tensors, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude).chain(&self.bias)
    }
}
