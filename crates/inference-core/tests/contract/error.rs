//! Errors: kinds, messages, sources.

use std::error::Error as _;
use std::io;

use inference_core::{Error, ErrorKind, FinishReason};

#[test]
fn messages_name_the_thing_what_was_expected_and_what_was_found() {
    let cases = [
        (
            Error::invalid_model("config.json", "num_heads", "at least 1", "0"),
            ErrorKind::InvalidModel,
            "config.json: num_heads: expected at least 1, found 0",
        ),
        (
            Error::unsupported_model("config.json", "model_type", "foo", "llama, qwen3"),
            ErrorKind::UnsupportedModel,
            "config.json: model_type `foo` is not supported; supported: llama, qwen3",
        ),
        (
            Error::unsupported("the cpu backend", "quantize"),
            ErrorKind::Unsupported,
            "the cpu backend does not support quantize",
        ),
        (
            Error::invalid_option("top_p", 1.5, "greater than 0, at most 1"),
            ErrorKind::InvalidOption,
            "invalid option `top_p` = 1.5: expected greater than 0, at most 1",
        ),
        (
            Error::invalid_input("prompt", "at least one token", "none"),
            ErrorKind::InvalidInput,
            "invalid prompt: expected at least one token, found none",
        ),
        (
            Error::template("chat_template.jinja", "roles must alternate"),
            ErrorKind::InvalidInput,
            "chat template of chat_template.jinja failed: roles must alternate",
        ),
        (
            Error::exhausted("context (tokens)", 5000, 4096),
            ErrorKind::Exhausted,
            "context (tokens) exhausted: 5000 needed, 4096 available",
        ),
        (
            Error::model_not_found("org/name", "`inference pull org/name` downloads it"),
            ErrorKind::ModelNotFound,
            "no model `org/name`: `inference pull org/name` downloads it",
        ),
        (
            Error::network("http://hub/api", "the connection was reset"),
            ErrorKind::Network,
            "http://hub/api: the connection was reset",
        ),
        (Error::Closed, ErrorKind::Closed, "the model is closed"),
        (
            Error::Cancelled { reason: FinishReason::Deadline },
            ErrorKind::Cancelled,
            "the request ended without an answer: deadline",
        ),
        (Error::engine_message("NaN in layer 3"), ErrorKind::Engine, "NaN in layer 3"),
    ];
    for (error, kind, message) in cases {
        assert_eq!(error.kind(), kind);
        assert_eq!(error.to_string(), message);
        assert!(error.source().is_none());
    }
}

#[test]
fn causes_can_be_walked_and_survive_a_clone() {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
    let read = Error::io("/models/x/config.json", "open", missing());
    assert_eq!(read.kind(), ErrorKind::Io);
    assert_eq!(read.to_string(), "/models/x/config.json: open failed");
    let load = Error::Load {
        backend: "cpu".to_owned(),
        model: "/models/x".to_owned(),
        source: Box::new(read),
    };
    let load = load.clone();
    // The kind is the cause's: the wrapper only says which load it was.
    assert_eq!(load.kind(), ErrorKind::Io);
    assert_eq!(load.to_string(), "backend `cpu` could not load /models/x");
    let read = load.source().unwrap();
    assert_eq!(read.source().unwrap().to_string(), "no such file");

    let engine = Error::engine("forward pass", missing());
    assert_eq!(engine.source().unwrap().to_string(), "no such file");
}

#[test]
fn kinds_have_the_names_of_their_variants_in_snake_case() {
    for kind in [
        ErrorKind::NoBackendRegistered,
        ErrorKind::NoBackendAvailable,
        ErrorKind::UnknownBackend,
        ErrorKind::BackendUnavailable,
        ErrorKind::InvalidModel,
        ErrorKind::UnsupportedModel,
        ErrorKind::Unsupported,
        ErrorKind::InvalidOption,
        ErrorKind::InvalidInput,
        ErrorKind::Exhausted,
        ErrorKind::Closed,
        ErrorKind::Io,
        ErrorKind::ModelNotFound,
        ErrorKind::Network,
        ErrorKind::Engine,
    ] {
        let mut name = String::new();
        for c in format!("{kind:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.extend(c.to_lowercase());
        }
        assert_eq!(kind.as_str(), name);
    }
}

#[test]
fn what_a_hostile_file_says_is_cut() {
    let long = "é".repeat(10_000);
    for error in [
        Error::invalid_model("f", &*long, &*long, &*long),
        Error::unsupported_model("f", &*long, &*long, "none"),
    ] {
        let message = error.to_string();
        assert!(message.len() < 1400 && message.contains("ééé…"), "{message}");
    }
    let message = Error::invalid_model("f", "field", "a number", "").to_string();
    assert_eq!(message, "f: field: expected a number, found \"\"");
}
