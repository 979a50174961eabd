//! Training as PEFT and PyTorch do it: the same losses, norms and factors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference_candle::{ReferenceOps, load_model};
use inference_core::{
    FactorState, LoadOptions, LoraConfig, ModelSource, OptimizerConfig, TrainingSequence,
    TrainingState,
};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn adapter(folder: &Path) -> HashMap<String, Tensor> {
    let file = folder.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let short = |name: &str| {
        let name = name.strip_prefix("base_model.model.model.").unwrap();
        name.strip_suffix(".weight").unwrap().to_owned()
    };
    tensors.iter().map(|(name, tensor)| (short(name), tensor.clone())).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn sequences(expected: &Value) -> Vec<TrainingSequence> {
    let rows = |field: &str| expected[field].as_array().unwrap().clone();
    let row = |(ids, labels): (&Value, &Value)| {
        let ids = numbers(ids).iter().map(|id| *id as u32).collect();
        let targets = numbers(labels).iter().map(|label| *label >= 0.0).collect();
        TrainingSequence::new(ids).with_targets(targets)
    };
    rows("input_ids").iter().zip(&rows("labels")).map(row).collect()
}

fn check(case: &str, checkpointing: bool) {
    let Some(folder) = inference_fixtures::dir(&format!("lora/{case}")) else { return };
    let json = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&json).unwrap();
    let json = std::fs::read(folder.join("init/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&json).unwrap();

    let Some(tiny) = inference_fixtures::dir("tiny") else { return };
    let base = tiny.join(expected["base"].as_str().unwrap());
    let source = ModelSource::from(base);
    let ops = Arc::new(ReferenceOps::cpu());
    let model = load_model("cpu", &source, &LoadOptions::new(), ops).unwrap();
    let trainable = model.as_trainable().unwrap();
    let targets = config["target_modules"].as_array().unwrap();
    let lora = LoraConfig::new()
        .with_rank(config["r"].as_u64().unwrap() as usize)
        .with_alpha(config["lora_alpha"].as_f64().unwrap() as f32)
        .with_target_modules(targets.iter().map(|target| target.as_str().unwrap()));
    trainable.apply_lora(&lora).unwrap();
    trainable.set_gradient_checkpointing(checkpointing);
    let state = adapter(&folder.join("init"));
    let factors = state.iter().map(|(name, tensor)| {
        let (rows, columns) = tensor.dims2().unwrap();
        FactorState::new(name, [rows, columns], values(tensor))
    });
    trainable.restore(&TrainingState::new(0, 0, factors.collect())).unwrap();

    let optimizer = &expected["optimizer"];
    let number = |field: &str| optimizer[field].as_f64().unwrap();
    let betas = numbers(&optimizer["betas"]);
    let base = OptimizerConfig::new()
        .with_betas(betas[0], betas[1])
        .with_epsilon(number("eps"))
        .with_weight_decay(number("weight_decay"))
        .with_max_gradient_norm(expected["clip_grad_norm"].as_f64());
    let batch = sequences(&expected);
    let losses = numbers(&expected["losses_before_each_update"]);
    let norms = numbers(&expected["grad_norm_before_clipping"]);
    let rates = numbers(&expected["learning_rate_per_step"]);
    for (step, ((loss, norm), rate)) in losses.iter().zip(&norms).zip(&rates).enumerate() {
        trainable.set_optimizer(&base.clone().with_learning_rate(*rate)).unwrap();
        let found = trainable.forward_loss(&batch).unwrap();
        let value = f64::from(found.value());
        assert!((value - loss).abs() <= 1e-4 * loss, "{case}, step {step}: {value} is not {loss}");
        trainable.backward(found).unwrap();
        if step == 0 {
            check_gradients(&expected["gradients_at_step_0"], trainable.gradients());
        }
        let report = trainable.step().unwrap();
        let found = report.gradient_norm;
        assert!(
            (found - norm).abs() <= 1e-3 * norm,
            "{case}, step {step}: norm {found}, not {norm}"
        );
        assert_eq!(report.update, step as u64 + 1);
    }
    let last = expected["loss_after_last_update"].as_f64().unwrap();
    let found = f64::from(trainable.evaluate(&batch).unwrap());
    assert!((found - last).abs() <= 1e-4 * last, "{case}, the last loss: {found} is not {last}");

    let wanted = adapter(&folder.join("final"));
    let state = trainable.training_state().unwrap();
    assert_eq!(state.factors.len(), wanted.len());
    for factor in &state.factors {
        for (found, wanted) in factor.values.iter().zip(values(&wanted[&factor.name])) {
            assert!(
                (found - wanted).abs() <= 1e-3,
                "{case}, {}: {found}, not {wanted}",
                factor.name
            );
        }
    }
}

fn check_gradients(expected: &Value, found: Vec<(String, Vec<f32>)>) {
    let expected = expected.as_object().unwrap();
    let found: HashMap<String, Vec<f32>> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    for (name, wanted) in expected {
        let name = name.strip_prefix("base_model.model.model.").unwrap();
        let gradient = &found[name.strip_suffix(".weight").unwrap()];
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let wanted_norm = wanted["norm"].as_f64().unwrap();
        assert!((norm - wanted_norm).abs() <= 1e-3 * wanted_norm + 1e-7, "{name}: norm {norm}");
        for (g, w) in gradient.iter().zip(numbers(&wanted["first8"])) {
            assert!((f64::from(*g) - w).abs() <= 1e-3 * wanted_norm + 1e-7, "{name}: {g}, not {w}");
        }
    }
}

#[test]
fn a_real_model_learns_as_with_peft() {
    check("train-stories260k", false);
}

#[test]
fn all_modules_of_a_llama_learn_as_with_peft() {
    check("train-llama-r4", false);
}

#[test]
fn masked_targets_and_clipped_gradients_are_pefts() {
    check("train-llama-masked", false);
}

#[test]
fn weight_decay_and_biases_are_pefts() {
    check("train-qwen2-r8", false);
}

#[test]
fn layers_that_are_computed_again_learn_the_same() {
    check("train-llama-r4", true);
}
