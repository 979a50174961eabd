//! Loading what lies beside a model's weights.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;

use inference_core::{ChatPrompt, ErrorKind, Message, Result};
use inference_text::TextParts;

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
    "added_tokens": [{"id": 9, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2, "</s>": 9}, "unk_token": "<unk>"}}"#;

fn load(files: &[(&str, &str)]) -> Result<TextParts> {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    TextParts::load(|name| Ok(files.get(name).map(|text| text.as_bytes().to_vec())))
}

fn render(parts: &TextParts) -> String {
    let chat = ChatPrompt::from(vec![Message::user("Hi")]);
    parts.template.as_ref().unwrap().render(&chat).unwrap()
}

#[test]
fn nothing_is_a_model_without_text() {
    let parts = load(&[]).unwrap();
    assert!(parts.tokenizer.is_none() && parts.template.is_none() && parts.eos_ids.is_empty());
}

#[test]
fn truncation_and_padding_are_off() {
    let tokenizer = load(&[("tokenizer.json", TOKENIZER)]).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.encode("a b a b </s>", true).unwrap(), [1, 2, 1, 2, 9]);
    assert_eq!(tokenizer.vocab_size(), 10);
    assert_eq!(tokenizer.token_to_id("</s>"), Some(9));
    assert!(tokenizer.is_special(9) && !tokenizer.is_special(5));
    assert_eq!(tokenizer.decode(&[1, 9, 2], true).unwrap(), "a b");
    assert_eq!(tokenizer.decode(&[5], true).unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// The `tokenizers` crate renumbers added tokens that leave a gap after the
/// vocabulary; the model's embedding is not renumbered with them.
#[test]
fn added_tokens_keep_their_ids() {
    let gap = TOKENIZER.replace(r#", "</s>": 9"#, "");
    let error = load(&[("tokenizer.json", &gap)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    let expected = "tokenizer.json: added_tokens: `</s>`: expected id 3";
    assert!(error.to_string().starts_with(expected), "{error}");
    let next = gap.replace(r#""id": 9"#, r#""id": 3"#);
    let tokenizer = load(&[("tokenizer.json", &next)]).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.encode("a</s>", false).unwrap(), [1, 3]);
}

#[test]
fn dropout_is_off() {
    let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "BPE", "dropout": 0.9, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#;
    let tokenizer = load(&[("tokenizer.json", json)]).unwrap().tokenizer.unwrap();
    for _ in 0..50 {
        assert_eq!(tokenizer.encode("abab", false).unwrap(), [2, 2]);
    }
}

#[test]
fn special_tokens_come_from_either_file_in_either_form() {
    let parts = load(&[
        ("tokenizer.json", TOKENIZER),
        (
            "tokenizer_config.json",
            r#"{"bos_token": null, "eos_token": {"content": "</s>", "special": true}}"#,
        ),
        (
            "special_tokens_map.json",
            r#"{"bos_token": "<s>", "eos_token": "other", "pad_token": {"content": "<pad>"}}"#,
        ),
    ])
    .unwrap();
    assert_eq!(parts.special.bos.as_deref(), Some("<s>"));
    assert_eq!(parts.special.eos.as_deref(), Some("</s>"));
    assert_eq!(parts.special.pad.as_deref(), Some("<pad>"));
    assert_eq!(parts.special.unk, None);
    assert_eq!(parts.eos_ids, [9]);
}

#[test]
fn templates_see_every_special_token() {
    let config = r#"{"bos_token": "<s>", "cls_token": "[CLS]", "sep_token": null,
        "extra_special_tokens": {"image_token": "<image>"},
        "chat_template": "{{ bos_token }}{{ cls_token }}{{ image_token }}{{ sep_token is defined }}"}"#;
    assert_eq!(
        render(&load(&[("tokenizer_config.json", config)]).unwrap()),
        "<s>[CLS]<image>False"
    );
}

#[test]
fn the_generation_config_names_the_ends() {
    let with = |generation: &str| {
        load(&[
            ("tokenizer.json", TOKENIZER),
            ("tokenizer_config.json", r#"{"eos_token": "</s>"}"#),
            ("generation_config.json", generation),
        ])
        .unwrap()
        .eos_ids
    };
    assert_eq!(with(r#"{"eos_token_id": 2}"#), [2]);
    assert_eq!(with(r#"{"eos_token_id": [2, 9]}"#), [2, 9]);
    assert_eq!(with(r#"{"eos_token_id": null}"#), [9]);
    assert_eq!(with("{}"), [9]);
}

#[test]
fn templates_by_precedence() {
    let config = (
        "tokenizer_config.json",
        r#"{"chat_template": "config {{ bos_token }}", "bos_token": "<s>"}"#,
    );
    assert_eq!(render(&load(&[config]).unwrap()), "config <s>");
    let own = ("chat_template.jinja", "own {{ bos_token }}");
    assert_eq!(render(&load(&[config, own]).unwrap()), "own <s>");
    let named = ("chat_templates/default.jinja", "named");
    assert_eq!(render(&load(&[config, own, named]).unwrap()), "named");

    let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    let parts = load(&[("tokenizer_config.json", list), ("chat_template.jinja", "own")]).unwrap();
    assert_eq!(render(&parts), "own");
    let tools = ChatPrompt::from(vec![Message::user("Hi")]).with_tools("[]");
    assert_eq!(parts.template.as_ref().unwrap().render(&tools).unwrap(), "t");

    // A template that is overridden is not even compiled.
    let broken = ("tokenizer_config.json", r#"{"chat_template": "{% if %}"}"#);
    assert_eq!(render(&load(&[broken, own]).unwrap()), "own ");
    // Tools alone have a template: without tools there is none.
    let only = ("additional_chat_templates/tool_use.jinja", "t");
    let template = load(&[only]).unwrap().template.unwrap();
    assert_eq!(template.render(&tools).unwrap(), "t");
    let error = template.render(&ChatPrompt::from(vec![Message::user("Hi")])).unwrap_err();
    assert!(error.to_string().contains("one of tool_use"), "{error}");
}

#[test]
fn malformed_files_are_named() {
    let cases = [
        (("tokenizer.json", ""), "tokenizer.json: tokenizer"),
        (("tokenizer.json", "{}"), "tokenizer.json: tokenizer"),
        (("tokenizer.json", &TOKENIZER[..300]), "tokenizer.json: tokenizer"),
        (("tokenizer_config.json", "{"), "tokenizer_config.json: file"),
        (("tokenizer_config.json", "[]"), "found an array"),
        (("tokenizer_config.json", r#"{"eos_token": 3}"#), "tokenizer_config.json: eos_token"),
        (("tokenizer_config.json", r#"{"bos_token": {}}"#), "tokenizer_config.json: bos_token"),
        (
            ("tokenizer_config.json", r#"{"chat_template": 3}"#),
            "tokenizer_config.json: chat_template",
        ),
        (
            ("tokenizer_config.json", r#"{"chat_template": [{"name": "x"}]}"#),
            "chat_template[0].template",
        ),
        (
            ("tokenizer_config.json", r#"{"chat_template": "{{"}"#),
            "tokenizer_config.json: chat template",
        ),
        (
            ("special_tokens_map.json", r#"{"pad_token": false}"#),
            "special_tokens_map.json: pad_token",
        ),
        (("chat_template.jinja", "{% for %}"), "chat_template.jinja: chat template"),
        (
            ("generation_config.json", r#"{"eos_token_id": -1}"#),
            "generation_config.json: eos_token_id",
        ),
        (
            ("generation_config.json", r#"{"eos_token_id": [1, "x"]}"#),
            "generation_config.json: eos_token_id",
        ),
        (
            ("generation_config.json", r#"{"eos_token_id": 4294967296}"#),
            "generation_config.json: eos_token_id",
        ),
    ];
    for (file, part) in cases {
        let error = load(&[file]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{file:?}: {error}");
        assert!(error.to_string().contains(part), "{file:?}: {error}");
    }
    let error =
        TextParts::load(|name| Ok((name == "chat_template.jinja").then(|| vec![0xFF, 0xFE])))
            .unwrap_err();
    assert!(error.to_string().contains("UTF-8"), "{error}");
}

#[test]
fn a_folder_needs_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
    std::fs::create_dir(dir.path().join("chat_templates")).unwrap();
    std::fs::write(dir.path().join("chat_templates/default.jinja"), "{{ messages[0].content }}")
        .unwrap();
    let parts = TextParts::from_dir(dir.path()).unwrap();
    assert!(parts.tokenizer.is_some());
    assert_eq!(render(&parts), "Hi");

    let absent = TextParts::from_dir(&dir.path().join("absent")).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Io);
    assert!(absent.to_string().contains("absent"), "{absent}");
    std::fs::create_dir(dir.path().join("special_tokens_map.json")).unwrap();
    assert_eq!(TextParts::from_dir(dir.path()).unwrap_err().kind(), ErrorKind::Io);
}
