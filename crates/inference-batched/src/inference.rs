//! A group of models of one architecture.

use std::path::Path;

use inference_core::{Error, Result};

#[cfg(feature = "candle")]
use crate::candle_models::CandleModels;
use crate::device::{Device, DeviceKind};
use crate::kernels::InstructionSet;
use crate::kernels::execute::Executor;
use crate::model_weights::{CheckedWeights, bias_name, weight_name};
use crate::packed_models::PackedModels;
use crate::request::{Request, not_loaded, out_of_range};
use crate::{Architecture, BatchedOptions, BatchedWeights, WeightDtype};

/// Many models of one architecture and different weights, evaluated together.
///
/// All calls take `&self`: any number of threads evaluate while others load.
/// A call sees, of each model, all of its old weights or all of its new ones;
/// two models that are loaded while it runs may be one old and one new.
///
/// ```
/// use inference_batched::{Activation, Architecture, BatchedInference, Device};
///
/// let architecture = Architecture::mlp(&[2, 1], Activation::None, Activation::None)?;
/// let group = BatchedInference::new(3, architecture, Device::cpu())?;
/// for index in 0..3 {
///     let weight = [1.0, index as f32];
///     group.load_weights(index, [("layer_0", &weight[..]), ("layer_0.bias", &[0.5])])?;
/// }
/// // One row per model.
/// let outputs = group.forward(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0])?;
/// assert_eq!(outputs, [1.5, 2.5, 3.5]);
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchedInference {
    num_models: usize,
    architecture: Architecture,
    dtype: WeightDtype,
    device: Device,
    state: State,
}

/// What a device keeps.
#[derive(Debug)]
enum State {
    Cpu {
        models: PackedModels,
        executor: Executor,
    },
    #[cfg(feature = "candle")]
    Candle(CandleModels),
}

impl BatchedInference {
    /// `num_models` models without weights.
    ///
    /// # Errors
    ///
    /// Those of [`with_options`](Self::with_options).
    pub fn new(num_models: usize, architecture: Architecture, device: Device) -> Result<Self> {
        Self::with_options(num_models, architecture, device, &BatchedOptions::new())
    }

    /// The same with options.
    ///
    /// # Errors
    ///
    /// Those of [`Architecture::validate`]; `InvalidOption`; `Exhausted` where
    /// there is no memory for the weights.
    pub fn with_options(
        num_models: usize,
        architecture: Architecture,
        device: Device,
        options: &BatchedOptions,
    ) -> Result<Self> {
        Self::build(num_models, architecture, device, options, InstructionSet::best())
    }

    pub(crate) fn build(
        num_models: usize,
        architecture: Architecture,
        device: Device,
        options: &BatchedOptions,
        set: InstructionSet,
    ) -> Result<Self> {
        architecture.validate()?;
        let state = match device.kind() {
            DeviceKind::Cpu => {
                let models =
                    PackedModels::new(num_models, &architecture, options.dtype, options.layout)?;
                let executor = Executor::new(models.layout(), set, options)?;
                State::Cpu { models, executor }
            }
            #[cfg(feature = "candle")]
            DeviceKind::Candle(device) => {
                State::Candle(CandleModels::new(num_models, &architecture, device, options)?)
            }
        };
        Ok(Self { num_models, architecture, dtype: options.dtype, device, state })
    }

    /// The models of `weights`.
    ///
    /// # Errors
    ///
    /// Those of [`with_options`](Self::with_options); `InvalidInput` that names
    /// model and weight for a number that the options' storage type cannot hold.
    pub fn from_weights(
        weights: &BatchedWeights,
        device: Device,
        options: &BatchedOptions,
    ) -> Result<Self> {
        let architecture = weights.architecture().clone();
        let this = Self::with_options(weights.num_models(), architecture, device, options)?;
        this.load_all(weights)?;
        Ok(this)
    }

    /// Gives all models the weights of `weights`, or none of them; those that
    /// have none there are unloaded. Calls that run meanwhile see some models
    /// before and some after it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where number of models or architecture differ, or for a
    /// number that the storage type cannot hold.
    pub fn load_all(&self, weights: &BatchedWeights) -> Result<()> {
        if weights.num_models() != self.num_models {
            let found = weights.num_models().to_string();
            let expected = self.num_models.to_string();
            return Err(Error::invalid_input("number of models", expected, found));
        }
        if *weights.architecture() != self.architecture {
            let found = format!("{:?}", weights.architecture().layers);
            let expected = format!("{:?}", self.architecture.layers);
            return Err(Error::invalid_input("architecture of weights", expected, found));
        }
        // What fits another type may not fit this one: first look, then load.
        if weights.dtype() != self.dtype && self.dtype == WeightDtype::F16 {
            for index in (0..self.num_models)
                .filter(|index| weights.is_loaded(*index).is_ok_and(|loaded| loaded))
            {
                let named = weights.weights(index)?;
                let named = named.iter().map(|(name, values)| (name.as_str(), &values[..]));
                CheckedWeights::new(index, &self.architecture, self.dtype, named)?;
            }
        }
        for index in 0..self.num_models {
            if weights.is_loaded(index)? {
                self.load_weights(index, weights.weights(index)?)?;
            } else {
                self.unload(index)?;
            }
        }
        Ok(())
    }

