//! Tokenizers from GGUF metadata against llama.cpp's vectors and against the
//! `tokenizer.json` of the same model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use inference_fixtures::{dir, ids, json};
use inference_gguf::GgufFile;
use inference_text::{TextParts, Tokenizer};

const TEXTS: [&str; 16] = [
    "Once upon a time, there was a little girl named Lily.",
    "",
    " ",
    "   leading and trailing   ",
    "\n\n\tlines\r\nand tabs",
    "é 日本語 한국어 😀🦙 𝄞",
    "don't we'll I'D they'RE",
    "12345 3.14159 1,000,000 ½ ٣",
    "</s><s> <|im_end|>x<|begin|>",
    "ﬁ \u{feff}\u{200b}",
    "==== ---- ____ aaaaaaaaaaaaaaaaaa",
    "the the  the   the    the     the",
    "\u{2581}already\u{2581}escaped \u{2581} ",
    "\u{0}\u{1}\u{7f}\u{85}\u{a0}",
    "<0x0A> Ġword Ċ [EMPTY_3]",
    "CamelCase snake_case SCREAMING x=y+z; f(a)[0]{1}",
];

fn parts(path: &Path) -> TextParts {
    let file = GgufFile::open(path).unwrap();
    TextParts::from_gguf(file.metadata()).unwrap()
}

fn tokenizer(path: &Path) -> Tokenizer {
    parts(path).tokenizer.unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = tokenizer.stream_decoder(skip_special);
    let mut out: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    out.push_str(&decoder.finish());
    out
}

/// The texts and ids of a file of vectors.
fn vectors(folder: &Path, name: &str) -> Vec<(String, Vec<u32>)> {
    let read = |end: &str| {
        std::fs::read_to_string(folder.join(format!("ggml-vocab-{name}.gguf.{end}"))).unwrap()
    };
    let (input, output) = (read("inp"), read("out"));
    // The separator ends the last text, too.
    let input = input.strip_suffix("\n__ggml_vocab_test__\n").unwrap();
    let texts: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let rows: Vec<Vec<u32>> = output.lines().map(ids).collect();
    assert_eq!(texts.len(), rows.len(), "{name}");
    texts.into_iter().map(str::to_owned).zip(rows).collect()
}

#[test]
fn every_vector_of_every_vocabulary_matches() {
    let Some(folder) = dir("gguf-vocab") else { return };
    for name in ["gpt-2", "llama-bpe", "llama-spm", "phi-3"] {
        let tokenizer = tokenizer(&folder.join(format!("ggml-vocab-{name}.gguf")));
        let vectors = vectors(&folder, name);
        assert!(vectors.len() >= 45, "{name}: {}", vectors.len());
        for (text, expected) in vectors {
            let ids = tokenizer.encode(&text, false).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
            assert_eq!(streamed(&tokenizer, &ids, false), text, "{name}");
        }
    }
}

#[test]
fn llama_spm_and_llama_bpe_match_their_definitions() {
    let Some(folder) = dir("gguf-vocab") else { return };
    for (name, twin) in [("llama-bpe", "llama3"), ("llama-spm", "llama2-spm")] {
        let Some(twin) = dir(&format!("tokenizers/{twin}")) else { return };
        let tokenizer = tokenizer(&folder.join(format!("ggml-vocab-{name}.gguf")));
        let expected = json(&twin.join("expected.json"));
        let cases = expected["cases"].as_array().unwrap();
        let mut seen = 0;
        for case in cases {
            let text = case["text"].as_str().unwrap();
            // The definition does not find this token in a text; llama.cpp does.
            if name == "llama-spm" && text.contains("<unk>") {
                continue;
            }
            seen += 1;
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                ids(&case["ids"]),
                "{name}: {text:?}"
            );
        }
        assert!(seen > 200, "{seen}");
    }
}

