//! A loop over models, with Candle's product for each layer.

use candle_core::{Device, Tensor};

use super::shape::{Model, Shape};
use crate::Result;

pub(super) struct CandlePeer {
    /// Weight `[inputs, outputs]` and bias `[1, outputs]` of each layer.
    models: Vec<Vec<(Tensor, Tensor)>>,
    /// `[1, inputs]` of each model.
    inputs: Vec<Tensor>,
}

impl CandlePeer {
    pub(super) fn new(shape: &Shape, models: &[Model], inputs: &[f32]) -> Result<Self> {
        let device = &Device::Cpu;
        let models = models
            .iter()
            .map(|model| {
                let layers = shape.layers().zip(model);
                let layers = layers.map(|((inputs, outputs), (weight, bias))| {
                    let weight = Tensor::from_slice(weight, (inputs, outputs), device)?;
                    Ok((weight, Tensor::from_slice(bias, (1, outputs), device)?))
                });
                layers.collect()
            })
            .collect::<Result<_>>()?;
        let width = shape.widths.first().copied().unwrap_or(1);
        let inputs = inputs.chunks(width);
        let inputs = inputs.map(|row| Ok(Tensor::from_slice(row, (1, width), device)?));
        Ok(Self { models, inputs: inputs.collect::<Result<_>>()? })
    }

    fn evaluate(layers: &[(Tensor, Tensor)], input: &Tensor) -> Result<Tensor> {
        let mut x = input.clone();
        for (index, (weight, bias)) in layers.iter().enumerate() {
            x = (x.matmul(weight)? + bias)?;
            if index + 1 < layers.len() {
                x = x.relu()?;
            }
        }
        Ok(x)
    }

    pub(super) fn call(&mut self) -> Result<()> {
        for (layers, input) in self.models.iter().zip(&self.inputs) {
            std::hint::black_box(Self::evaluate(layers, input)?);
        }
        Ok(())
    }

    pub(super) fn outputs(&mut self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for (layers, input) in self.models.iter().zip(&self.inputs) {
            all.extend(Self::evaluate(layers, input)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }
}
