//! `inference lora`.

use std::path::PathBuf;

use serde_json::Value;

use crate::run::inference;

fn fixtures() -> Option<[String; 2]> {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let base = inference_fixtures::dir("tiny/llama-llama3rope")?;
    Some([text(base), text(inference_fixtures::dir("lora/llama-r8-all")?)])
}

#[test]
fn inspect_shows_an_adapter_and_whether_it_fits() {
    let Some([base, adapter]) = fixtures() else { return };
    let text = inference(["lora", "inspect", &adapter]).text();
    for part in ["peft", "lora_alpha", "[8, 128]", "layers.1.mlp.down_proj.lora_A.weight"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let run = inference(["lora", "inspect", &adapter, "--model", &base, "--json"]);
    let report: Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(report["format"], "peft");
    assert_eq!(report["settings"]["r"], 8);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 28);
    assert_eq!(report["fit"]["modules"], 14);
    assert_eq!(report["fit"]["rank"], 8);

    let Some(other) = inference_fixtures::dir("tiny/phi3-longrope") else { return };
    let args = ["lora", "inspect", &adapter, "--model", other.to_str().unwrap()];
    // The report lists what does not match, the error says what is wrong.
    let run = inference(args);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stdout.contains("layers.1.self_attn.q_proj.lora_A"), "{}", run.stdout);
    assert!(run.stderr.contains("gate_proj.lora_A"), "{}", run.stderr);
    assert!(run.stderr.contains("qkv_proj"), "{}", run.stderr);
    let error = inference(["lora", "inspect", &base]).error(3);
    assert!(error.contains("adapter_config.json"), "{error}");
}

/// The merged folder, and a GGUF file of it, are the reference's merged model.
#[test]
fn merge_writes_a_model_with_the_adapter() {
    let Some([base, adapter]) = fixtures() else { return };
    let expected = inference_fixtures::json(&PathBuf::from(&adapter).join("expected.json"));
    let prompt = &expected["prompts"][0];
    let ids = inference_fixtures::ids(&prompt["input_ids"]);
    let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (folder, gguf, half) = (path("merged"), path("merged.gguf"), path("half"));
    let run = inference(["lora", "merge", &base, &adapter, &folder, "--json"]);
    let report: Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(report["changed"], 14);
    assert_eq!(report["untied_head"], false);
    inference(["lora", "merge", &base, &adapter, &gguf, "--type", "F32"]).text();
    inference(["lora", "merge", &base, &format!("{adapter}=0.5"), &half]).text();
    let difference = |model: &str| {
        let run = inference(["logits", "--model", model, "--exact", "--ids", &ids, "--json"]);
        let logits: Value = serde_json::from_str(&run.text()).unwrap();
        let found = inference_fixtures::floats(&logits["logits"]);
        let wanted = inference_fixtures::floats(&prompt["merged_last_logits"]);
        assert_eq!(found.len(), wanted.len());
        found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(difference(&folder) < 2e-4);
    assert!(difference(&gguf) < 2e-4);
    assert!(difference(&half) > 1e-2);

    let error = inference(["lora", "merge", &base, &adapter, &folder]).error(2);
    assert!(error.contains("merged"), "{error}");
    let error = inference(["lora", "merge", &base, &base, &path("x")]).error(3);
    assert!(error.contains("adapter_config.json"), "{error}");
}

/// The commands that take an adapter compute with it, and with its scale.
#[test]
fn commands_apply_an_adapter() {
    let Some([base, adapter]) = fixtures() else { return };
    let expected = inference_fixtures::json(&PathBuf::from(&adapter).join("expected.json"));
    for prompt in expected["prompts"].as_array().unwrap() {
        let ids = inference_fixtures::ids(&prompt["input_ids"]);
        let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        for (scale, field) in
            [("", "adapter_last_logits"), ("=1", "adapter_last_logits"), ("=0", "base_last_logits")]
        {
            let adapter = format!("{adapter}{scale}");
            let args = ["logits", "--model", &base, "--adapter", &adapter, "--ids", &ids, "--json"];
            let logits: Value = serde_json::from_str(&inference(args).text()).unwrap();
            let found = inference_fixtures::floats(&logits["logits"]);
            let wanted = inference_fixtures::floats(&prompt[field]);
            let difference = |(a, b): (&f32, &f32)| (a - b).abs();
            let most = found.iter().zip(&wanted).map(difference).fold(0.0, f32::max);
            assert!(most < 2e-4, "{scale}: {most}");
        }
        let args = ["generate", "--model", &base, "--adapter", &adapter, "--ids", &ids, "--json"];
        let run = inference(args.iter().copied().chain(["-n", "16", "--temperature", "0"]));
        let text = run.text();
        let tokens: Vec<u32> = text
            .lines()
            .filter_map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                Some(line.get("token")?["id"].as_u64().unwrap() as u32)
            })
            .collect();
        assert_eq!(tokens, inference_fixtures::ids(&prompt["adapter_greedy"]));
    }
    let args = ["logits", "--model", &base, "--adapter", &base, "--ids", "1"];
    let error = inference(args).error(3);
    assert!(error.contains("adapter_config.json"), "{error}");
}

#[test]
fn senseless_arguments_are_usage_errors() {
    for args in [
        &["lora"][..],
        &["lora", "merge", "model", "adapter"],
        &["lora", "merge", "model", "adapter=x", "out"],
        &["lora", "merge", "model", "adapter=inf", "out"],
        &["lora", "merge", "model", "adapter", "out", "--requantize"],
    ] {
        inference(args).error(2);
    }
}
