//! Parts from GGUF metadata: what is missing, what is wrong, what ends a text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::sync::Arc;

use inference_core::{ChatPrompt, Error, ErrorKind, Message, Result};
use inference_fixtures::{dir, ids, json};
use inference_gguf::{GgufFile, GgufWriter};
use inference_text::TextParts;

const TOKENS: [&str; 9] = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "<|im_end|>"];

fn read(writer: GgufWriter) -> Result<TextParts> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.gguf");
    writer.create(&path).unwrap().finish().unwrap();
    let bytes = Arc::new(std::fs::read(path).unwrap());
    TextParts::from_gguf(GgufFile::from_bytes("made.gguf", bytes)?.metadata())
}

/// A vocabulary of SentencePiece's kind.
fn sentence_piece() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "llama");
    writer.set_array("tokenizer.ggml.tokens", TOKENS);
    writer.set_array("tokenizer.ggml.scores", [0.0f32, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5, 0.0]);
    writer.set_array("tokenizer.ggml.token_type", [2i32, 3, 3, 6, 1, 1, 1, 1, 1]);
    writer
}

/// A byte-level vocabulary.
fn byte_level() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", "gpt-2");
    writer.set_array("tokenizer.ggml.tokens", ["a", "b", "ab", "Ġ", "Ġab", "<|end|>"]);
    writer.set_array("tokenizer.ggml.merges", ["a b", "Ġ ab"]);
    writer
}

fn message(error: &Error) -> String {
    let text = error.to_string();
    let unknown = text.contains("bert") || text.contains("klingon");
    let kind = if unknown { ErrorKind::UnsupportedModel } else { ErrorKind::InvalidModel };
    assert_eq!(error.kind(), kind, "{text}");
    text
}

#[test]
fn a_file_without_a_vocabulary_has_no_tokenizer() {
    for model in [None, Some("no_vocab"), Some("none")] {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "llama");
        if let Some(model) = model {
            writer.set("tokenizer.ggml.model", model);
        }
        let parts = read(writer).unwrap();
        assert!(parts.tokenizer.is_none() && parts.template.is_none());
        assert!(parts.eos_ids.is_empty());
    }
}

#[test]
fn sentence_piece_has_llamas_defaults() {
    let parts = read(sentence_piece()).unwrap();
    let tokenizer = parts.tokenizer.unwrap();
    // BOS, and a space before the text.
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 7, 6]);
    assert_eq!(tokenizer.encode("b a</s>b", false).unwrap(), [4, 6, 7, 2, 4, 6]);
    assert!(tokenizer.encode("", false).unwrap().is_empty());
    // Not all bytes are tokens: what cannot be spelled is unknown.
    assert_eq!(tokenizer.encode("c", false).unwrap(), [4, 0]);
    assert_eq!(tokenizer.decode(&[1, 7, 6, 3, 7], true).unwrap(), "ab\n a");
    assert_eq!(parts.special.bos.as_deref(), Some("<s>"));
    assert_eq!(parts.special.unk.as_deref(), Some("<unk>"));
    // Named first, then known by text; that one is a control token from now on.
    assert_eq!(parts.eos_ids, [2, 8]);
    assert!(tokenizer.is_special(8));
}

#[test]
fn what_goes_around_a_text_is_the_files_to_say() {
    let encode = |change: &dyn Fn(&mut GgufWriter)| {
        let mut writer = sentence_piece();
        change(&mut writer);
        read(writer).unwrap().tokenizer.unwrap().encode("a", true).unwrap()
    };
    assert_eq!(encode(&|_| {}), [1, 7]);
    assert_eq!(encode(&|writer| writer.set("tokenizer.ggml.add_bos_token", false)), [7]);
    assert_eq!(encode(&|writer| writer.set("tokenizer.ggml.add_space_prefix", false)), [1, 5]);
    let both = |writer: &mut GgufWriter| {
        writer.set("tokenizer.ggml.add_eos_token", true);
        writer.set("tokenizer.ggml.eos_token_id", 8u32);
    };
    assert_eq!(encode(&both), [1, 7, 8]);
}

#[test]
fn byte_level_merges_by_rank() {
    let parts = read(byte_level()).unwrap();
    let tokenizer = parts.tokenizer.unwrap();
    assert_eq!(tokenizer.encode("ab ab", true).unwrap(), [2, 4]);
    assert_eq!(tokenizer.decode(&[2, 4], true).unwrap(), "ab ab");
    assert_eq!(parts.eos_ids, [5]);
    assert_eq!(parts.special.bos, None);
}

