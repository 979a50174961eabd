//! The reference: one model at a time, in f64, as the formulas say.

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, LayerSpec,
};

/// Numbers from -1 to 1 (splitmix64; Steele et al., 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// Weight and bias of each layer of a model.
pub(crate) type Model = Vec<(Vec<f32>, Option<Vec<f32>>)>;

pub(crate) fn random_model(architecture: &Architecture, random: &mut Random) -> Model {
    let layer = |layer: &LayerSpec| {
        let scale = 1.5 / (layer.inputs as f32).sqrt();
        let weight = random.numbers(layer.inputs * layer.outputs);
        let weight = weight.into_iter().map(|w| w * scale).collect();
        (weight, layer.bias.then(|| random.numbers(layer.outputs)))
    };
    architecture.layers.iter().map(layer).collect()
}

/// By the names that `load_weights` takes.
pub(crate) fn named(model: &Model) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for (index, (weight, bias)) in model.iter().enumerate() {
        all.push((format!("layer_{index}"), weight.clone()));
        if let Some(bias) = bias {
            all.push((format!("layer_{index}.bias"), bias.clone()));
        }
    }
    all
}

/// A group with random weights, and these.
pub(crate) fn group(
    num_models: usize,
    architecture: &Architecture,
    options: &BatchedOptions,
    seed: u64,
) -> (BatchedInference, Vec<Model>) {
    let mut random = Random(seed);
    let group =
        BatchedInference::with_options(num_models, architecture.clone(), Device::cpu(), options)
            .unwrap();
    let models: Vec<Model> =
        (0..num_models).map(|_| random_model(architecture, &mut random)).collect();
    for (index, model) in models.iter().enumerate() {
        group.load_weights(index, named(model)).unwrap();
    }
    (group, models)
}

/// A row through a model. Next to each result its scale: what a relative error
/// is relative to, the largest sum of magnitudes on the way.
pub(crate) fn forward(architecture: &Architecture, model: &Model, row: &[f32]) -> Vec<(f64, f64)> {
    let mut x: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
    let mut carried: f64 = 0.0;
    let mut results = Vec::new();
    for (spec, (weight, bias)) in architecture.layers.iter().zip(model) {
        results = (0..spec.outputs)
            .map(|o| {
                let mut sum = bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
                let mut size = sum.abs();
                for (k, x) in x.iter().enumerate() {
                    let product = x * f64::from(weight[k * spec.outputs + o]);
                    sum += product;
                    size += product.abs();
                }
                (activate(spec.activation, sum), size)
            })
            .collect();
        carried = results.iter().fold(carried, |most, (_, size)| most.max(*size));
        x = results.iter().map(|(y, _)| *y).collect();
    }
    results.into_iter().map(|(y, size)| (y, size.max(carried))).collect()
}

pub(crate) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::LeakyRelu { slope } if x < 0.0 => x * f64::from(slope),
        Activation::LeakyRelu { .. } => x,
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * normal_distribution(x),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            // As 0.5 (1 + tanh(u)), without cancellation.
            x / (1.0 + (-2.0 * u).exp())
        }
        other => panic!("no reference for {other}"),
    }
}

/// The distribution function of the standard normal distribution, by the series
/// of Marsaglia (*Evaluating the Normal Distribution*, 2004), and by the
/// continued fraction of the tail where that cancels.
fn normal_distribution(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x < -3.0 {
        let mut fraction = -x;
        for n in (1..200).rev() {
            fraction = -x + f64::from(n) / fraction;
        }
        return density / fraction;
    }
    if x > 10.0 {
        return 1.0;
    }
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * density
}

/// Whether a result is the reference's, but for 1e-5 of its scale.
pub(crate) fn assert_close(found: &[f32], expected: &[(f64, f64)], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, (expected, scale))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= 1e-5 * scale.max(1e-3),
            "{what}, number {at}: {found}, expected {expected} (of {scale})"
        );
    }
}
