//! What the conformance suite does not know: the model itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use inference_core::{
    Backend, ChatPrompt, ErrorKind, FinishReason, GenerateOptions, LoadOptions, LogitRows, Message,
    ModelSource, Registry, TextModel, TokenId,
};
use ngram_backend::{Counts, EOS, NgramBackend, VOCAB_SIZE};

const TEXT: &str = "abracadabra\n\nabra kadabra\n\nabba";

fn load(path: &Path) -> Arc<dyn TextModel> {
    NgramBackend.load_model(&path.into(), &LoadOptions::new()).unwrap()
}

/// The same smoothing, straight from the formula and by scanning the text.
fn naive(history: &[TokenId], token: TokenId, order: usize) -> f64 {
    let paragraphs: Vec<Vec<TokenId>> = TEXT
        .split("\n\n")
        .map(|text| text.bytes().map(TokenId::from).chain([EOS]).collect())
        .collect();
    let mut p = 1.0 / VOCAB_SIZE as f64;
    for len in 0..order.min(history.len() + 1) {
        let context = &history[history.len() - len..];
        let followers: Vec<TokenId> = paragraphs
            .iter()
            .flat_map(|ids| ids.windows(len + 1).filter(|ngram| &ngram[..len] == context))
            .map(|ngram| ngram[len])
            .collect();
        if followers.is_empty() {
            break;
        }
        let n = followers.len() as f64;
        let count = followers.iter().filter(|id| **id == token).count() as f64;
        let t = {
            let mut different = followers.clone();
            different.sort_unstable();
            different.dedup();
            different.len() as f64
        };
        p = (count + t * p) / (n + t);
    }
    p
}

#[test]
fn probabilities_are_those_of_the_formula() {
    let folder = tempfile::tempdir().unwrap();
    for order in [1, 2, 4] {
        Counts::of_text(TEXT, order).unwrap().save(folder.path()).unwrap();
        let model = load(folder.path());
        for prompt in ["a", "abra", "kadab", "xyz", "abb"] {
            let ids = model.encode(prompt, true).unwrap();
            let scorer = model.as_scorer().unwrap();
            let logits = scorer.prompt_logits(ids.clone().into(), LogitRows::All).unwrap();
            for (position, row) in logits.rows().enumerate() {
                // The model looks no further back than its order.
                let begin = (position + 1).saturating_sub(order - 1);
                let mut sum = 0.0;
                for (token, logit) in row.iter().enumerate() {
                    let p = naive(&ids[begin..=position], token as TokenId, order);
                    assert!((f64::from(*logit) - p.ln()).abs() < 1e-5, "{prompt} {token}");
                    sum += f64::from(*logit).exp();
                }
                assert!((sum - 1.0).abs() < 1e-4, "{sum}");
            }
        }
    }
}

#[test]
fn a_text_is_counted_and_continued() {
    let model = load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data/tides.txt")));
    let options = GenerateOptions::new().with_max_tokens(200);
    let prompt = "Question: When is the tide high?\nAnswer: When the moon is new";
    let (text, completion) =
        model.generate(prompt.into(), options).unwrap().collect_text().unwrap();
    assert_eq!(text, " or full.");
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
    let options = GenerateOptions::new().with_max_tokens(12);
    let (text, _) = model.generate("海は月に".into(), options).unwrap().collect_text().unwrap();
    assert_eq!(text, "従う。月");
}

#[test]
fn counts_come_back_from_their_file() {
    let counts = Counts::of_text(TEXT, 3).unwrap();
    assert_eq!(Counts::from_json(counts.to_json().as_bytes()).unwrap(), counts);
}

#[test]
fn a_folder_may_bring_a_chat_template() {
    let folder = tempfile::tempdir().unwrap();
    Counts::of_text("Q: a?\nA: b", 8).unwrap().save(folder.path()).unwrap();
    let chat = || ChatPrompt::new(vec![Message::user("a?")]);
    let error = load(folder.path()).chat(chat(), GenerateOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");

    let template = "Q: {{ messages[-1].content }}\nA:";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let model = load(folder.path());
    let (text, _) = model.chat(chat(), GenerateOptions::new()).unwrap().collect_text().unwrap();
    assert_eq!(text, " b");
}

#[test]
fn what_is_no_model_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = |source: ModelSource| {
        let error = NgramBackend.load_model(&source, &LoadOptions::new()).err().unwrap();
        (error.kind(), error.to_string())
    };
    let (kind, message) = error(folder.path().join("absent").into());
    assert!(kind == ErrorKind::InvalidModel && message.contains("absent"), "{message}");
    let (kind, message) = error(folder.path().into());
    assert!(kind == ErrorKind::InvalidModel && message.contains("counts.json"), "{message}");
    for (json, kind, named) in [
        ("", ErrorKind::InvalidModel, "line 1"),
        (r#"{"order": 2, "ngrams": []}"#, ErrorKind::InvalidModel, "model_type"),
        (
            r#"{"model_type": "llama", "order": 2, "ngrams": []}"#,
            ErrorKind::UnsupportedModel,
            "llama",
        ),
        (
            r#"{"model_type": "byte_ngram", "order": 0, "ngrams": []}"#,
            ErrorKind::InvalidModel,
            "order",
        ),
        (
            r#"{"model_type": "byte_ngram", "order": 1, "ngrams": [{"ids": [1, 2], "count": 1}]}"#,
            ErrorKind::InvalidModel,
            "ngrams[0]",
        ),
        (
            r#"{"model_type": "byte_ngram", "order": 1, "ngrams": [{"ids": [257], "count": 1}]}"#,
            ErrorKind::InvalidModel,
            "below 257",
        ),
        (
            r#"{"model_type": "byte_ngram", "order": 1, "ngrams": [{"ids": [7], "count": 0}]}"#,
            ErrorKind::InvalidModel,
            "at least 1",
        ),
    ] {
        std::fs::write(folder.path().join("counts.json"), json).unwrap();
        let (found, message) = error(folder.path().into());
        assert!(found == kind && message.contains(named), "{json}: {message}");
    }
    let text = folder.path().join("latin1.txt");
    std::fs::write(&text, b"caf\xe9").unwrap();
    let (kind, message) = error(text.into());
    assert!(kind == ErrorKind::InvalidModel && message.contains("byte at 3"), "{message}");
    let (kind, message) = error(ModelSource::Embedded(&[]));
    assert!(kind == ErrorKind::InvalidModel && message.contains("counts.json"), "{message}");
}

#[test]
fn linking_registers_the_backend() {
    assert!(Registry::global().list().contains(&"ngram".to_owned()));
    let registry = Registry::new();
    ngram_backend::register(&registry);
    assert_eq!(registry.list(), ["ngram"]);
}
