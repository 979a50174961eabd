//! The factors of the adapter that is trained.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use half::bf16;
use inference_core::{
    AdapterDtype, Error, FactorState, LoraConfig, LoraInit, OptimizerConfig, Result, TrainingState,
    UpdateReport,
};
use inference_lora::{
    AdapterWeights, Draws, ModuleDelta, ModuleTable, adamw, clip_factor, target_modules,
};

use super::maps::maps;
use crate::{Decoder, Linear};

/// A matrix that is trained.
pub(super) struct Factor {
    /// `layers.0.self_attn.q_proj.lora_A`.
    pub(super) name: String,
    pub(super) shape: [usize; 2],
    /// What is computed with: the values, rounded to the adapter's type.
    pub(super) computed: Vec<f32>,
    /// The optimizer's copy.
    values: Vec<f32>,
    mean: Vec<f32>,
    mean_square: Vec<f32>,
    gradient: Option<Vec<f32>>,
}

/// An adapted module.
pub(super) struct TrainedModule {
    pub(super) name: String,
    /// Indices of its `A`, `[rank, in]`, and `B`, `[out, rank]`.
    pub(super) a: usize,
    pub(super) b: usize,
}

/// What a map adds: some rows of a module's `B`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapPart {
    pub(super) module: usize,
    /// The first row of `B`, and how many.
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// The adapter that is trained.
pub(super) struct Factors {
    pub(super) config: LoraConfig,
    pub(super) modules: Vec<TrainedModule>,
    pub(super) factors: Vec<Factor>,
    /// By address of the decoder's maps.
    parts: HashMap<usize, MapPart>,
    /// The lowest layer with a module; the number of layers where only the
    /// head has one.
    pub(super) first_layer: usize,
    pub(super) updates: u64,
    pub(super) passes: u64,
}

/// The address that identifies a map while the decoder lives.
fn address(map: &Arc<dyn Linear>) -> usize {
    Arc::as_ptr(map).cast::<()>() as usize
}

impl Factors {
    /// A fresh adapter of a decoder.
    pub(super) fn new(decoder: &Decoder, table: &ModuleTable, config: &LoraConfig) -> Result<Self> {
        config.validate()?;
        let maps = maps(decoder);
        let names: Vec<String> = maps.keys().cloned().collect();
        let draws = Draws::new(config.seed);
        let mut this = Self {
            config: config.clone(),
            modules: Vec::new(),
            factors: Vec::new(),
            parts: HashMap::new(),
            first_layer: decoder.layers().len(),
            updates: 0,
            passes: 0,
        };
        for index in target_modules(config, table, &names)? {
            let known = names.get(index).and_then(|name| maps.get_key_value(name));
            let Some((name, parts)) = known else { continue };
            let Some(module) = table.get(name) else {
                return Err(Error::engine_message(format!("no module `{name}` in the table")));
            };
            let (out, input, rank) = (module.out, module.input, config.rank);
            let draws = draws.stream(index as u64);
            let values = (0..(rank * input) as u64).map(|i| match config.init {
                LoraInit::Gaussian => draws.normal(i) / rank as f32,
                _ => (2.0 * draws.uniform(i) - 1.0) / (input as f32).sqrt(),
            });
            let a = this.push(format!("{name}.lora_A"), [rank, input], values.collect());
            let b = this.push(format!("{name}.lora_B"), [out, rank], vec![0.0; out * rank]);
            let module = this.modules.len();
            this.modules.push(TrainedModule { name: name.clone(), a, b });
            let mut first = 0;
            for map in parts {
                let rows = map.out_features();
                this.parts.insert(address(map), MapPart { module, first, rows });
                first += rows;
            }
            let layer = name.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
            if let Some(layer) = layer.and_then(|layer| layer.parse::<usize>().ok()) {
                this.first_layer = this.first_layer.min(layer);
            }
        }
        Ok(this)
    }

    fn push(&mut self, name: String, shape: [usize; 2], values: Vec<f32>) -> usize {
        let computed = self.rounded(&values);
        let zeros = vec![0.0; values.len()];
        self.factors.push(Factor {
            name,
            shape,
            computed,
            values,
            mean: zeros.clone(),
            mean_square: zeros,
            gradient: None,
        });
        self.factors.len() - 1
    }

