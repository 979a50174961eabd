//! Tokenizer and chat template of a model, without its weights.

use inference::text::{ChatTemplate, TextParts, Tokenizer};
use inference::{Error, ModelSource};

use crate::failure::{Failure, Result};

pub(crate) fn tokenizer(source: &ModelSource) -> Result<Tokenizer> {
    let tokenizer = parts(source)?.tokenizer;
    tokenizer.ok_or_else(|| missing(source, "tokenizer.json", "a tokenizer definition"))
}

pub(crate) fn chat_template(source: &ModelSource) -> Result<ChatTemplate> {
    let template = parts(source)?.template;
    let expected = "a chat template, here or in tokenizer_config.json";
    template.ok_or_else(|| missing(source, "chat_template.jinja", expected))
}

fn parts(source: &ModelSource) -> Result<TextParts> {
    let parts = match source {
        ModelSource::Path(path) => TextParts::from_dir(path),
        ModelSource::Embedded(files) => TextParts::load(|name| {
            let file = files.iter().find(|(file, _)| *file == name);
            Ok(file.map(|(_, content)| content.to_vec()))
        }),
        other => Err(Error::unsupported(other.to_string(), "reading a tokenizer")),
    };
    parts.map_err(Failure::Load)
}

fn missing(source: &ModelSource, file: &str, expected: &str) -> Failure {
    Failure::Load(Error::invalid_model(source.to_string(), file, expected, "no such file"))
}
