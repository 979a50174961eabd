//! Real tokenizers against the values of the reference implementation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use inference_fixtures::{dir, ids, json};
use inference_text::{TextParts, Tokenizer};
use serde_json::Value;

const REAL: [&str; 3] = ["llama3", "qwen2", "llama2-spm"];

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = tokenizer.stream_decoder(skip_special);
    let mut out: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    out.push_str(&decoder.finish());
    out
}

#[test]
fn real_tokenizers_match_the_reference() {
    for name in REAL {
        let Some(dir) = dir(&format!("tokenizers/{name}")) else { return };
        let tokenizer = TextParts::from_dir(&dir).unwrap().tokenizer.unwrap();
        let expected = json(&dir.join("expected.json"));
        assert_eq!(
            tokenizer.vocab_size() as u64,
            expected["vocab_size_with_added"].as_u64().unwrap()
        );

        let cases = expected["cases"].as_array().unwrap();
        assert!(cases.len() > 200);
        for case in cases {
            let input = text(case, "text");
            let plain = tokenizer.encode(input, false).unwrap();
            assert_eq!(plain, ids(&case["ids"]), "{name}: {input:?}");
            let special = tokenizer.encode(input, true).unwrap();
            assert_eq!(special, ids(&case["ids_with_special"]), "{name}: {input:?}");
        }
        for case in cases.iter().chain(expected["raw_ids"].as_array().unwrap()) {
            let ids = ids(&case["ids"]);
            for (skip, field) in [(false, "decoded"), (true, "decoded_skip_special")] {
                let expected = text(case, field);
                assert_eq!(tokenizer.decode(&ids, skip).unwrap(), expected, "{name}: {ids:?}");
                assert_eq!(streamed(&tokenizer, &ids, skip), expected, "{name}: {ids:?}");
            }
        }
    }
}

/// Wherever the reference's incremental decoding emits, the text so far is the
/// same; and ours is never behind. (The reference also holds back complete
/// characters while another is unfinished; ours does not.)
#[test]
fn pieces_come_as_early_as_in_the_reference() {
    for name in REAL {
        let Some(dir) = dir(&format!("tokenizers/{name}")) else { return };
        let tokenizer = TextParts::from_dir(&dir).unwrap().tokenizer.unwrap();
        let expected = json(&dir.join("expected.json"));
        let streams = expected["stream"].as_array().unwrap();
        assert!(streams.len() >= 90);
        let (mut chunks, mut same) = (0, 0);
        for stream in streams {
            let ids = ids(&stream["ids"]);
            let mut decoder = tokenizer.stream_decoder(false).eager();
            let (mut ours, mut reference) = (String::new(), String::new());
            for (&id, chunk) in ids.iter().zip(stream["chunks"].as_array().unwrap()) {
                let piece = decoder.push(id).unwrap();
                chunks += 1;
                same += usize::from(piece == chunk.as_str().unwrap_or_default());
                ours.push_str(&piece);
                match chunk.as_str() {
                    Some(chunk) => {
                        reference.push_str(chunk);
                        assert_eq!(ours, reference, "{name}: {ids:?}");
                    }
                    None => assert!(ours.starts_with(&reference), "{name}: {ids:?}"),
                }
            }
            assert_eq!(decoder.finish(), "", "{name}: {ids:?}");
            assert_eq!(ours, text(stream, "full"));
            assert_eq!(streamed(&tokenizer, &ids, false), text(stream, "full"));
        }
        println!("{name}: {same} of {chunks} pieces as in the reference");
    }
}

#[test]
fn tiny_tokenizers_round_trip() {
    let mut seen = 0;
    for folder in ["tiny", "models"] {
        let Some(dir) = dir(folder) else { return };
        for entry in std::fs::read_dir(dir).unwrap() {
            let parts = TextParts::from_dir(&entry.unwrap().path()).unwrap();
            let Some(tokenizer) = parts.tokenizer else { continue };
            seen += 1;
            for text in ["Once upon a time", "é 日本 😀\n x", "", "a  b\tc"] {
                let ids = tokenizer.encode(text, true).unwrap();
                assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
                assert_eq!(streamed(&tokenizer, &ids, true), text);
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            }
        }
    }
    assert!(seen >= 6, "{seen}");
}
