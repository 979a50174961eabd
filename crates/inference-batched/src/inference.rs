//! A group of models of one architecture.

use inference_core::{Error, Result};

use crate::device::{Device, DeviceKind};
use crate::kernels::InstructionSet;
use crate::kernels::execute::{Executor, not_loaded};
use crate::model_weights::{CheckedWeights, bias_name, weight_name};
use crate::packed_models::PackedModels;
use crate::request::{Request, out_of_range};
use crate::{Architecture, BatchedOptions, WeightDtype};

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
    Cpu { models: PackedModels, executor: Executor },
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
        };
        Ok(Self { num_models, architecture, dtype: options.dtype, device, state })
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

    /// Threads of a call that has them to itself.
    #[must_use]
    pub fn threads(&self) -> usize {
        match &self.state {
            State::Cpu { executor, .. } => executor.threads(),
        }
    }

    /// What computes: on the CPU the instruction set of the kernels.
    #[must_use]
    pub fn kernels(&self) -> &str {
        match &self.state {
            State::Cpu { executor, .. } => executor.instruction_set(),
        }
    }

    /// Bytes of weights that a call of all models reads.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        match &self.state {
            State::Cpu { models, .. } => models.model_bytes() * self.num_models,
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
        let mut layers: Vec<(Vec<f32>, Vec<f32>)> = self
            .architecture
            .layers
            .iter()
            .map(|layer| (vec![0.0; layer.weights()], vec![0.0; layer.biases()]))
            .collect();
        let State::Cpu { models, .. } = &self.state;
        let mut biases: Vec<(usize, usize, f32)> = Vec::new();
        models
            .unpack(
                index,
                |layer, at, value| layers[layer].0[at] = value,
                |layer, at, value| biases.push((layer, at, value)),
            )
            .ok_or_else(|| not_loaded(index))?;
        for (layer, at, value) in biases {
            layers[layer].1[at] = value;
        }
        let mut named = Vec::new();
        for (layer, (weight, bias)) in layers.into_iter().enumerate() {
            named.push((weight_name(layer), weight));
            if self.architecture.layers[layer].bias {
                named.push((bias_name(layer), bias));
            }
        }
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
