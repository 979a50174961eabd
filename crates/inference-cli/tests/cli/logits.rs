//! `logits`, against the reference.

use serde_json::Value;

use crate::run::{Run, fixture, inference};

fn list(ids: &Value) -> String {
    let ids: Vec<_> = inference_fixtures::ids(ids).iter().map(u32::to_string).collect();
    ids.join(",")
}

fn rows(run: Run) -> Vec<Vec<f32>> {
    let json = run.json();
    assert_eq!(json.as_object().unwrap().len(), 1, "one field");
    json["logits"].as_array().unwrap().iter().map(inference_fixtures::floats).collect()
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-3, "{what}[{index}]: {got} is not {want}");
    }
}

#[test]
fn they_are_the_references() {
    for case in ["qwen3", "gemma2", "mixtral"] {
        let Some((path, model)) = fixture(&format!("tiny/{case}")) else { return };
        let expected = inference_fixtures::json(&path.join("expected.json"));
        for prompt in expected["prompts"].as_array().unwrap() {
            let ids = list(&prompt["input_ids"]);
            let got = rows(inference(["logits", "--json", "--model", &model, "--ids", &ids]));
            assert_eq!(got.len(), 1);
            let want = inference_fixtures::floats(&prompt["last_logits"]);
            assert_close(&got[0], &want, case);
        }
        let ids = list(&expected["prompts"][0]["input_ids"]);
        let got = rows(inference(["logits", "--json", "--all", "--model", &model, "--ids", &ids]));
        let want = expected["short_all_logits"].as_array().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_close(got, &inference_fixtures::floats(want), case);
        }
    }
}

#[test]
fn a_text_is_its_ids() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let from_text = rows(inference(["logits", "--json", "--model", &model, "Once upon a"]));
    let ids = inference(["tokenize", "--model", &model, "Once upon a"]).text();
    let from_ids = rows(inference(["logits", "--json", "--model", &model, "--ids", ids.trim()]));
    assert_eq!(from_text, from_ids);
}

#[test]
fn the_table_shows_the_likeliest_tokens_of_each_position() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let table = inference(["logits", "--all", "--top", "2", "--model", &model, "Once upon"]).text();
    let positions = inference(["tokenize", "--model", &model, "Once upon"]).text();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * positions.split(',').count(), "{table}");
    assert!(lines[0].starts_with("pos"), "{table}");
    assert!(lines[1].starts_with("0  "), "{table}");
}
