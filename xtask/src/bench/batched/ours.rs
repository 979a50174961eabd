//! This project.

use inference_batched::{BatchedInference, BatchedOptions, Device, WeightDtype, WeightLayout};

use super::shape::{Model, Shape};
use crate::Result;

pub(super) struct Ours<'a> {
    group: BatchedInference,
    inputs: &'a [f32],
    outputs: Vec<f32>,
}

impl<'a> Ours<'a> {
    pub(super) fn new(
        shape: &Shape,
        models: &[Model],
        inputs: &'a [f32],
        threads: usize,
        dtype: WeightDtype,
        layout: Option<WeightLayout>,
    ) -> Result<Self> {
        let mut options = BatchedOptions::new().with_threads(threads).with_dtype(dtype);
        options.layout = layout;
        let architecture = shape.architecture()?;
        let group =
            BatchedInference::with_options(shape.models, architecture, Device::cpu(), &options)?;
        for (index, model) in models.iter().enumerate() {
            let named = model.iter().enumerate().flat_map(|(layer, (weight, bias))| {
                [(format!("layer_{layer}"), weight), (format!("layer_{layer}.bias"), bias)]
            });
            group.load_weights(index, named)?;
        }
        let outputs = group.forward(inputs)?;
        Ok(Self { group, inputs, outputs })
    }

    pub(super) fn call(&mut self) -> Result<()> {
        Ok(self.group.forward_into(self.inputs, &mut self.outputs)?)
    }

    pub(super) fn outputs(&self) -> &[f32] {
        &self.outputs
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.group.weight_bytes()
    }

    pub(super) fn describe(&self) -> String {
        format!("{} kernels, {}", self.group.kernels(), self.group.dtype())
    }
}