    /// [`load_all`](Self::load_all) of a file, whose tensors are `layer_N`
    /// (`[models, inputs, outputs]`) and `layer_N.bias` (`[models, outputs]`).
    ///
    /// # Errors
    ///
    /// Those of [`BatchedWeights::load_as`] and [`load_all`](Self::load_all).
    pub fn load_safetensors(&self, path: impl AsRef<Path>) -> Result<()> {
        self.load_all(&BatchedWeights::load_as(path, &self.architecture)?)
    }

    /// All weights, as they are stored. Each model is of one moment.
    ///
    /// # Errors
    ///
    /// `Exhausted` where there is no memory.
    pub fn to_weights(&self) -> Result<BatchedWeights> {
        let mut all = BatchedWeights::with_dtype(self.num_models, &self.architecture, self.dtype)?;
        for index in 0..self.num_models {
            if let Some(weights) = self.unpack(index)? {
                all.load_weights(index, weights)?;
            }
        }
        Ok(all)
    }

    /// Writes all models to a safetensors file, also those without weights, as
    /// such.
    ///
    /// # Errors
    ///
    /// Those of [`BatchedWeights::save`] and [`to_weights`](Self::to_weights).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.to_weights()?.save(path)
    }

    /// How many models there are, loaded or not.
    #[must_use]
    pub fn num_models(&self) -> usize {
        self.num_models
    }

    /// What all models have in common.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How weights are stored.
    #[must_use]
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    /// Where models are evaluated.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Threads of a call that has them to itself; 1 with Candle, which has its
    /// own.
    #[must_use]
    pub fn threads(&self) -> usize {
        match &self.state {
            State::Cpu { executor, .. } => executor.threads(),
            #[cfg(feature = "candle")]
            State::Candle(_) => 1,
        }
    }

    /// What computes: on the CPU the instruction set of the kernels, else
    /// `candle`.
    #[must_use]
    pub fn kernels(&self) -> &str {
        match &self.state {
            State::Cpu { executor, .. } => executor.instruction_set(),
            #[cfg(feature = "candle")]
            State::Candle(_) => "candle",
        }
    }

    /// Bytes of weights that a call of all models reads.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        match &self.state {
            State::Cpu { models, .. } => models.model_bytes() * self.num_models,
            #[cfg(feature = "candle")]
            State::Candle(_) => {
                self.architecture.parameters() * self.dtype.bytes() * self.num_models
            }
        }
    }

    /// Gives a model its weights, by name: `layer_0` (row-major, inputs ×
    /// outputs), `layer_0.bias`, `layer_1`, … All or nothing: after an error the
    /// model is as it was.
    ///
    /// # Errors
    ///
    /// `InvalidInput` that names model and weight, with what was expected and
    /// found: an index out of range, a name that is unknown, missing or twice
    /// there, a length, or a number that the storage type cannot hold.
    pub fn load_weights<K: AsRef<str>, V: AsRef<[f32]>>(
        &self,
        index: usize,
        weights: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.check_index(index)?;
        let weights: Vec<(K, V)> = weights.into_iter().collect();
        let weights = weights.iter().map(|(name, values)| (name.as_ref(), values.as_ref()));
        let weights = CheckedWeights::new(index, &self.architecture, self.dtype, weights)?;
        match &self.state {
            State::Cpu { models, .. } => models.load(index, &weights),
            #[cfg(feature = "candle")]
            State::Candle(models) => models.load(index, &weights)?,
        }
        Ok(())
    }

    /// A model's weights by name, as they are stored.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an index out of range or a model without weights.
    pub fn weights(&self, index: usize) -> Result<Vec<(String, Vec<f32>)>> {
        self.check_index(index)?;
        self.unpack(index)?.ok_or_else(|| not_loaded(index))
    }

    /// A model's weights by name; `None` where it has none.
    #[expect(clippy::type_complexity, reason = "weights by name, or none")]
    fn unpack(&self, index: usize) -> Result<Option<Vec<(String, Vec<f32>)>>> {
        let layers = match &self.state {
            State::Cpu { models, .. } => models.unpack(index, &self.architecture),
            #[cfg(feature = "candle")]
            State::Candle(models) => models.unpack(index)?,
        };
        let named = layers.map(|layers| {
            let named = layers.into_iter().zip(&self.architecture.layers).enumerate();
            let named = named.flat_map(|(layer, ((weight, bias), spec))| {
                let bias = spec.bias.then(|| (bias_name(layer), bias));
                [Some((weight_name(layer), weight)), bias]
            });
            named.flatten().collect()
        });
        Ok(named)
    }

    /// Whether a model has weights.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an index out of range.
    pub fn is_loaded(&self, index: usize) -> Result<bool> {
        self.check_index(index)?;
        match &self.state {
            State::Cpu { models, .. } => Ok(models.is_loaded(index)),
            #[cfg(feature = "candle")]
            State::Candle(models) => Ok(models.is_loaded(index)),
        }
    }

    /// Takes a model's weights away; whether it had any. Calls that ask for it
    /// from now on are errors.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an index out of range.
    pub fn unload(&self, index: usize) -> Result<bool> {
        self.check_index(index)?;
        match &self.state {
            State::Cpu { models, .. } => Ok(models.unload(index)),
            #[cfg(feature = "candle")]
            State::Candle(models) => Ok(models.unload(index)),
        }
    }

    /// One row for each model: `inputs` is `[models, inputs]`, the result
    /// `[models, outputs]`.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn forward(&self, inputs: &[f32]) -> Result<Vec<f32>> {
        self.run(&Request::new(inputs))
    }

    /// [`forward`](Self::forward) into a buffer of the caller's.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn forward_into(&self, inputs: &[f32], outputs: &mut [f32]) -> Result<()> {
        self.run_into(&Request::new(inputs), outputs)
    }

    /// `rows[i]` rows for model `i`, model by model.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn forward_rows(&self, rows: &[usize], inputs: &[f32]) -> Result<Vec<f32>> {
        self.run(&Request::new(inputs).with_rows(rows))
    }

    /// [`forward_rows`](Self::forward_rows) into a buffer of the caller's.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn forward_rows_into(
        &self,
        rows: &[usize],
        inputs: &[f32],
        outputs: &mut [f32],
    ) -> Result<()> {
        self.run_into(&Request::new(inputs).with_rows(rows), outputs)
    }

    /// One row for each of the models `indices`, in that order.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn forward_subset(&self, indices: &[usize], inputs: &[f32]) -> Result<Vec<f32>> {
        self.run(&Request::new(inputs).with_models(indices))
    }

    /// [`forward_subset`](Self::forward_subset) into a buffer of the caller's.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn forward_subset_into(
        &self,
        indices: &[usize],
        inputs: &[f32],
        outputs: &mut [f32],
    ) -> Result<()> {
        self.run_into(&Request::new(inputs).with_models(indices), outputs)
    }

    /// What a request asks for: rows of outputs, in the order of its rows.
    ///
    /// # Errors
    ///
    /// Those of [`run_into`](Self::run_into).
    pub fn run(&self, request: &Request<'_>) -> Result<Vec<f32>> {
        let rows = request.check(self.num_models, self.architecture.inputs())?;
        let mut outputs = vec![0.0; self.output_len(rows)?];
        self.evaluate(request, &mut outputs)?;
        Ok(outputs)
    }

    /// [`run`](Self::run) into a buffer of the caller's; on the CPU nothing is
    /// allocated once calls of the kind have been made. After an error the
    /// buffer holds anything.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an index out of range, a number of row counts, the
    /// length of inputs or outputs, or a model without weights; `Cancelled`;
    /// `Engine`.
    pub fn run_into(&self, request: &Request<'_>, outputs: &mut [f32]) -> Result<()> {
        let rows = request.check(self.num_models, self.architecture.inputs())?;
        let expected = self.output_len(rows)?;
        if outputs.len() != expected {
            let expected = format!("{rows} rows of {} numbers", self.architecture.outputs());
            let found = format!("{} numbers", outputs.len());
            return Err(Error::invalid_input("the buffer for outputs", expected, found));
        }
        self.evaluate(request, outputs)
    }

    fn evaluate(&self, request: &Request<'_>, outputs: &mut [f32]) -> Result<()> {
        match &self.state {
            State::Cpu { models, executor } => {
                executor.run(models, self.num_models, request, outputs)
            }
            #[cfg(feature = "candle")]
            State::Candle(models) => models.run(request, outputs),
        }
    }

    /// Numbers of `rows` rows of outputs.
    fn output_len(&self, rows: usize) -> Result<usize> {
        rows.checked_mul(self.architecture.outputs()).ok_or_else(|| {
            let most = usize::MAX / self.architecture.outputs().max(1);
            Error::invalid_input("rows", format!("at most {most}"), rows.to_string())
        })
    }

    pub(crate) fn check_index(&self, index: usize) -> Result<()> {
        if index < self.num_models { Ok(()) } else { Err(out_of_range(index, self.num_models)) }
    }
}
