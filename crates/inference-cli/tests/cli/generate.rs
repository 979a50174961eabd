//! `generate`, with a real trained model.

use serde_json::Value;

use crate::run::{fixture, inference, inference_reading};

const MODEL: &str = "models/stories260k";

/// The fixture's folder as an argument, and its cases.
fn stories() -> Option<(String, Vec<Value>)> {
    let (path, model) = fixture(MODEL)?;
    let expected = inference_fixtures::json(&path.join("expected.json"));
    Some((model, expected["cases"].as_array().unwrap().clone()))
}

fn summary(lines: &[Value]) -> &Value {
    &lines.last().unwrap()["summary"]
}

fn ids(lines: &[Value]) -> Vec<u32> {
    let tokens = lines.iter().filter_map(|line| line.get("token"));
    tokens.map(|token| u32::try_from(token["id"].as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn the_reference_texts_come_out_word_for_word() {
    let Some((model, cases)) = stories() else { return };
    let options = ["--json", "--ignore-eos", "-n", "128", "--temperature", "0"];
    for case in &cases {
        let prompt = case["prompt"].as_str().unwrap();
        let run =
            inference(["generate", "--model", &model].iter().chain(&options).chain(&[prompt]));
        let lines = run.json_lines();
        assert_eq!(ids(&lines), inference_fixtures::ids(&case["greedy_ids"]), "{prompt}");
        let text: String = lines.iter().filter_map(|line| line["token"]["text"].as_str()).collect();
        assert_eq!(summary(&lines)["text"], text);
        assert_eq!(text, case["greedy_text"].as_str().unwrap());
    }
}

#[test]
fn ids_take_the_place_of_a_prompt() {
    let Some((model, cases)) = stories() else { return };
    let list: Vec<_> =
        inference_fixtures::ids(&cases[1]["prompt_ids"]).iter().map(u32::to_string).collect();
    let list = list.join(",");
    let args = ["generate", "--model", &model, "--json", "-n", "16", "--ids", &list];
    let lines = inference(args).json_lines();
    assert_eq!(ids(&lines), inference_fixtures::ids(&cases[1]["greedy_ids"])[..16]);
    assert_eq!(
        summary(&lines)["prompt_tokens"].as_u64().unwrap() as usize,
        list.split(',').count()
    );
}

#[test]
fn the_summary_has_the_documented_fields_in_order() {
    let Some((model, _)) = stories() else { return };
    let args = ["generate", "--model", &model, "--json", "-n", "5", "Once"];
    let lines = inference(args).json_lines();
    assert_eq!(lines.len(), 6);
    let summary = summary(&lines);
    let fields: Vec<_> = summary.as_object().unwrap().keys().take(7).cloned().collect();
    assert_eq!(
        fields,
        [
            "finish_reason",
            "prompt_tokens",
            "generated_tokens",
            "prefill_tokens_per_sec",
            "decode_tokens_per_sec",
            "ttft_ms",
            "text"
        ]
    );
    assert_eq!(summary["finish_reason"], "length");
    assert_eq!(summary["generated_tokens"], 5);
    for rate in ["prefill_tokens_per_sec", "decode_tokens_per_sec", "ttft_ms"] {
        assert!(summary[rate].as_f64().unwrap() > 0.0, "{summary}");
    }
    for line in &lines[..5] {
        let fields: Vec<_> = line["token"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["id", "text"]);
    }
}

#[test]
fn a_pipe_gets_the_text_and_nothing_else() {
    let Some((model, cases)) = stories() else { return };
    let args = ["generate", "--model", &model, "-n", "128", "--ignore-eos"];
    let text = inference(args.iter().chain(&[""])).text();
    assert_eq!(text, cases[0]["greedy_text"].as_str().unwrap());
    // The newline that ends a line of input is not part of the prompt.
    let prompt = cases[3]["prompt"].as_str().unwrap();
    let text = inference_reading(&args, &format!("{prompt}\n")).text();
    assert_eq!(text, cases[3]["greedy_text"].as_str().unwrap());
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let Some((model, _)) = stories() else { return };
    let args = ["generate", "--model", &model, "--json", "--stop", "little", "Once upon a time"];
    let lines = inference(args).json_lines();
    let summary = summary(&lines);
    assert_eq!(summary["finish_reason"], "stop_string");
    assert_eq!(summary["stop_string"], "little");
    assert_eq!(summary["text"], ", there was a ");
}

#[test]
fn a_timeout_is_a_finish_reason() {
    let Some((model, _)) = stories() else { return };
    let base = ["generate", "--model", &model, "--json", "--ignore-eos", "-n", "400"];
    let lines = inference(base.iter().chain(&["--timeout", "0.001", "Once"])).json_lines();
    assert_eq!(summary(&lines)["finish_reason"], "deadline");
}

#[test]
fn a_seed_decides_what_is_sampled() {
    let Some((model, _)) = stories() else { return };
    let sample = |seed: &str| {
        let base = ["generate", "--model", &model, "--json", "--temperature", "1.2", "-n", "40"];
        let lines = inference(base.iter().chain(&["--seed", seed, "The sea"])).json_lines();
        assert_eq!(summary(&lines)["seed"].to_string(), seed);
        ids(&lines)
    };
    assert_eq!(sample("7"), sample("7"));
    assert_ne!(sample("7"), sample("8"));
    let drawn = inference(["generate", "--model", &model, "--json", "-n", "1", "Hi"]).json_lines();
    assert!(summary(&drawn)["seed"].is_u64());
}

#[test]
fn logprobs_are_the_references() {
    let Some((model, cases)) = stories() else { return };
    let prompt = cases[1]["prompt"].as_str().unwrap();
    let args = ["generate", "--model", &model, "--json", "--logprobs", "5", "-n", "10", prompt];
    let lines = inference(args).json_lines();
    let steps = cases[1]["first_10_steps_top5_logprobs"].as_array().unwrap();
    assert_eq!(lines.len(), steps.len() + 1);
    for (line, step) in lines.iter().zip(steps) {
        let token = &line["token"];
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 5);
        assert_eq!(token["logprob"], top[0]["logprob"]);
        for (got, want) in top.iter().zip(step.as_array().unwrap()) {
            let difference = got["logprob"].as_f64().unwrap() - want[1].as_f64().unwrap();
            assert!(difference.abs() < 1e-3, "{got} {want}");
        }
    }
}

#[test]
fn logits_are_printed_where_they_are_asked_for() {
    let Some((model, _)) = stories() else { return };
    let args = ["generate", "--model", &model, "--json", "--logits", "-n", "2", "Once"];
    let lines = inference(args).json_lines();
    let row = inference_fixtures::floats(&lines[0]["token"]["logits"]);
    assert_eq!(row.len(), 512);
    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    assert_eq!(lines[0]["token"]["id"].as_u64().unwrap() as usize, best);
}

#[test]
fn a_forbidden_token_is_not_generated() {
    let Some((model, cases)) = stories() else { return };
    let first = inference_fixtures::ids(&cases[0]["greedy_ids"])[0];
    let bias = format!("{first}=-inf");
    let args = ["generate", "--model", &model, "--json", "-n", "64", "--logit-bias", &bias, ""];
    assert!(!ids(&inference(args).json_lines()).contains(&first));
}

#[test]
fn drafts_change_nothing_but_the_number_of_steps() {
    let Some((model, cases)) = stories() else { return };
    let case = &cases[1];
    let prompt = case["prompt"].as_str().unwrap();
    let args = ["generate", "--model", &model, "--json", "--ignore-eos", "-n", "128", prompt];
    let lines = inference(args.iter().chain(&["--prompt-lookup", "4"])).json_lines();
    assert_eq!(ids(&lines), inference_fixtures::ids(&case["greedy_ids"]));
    let number = |field: &str| summary(&lines)[field].as_u64().unwrap();
    assert!(number("draft_tokens") > 0);
    assert!(number("accepted_draft_tokens") <= number("draft_tokens"));
    let without = inference(args).json_lines();
    assert_eq!(summary(&without)["draft_tokens"], 0);
}

#[test]
fn how_the_engine_computes_changes_no_token() {
    let Some((model, cases)) = stories() else { return };
    let case = &cases[1];
    let prompt = case["prompt"].as_str().unwrap();
    let args = ["generate", "--model", &model, "--json", "--ignore-eos", "-n", "64", prompt];
    for options in [
        &["--parallel", "3", "--step-token-budget", "3"][..],
        &["--max-wait", "0.001", "--max-queue", "1", "--parallel", "2"],
        &["--lag-timeout", "20", "--no-prefix-cache"],
    ] {
        let lines = inference(args.iter().chain(options)).json_lines();
        assert_eq!(ids(&lines), inference_fixtures::ids(&case["greedy_ids"])[..64], "{options:?}");
    }
    // The fixture's heads are too short for blocks of 32; the embedded model's are not.
    let args = ["generate", "--json", "--ignore-eos", "-n", "8", "--kv-dtype", "q8_0", "Once"];
    assert_eq!(ids(&inference(args).json_lines()).len(), 8);
}

#[test]
fn probe_events_are_written_a_line_each() {
    let Some((model, _)) = stories() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let args = ["generate", "--model", &model, "-n", "4", "--probe", file.to_str().unwrap(), "Hi"];
    inference(args).text();
    let events = std::fs::read_to_string(&file).unwrap();
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().filter(|event| event["event"] == "token").count(), 4);
}

#[test]
fn what_only_json_can_show_is_refused_without_it() {
    let Some((model, _)) = stories() else { return };
    for option in [&["--logits"][..], &["--logprobs", "3"]] {
        let base = ["generate", "--model", &model, "x"];
        assert!(inference(base.iter().chain(option)).error(2).contains("--json"));
    }
}
