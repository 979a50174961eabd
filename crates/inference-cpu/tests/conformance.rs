//! The backend `cpu` passes the conformance suite on the embedded model, with
//! the reference operations as the reference.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::process::ExitCode;
use std::sync::Arc;

use inference_cpu as _;

use inference_candle::ReferenceOps;
use inference_conformance::{LoadRefusal, ModelUnderTest, SuiteOptions, run};
use inference_core::{EmbeddedFiles, ErrorKind, LoadOptions, Message, ModelSource, Registry, Role};

/// The embedded model with one file replaced or, without `content`, missing.
fn edited(file: &'static str, content: Option<&'static [u8]>) -> ModelSource {
    let files: Vec<(&'static str, &'static [u8])> = inference_demo::FILES
        .iter()
        .filter_map(|(name, bytes)| {
            if *name == file { content.map(|bytes| (file, bytes)) } else { Some((*name, *bytes)) }
        })
        .collect();
    ModelSource::Embedded(Vec::leak(files))
}

/// The model with one file damaged or missing.
fn refusal(file: &'static str, content: Option<&'static [u8]>, kind: ErrorKind) -> LoadRefusal {
    let what = if content.is_some() { "damaged" } else { "missing" };
    LoadRefusal::new(format!("{file} {what}"), edited(file, content), kind, file)
}

/// The same weights with another base of the rotation: another model.
fn other() -> ModelSource {
    let (_, config) =
        inference_demo::FILES.iter().find(|(name, _)| *name == "config.json").unwrap();
    let config = std::str::from_utf8(config)
        .unwrap()
        .replace("\"rope_theta\": 10000.0", "\"rope_theta\": 20000.0");
    assert!(config.contains("20000"), "{config}");
    edited("config.json", Some(Vec::leak(config.into_bytes())))
}

fn main() -> ExitCode {
    let files: EmbeddedFiles = inference_demo::FILES;
    let source = ModelSource::Embedded(files);
    let ops = Arc::new(ReferenceOps::cpu());
    let trusted =
        inference_candle::load_model("reference", &source, &LoadOptions::new(), ops).unwrap();
    let texts = [
        "Once upon a time",
        "What is 7 plus 5?",
        "a",
        "日本語 👩\u{200d}👧",
        "The fox. The fox. The",
    ];
    let prompts: Vec<_> = texts.iter().map(|text| trusted.encode(text, true).unwrap()).collect();

    let conversation = vec![Message::system("Be brief."), Message::user("What is 2 plus 3?")];
    let model = ModelUnderTest::new("demo", source)
        .with_references_of(&*trusted, &prompts, 24)
        .unwrap()
        .with_prompts(prompts)
        .with_eos(vec![1, 2])
        .with_other(other())
        .with_template(
            conversation,
            "<|bos|><|system|>Be brief.<|end|><|user|>What is 2 plus 3?<|end|><|assistant|>",
        )
        .with_refused_chat(vec![Message::new(Role::Tool, "5")])
        .with_text("A text in English, 123 and 4.5.")
        .with_text("日本語 👩\u{200d}👧 e\u{301} \t\n")
        .with_refusal(refusal("config.json", Some(b"{"), ErrorKind::InvalidModel))
        .with_refusal(refusal("config.json", None, ErrorKind::InvalidModel))
        .with_refusal(refusal("model.safetensors", Some(&[0; 16]), ErrorKind::InvalidModel))
        .with_refusal(refusal("tokenizer.json", Some(b"[]"), ErrorKind::InvalidModel));
    run(Registry::global(), &SuiteOptions::new().with_backend("cpu").with_model(model))
}
