//! `tokenize`, against real vocabularies.

use serde_json::json;

use crate::run::{fixture, inference, inference_reading};

const TOKENIZERS: [&str; 3] = ["tokenizers/llama3", "tokenizers/qwen2", "tokenizers/llama2-spm"];

#[test]
fn ids_and_texts_are_the_references() {
    for name in TOKENIZERS {
        let Some((path, model)) = fixture(name) else { return };
        let expected = inference_fixtures::json(&path.join("expected.json"));
        let cases = expected["cases"].as_array().unwrap();
        // A process per case is slow with large vocabularies: a few of them
        // show that the options arrive.
        for case in cases.iter().rev().step_by(cases.len() / 2).take(2) {
            let text = case["text"].as_str().unwrap();
            let run = |options: &[&str], input: &str| {
                let base = ["tokenize", "--json", "--model", &model];
                inference(base.iter().chain(options).chain(&["--", input])).json()
            };
            assert_eq!(
                run(&[], text),
                json!({ "ids": case["ids_with_special"] }),
                "{name}: {text}"
            );
            assert_eq!(
                run(&["--no-special"], text),
                json!({ "ids": case["ids"] }),
                "{name}: {text}"
            );
            let ids = case["ids"].to_string();
            let skipped = json!({ "text": case["decoded_skip_special"] });
            assert_eq!(run(&["--decode", "--no-special"], &ids), skipped, "{name}: {ids}");
        }
        let special = expected["raw_ids"]
            .as_array()
            .unwrap()
            .iter()
            .find(|case| case["decoded"] != case["decoded_skip_special"]);
        if let Some(case) = special {
            let ids = case["ids"].to_string();
            let decoded = inference(["tokenize", "--decode", "--json", "--model", &model, &ids]);
            assert_eq!(decoded.json(), json!({ "text": case["decoded"] }), "{name}: {ids}");
        }
    }
}

#[test]
fn what_it_prints_it_reads_back() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let text = "Lily saw a big, red ball.";
    let ids = inference(["tokenize", "--no-special", "--model", &model, text]).text();
    assert!(ids.trim_end().split(',').all(|id| id.parse::<u32>().is_ok()), "{ids}");
    let back = inference_reading(&["tokenize", "--decode", "--model", &model], &ids).text();
    assert_eq!(back, text);
}

#[test]
fn standard_input_is_taken_unchanged() {
    let Some((_, model)) = fixture("tokenizers/qwen2") else { return };
    let args = ["tokenize", "--json", "--model", &model, "-"];
    let with_newline = inference_reading(&args, "Hello\n").json();
    assert_eq!(with_newline, json!({ "ids": [9707, 198] }));
    assert_eq!(inference_reading(&args, "").json(), json!({ "ids": [] }));
}

#[test]
fn pieces_are_shown_a_line_each() {
    let Some((_, model)) = fixture("tokenizers/qwen2") else { return };
    let pieces = inference(["tokenize", "--pieces", "--model", &model, "Hello Hello"]).text();
    assert_eq!(pieces, "9707   \"Hello\"\n21927  \" Hello\"\n");
}

#[test]
fn bad_input_is_refused_by_name() {
    let Some((_, model)) = fixture("tokenizers/qwen2") else { return };
    let refused =
        |args: &[&str]| inference(["tokenize", "--model", &model].iter().chain(args)).error(2);
    assert!(refused(&["--decode", "1,two"]).contains("`two`"));
    assert!(refused(&["--decode", "999999999"]).contains("999999999"));
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    let stderr = inference(["tokenize", "--model", folder, "x"]).error(3);
    assert!(stderr.contains("tokenizer.json"), "{stderr}");
    let stderr = inference(["tokenize", "--model", "/no/such/folder", "x"]).error(3);
    assert!(stderr.contains("/no/such/folder"), "{stderr}");
}

#[test]
fn a_broken_tokenizer_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), "{\"version\": ").unwrap();
    let args = ["tokenize", "--json", "--model", folder.path().to_str().unwrap(), "x"];
    let stderr = inference(args).error(3);
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["kind"], "invalid_model");
    assert_eq!(error["error"]["exit_code"], 3);
    assert!(error["error"]["message"].as_str().unwrap().contains("tokenizer.json"), "{stderr}");
}

#[test]
fn a_gguf_file_has_its_vocabulary_with_it() {
    let Some((_, model)) = fixture("gguf-vocab/ggml-vocab-llama-spm.gguf") else { return };
    let run = |arguments: &[&str]| {
        inference(["tokenize", "--json", "--model", &model].iter().chain(arguments)).json()
    };
    assert_eq!(run(&["Hello world"]), json!({ "ids": [1, 15043, 3186] }));
    assert_eq!(run(&["--no-special", "Hello world"]), json!({ "ids": [15043, 3186] }));
    assert_eq!(run(&["--decode", "15043,3186"]), json!({ "text": "Hello world" }));
}
