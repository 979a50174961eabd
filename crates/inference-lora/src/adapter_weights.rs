//! An adapter as tensors.

use std::collections::BTreeMap;

use candle_core::Tensor;

/// What an adapter changes, module by module.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AdapterWeights {
    /// The changed modules, by their names below the model's root: for example
    /// `layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, ModuleDelta>,
}

impl AdapterWeights {
    /// An adapter of these modules.
    #[must_use]
    pub fn new(modules: BTreeMap<String, ModuleDelta>) -> Self {
        Self { modules }
    }

    /// The largest rank of its modules.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.modules.values().map(ModuleDelta::rank).max().unwrap_or(0)
    }

    /// Number of parameters.
    #[must_use]
    pub fn total_params(&self) -> usize {
        let params = |delta: &ModuleDelta| delta.a.elem_count() + delta.b.elem_count();
        self.modules.values().map(params).sum()
    }
}

/// The low-rank change of one map: `y += scaling * (x · Aᵀ) · Bᵀ`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModuleDelta {
    /// `A`, `[rank, in]`; f32, f16 or bf16, on the CPU.
    pub a: Tensor,
    /// `B`, `[out, rank]`, of the same type.
    pub b: Tensor,
    /// `alpha / rank`, or `alpha / sqrt(rank)` where rank-stabilized
    /// (Kalajdzievski, 2023).
    pub scaling: f32,
}

impl ModuleDelta {
    /// The change of a map from `A`, `[rank, in]`, and `B`, `[out, rank]`.
    #[must_use]
    pub fn new(a: Tensor, b: Tensor, scaling: f32) -> Self {
        Self { a, b, scaling }
    }

    /// Rows of `A`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.dims().first().copied().unwrap_or(0)
    }
}
