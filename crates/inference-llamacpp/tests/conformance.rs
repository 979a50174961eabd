//! The backend `llama_cpp` passes the conformance suite on GGUF files, with the
//! reference operations in f32 as the reference.
//!
//! Without the feature `llama-cpp` there is nothing to run: it says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test without a harness"
)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use inference_candle::ReferenceOps;
use inference_conformance::{LoadRefusal, ModelUnderTest, SuiteOptions, run};
use inference_core::{
    CapabilityId, ErrorKind, KvDtype, LoadOptions, ModelSource, Precision, Registry,
};

/// Files of the fixtures, and the largest difference of logits from products in
/// f32. llama.cpp promises no equal bits in company, so these are models whose
/// tokens do not hang on them: f32 weights, keys and values, and nothing rounded
/// but the table of GELU in Gemma 3. (Quantized ones are in `parity.rs`.)
const MODELS: [(&str, f32); 4] = [
    ("llama/llama-f32.gguf", 1e-3),
    ("qwen3/qwen3-f32.gguf", 1e-3),
    ("stories260k/stories260k-f32.gguf", 1e-3),
    ("gemma3/gemma3-f32.gguf", 0.025),
];

fn model(name: &str, path: &Path, tolerance: f32, scratch: &Path) -> ModelUnderTest {
    let source = ModelSource::from(path);
    let ops = Arc::new(ReferenceOps::cpu().with_precision(Precision::Exact));
    let trusted =
        inference_candle::load_model("reference", &source, &LoadOptions::new(), ops).unwrap();
    let prompts: Vec<Vec<u32>> = if trusted.info().has_tokenizer {
        ["Once upon a time", "Lily and Tom went to the park", "a", "The fox. The fox. The"]
            .iter()
            .map(|text| trusted.encode(text, true).unwrap())
            .collect()
    } else {
        let vocab = u32::try_from(trusted.info().vocab_size).unwrap();
        [(7, 5), (11, 17), (3, 40), (5, 1)]
            .map(|(start, len)| (0..len).map(|i| (start + 29 * i) % vocab).collect())
            .to_vec()
    };
    let model = ModelUnderTest::new(name, source)
        // Threads that spin are slow beside those of other tests.
        .with_load(LoadOptions::new().with_threads(1).with_kv_dtype(KvDtype::F32))
        .with_tolerance(tolerance)
        .with_company_tolerance(tolerance)
        .with_references_of(&*trusted, &prompts, 24)
        .unwrap()
        .with_prompts(prompts)
        .with_refusal(cut_short(path, scratch));
    match name.starts_with("gemma3") {
        // What has left a window is forgotten.
        true => model.with_lack(CapabilityId::KvSnapshot),
        false => model,
    }
}

/// The file without its second half.
fn cut_short(path: &Path, scratch: &Path) -> LoadRefusal {
    let bytes = std::fs::read(path).unwrap();
    let cut = scratch.join(path.file_name().unwrap());
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let names = cut.file_name().unwrap().to_str().unwrap().to_owned();
    LoadRefusal::new("cut short", cut, ErrorKind::InvalidModel, names)
}

fn main() -> ExitCode {
    let registry = Registry::new();
    inference_llamacpp::register(&registry);
    if cfg!(not(feature = "llama-cpp")) {
        eprintln!("skipped: built without the feature `llama-cpp`");
        return ExitCode::SUCCESS;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut options = SuiteOptions::new().with_backend("llama_cpp");
    let found = MODELS.map(|(name, tolerance)| {
        let path = inference_fixtures::dir(&format!("gguf/{name}"))?;
        Some(model(name, &path, tolerance, scratch.path()))
    });
    let mut models: Vec<_> = found.into_iter().flatten().collect();
    for index in 1..models.len() {
        models[index].other = Some(models[0].source.clone());
    }
    if models.is_empty() {
        return ExitCode::SUCCESS;
    }
    for model in models {
        options = options.with_model(model);
    }
    run(&registry, &options)
}