#[test]
fn files_agree_with_the_definitions_they_were_converted_from() {
    let mut seen = 0;
    for (gguf, twin) in [
        ("llama/llama-f32", "tiny/llama-llama3rope"),
        ("llama-h256/llama-h256-q4_k_m", "tiny/llama-h256"),
        ("qwen2/qwen2-q8_0", "tiny/qwen2"),
        ("qwen3/qwen3-f32", "tiny/qwen3"),
        ("gemma3/gemma3-f32", "tiny/gemma3-text"),
        ("stories260k/stories260k-q4_0", "models/stories260k"),
    ] {
        let Some(path) = dir(&format!("gguf/{gguf}.gguf")) else { return };
        let Some(twin) = dir(twin) else { return };
        let mut file = std::fs::read(path).unwrap();
        if gguf.contains("gemma3") {
            // The converter switches it off for all Gemmas; this definition adds a space.
            let key = b"tokenizer.ggml.add_space_prefix";
            let found = file.windows(key.len()).position(|window| window == key).unwrap();
            // After the type.
            file[found + key.len() + 4] = 1;
        }
        let file = GgufFile::from_bytes(gguf, Arc::new(file)).unwrap();
        let ours = TextParts::from_gguf(file.metadata()).unwrap();
        let theirs = TextParts::from_dir(&twin).unwrap();
        let (tokenizer, reference) = (ours.tokenizer.unwrap(), theirs.tokenizer.unwrap());
        assert_eq!(tokenizer.vocab_size(), reference.vocab_size(), "{gguf}");
        for id in 0..tokenizer.vocab_size() as u32 {
            // The definition of `gemma3` calls neither <unk> nor <end_of_turn> special.
            let more = gguf.contains("gemma3") && (id == 3 || ours.eos_ids.contains(&id));
            assert_eq!(tokenizer.is_special(id), reference.is_special(id) || more, "{gguf}: {id}");
            assert_eq!(tokenizer.token_bytes(id), reference.token_bytes(id), "{gguf}: {id}");
        }
        let Some(folder) = dir("gguf-vocab") else { return };
        let more = vectors(&folder, "qwen2");
        let texts = TEXTS.iter().copied().chain(more.iter().map(|(text, _)| text.as_str()));
        for text in texts {
            // That definition adds no BOS; the file says that its model wants one.
            if gguf.contains("gemma3")
                && (text.starts_with([' ', '\u{2581}']) || text.contains('<'))
            {
                // Nor does it add a space before a space.
                continue;
            }
            let around: &[bool] = if gguf.contains("gemma3") { &[false] } else { &[false, true] };
            for &special in around {
                let ids = reference.encode(text, special).unwrap();
                // That file's tokens all have one score, so the order of the merges is lost.
                if !gguf.contains("stories260k") {
                    assert_eq!(tokenizer.encode(text, special).unwrap(), ids, "{gguf}: {text:?}");
                }
                for skip in [false, true] {
                    let whole = reference.decode(&ids, skip).unwrap();
                    assert_eq!(tokenizer.decode(&ids, skip).unwrap(), whole, "{gguf}: {text:?}");
                    assert_eq!(streamed(&tokenizer, &ids, skip), whole, "{gguf}: {text:?}");
                }
            }
        }
        assert_eq!(ours.special.bos, theirs.special.bos, "{gguf}");
        assert_eq!(ours.special.eos, theirs.special.eos, "{gguf}");
        assert_eq!(ours.template.is_some(), theirs.template.is_some(), "{gguf}");
        assert!(theirs.eos_ids.iter().all(|id| ours.eos_ids.contains(id)), "{gguf}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

/// Ids that llama.cpp (llama-cpp-python 0.3.36) gives.
fn reference() -> serde_json::Value {
    serde_json::from_str(include_str!("data/gguf_tokens.json")).unwrap()
}

fn texts(value: &serde_json::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The file with another text under a key.
fn with_text(file: &[u8], key: &str, text: &str) -> Vec<u8> {
    let found = file.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
    // The type, then the length of the text.
    let at = found + key.len() + 4;
    let len = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let new = (text.len() as u64).to_le_bytes();
    [&file[..at], &new, text.as_bytes(), &file[at + 8 + len..]].concat()
}

#[test]
fn every_kind_of_pre_tokenizer_matches_llama_cpp() {
    let Some(path) = dir("gguf-vocab/ggml-vocab-gpt-2.gguf") else { return };
    let file = std::fs::read(path).unwrap();
    let reference = reference();
    let texts = texts(&reference["texts"]);
    // llama.cpp's regular expressions do not know upper case letters, so words
    // such as iPhone stay whole; the models' own tokenizers split them.
    let differs = |kind: &str, text: &str| {
        matches!(kind, "youtu" | "tiny_aya" | "kimi-k2") && text.contains("iPhone")
    };
    let mut wrong = Vec::new();
    for (kind, expected) in reference["kinds"].as_object().unwrap() {
        let file = Arc::new(with_text(&file, "tokenizer.ggml.pre", kind));
        let file = GgufFile::from_bytes(kind, file).unwrap();
        let tokenizer = TextParts::from_gguf(file.metadata()).unwrap().tokenizer.unwrap();
        for (text, expected) in texts.iter().zip(expected.as_array().unwrap()) {
            let ours = tokenizer.encode(text, false).unwrap();
            if (ours != ids(expected)) != differs(kind, text) {
                let spell = |ids: &[u32]| {
                    ids.iter().map(|&id| tokenizer.token_text(id)).collect::<Vec<_>>().join("|")
                };
                wrong.push(format!("{kind}:\n  {}\n  {}", spell(&ours), spell(&ids(expected))));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn special_tokens_and_ends_match_llama_cpp() {
    let reference = reference();
    let all = [texts(&reference["texts"]), texts(&reference["more"])].concat();
    for (name, expected) in reference["files"].as_object().unwrap() {
        let Some(path) = dir(&format!("{name}.gguf")) else { return };
        let parts = parts(&path);
        let mut ends = parts.eos_ids.clone();
        ends.sort_unstable();
        assert_eq!(ends, ids(&expected["ends"]), "{name}");
        let tokenizer = parts.tokenizer.unwrap();
        for (text, ids_) in all.iter().zip(expected["ids"].as_array().unwrap()) {
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(ids_), "{name}: {text:?}");
        }
    }
}