#[test]
fn merges_that_make_no_token_do_nothing() {
    let mut writer = byte_level();
    writer.set_array("tokenizer.ggml.merges", ["b a", "x y", "a b", "Ġ ab"]);
    let tokenizer = read(writer).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.encode("abab ab", true).unwrap(), [2, 2, 4]);
}

#[test]
fn empty_tokens_keep_their_place() {
    let mut writer = byte_level();
    writer.set_array("tokenizer.ggml.tokens", ["", "", "a", "b", "ab", "Ġ", "Ġab"]);
    let tokenizer = read(writer).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.vocab_size(), 7);
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [4]);
}

#[test]
fn messages_end_a_turn_only_where_nothing_else_does() {
    let ends = |tokens: &[&str]| {
        let mut writer = byte_level();
        let base = ["a", "b", "ab", "Ġ", "Ġab"];
        writer.set_array("tokenizer.ggml.tokens", [&base, tokens].concat());
        read(writer).unwrap().eos_ids
    };
    assert_eq!(ends(&["<|end|>", "<|return|>"]), [5, 6]);
    assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"]), [6, 7]);
    assert_eq!(ends(&["<|end|>", "<|flush|>", "<|calls|>"]), [6, 7]);
    assert_eq!(ends(&["</s>", "<|tool_response>"]), [6]);
    assert_eq!(ends(&["<PAD>", "<|file_sep|>", "<fim_prefix>"]), [5, 6]);
}

#[test]
fn templates_come_by_name_with_the_special_tokens() {
    let mut writer = sentence_piece();
    writer.set("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}");
    writer.set("tokenizer.chat_template.tool_use", "tools");
    let template = read(writer).unwrap().template.unwrap();
    let prompt = ChatPrompt::from(vec![Message::user("hi")]);
    assert_eq!(template.render(&prompt).unwrap(), "<s>hi");
    let mut names = template.names().collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!(names, ["default", "tool_use"]);

    let mut writer = GgufWriter::new();
    writer.set("tokenizer.chat_template", "{% for");
    let error = message(&read(writer).unwrap_err());
    assert!(error.contains("made.gguf") && error.contains("tokenizer.chat_template"), "{error}");
}

#[test]
fn what_is_wrong_is_named_with_its_key() {
    type Change = Box<dyn Fn(&mut GgufWriter)>;
    /// A right file, how to spoil it, and what the error holds.
    type Case = (fn() -> GgufWriter, Change, &'static str, &'static str);
    let spoil = |key: &'static str, number: u32| -> Change {
        Box::new(move |writer| writer.set(key, number))
    };
    let cases: Vec<Case> = vec![
        (
            byte_level,
            Box::new(|w| w.set("tokenizer.ggml.model", "bert")),
            "tokenizer.ggml.model",
            "bert",
        ),
        (byte_level, spoil("tokenizer.ggml.model", 7), "tokenizer.ggml.model", "7"),
        (
            byte_level,
            Box::new(|w| w.set("tokenizer.ggml.pre", "klingon")),
            "tokenizer.ggml.pre",
            "klingon",
        ),
        (byte_level, spoil("tokenizer.ggml.eos_token_id", 6), "tokenizer.ggml.eos_token_id", "6"),
        (
            byte_level,
            spoil("tokenizer.ggml.padding_token_id", u32::MAX),
            "tokenizer.ggml.padding_token_id",
            "4294967295",
        ),
        (
            byte_level,
            spoil("tokenizer.ggml.fim_pad_token_id", 9),
            "tokenizer.ggml.fim_pad_token_id",
            "9",
        ),
        (
            byte_level,
            Box::new(|w| w.set("tokenizer.ggml.add_bos_token", true)),
            "tokenizer.ggml.add_bos_token",
            "true",
        ),
        (byte_level, spoil("tokenizer.ggml.add_bos_token", 1), "tokenizer.ggml.add_bos_token", "1"),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.tokens", ["a", "b", "a"])),
            "tokenizer.ggml.tokens",
            "`a` as 0 and as 2",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.tokens", [""; 0])),
            "tokenizer.ggml.tokens",
            "0",
        ),
        (
            byte_level,
            Box::new(|w| w.set("tokenizer.ggml.tokens", "abc")),
            "tokenizer.ggml.tokens",
            "a text",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.token_type", [1i32, 1])),
            "tokenizer.ggml.token_type",
            "2",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.token_type", [1i32, 1, 1, 1, 1, 9])),
            "tokenizer.ggml.token_type",
            "9 for token 5",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.token_type", ["x"; 6])),
            "tokenizer.ggml.token_type",
            "text",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.merges", ["ab"])),
            "tokenizer.ggml.merges",
            "`ab` at 0",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.merges", ["a b", "ba"])),
            "tokenizer.ggml.merges",
            "`ba` at 1",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.merges", ["", " "])),
            "tokenizer.ggml.merges",
            "`` at 0",
        ),
        (
            byte_level,
            Box::new(|w| w.set_array("tokenizer.ggml.merges", [1u8])),
            "tokenizer.ggml.merges",
            "found 1",
        ),
        (
            sentence_piece,
            Box::new(|w| w.set_array("tokenizer.ggml.scores", [0.0f32; 3])),
            "tokenizer.ggml.scores",
            "3",
        ),
        (
            sentence_piece,
            Box::new(|w| w.set_array("tokenizer.ggml.scores", [f32::NAN; 9])),
            "tokenizer.ggml.scores",
            "NaN",
        ),
        (
            sentence_piece,
            Box::new(|w| w.set_array("tokenizer.ggml.scores", [1e300f64; 9])),
            "tokenizer.ggml.scores",
            "token 0",
        ),
        (
            sentence_piece,
            Box::new(|w| w.set("tokenizer.chat_template.rag", true)),
            "tokenizer.chat_template.rag",
            "true",
        ),
        (sentence_piece, Box::new(|w| w.set("general.name", 1u8)), "general.name", "1"),
    ];
    for (base, change, key, found) in cases {
        let mut writer = base();
        change(&mut writer);
        let error = message(&read(writer).map(|_| key).expect_err(key));
        for part in ["made.gguf", key, found] {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
    // What has to be there.
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "llama");
    assert!(message(&read(writer.clone()).unwrap_err()).contains("tokenizer.ggml.tokens"));
    writer.set_array("tokenizer.ggml.tokens", TOKENS);
    assert!(message(&read(writer.clone()).unwrap_err()).contains("tokenizer.ggml.scores"));
    writer.set("tokenizer.ggml.model", "gpt2");
    assert!(message(&read(writer).unwrap_err()).contains("tokenizer.ggml.merges"));
}

