//! Gradients: complete, finite, and those of differences.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use inference_candle::{Activation, AttentionSpec, BatchView, ReferenceOps, load_model, reference};
use inference_core::{
    ErrorKind, FactorState, LoadOptions, LoraConfig, ModelSource, OptimizerConfig, Result,
    TextModel, TrainableModel, TrainingSequence, TrainingState,
};
use inference_engine::StepSequence;
use inference_lora::Draws;

fn load(case: &str) -> Option<Arc<dyn TextModel>> {
    let source = ModelSource::from(inference_fixtures::dir(&format!("tiny/{case}"))?);
    Some(load_model("cpu", &source, &LoadOptions::new(), Arc::new(ReferenceOps::cpu())).unwrap())
}

/// Factors without zeros: at the start `B` is zero, and so are `A`'s gradients.
fn noise(trainable: &dyn TrainableModel) -> TrainingState {
    let mut state = trainable.training_state().unwrap();
    for (index, factor) in state.factors.iter_mut().enumerate() {
        let draws = Draws::new(3).stream(index as u64);
        let size = (factor.shape[1] as f32).sqrt();
        *factor = FactorState::new(
            &factor.name,
            factor.shape,
            (0..factor.values.len() as u64).map(|i| draws.normal(i) / size).collect(),
        );
    }
    trainable.restore(&state).unwrap();
    state
}

fn sequences() -> Vec<TrainingSequence> {
    let ids =
        |seed: u64, len: u64| (0..len).map(move |i| (Draws::new(seed).bits(i) % 250) as u32 + 3);
    vec![
        TrainingSequence::new(ids(1, 11).collect()),
        TrainingSequence::new(ids(2, 14).collect()),
        TrainingSequence::new(ids(3, 11).collect()),
    ]
}

/// Of all maps of every kind of block, the head included.
#[test]
fn every_factor_of_every_layer_has_a_gradient() {
    let cases = [
        "llama-tied-bias",
        "qwen3",
        "gemma2",
        "gemma3-text",
        "phi3-longrope",
        "mixtral",
        "olmo2",
        "granite",
        "smollm3",
        "mistral-window8",
    ];
    for case in cases {
        let Some(model) = load(case) else { return };
        let trainable = model.as_trainable().unwrap();
        let config =
            LoraConfig::new().with_rank(3).with_target_pattern(".*(proj|gate|w[123]|lm_head)");
        trainable.apply_lora(&config).unwrap();
        let state = noise(trainable);
        let loss = trainable.forward_loss(&sequences()).unwrap();
        trainable.backward(loss).unwrap();
        let gradients: HashMap<_, _> = trainable.gradients().into_iter().collect();
        // Fused maps are one module.
        assert!(state.factors.len() > 2 * 4 * trainable.num_layers(), "{case}");
        for factor in &state.factors {
            let gradient = &gradients[&factor.name];
            assert_eq!(gradient.len(), factor.values.len(), "{case}: {}", factor.name);
            assert!(gradient.iter().all(|g| g.is_finite()), "{case}: {}", factor.name);
            assert!(gradient.iter().any(|g| *g != 0.0), "{case}: {}", factor.name);
        }
    }
}

/// Along a random direction, the loss changes as the gradients say.
#[test]
fn gradients_are_those_of_differences() {
    for case in ["llama-llama3rope", "gemma2", "phi3-longrope", "qwen3"] {
        let Some(model) = load(case) else { return };
        let trainable = model.as_trainable().unwrap();
        let config = LoraConfig::new().with_rank(2).with_target_pattern(".*(proj|lm_head)");
        trainable.apply_lora(&config).unwrap();
        let state = noise(trainable);
        let loss = trainable.forward_loss(&sequences()).unwrap();
        trainable.backward(loss).unwrap();
        let gradients: HashMap<_, _> = trainable.gradients().into_iter().collect();
        let direction =
            |index: usize, i: usize| Draws::new(9).stream(index as u64).normal(i as u64);
        let mut slope = 0.0;
        for (index, factor) in state.factors.iter().enumerate() {
            for (i, g) in gradients[&factor.name].iter().enumerate() {
                slope += f64::from(*g) * f64::from(direction(index, i));
            }
        }
        let at = |step: f32| {
            let mut moved = state.clone();
            for (index, factor) in moved.factors.iter_mut().enumerate() {
                for (i, value) in factor.values.iter_mut().enumerate() {
                    *value += step * direction(index, i);
                }
            }
            trainable.restore(&moved).unwrap();
            f64::from(trainable.evaluate(&sequences()).unwrap())
        };
        // The loss is curved: at ten times this step two of them are a fifth off.
        let step = 2e-5;
        let found = (at(step) - at(-step)) / (2.0 * f64::from(step));
        let tolerance = 0.02 * slope.abs() + 0.02;
        assert!((found - slope).abs() < tolerance, "{case}: {found} is not {slope}");
    }
}

