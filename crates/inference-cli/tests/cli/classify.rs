//! `classify`.

use serde_json::Value;

use crate::chat::chat_model;
use crate::run::{fixture, inference, inference_reading};

fn log_softmax(row: &[f32], id: usize) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
    f64::from(row[id] - max) - sum.ln()
}

#[test]
fn the_likeliest_next_tokens_are_those_of_the_logits() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let texts = ["Once upon a", "Lily and her"];
    let args = ["classify", "--json", "--top", "3", "--model", &model];
    let items = inference(args.iter().chain(&texts)).json();
    let items = items.as_array().unwrap();
    assert_eq!(items.len(), 2);
    for (item, text) in items.iter().zip(texts) {
        let fields: Vec<_> = item.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["text", "label", "labels", "token", "prompt_tokens"]);
        assert_eq!(item["text"], text);
        assert_eq!(item["label"], Value::Null);
        let logits = inference(["logits", "--json", "--model", &model, text]).json();
        let row = inference_fixtures::floats(&logits["logits"][0]);
        let top = item["token"]["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(item["token"]["id"], top[0]["id"]);
        for token in top {
            let id = usize::try_from(token["id"].as_u64().unwrap()).unwrap();
            let difference = token["logprob"].as_f64().unwrap() - log_softmax(&row, id);
            assert!(difference.abs() < 1e-4, "{token}");
        }
    }
}

#[test]
fn labels_share_the_probability_and_the_best_comes_first() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let args =
        ["classify", "--json", "--model", &model, "--labels", " dog, time, time.x", "Once upon a"];
    let stderr = inference(args).error(2);
    assert!(stderr.contains("label"), "labels of one first token: {stderr}");

    let args = ["classify", "--json", "--model", &model, "--labels", " dog, time", "Once upon a"];
    let item = inference(args).json()[0].clone();
    assert_eq!(item["label"], " time");
    let labels = item["labels"].as_array().unwrap();
    let shares: Vec<f64> =
        labels.iter().map(|label| label["probability"].as_f64().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-5 && shares[0] > shares[1], "{item}");
}

#[test]
fn a_pattern_and_a_chat_template_frame_the_text() {
    let Some((_folder, model)) = chat_model() else { return };
    let args = ["classify", "--json", "--chat", "--pattern", "Is {} good?", "--model", &model, "x"];
    let item = inference(args).json()[0].clone();
    let rendered = "<user>Is x good?<assistant>";
    let ids = inference(["tokenize", "--json", "--no-special", "--model", &model, rendered]).json();
    assert_eq!(item["prompt_tokens"], ids["ids"].as_array().unwrap().len());
    let stderr = inference(["classify", "--pattern", "no hole", "--model", &model, "x"]).error(2);
    assert!(stderr.contains("no hole"), "{stderr}");
}

#[test]
fn lines_of_standard_input_are_texts() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let args = ["classify", "--model", &model, "--labels", " dog, time", "-"];
    let table = inference_reading(&args, "Once upon a\nThe big\n").text();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("time ") && lines[0].ends_with("%  Once upon a"), "{table}");
}

#[test]
fn one_bad_text_does_not_disturb_the_others() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let long = "Once upon a time ".repeat(200);
    let args = ["classify", "--json", "--model", &model, "Once upon a", &long];
    let run = inference(args);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    let items: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(items[0]["token"]["id"].is_u64());
    assert_eq!(items[1]["error"]["kind"], "exhausted", "{items}");
}
