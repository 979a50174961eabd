//! The weights of all models as kernels read them, changed while others read.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use inference_core::Result;

use crate::layout::PackedLayout;
use crate::memory::Memory;
use crate::model_weights::CheckedWeights;
use crate::{Architecture, WeightDtype, WeightLayout};

/// Bytes of weights behind one lock, where there are as many.
const SLAB: usize = 16 << 20;

/// The weights of all models, cut into slabs that have a lock each.
///
/// Who computes holds the slab of the model at hand for reading; who loads a
/// model holds its slab for writing, as long as it takes to copy the model's
/// numbers. So a computation sees all of a model's old weights or all of its
/// new ones.
#[derive(Debug)]
pub(crate) struct PackedModels {
    layout: PackedLayout,
    dtype: WeightDtype,
    num_models: usize,
    slabs: Box<[RwLock<Slab>]>,
    groups_per_slab: usize,
}

/// Whole groups of models.
#[derive(Debug)]
pub(crate) struct Slab {
    memory: Memory,
    /// Which models have weights.
    loaded: Box<[bool]>,
}

/// Where a model lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) slab: usize,
    /// Of the model in its slab.
    index: usize,
    /// Of the model's group in its slab.
    group: usize,
    /// Of the model in its group.
    lane: usize,
}

impl Place {
    /// The place of another lane of the same group.
    #[inline]
    pub(crate) fn neighbour(self, lane: usize) -> Self {
        Self { index: self.index - self.lane + lane, lane, ..self }
    }
}

impl PackedModels {
    /// Of a valid architecture; no model has weights.
    pub(crate) fn new(
        num_models: usize,
        architecture: &Architecture,
        dtype: WeightDtype,
        layout: Option<WeightLayout>,
    ) -> Result<Self> {
        let layout = PackedLayout::new(architecture, layout);
        let groups = num_models.div_ceil(layout.group);
        let group_bytes = layout.stride.saturating_mul(dtype.bytes());
        let groups_per_slab = (SLAB / group_bytes.max(1)).clamp(1, groups.max(1));
        let slabs = (0..groups.div_ceil(groups_per_slab))
            .map(|slab| {
                let groups = groups_per_slab.min(groups - slab * groups_per_slab);
                let first = slab * groups_per_slab * layout.group;
                let models = (groups * layout.group).min(num_models - first);
                let memory = Memory::allocate(groups.saturating_mul(group_bytes))?;
                Ok(RwLock::new(Slab { memory, loaded: vec![false; models].into() }))
            })
            .collect::<Result<_>>()?;
        Ok(Self { layout, dtype, num_models, slabs, groups_per_slab })
    }

    pub(crate) fn layout(&self) -> &PackedLayout {
        &self.layout
    }

    /// Bytes of one model.
    pub(crate) fn model_bytes(&self) -> usize {
        self.layout.stride * self.dtype.bytes() / self.layout.group
    }

    /// Where a model lies; `model` is one of the models.
    pub(crate) fn place(&self, model: usize) -> Place {
        debug_assert!(model < self.num_models);
        let (group, lane) = self.layout.place(model);
        let (slab, group) = (group / self.groups_per_slab, group % self.groups_per_slab);
        Place { slab, index: group * self.layout.group + lane, group, lane }
    }

    /// A slab for reading.
    pub(crate) fn read(&self, slab: usize) -> RwLockReadGuard<'_, Slab> {
        self.slabs[slab].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, slab: usize) -> RwLockWriteGuard<'_, Slab> {
        self.slabs[slab].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the weights of the group of a model begin.
    pub(crate) fn weights(&self, slab: &Slab, place: Place) -> *const u8 {
        slab.memory.pointer(place.group * self.layout.stride * self.dtype.bytes())
    }

    /// Gives a model weights.
    pub(crate) fn load(&self, model: usize, weights: &CheckedWeights<'_>) {
        let place = self.place(model);
        let base = place.group * self.layout.stride + place.lane;
        let mut slab = self.write(place.slab);
        let Slab { memory, loaded } = &mut *slab;
        let bytes = memory.bytes_mut();
        for (index, (weight, bias)) in weights.layers().enumerate() {
            self.layout.for_each_weight(index, |from, to| {
                self.dtype.write(bytes, base + to, weight[from]);
            });
            if let Some(bias) = bias {
                self.layout.for_each_bias(index, |from, to| {
                    self.dtype.write(bytes, base + to, bias[from]);
                });
            }
        }
        loaded[place.index] = true;
    }

    /// Takes a model's weights away; whether it had any.
    pub(crate) fn unload(&self, model: usize) -> bool {
        let place = self.place(model);
        std::mem::replace(&mut self.write(place.slab).loaded[place.index], false)
    }

    pub(crate) fn is_loaded(&self, model: usize) -> bool {
        let place = self.place(model);
        self.read(place.slab).has(place)
    }

    /// Weight and bias of each layer of a model; `None` where it has none.
    pub(crate) fn unpack(
        &self,
        model: usize,
        architecture: &Architecture,
    ) -> Option<Vec<(Vec<f32>, Vec<f32>)>> {
        let place = self.place(model);
        let base = place.group * self.layout.stride + place.lane;
        let slab = self.read(place.slab);
        if !slab.has(place) {
            return None;
        }
        let bytes = slab.memory.bytes();
        let layers = architecture.layers.iter().enumerate().map(|(layer, spec)| {
            let (mut weight, mut bias) = (vec![0.0; spec.weights()], vec![0.0; spec.biases()]);
            self.layout.for_each_weight(layer, |index, at| {
                weight[index] = self.dtype.read(bytes, base + at);
            });
            self.layout.for_each_bias(layer, |index, at| {
                bias[index] = self.dtype.read(bytes, base + at);
            });
            (weight, bias)
        });
        Some(layers.collect())
    }
}

impl Slab {
    /// Whether the model at `place` has weights.
    pub(crate) fn has(&self, place: Place) -> bool {
        self.loaded[place.index]
    }
}