/// `f`'s gradient with respect to `x` along a direction, against differences.
fn check(name: &str, x: &Tensor, f: &dyn Fn(&Tensor) -> Result<Tensor>) {
    let leaf = Var::from_tensor(x).unwrap();
    let out = f(leaf.as_tensor()).unwrap();
    let draw = |seed: u64, like: &Tensor| {
        let values = (0..like.elem_count() as u64).map(|i| Draws::new(seed).normal(i));
        Tensor::from_vec(values.collect::<Vec<f32>>(), like.shape(), &Device::Cpu).unwrap()
    };
    let (weights, direction) = (draw(5, &out), draw(6, x));
    let dot = |a: &Tensor, b: &Tensor| {
        let product = a.mul(b).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        product.iter().map(|v| f64::from(*v)).sum::<f64>()
    };
    let gradients = out.mul(&weights).unwrap().sum_all().unwrap().backward().unwrap();
    let slope = dot(gradients.get(leaf.as_tensor()).unwrap(), &direction);
    let step = 1e-3;
    let at = |step: f64| {
        let moved = x.add(&direction.affine(step, 0.0).unwrap()).unwrap();
        dot(&f(&moved).unwrap(), &weights)
    };
    let found = (at(step) - at(-step)) / (2.0 * step);
    assert!((found - slope).abs() < 0.01 * slope.abs() + 0.01, "{name}: {found} is not {slope}");
}

#[test]
fn each_operation_goes_back_as_differences_say() {
    let draw = |seed: u64, shape: &[usize]| {
        let count = shape.iter().product::<usize>() as u64;
        let values = (0..count).map(|i| Draws::new(seed).normal(i)).collect::<Vec<f32>>();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let weight = draw(1, &[8]);
    check("rms_norm", &draw(2, &[5, 8]), &|x| reference::rms_norm(x, &weight, 1e-5));
    let (cos, sin) = (draw(3, &[5, 3]), draw(4, &[5, 3]));
    check("rope", &draw(2, &[5, 2, 8]), &|x| reference::rope(x, &cos, &sin));
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let other = draw(7, &[5, 8]);
        let gate = |x: &Tensor| reference::gated_activation(x, &other, activation);
        check(&format!("{activation:?}"), &draw(2, &[5, 8]), &gate);
        let up = |x: &Tensor| reference::gated_activation(&other, x, activation);
        check(&format!("{activation:?}, up"), &draw(2, &[5, 8]), &up);
    }
    let other = draw(7, &[5, 8]);
    check("add_scaled", &draw(2, &[5, 8]), &|x| reference::add_scaled(&other, x, 0.7));
    let lens = [(0, 3), (3, 2)];
    let sequences = lens.map(|(start, len)| sequence(start, len));
    let batch = BatchView { sequences: &sequences, positions: &[0, 1, 2, 0, 1], adapters: &[] };
    for (window, softcap) in [(None, None), (Some(2), None), (None, Some(1.5))] {
        let spec = AttentionSpec {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 6,
            scale: 0.4,
            softcap,
            window,
        };
        let (q, k, v) = (draw(10, &[5, 4, 6]), draw(11, &[5, 2, 6]), draw(12, &[5, 2, 6]));
        check("attention, q", &q, &|q| reference::attention(q, &k, &v, None, &batch, &spec));
        check("attention, k", &k, &|k| reference::attention(&q, k, &v, None, &batch, &spec));
        check("attention, v", &v, &|v| reference::attention(&q, &k, v, None, &batch, &spec));
    }
}

fn sequence(start: usize, len: usize) -> StepSequence {
    let block_table = Vec::new();
    StepSequence { start, len, position: 0, prompt_len: len, block_table, adapter: None }
}

