//! `inspect`: sizes, memory and speed from headers.

use crate::run::{fixture, inference};

#[test]
fn memory_and_speed_follow_from_the_sizes() {
    let Some((path, argument)) = fixture("tiny/qwen3") else { return };
    let args = ["inspect", &argument, "--context", "100", "--bandwidth", "1000000", "--json"];
    let report = inference(args).json();
    let config = inference_fixtures::json(&path.join("config.json"));
    let size = |name: &str| config[name].as_u64().unwrap();
    let values = 2 * size("num_hidden_layers") * size("num_key_value_heads") * size("head_dim");
    assert_eq!(report["sizes"]["kv_values_per_token"], values);
    assert_eq!(report["memory"]["kv_cache"], values * 100 * 4);
    assert_eq!(report["memory"]["weights"], report["model"]["bytes"]);
    let bytes: u64 =
        report["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["model"]["bytes"], bytes);
    // The embeddings are the head too: a token reads all weights.
    let read = (bytes + values * 100 * 4) as f64;
    let limit = report["decode_tokens_per_sec_limit"].as_f64().unwrap();
    assert!((limit - 1e6 / read).abs() < 1e-9, "{limit}");
    assert_eq!(report["bandwidth"]["measured"], false);
}

#[test]
fn of_experts_a_token_reads_its_share() {
    let Some((_, argument)) = fixture("tiny/mixtral") else { return };
    let report = inference(["inspect", &argument, "--bandwidth", "1M", "--json"]).json();
    let tensors = report["tensors"].as_array().unwrap();
    let bytes = |keep: fn(&str) -> bool| -> u64 {
        let kept = tensors.iter().filter(|tensor| keep(tensor["name"].as_str().unwrap()));
        kept.map(|tensor| tensor["bytes"].as_u64().unwrap()).sum()
    };
    let experts = bytes(|name| name.contains(".experts."));
    let dense = bytes(|name| !name.contains(".experts.") && name != "model.embed_tokens.weight");
    assert!(experts > 0);
    assert_eq!(report["sizes"]["num_experts"], 4);
    assert_eq!(report["weight_bytes_per_token"], dense + experts / 2);
}

#[test]
fn both_formats_of_a_model_have_the_same_sizes() {
    for name in ["qwen3", "gemma3"] {
        let source = if name == "gemma3" { "tiny/gemma3-text" } else { "tiny/qwen3" };
        let Some((_, folder)) = fixture(source) else { return };
        let Some((_, file)) = fixture(&format!("gguf/{name}/{name}-f32.gguf")) else { return };
        let sizes = |model: &str| {
            let args = ["inspect", model, "--bandwidth", "1G", "--json"];
            inference(args).json()["sizes"].clone()
        };
        assert_eq!(sizes(&folder), sizes(&file), "{name}");
    }
}

#[test]
fn a_person_reads_sections() {
    let Some((_, argument)) = fixture("gguf/llama/llama-q8_0.gguf") else { return };
    let text = inference(["inspect", &argument, "--kv-dtype", "q8_0", "--verbose"]).text();
    for part in [
        "gguf, llama",
        "general.architecture",
        "Q8_0",
        "token_embd.weight",
        "KV cache (q8_0)",
        "GB/s, measured",
        "tokens/s = bandwidth / (weights + KV cache)",
        "Backends",
        "cpu",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let demo = inference(["inspect", "demo", "--bandwidth", "1G"]).text();
    assert!(demo.starts_with("the embedded model: safetensors"), "{demo}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let Some((_, argument)) = fixture("tiny/qwen3") else { return };
    for args in [["--context", "0"], ["--context", "99999999"], ["--bandwidth", "0"]] {
        let stderr = inference(["inspect", &argument, args[0], args[1]]).error(2);
        assert!(stderr.contains(args[0]), "{stderr}");
    }
    let Some((_, adapter)) = fixture("lora/llama-r8-all") else { return };
    assert!(inference(["inspect", &adapter]).error(2).contains("adapter"));
}