/// The definition of Qwen2's tokenizer as metadata: the largest vocabulary
/// here, with 151,643 tokens and as many merges.
#[test]
fn qwen2_matches_its_definition_and_llama_cpps_vectors() {
    let Some(folder) = dir("tokenizers/qwen2") else { return };
    let Some(vectors) = dir("gguf-vocab/ggml-vocab-qwen2.gguf.inp") else { return };
    let definition = json(&folder.join("tokenizer.json"));
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (token, id) in definition["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), token.clone(), 1));
    }
    for added in definition["added_tokens"].as_array().unwrap() {
        let kind = if added["special"] == true { 3 } else { 4 };
        tokens.push((
            added["id"].as_u64().unwrap(),
            added["content"].as_str().unwrap().to_owned(),
            kind,
        ));
    }
    tokens.sort_unstable();
    assert!((0..).zip(&tokens).all(|(index, token)| index == token.0));
    let merges = definition["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge
        .as_array()
        .map(Vec::as_slice)
    {
        Some([left, right]) => format!("{} {}", left.as_str().unwrap(), right.as_str().unwrap()),
        _ => merge.as_str().unwrap().to_owned(),
    });
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", "qwen2");
    writer.set_array("tokenizer.ggml.merges", merges.collect::<Vec<_>>());
    writer.set_array("tokenizer.ggml.token_type", tokens.iter().map(|token| token.2));
    writer.set_array("tokenizer.ggml.tokens", tokens.iter().map(|token| token.1.as_str()));
    let tokenizer = read(writer).unwrap().tokenizer.unwrap();

    let expected = json(&folder.join("expected.json"));
    let mut compared = 0;
    for case in expected["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ours = tokenizer.encode(text, false).unwrap();
        // As in llama.cpp, characters are not composed first, and `</s>`, here a
        // plain token, is an end.
        if case["decoded"] == text && !text.contains("</s>") {
            assert_eq!(ours, ids(&case["ids"]), "{text:?}");
            compared += 1;
        }
        assert_eq!(tokenizer.decode(&ours, false).unwrap(), text);
    }
    assert!(compared > 150, "{compared}");

    let input = std::fs::read_to_string(&vectors).unwrap();
    let output = std::fs::read_to_string(vectors.with_extension("out")).unwrap();
    let texts = input.strip_suffix("\n__ggml_vocab_test__\n").unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    assert_eq!(texts.len(), output.lines().count());
    for (text, line) in texts.iter().zip(output.lines()) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
    }
}