/// A batch's gradients are the mean of its sequences', by targets.
#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let Some(model) = load("llama-llama3rope") else { return };
    let trainable = model.as_trainable().unwrap();
    trainable.apply_lora(&LoraConfig::new().with_target_modules(["q_proj", "down_proj"])).unwrap();
    let state = noise(trainable);
    let batch = sequences();
    let targets = |batch: &[TrainingSequence]| -> usize {
        batch.iter().map(TrainingSequence::num_targets).sum()
    };
    let all = targets(&batch);
    let loss = trainable.forward_loss(&batch).unwrap();
    let together = loss.value();
    trainable.backward(loss).unwrap();
    let wanted = trainable.gradients();
    trainable.restore(&state).unwrap();
    let mut alone = 0.0;
    for one in batch {
        let share = targets(std::slice::from_ref(&one)) as f32 / all as f32;
        let loss = trainable.forward_loss(&[one]).unwrap();
        alone += share * loss.value();
        trainable.backward(loss.with_weight(share)).unwrap();
    }
    assert!((alone - together).abs() < 1e-4 * together);
    for ((name, found), (_, wanted)) in trainable.gradients().iter().zip(&wanted) {
        let size = wanted.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() < 1e-3 * size, "{name}: {f}, not {w}");
        }
    }
}

#[test]
fn dropout_is_of_training_alone_and_is_drawn_again() {
    let Some(model) = load("llama-llama3rope") else { return };
    let trainable = model.as_trainable().unwrap();
    let run = |dropout: f32, checkpointing: bool| {
        trainable.apply_lora(&LoraConfig::new().with_dropout(dropout)).unwrap();
        trainable.set_gradient_checkpointing(checkpointing);
        noise(trainable);
        let evaluated = trainable.evaluate(&sequences()).unwrap();
        let loss = trainable.forward_loss(&sequences()).unwrap();
        let value = loss.value();
        trainable.backward(loss).unwrap();
        (evaluated, value, trainable.gradients())
    };
    let (plain, trained, _) = run(0.0, false);
    assert_eq!(plain.to_bits(), trained.to_bits());
    let kept = run(0.3, false);
    assert_eq!(kept.0.to_bits(), plain.to_bits());
    assert_ne!(kept.1.to_bits(), plain.to_bits());
    assert_eq!(run(0.3, true), kept, "computed again, with the same masks");
    // Another pass draws other masks.
    let again = trainable.forward_loss(&sequences()).unwrap();
    assert_ne!(again.value().to_bits(), kept.1.to_bits());
}

#[test]
fn misuse_is_refused() {
    let Some(model) = load("llama-llama3rope") else { return };
    let trainable = model.as_trainable().unwrap();
    assert_eq!(trainable.step().unwrap_err().kind(), ErrorKind::Engine);
    assert!(trainable.forward_loss(&sequences()).is_err());
    let unknown =
        trainable.apply_lora(&LoraConfig::new().with_target_modules(["w_proj"])).err().unwrap();
    assert_eq!(unknown.kind(), ErrorKind::InvalidOption);
    assert!(unknown.to_string().contains("down_proj"), "{unknown}");
    assert!(trainable.apply_lora(&LoraConfig::new().with_rank(0)).is_err());
    trainable.apply_lora(&LoraConfig::new()).unwrap();
    assert!(trainable.step().is_err(), "no gradients");
    let loss = trainable.forward_loss(&sequences()).unwrap();
    trainable.apply_lora(&LoraConfig::new()).unwrap();
    assert!(trainable.backward(loss).is_err(), "another adapter's loss");
    let none = TrainingSequence::new(vec![1, 2]).with_targets(vec![true, false]);
    assert_eq!(trainable.forward_loss(&[none]).err().unwrap().kind(), ErrorKind::InvalidInput);
    let long = TrainingSequence::new(vec![1; model.info().context_len + 1]);
    assert_eq!(trainable.forward_loss(&[long]).err().unwrap().kind(), ErrorKind::InvalidInput);
    let outside = TrainingSequence::new(vec![1, 1 << 30]);
    assert!(trainable.forward_loss(&[outside]).is_err());
    assert!(trainable.set_optimizer(&OptimizerConfig::new().with_betas(1.0, 0.9)).is_err());
    let mut state = trainable.training_state().unwrap();
    state.factors[0].values[0] = f32::NAN;
    assert!(trainable.restore(&state).unwrap_err().to_string().contains(&state.factors[0].name));
    state.factors.remove(0);
    assert!(trainable.restore(&state).is_err());
    model.close();
    assert_eq!(trainable.forward_loss(&sequences()).err().unwrap().kind(), ErrorKind::Closed);
}
