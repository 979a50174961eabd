//! Models on a device of Candle's.

use std::sync::{PoisonError, RwLock};

use candle_core::{DType, Device, Tensor};
use inference_core::{Error, FinishReason, Result};

use crate::model_weights::CheckedWeights;
use crate::request::{Request, not_loaded};
use crate::{Activation, Architecture, BatchedOptions, WeightDtype};

/// The weights of all models as one tensor per layer.
#[derive(Debug)]
pub(crate) struct CandleModels {
    device: Device,
    architecture: Architecture,
    num_models: usize,
    /// Held for reading by calls, until their results are there.
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// `[models, inputs, outputs]`, and `[models, 1, outputs]`.
    layers: Vec<(Tensor, Option<Tensor>)>,
    loaded: Vec<bool>,
}

fn failed(error: candle_core::Error) -> Error {
    Error::engine("evaluating many models with Candle", error)
}

impl CandleModels {
    pub(crate) fn new(
        num_models: usize,
        architecture: &Architecture,
        device: &Device,
        options: &BatchedOptions,
    ) -> Result<Self> {
        let refused = |ability: &str| Err(Error::unsupported("a device of Candle's", ability));
        if options.threads.is_some() || options.workers.is_some() {
            return refused("a choice of threads");
        }
        if options.layout.is_some() {
            return refused("a choice of layout");
        }
        if options.dtype != WeightDtype::F32 {
            return refused("weights other than f32");
        }
        let layers = architecture.layers.iter().map(|layer| {
            let zeros = |shape: (usize, usize, usize)| {
                Tensor::zeros(shape, DType::F32, device).map_err(failed)
            };
            let weight = zeros((num_models, layer.inputs, layer.outputs))?;
            let bias = layer.bias.then(|| zeros((num_models, 1, layer.outputs))).transpose()?;
            Ok((weight, bias))
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self {
            device: device.clone(),
            architecture: architecture.clone(),
            num_models,
            state: RwLock::new(State { layers, loaded: vec![false; num_models] }),
        })
    }

    pub(crate) fn load(&self, model: usize, weights: &CheckedWeights<'_>) -> Result<()> {
        // What can fail for want of memory comes first.
        let mut new = Vec::new();
        for (spec, (weight, bias)) in self.architecture.layers.iter().zip(weights.layers()) {
            let tensor = |values: &[f32], rows: usize| {
                let shape = (1, rows, spec.outputs);
                Tensor::from_slice(values, shape, &self.device).map_err(failed)
            };
            new.push((tensor(weight, spec.inputs)?, bias.map(|bias| tensor(bias, 1)).transpose()?));
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { layers, loaded } = &mut *state;
        // A device that fails halfway leaves no mixture behind.
        let before = std::mem::replace(&mut loaded[model], false);
        for ((weight, bias), (new_weight, new_bias)) in layers.iter().zip(&new) {
            weight.slice_set(new_weight, 0, model).map_err(failed)?;
            if let Some((bias, new_bias)) = bias.as_ref().zip(new_bias.as_ref()) {
                bias.slice_set(new_bias, 0, model).map_err(failed)?;
            }
        }
        tracing::trace!(model, replaced = before, "model loaded");
        loaded[model] = true;
        Ok(())
    }

    pub(crate) fn unload(&self, model: usize) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut state.loaded[model], false)
    }

    pub(crate) fn is_loaded(&self, model: usize) -> bool {
        self.state.read().unwrap_or_else(PoisonError::into_inner).loaded[model]
    }

    /// Weight and bias of each layer; `None` for a model without weights.
    #[expect(clippy::type_complexity, reason = "weights and biases")]
    pub(crate) fn unpack(&self, model: usize) -> Result<Option<Vec<(Vec<f32>, Vec<f32>)>>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if !state.loaded[model] {
            return Ok(None);
        }
        let numbers = |tensor: &Tensor| {
            let of_model = tensor.narrow(0, model, 1).and_then(|tensor| tensor.flatten_all());
            of_model.and_then(|tensor| tensor.to_vec1::<f32>()).map_err(failed)
        };
        let layers = state.layers.iter().map(|(weight, bias)| {
            let bias = bias.as_ref().map(numbers).transpose()?;
            Ok((numbers(weight)?, bias.unwrap_or_default()))
        });
        layers.collect::<Result<_>>().map(Some)
    }

    /// Evaluates a request that was checked.
    pub(crate) fn run(&self, request: &Request<'_>, outputs: &mut [f32]) -> Result<()> {
        let positions = request.positions(self.num_models);
        let longest = (0..positions).map(|at| request.count(at)).max().unwrap_or(0);
        if longest == 0 {
            return Ok(());
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let asked = (0..positions).filter(|at| request.count(*at) > 0);
        if let Some(model) =
            asked.map(|at| request.model(at)).filter(|model| !state.loaded[*model]).min()
        {
            return Err(not_loaded(model));
        }
        let width = self.architecture.inputs();
        let mut padded = vec![0.0; positions * longest * width];
        let mut from = request.inputs;
        for (at, rows) in padded.chunks_mut(longest * width).enumerate() {
            let (own, rest) = from.split_at(request.count(at) * width);
            rows[..own.len()].copy_from_slice(own);
            from = rest;
        }
        let all = self.layers(&state, request, padded, (positions, longest, width))?;
        let width = self.architecture.outputs();
        let mut to = outputs;
        for (at, rows) in all.chunks(longest * width).enumerate() {
            let (own, rest) = to.split_at_mut(request.count(at) * width);
            own.copy_from_slice(&rows[..own.len()]);
            to = rest;
        }
        Ok(())
    }

    /// All layers of rows `[positions, longest, inputs]`.
    fn layers(
        &self,
        state: &State,
        request: &Request<'_>,
        rows: Vec<f32>,
        shape: (usize, usize, usize),
    ) -> Result<Vec<f32>> {
        let indices = request.models.map(|models| {
            let models: Vec<u32> = models.iter().map(|model| *model as u32).collect();
            Tensor::from_vec(models, shape.0, &self.device)
        });
        let indices = indices.transpose().map_err(failed)?;
        let chosen = |tensor: &Tensor| match &indices {
            None => Ok(tensor.clone()),
            Some(indices) => tensor.index_select(indices, 0),
        };
        let mut x = Tensor::from_vec(rows, shape, &self.device).map_err(failed)?;
        for (spec, (weight, bias)) in self.architecture.layers.iter().zip(&state.layers) {
            if request.cancel.is_some_and(|token| token.is_cancelled()) {
                return Err(Error::Cancelled { reason: FinishReason::Cancelled });
            }
            let layer = || {
                let mut y = x.matmul(&chosen(weight)?)?;
                if let Some(bias) = bias {
                    y = y.broadcast_add(&chosen(bias)?)?;
                }
                activate(spec.activation, y)
            };
            x = layer().map_err(failed)?;
        }
        x.flatten_all().and_then(|x| x.to_vec1()).map_err(failed)
    }
}

fn activate(activation: Activation, x: Tensor) -> candle_core::Result<Tensor> {
    // Candle's own ReLU takes NaN away.
    let negative = || x.lt(&x.zeros_like()?);
    match activation {
        Activation::None => Ok(x),
        Activation::Relu => negative()?.where_cond(&x.zeros_like()?, &x),
        Activation::LeakyRelu { slope } => {
            negative()?.where_cond(&x.affine(f64::from(slope), 0.0)?, &x)
        }
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => (x.neg()?.exp()? + 1.0)?.recip(),
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    }
}
