//! What a stream decoder emits is what the whole decodes to, for any text and
//! any ids. The oracle is the `tokenizers` crate's own decoder.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::LazyLock;

use inference_fixtures::dir;
use inference_text::Tokenizer;
use proptest::prelude::*;

struct Case {
    name: String,
    ours: Tokenizer,
    oracle: tokenizers::Tokenizer,
    ids: Vec<u32>,
}

fn case(name: &str, json: &[u8]) -> Case {
    let oracle = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let mut ids: Vec<u32> = oracle.get_vocab(true).into_values().collect();
    ids.sort_unstable();
    ids.dedup();
    Case { name: name.to_owned(), ours: Tokenizer::from_json(json, name).unwrap(), oracle, ids }
}

static REAL: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let names = [
        "tokenizers/llama3",
        "tokenizers/qwen2",
        "tokenizers/llama2-spm",
        "tiny/gemma3-text",
        "tiny/qwen3",
        "models/stories260k",
    ];
    names
        .iter()
        .filter_map(|name| {
            let file = dir(name)?.join("tokenizer.json");
            Some(case(name, &std::fs::read(file).unwrap()))
        })
        .collect()
});

/// Tokens that every kind of decoder has something to say about.
const TOKENS: [&str; 30] = [
    "[UNK]",
    "a",
    "##b",
    "▁",
    "▁x",
    "x▁▁y",
    " ",
    "",
    "</w>",
    "y</w>",
    "w</w></w>",
    "<pad>",
    "|",
    "<0x41>",
    "<0xE6>",
    "<0x97>",
    "<0xA5>",
    "<0xFF>",
    "<0xC3>",
    "<0xA9>",
    "Ġ",
    "Ã",
    "©",
    "é",
    "日",
    " .",
    " n't",
    "<0xZZ>",
    "ðŁ",
    "ĺĢ",
];

