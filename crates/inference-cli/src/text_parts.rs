//! Tokenizer and chat template of a model, without its weights.

use inference::text::{ChatTemplate, Tokenizer};
use inference::{Error, ModelSource};

use crate::failure::{Failure, Result};

pub(crate) fn tokenizer(source: &ModelSource) -> Result<Tokenizer> {
    let parts = inference::text_parts(source.clone()).map_err(Failure::Load)?;
    let expected = "tokenizer.json, or a vocabulary in the GGUF file";
    parts.tokenizer.ok_or_else(|| missing(source, "tokenizer", expected))
}

pub(crate) fn chat_template(source: &ModelSource) -> Result<ChatTemplate> {
    let parts = inference::text_parts(source.clone()).map_err(Failure::Load)?;
    let expected = "chat_template.jinja, or one in tokenizer_config.json or the GGUF file";
    parts.template.ok_or_else(|| missing(source, "chat template", expected))
}

fn missing(source: &ModelSource, part: &str, expected: &str) -> Failure {
    Failure::Load(Error::invalid_model(source.to_string(), part, expected, "nothing"))
}