    /// Values as the adapter's type holds them.
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        match self.config.dtype {
            AdapterDtype::Bf16 => values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
            _ => values.to_vec(),
        }
    }

    /// What a map adds, where it is adapted.
    pub(super) fn part(&self, map: &Arc<dyn Linear>) -> Option<MapPart> {
        self.parts.get(&address(map)).copied()
    }

    /// A module and its factors, `A` and `B`.
    pub(super) fn of(&self, module: usize) -> Option<(&TrainedModule, &Factor, &Factor)> {
        let module = self.modules.get(module)?;
        Some((module, self.factors.get(module.a)?, self.factors.get(module.b)?))
    }

    /// Adds `weight` times a gradient of factor `index`.
    pub(super) fn gather(&mut self, index: usize, gradient: &[f32], weight: f32) {
        let Some(factor) = self.factors.get_mut(index) else { return };
        let sum = factor.gradient.get_or_insert_with(|| vec![0.0; gradient.len()]);
        for (sum, value) in sum.iter_mut().zip(gradient) {
            *sum += weight * value;
        }
    }

    /// Drops what was gathered.
    pub(super) fn clear_gradients(&mut self) {
        self.factors.iter_mut().for_each(|factor| factor.gradient = None);
    }

    /// Names and gathered gradients.
    pub(super) fn gradients(&self) -> Vec<(String, Vec<f32>)> {
        let gradient = |factor: &Factor| Some((factor.name.clone(), factor.gradient.clone()?));
        self.factors.iter().filter_map(gradient).collect()
    }

    /// Updates with the gathered gradients.
    pub(super) fn update(&mut self, config: &OptimizerConfig) -> Result<UpdateReport> {
        if self.factors.iter().all(|factor| factor.gradient.is_none()) {
            return Err(Error::engine_message("a step without gradients: call `backward` first"));
        }
        let squares = |factor: &Factor| -> f64 {
            factor.gradient.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum()
        };
        let norm = self.factors.iter().map(squares).sum::<f64>().sqrt();
        if !norm.is_finite() {
            self.clear_gradients();
            return Err(Error::engine_message(format!("the norm of the gradients is {norm}")));
        }
        let clip = clip_factor(norm, config.max_gradient_norm);
        let update = self.updates + 1;
        for factor in &mut self.factors {
            // One that no token reached (an expert's) decays all the same.
            let gradient = factor.gradient.take();
            let gradient = gradient.unwrap_or_else(|| vec![0.0; factor.values.len()]);
            let Factor { values, mean, mean_square, .. } = factor;
            adamw(config, update, clip, &gradient, values, mean, mean_square);
        }
        self.updates = update;
        self.refresh();
        Ok(UpdateReport::new(update, norm))
    }

    /// Computes with the values from now on.
    fn refresh(&mut self) {
        for index in 0..self.factors.len() {
            let computed = self.factors.get(index).map(|factor| self.rounded(&factor.values));
            if let (Some(computed), Some(factor)) = (computed, self.factors.get_mut(index)) {
                factor.computed = computed;
            }
        }
    }

    pub(super) fn state(&self) -> TrainingState {
        let factor = |factor: &Factor| {
            FactorState::new(&factor.name, factor.shape, factor.values.clone())
                .with_means(factor.mean.clone(), factor.mean_square.clone())
        };
        let mut factors: Vec<FactorState> = self.factors.iter().map(factor).collect();
        factors.sort_by(|a, b| a.name.cmp(&b.name));
        TrainingState::new(self.updates, self.passes, factors)
    }

    /// Everything is checked before anything changes.
    pub(super) fn restore(&mut self, state: &TrainingState) -> Result<()> {
        let mut found: BTreeMap<&str, &FactorState> = BTreeMap::new();
        for factor in &state.factors {
            found.insert(&factor.name, factor);
        }
        let invalid = |name: &str, expected: String, found: String| {
            Err(Error::invalid_input(format!("factor `{name}` of the state"), expected, found))
        };
        for factor in &self.factors {
            let Some(new) = found.remove(factor.name.as_str()) else {
                return invalid(&factor.name, "a matrix".to_owned(), "nothing".to_owned());
            };
            let count = factor.values.len();
            let fits = |values: &[f32]| values.len() == count;
            let means = |values: &[f32]| fits(values) || values.is_empty();
            if new.shape != factor.shape || !fits(&new.values) {
                let expected = format!("shape {:?}", factor.shape);
                let found = format!("{:?} and {} values", new.shape, new.values.len());
                return invalid(&factor.name, expected, found);
            }
            if !means(&new.mean) || !means(&new.mean_square) {
                let found = format!("{} and {}", new.mean.len(), new.mean_square.len());
                return invalid(&factor.name, format!("{count} means, twice, or none"), found);
            }
            let mut all = new.values.iter().chain(&new.mean).chain(&new.mean_square);
            if let Some(value) = all.find(|value| !value.is_finite()) {
                return invalid(&factor.name, "finite values".to_owned(), value.to_string());
            }
        }
        if let Some(name) = found.keys().next() {
            return invalid(name, "a factor of the adapter".to_owned(), "another".to_owned());
        }
        for factor in &mut self.factors {
            let Some(new) = state.factors.iter().find(|new| new.name == factor.name) else {
                continue;
            };
            let means = |values: &[f32]| match values.is_empty() {
                true => vec![0.0; new.values.len()],
                false => values.to_vec(),
            };
            factor.values.clone_from(&new.values);
            factor.mean = means(&new.mean);
            factor.mean_square = means(&new.mean_square);
        }
        (self.updates, self.passes) = (state.updates, state.passes);
        self.clear_gradients();
        self.refresh();
        Ok(())
    }

    /// The adapter as its files hold it.
    pub(super) fn weights(&self) -> Result<AdapterWeights> {
        let dtype = match self.config.dtype {
            AdapterDtype::Bf16 => DType::BF16,
            _ => DType::F32,
        };
        let scaling = self.config.scaling();
        let mut modules = BTreeMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            let Some((_, a, b)) = self.of(index) else { continue };
            let tensor = |factor: &Factor| -> CandleResult<Tensor> {
                let shape = (factor.shape[0], factor.shape[1]);
                Tensor::from_slice(&factor.computed, shape, &Device::Cpu)?.to_dtype(dtype)
            };
            let (a, b) = (tensor(a).map_err(error)?, tensor(b).map_err(error)?);
            modules.insert(module.name.clone(), ModuleDelta::new(a, b, scaling));
        }
        Ok(AdapterWeights::new(modules))
    }

    pub(super) fn total_params(&self) -> usize {
        self.factors.iter().map(|factor| factor.values.len()).sum()
    }
}

fn error(error: candle_core::Error) -> Error {
    Error::engine("the adapter's factors", error)
}
