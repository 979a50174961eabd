//! What is refused, in which words, and with which exit code.

use serde_json::Value;

use crate::run::{command, fixture, inference};

fn refused(args: &[&str], code: i32, named: &[&str]) {
    let stderr = inference(args).error(code);
    assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    for name in named {
        assert!(stderr.contains(name), "{args:?}: `{name}` in {stderr}");
    }
    let json = inference(args.iter().chain(&["--json"])).error(code);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["error"]["exit_code"], code);
    assert!(json["error"]["kind"].is_string(), "{json}");
}

#[test]
fn a_model_that_is_not_there() {
    refused(&["generate", "--model", "/no/such/model", "x"], 3, &["/no/such/model", "caused by"]);
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    refused(&["generate", "--model", folder, "x"], 3, &["config.json"]);
}

#[test]
fn backends_that_do_not_exist_or_cannot_run() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let args = ["generate", "--model", &model, "--backend", "abacus", "x"];
    refused(&args, 2, &["abacus", "cpu", "cuda", "metal"]);
    if !cfg!(any(feature = "cuda", feature = "metal")) {
        for name in ["cuda", "metal"] {
            let args = ["generate", "--model", &model, "--backend", name, "x"];
            refused(&args, 3, &[name, "unavailable"]);
        }
    }
}

#[test]
fn options_out_of_their_range() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    for (option, value, field) in [
        ("--top-p", "1.5", "top_p"),
        ("--temperature", "-1", "temperature"),
        ("--temperature", "nan", "temperature"),
        ("--max-tokens", "0", "max_tokens"),
        ("--frequency-penalty", "-3", "frequency_penalty"),
        ("--stop", "", "stop_strings"),
        ("--threads", "0", "threads"),
        ("--context-len", "0", "context_len"),
        ("--gpu-layers", "-2", "gpu_layers"),
        ("--parallel", "0", "parallel_slots"),
        ("--step-token-budget", "0", "step_token_budget"),
        ("--max-queue", "0", "max_queue"),
        ("--prompt-lookup", "33", "prompt_lookup"),
    ] {
        refused(&["generate", "--model", &model, option, value, "x"], 2, &[field]);
    }
}

#[test]
fn an_option_that_the_backend_cannot_honour_is_no_silence() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let args = ["generate", "--backend", "cpu", "--model", &model, "--gpu-layers", "3", "x"];
    refused(&args, 2, &["gpu_layers"]);
}

#[test]
fn prompts_that_cannot_be_used() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    refused(&["generate", "--model", &model, "--ids", "1,512"], 2, &["512"]);
    refused(&["logits", "--model", &model, "--ids", "1,999999"], 2, &["999999"]);
    let long = "Once upon a time ".repeat(200);
    refused(&["generate", "--model", &model, &long], 2, &["512"]);
    refused(&["logits", "--model", &model, &long], 2, &["512"]);
    // A tokenizer that adds nothing makes no tokens of no text.
    let Some((_, bare)) = fixture("tiny/qwen3") else { return };
    refused(&["generate", "--model", &bare, ""], 2, &["prompt"]);
    refused(&["logits", "--model", &bare, ""], 2, &["prompt"]);
    let Some((_, mute)) = fixture("tiny/qwen3moe-v5config") else { return };
    refused(&["generate", "--model", &mute, "x"], 2, &["token"]);
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["tokenize", "--model", &model, "x"];
    let output = command().args(args).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: standard output"), "{stderr}");
}

#[test]
fn a_probe_file_that_cannot_be_written() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let args = ["generate", "--model", &model, "--probe", "/no/such/folder/events", "x"];
    refused(&args, 2, &["/no/such/folder/events"]);
}