/// Decoders and whether a stream of them is exact.
const DECODERS: [(&str, &str); 20] = [
    ("none", "null"),
    (
        "byte level",
        r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
    ),
    ("word piece", r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###),
    ("word piece, raw", r###"{"type":"WordPiece","prefix":"##","cleanup":false}"###),
    (
        "metaspace",
        r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#,
    ),
    (
        "metaspace, never",
        r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":true}"#,
    ),
    ("bpe", r#"{"type":"BPEDecoder","suffix":"</w>"}"#),
    ("ctc", r#"{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true}"#),
    ("byte fallback", r#"{"type":"ByteFallback"}"#),
    ("fuse", r#"{"type":"Fuse"}"#),
    ("replace", r#"{"type":"Replace","pattern":{"Regex":"[▁x]+"},"content":"_"}"#),
    ("strip", r#"{"type":"Strip","content":"▁","start":2,"stop":0}"#),
    (
        "llama",
        r#"[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]"#,
    ),
    (
        "gemma",
        r#"[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]"#,
    ),
    ("strip the end", r#"[{"type":"Fuse"},{"type":"Strip","content":"a","start":0,"stop":2}]"#),
    (
        "strip twice",
        r#"[{"type":"Fuse"},{"type":"Strip","content":"a","start":1,"stop":0},{"type":"Strip","content":"▁","start":0,"stop":1},{"type":"Strip","content":"a","start":0,"stop":1}]"#,
    ),
    ("bpe and fallback", r#"[{"type":"BPEDecoder","suffix":"</w>"},{"type":"ByteFallback"}]"#),
    (
        "ctc and metaspace",
        r#"[{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":false},{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}]"#,
    ),
    (
        "fallback and byte level",
        r#"[{"type":"ByteFallback"},{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},{"type":"Fuse"},{"type":"Strip","content":"a","start":1,"stop":1}]"#,
    ),
    (
        "nested",
        r#"[{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]},{"type":"Sequence","decoders":[{"type":"Strip","content":" ","start":3,"stop":0}]}]"#,
    ),
];

fn small_json(decoder: &str) -> String {
    let vocab: serde_json::Map<String, serde_json::Value> =
        TOKENS.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    let decoder: serde_json::Value = serde_json::from_str(decoder).unwrap();
    let decoder = match decoder {
        serde_json::Value::Array(decoders) => {
            serde_json::json!({"type": "Sequence", "decoders": decoders})
        }
        one => one,
    };
    let special = serde_json::json!({"id": TOKENS.len(), "content": "<s>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    serde_json::json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}})
    .to_string()
}

static SMALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
    DECODERS.iter().map(|(name, decoder)| case(name, small_json(decoder).as_bytes())).collect()
});

fn check(case: &Case, ids: &[u32], skip: bool) -> Result<(), TestCaseError> {
    let ours = case.ours.decode(ids, skip);
    if let Ok(text) = &ours {
        // The oracle's own decoders count on at least one token.
        let special = |id: &u32| case.ours.is_special(*id);
        let any = ids.iter().any(|id| !(skip && special(id)));
        let oracle = if any { case.oracle.decode(ids, skip).unwrap() } else { String::new() };
        prop_assert_eq!(text, &oracle, "{}", case.name);
    }
    let mut decoder = case.ours.stream_decoder(skip);
    let mut text = String::new();
    for &id in ids {
        match decoder.push(id) {
            Ok(piece) => text.push_str(&piece),
            Err(error) => {
                prop_assert!(ours.is_err(), "{}: {error} for {ids:?}", case.name);
                return Ok(());
            }
        }
    }
    text.push_str(&decoder.finish());
    if let Ok(ours) = ours {
        prop_assert_eq!(text, ours, "{} {:?}", &case.name, ids);
    }
    Ok(())
}

/// Text with what breaks decoders: other scripts, combining marks, joined
/// emoji, controls, broken and literal replacement characters.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\PC{0,6}",
        "[a-zA-Z ]{0,8}",
        "[\u{4e00}-\u{4f00}]{1,4}",
        "[\u{3040}-\u{30ff}]{1,4}",
        "[\u{0e00}-\u{0e5b}]{1,4}",
        "a[\u{300}-\u{36f}]{1,3}",
        "[\u{1f600}-\u{1f64f}][\u{1f3fb}-\u{1f3ff}]?",
        Just("👩\u{200d}👩\u{200d}👧\u{200d}👦".to_owned()),
        Just("🇨🇭".to_owned()),
        Just("\u{fffd}".to_owned()),
        Just(" ".to_owned()),
        Just("▁<0x41></s>".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_streams_to_its_decode(text in any_text(), skip: bool, special: bool) {
        for case in REAL.iter() {
            let ids = case.ours.encode(&text, special).unwrap();
            let oracle = case.oracle.encode_fast(text.as_str(), special).unwrap();
            prop_assert_eq!(&ids, oracle.get_ids());
            check(case, &ids, skip)?;
            // Nothing is malformed in an encoded text, so eager is exact too.
            let mut eager = case.ours.stream_decoder(skip).eager();
            let mut out = String::new();
            for &id in &ids {
                out.push_str(&eager.push(id).unwrap());
            }
            out.push_str(&eager.finish());
            prop_assert_eq!(out, case.ours.decode(&ids, skip).unwrap());
        }
    }

    #[test]
    fn any_ids_stream_to_their_decode(
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..24),
        skip: bool,
    ) {
        for case in REAL.iter() {
            // Half of the ids are from the start of the vocabulary, where the
            // bytes are.
            let ids: Vec<u32> = picks
                .iter()
                .map(|(pick, low)| {
                    let count = if *low { case.ids.len().min(300) } else { case.ids.len() };
                    case.ids[pick.index(count)]
                })
                .collect();
            check(case, &ids, skip)?;
        }
    }

    #[test]
    fn every_kind_of_decoder_streams(
        ids in prop::collection::vec(0..=TOKENS.len() as u32, 0..16),
        skip: bool,
    ) {
        for case in SMALL.iter() {
            check(case, &ids, skip)?;
        }
    }
}

#[test]
fn malformed_runs_of_bytes_are_all_replaced() {
    let spm = &SMALL[12];
    let id = |token: &str| spm.ours.token_to_id(token).unwrap();
    // 日 and then a byte that is no UTF-8: the whole run is malformed.
    let ids = [id("▁x"), id("<0xE6>"), id("<0x97>"), id("<0xA5>"), id("<0xFF>"), id("a")];
    assert_eq!(spm.ours.decode(&ids, false).unwrap(), "x\u{fffd}\u{fffd}\u{fffd}\u{fffd}a");
    let mut strict = spm.ours.stream_decoder(false);
    let pieces: Vec<String> = ids.iter().map(|&id| strict.push(id).unwrap()).collect();
    assert_eq!(pieces, ["x", "", "", "", "", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}a"]);
    let mut eager = spm.ours.stream_decoder(false).eager();
    let pieces: Vec<String> = ids.iter().map(|&id| eager.push(id).unwrap()).collect();
    assert_eq!(pieces, ["x", "", "", "日", "", "\u{fffd}a"]);
}

#[test]
fn a_dangling_tail_becomes_replacement_characters() {
    for (case, tail) in [(&SMALL[12], vec!["<0xE6>", "<0x97>"]), (&SMALL[1], vec!["Ã"])] {
        let mut decoder = case.ours.stream_decoder(false);
        for token in &tail {
            assert_eq!(decoder.push(case.ours.token_to_id(token).unwrap()).unwrap(), "");
        }
        assert_eq!(decoder.finish(), "\u{fffd}".repeat(tail.len()), "{}", case.name);
        assert_eq!(decoder.finish(), "", "{}: the tail comes once", case.name);
    }
}

/// A decoder of no known kind: the fallback re-decodes a window.
#[test]
fn unknown_decoders_stream_through_a_window() {
    let decoder = r#"[{"type":"ByteFallback"},{"type":"Fuse"},
        {"type":"Replace","pattern":{"String":"▁"},"content":" "}]"#;
    let case = case("window", small_json(decoder).as_bytes());
    let id = |token: &str| case.ours.token_to_id(token).unwrap();
    let part = ["▁x", "a", "<s>", "▁", "<0xE6>", "<0x97>", "<0xA5>", "é", "x▁▁y"].map(id);
    for repeats in [1, 3, 40] {
        let ids = part.repeat(repeats);
        for skip in [false, true] {
            let mut decoder = case.ours.stream_decoder(skip);
            let mut longest = 0;
            let mut text = String::new();
            for &id in &ids {
                let piece = decoder.push(id).unwrap();
                longest = longest.max(piece.len());
                text.push_str(&piece);
            }
            text.push_str(&decoder.finish());
            assert_eq!(text, case.ours.decode(&ids, skip).unwrap());
            assert!(longest <= "日é".len(), "text comes as it is ready: {longest}");
        }
    }
}

#[test]
fn tokens_alone() {
    let spm = &SMALL[12].ours;
    let id = |token: &str| spm.token_to_id(token).unwrap();
    assert_eq!(spm.token_text(id("▁x")), " x");
    assert_eq!(spm.token_bytes(id("<0xE6>")), Some(vec![0xE6]));
    assert_eq!(spm.token_text(id("<0xE6>")), "\u{fffd}");
    assert_eq!(spm.token_text(9999), "\u{fffd}");
    assert_eq!(spm.token_bytes(9999), None);
    assert!(spm.is_special(id("<s>")) && !spm.is_special(id("a")) && !spm.is_special(9999));
    let pieces = &SMALL[2].ours;
    assert_eq!(pieces.token_text(pieces.token_to_id("##b").unwrap()), "b");
    assert_eq!(pieces.token_text(pieces.token_to_id("a").unwrap()), " a");
    let bytes = &SMALL[1].ours;
    assert_eq!(bytes.token_bytes(bytes.token_to_id("Ã").unwrap()), Some(vec![0xC3]));
}

#[test]
fn unknown_ids_are_refused() {
    let tokenizer = &SMALL[1].ours;
    for error in [
        tokenizer.decode(&[1, 4_000_000_000], false).unwrap_err(),
        tokenizer.stream_decoder(true).push(31).unwrap_err(),
    ] {
        assert_eq!(error.kind(), inference_core::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("ids below 31"), "{error}");
    }
}

/// Time per token does not grow with the text.
#[test]
fn a_push_costs_the_same_however_long_the_text() {
    let Some(spm) = REAL.iter().find(|case| case.name.contains("spm")) else { return };
    let ids = spm.ours.encode(&"Once upon a time, 日本 😀. ".repeat(20), false).unwrap();
    let mut decoder = spm.ours.stream_decoder(false);
    let mut run = |count: usize| {
        let start = std::time::Instant::now();
        for &id in ids.iter().cycle().take(count) {
            decoder.push(id).unwrap();
        }
        start.elapsed()
    };
    let early = run(5_000);
    run(40_000);
    let late = run(5_000);
    assert!(late < early * 10 + std::time::Duration::from_millis(200), "{early:?}, then {late:?}");
}
