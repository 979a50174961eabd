//! What keys and values of 8 bits cost in accuracy, on the CPU and on the
//! reference.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use inference_candle::{Ops, ReferenceOps};
use inference_core::{KvDtype, LoadOptions, LogitRows, ModelSource};
use inference_cpu::{CpuOps, CpuOptions};
use inference_fixtures::ids;

/// Logits of every position of every prompt.
fn logits(dir: &Path, dtype: KvDtype, ops: Arc<dyn Ops>, prompts: &[Vec<u32>]) -> Vec<f32> {
    let options = LoadOptions::new().with_kv_dtype(dtype);
    let source = ModelSource::from(dir);
    let model = inference_candle::load_model("a test", &source, &options, ops).unwrap();
    let scorer = model.as_scorer().unwrap();
    let rows = |prompt: &Vec<u32>| {
        scorer.prompt_logits(prompt.clone().into(), LogitRows::All).unwrap().values
    };
    prompts.iter().flat_map(rows).collect()
}

/// The root of the mean square, and the greatest magnitude.
fn size(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let squares: f32 = values.clone().map(|v| v * v).sum();
    let greatest = values.clone().fold(0.0f32, |greatest, v| greatest.max(v.abs()));
    ((squares / values.count() as f32).sqrt(), greatest)
}

#[test]
fn logits_stay_near_those_of_f32() {
    for case in ["llama-h256", "qwen3", "qwen3moe"] {
        let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let prompts = expected["prompts"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|p| ids(&p["input_ids"])).collect();
        let cpu: Arc<dyn Ops> = Arc::new(CpuOps::new(&CpuOptions::new()).unwrap());
        let reference: Arc<dyn Ops> = Arc::new(ReferenceOps::cpu());
        for (name, ops) in [("cpu", cpu), ("reference", reference)] {
            let exact = logits(&dir, KvDtype::F32, Arc::clone(&ops), &prompts);
            let coarse = logits(&dir, KvDtype::Q8_0, ops, &prompts);
            let (scale, _) = size(exact.iter().copied());
            let differences = coarse.iter().zip(&exact).map(|(a, b)| a - b);
            let (deviation, greatest) = size(differences);
            assert!(deviation > 0.0, "{case}, {name}: not quantized");
            println!("{case}, {name}: {deviation} of {scale}, at most {greatest}");
            assert!(deviation < 0.03 * scale, "{case}, {name}: {deviation} of {scale}");
            assert!(greatest < 0.15 * scale, "{case}, {name}: {greatest} of {scale}");
        }
    }
}
