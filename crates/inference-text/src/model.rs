//! What turns a word into tokens: the models of the `tokenizers` crate, and
//! our own for vocabularies that come with the weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token,
    TokenizerImpl,
};

use crate::merge_model::MergeModel;

/// A tokenizer of the crate around one of these models.
pub(crate) type Definition = TokenizerImpl<
    TextModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

#[derive(Debug)]
pub(crate) enum TextModel {
    /// From a `tokenizer.json`.
    Defined(Box<ModelWrapper>),
    /// From the metadata of a GGUF file.
    Merges(MergeModel),
}

impl<'de> Deserialize<'de> for TextModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(|model| Self::Defined(Box::new(model)))
    }
}

impl Model for TextModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Self::Defined(model) => model.tokenize(sequence),
            Self::Merges(model) => model.tokenize(sequence),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Defined(model) => model.token_to_id(token),
            Self::Merges(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Defined(model) => model.id_to_token(id),
            Self::Merges(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Defined(model) => model.get_vocab(),
            Self::Merges(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Defined(model) => model.get_vocab_size(),
            Self::Merges(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        match self {
            Self::Defined(model) => model.save(folder, prefix),
            Self::Merges(model) => model.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Defined(model) => model.get_trainer(),
            Self::Merges(model) => model.get_trainer().into(),
        }
    }
}
