//! Damaged files give errors, never a panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use inference_core::{ChatPrompt, Message};
use inference_fixtures::dir;
use inference_text::{ChatTemplate, SpecialTokens, Tokenizer, chat_prompt_from_json};
use proptest::prelude::*;

/// Damages `bytes`: cuts, flips, removes, doubles or swaps parts of it.
fn damage(bytes: &mut Vec<u8>, edits: &[(u8, prop::sample::Index, u8)]) {
    for (kind, at, byte) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        match kind % 5 {
            0 => bytes[at] ^= byte,
            1 => bytes.truncate(at),
            2 => {
                bytes.remove(at);
            }
            3 => bytes.insert(at, *byte),
            _ => {
                let end = (at + usize::from(*byte)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, u8)>> {
    prop::collection::vec((any::<u8>(), any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

/// Uses everything a tokenizer offers; errors are fine.
fn exercise(tokenizer: &Tokenizer) {
    let mut ids = Vec::new();
    for text in ["", " ", "Hello, 日本 😀\n</s>"] {
        for special in [false, true] {
            ids.extend(tokenizer.encode(text, special).unwrap_or_default());
        }
    }
    ids.extend([0, 1, 300, u32::MAX]);
    let _ = tokenizer.decode(&ids, true);
    let mut stream = tokenizer.stream_decoder(false);
    for &id in &ids {
        let _ = stream.push(id);
        let _ = (tokenizer.token_text(id), tokenizer.is_special(id));
    }
    let _ = stream.finish();
}

/// Values that make a definition odd while it stays JSON.
const ODD: [&str; 12] = [
    "null",
    "true",
    "-1",
    "0",
    "1e300",
    "4294967295",
    "18446744073709551616",
    "\"\"",
    "\"▁\"",
    "[]",
    "{}",
    "[[[]]]",
];

/// Replaces the value at a place of a JSON document by an odd one.
fn twist(value: &mut serde_json::Value, path: &[prop::sample::Index], odd: &str) {
    let Some((first, rest)) = path.split_first() else {
        *value = serde_json::from_str(odd).unwrap();
        return;
    };
    match value {
        serde_json::Value::Object(object) if !object.is_empty() => {
            let at = first.index(object.len());
            twist(object.values_mut().nth(at).unwrap(), rest, odd);
        }
        serde_json::Value::Array(items) if !items.is_empty() => {
            let at = first.index(items.len());
            twist(&mut items[at], rest, odd);
        }
        other => *other = serde_json::from_str(odd).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_tokenizers(
        file in prop::sample::select(vec!["tiny/qwen3", "tiny/gemma3-text", "tiny/llama-h256", "models/stories260k"]),
        edits in edits(),
    ) {
        let Some(dir) = dir(file) else { return Ok(()) };
        let mut bytes = std::fs::read(dir.join("tokenizer.json")).unwrap();
        damage(&mut bytes, &edits);
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes, "tokenizer.json") {
            exercise(&tokenizer);
        }
    }

    #[test]
    fn odd_tokenizers(
        file in prop::sample::select(vec!["tiny/qwen3", "tiny/gemma3-text", "tiny/llama-h256", "models/stories260k"]),
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        odd in prop::sample::select(ODD.to_vec()),
    ) {
        let Some(dir) = dir(file) else { return Ok(()) };
        let mut json = inference_fixtures::json(&dir.join("tokenizer.json"));
        twist(&mut json, &path, odd);
        if let Ok(tokenizer) = Tokenizer::from_json(json.to_string().as_bytes(), "tokenizer.json") {
            exercise(&tokenizer);
        }
    }

    #[test]
    fn damaged_templates(
        file in prop::sample::select(vec![
            "Qwen-Qwen3-0.6B", "HuggingFaceTB-SmolLM3-3B", "openai-gpt-oss-120b",
            "meta-llama-Llama-3.1-8B-Instruct", "google-gemma-2-2b-it",
        ]),
        edits in edits(),
    ) {
        let Some(path) = dir(&format!("templates/{file}.jinja")) else { return Ok(()) };
        let mut bytes = std::fs::read(path).unwrap();
        damage(&mut bytes, &edits);
        let source = String::from_utf8_lossy(&bytes);
        if let Ok(template) = ChatTemplate::new(&source, "x.jinja", SpecialTokens::default()) {
            let chat = ChatPrompt::from(vec![Message::system("s"), Message::user("u")]);
            let _ = template.render(&chat);
            let _ = template.render(&chat.with_tools(r#"[{"name": "f"}]"#));
        }
    }

    #[test]
    fn damaged_messages(edits in edits()) {
        let mut bytes = br#"[{"role": "user", "content": "a"}, {"role": "tool", "content": [{"x": null}]}]"#.to_vec();
        damage(&mut bytes, &edits);
        let _ = chat_prompt_from_json(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn panics_of_the_parser_are_errors() {
    // `Strip` takes characters from a token that has none.
    let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "truncation": null, "padding": null,
        "decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 1},
        "model": {"type": "WordLevel", "vocab": {"": 0, "a": 1}, "unk_token": "a"}}"#;
    let tokenizer = Tokenizer::from_json(json.as_bytes(), "tokenizer.json").unwrap();
    let error = tokenizer.decode(&[0], false).unwrap_err();
    assert_eq!(error.kind(), inference_core::ErrorKind::Engine);
    assert!(error.to_string().starts_with("tokenizer.json: decode failed"), "{error}");
    assert!(tokenizer.stream_decoder(false).push(0).is_err());
    assert_eq!(tokenizer.decode(&[1], false).unwrap(), "a", "it still works");
}

/// It held every doubled text until memory was gone.
#[test]
fn a_macro_that_doubles_its_argument_ends() {
    let source = "{% macro m(x) %}{{ m(x + x) }}{% endmacro %}{{ m('x') }}";
    let special = inference_text::SpecialTokens::default();
    let template = inference_text::ChatTemplate::new(source, "t", special).unwrap();
    let request = inference_text::TemplateRequest::new(serde_json::json!([]));
    let error = template.render_json(&request).unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
}
