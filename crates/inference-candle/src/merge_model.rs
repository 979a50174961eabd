//! A model with an adapter, written as a model of its own.

mod shards;

use std::path::{Path, PathBuf};

use inference_core::{CancelToken, Error, ModelSource, ProgressSink, Result};
use inference_lora::{AdapterFiles, ReadOptions};
use serde_json::Value;

use crate::checkpoint::{CONFIG, Checkpoint};
use crate::config::parse;
use crate::{DecoderConfig, MergedWeights, ModelFiles, SafetensorsFiles};

/// An adapter for [`merge_model`] and for
/// [`QuantizeOptions::adapter`](crate::QuantizeOptions::adapter).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MergeAdapter {
    /// Where its files are.
    pub path: PathBuf,
    /// Factor on top of its own scaling. Default: 1.
    pub scale: f32,
    /// Leaves out tensors that match no module, and does without modules that
    /// the configuration promises, in place of an error. Default: false.
    pub lenient: bool,
}

impl MergeAdapter {
    /// The adapter at a path, as it is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), scale: 1.0, lenient: false }
    }

    /// Sets the factor on top of its scaling.
    #[must_use]
    pub fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Sets whether tensors that match no module are left out.
    #[must_use]
    pub fn with_lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }

    /// The weights of a checkpoint with the adapter, and what did not match.
    pub(crate) fn apply(&self, checkpoint: &Checkpoint) -> Result<(MergedWeights, Unmatched)> {
        let config = &checkpoint.config;
        let options = ReadOptions::new().with_lenient(self.lenient);
        let read = AdapterFiles::open(&self.path)?.read(&config.modules(), options)?;
        let merged = MergedWeights::new(checkpoint.weights()?, config, read.weights, self.scale)?;
        Ok((merged, Unmatched { tensors: read.unmatched, missing: read.missing }))
    }
}

/// What of an adapter does not match the model.
pub(crate) struct Unmatched {
    /// Tensors without a module.
    pub(crate) tensors: Vec<String>,
    /// Promised modules without tensors.
    pub(crate) missing: Vec<String>,
}

/// Options of [`merge_model`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MergeOptions {
    /// Receives progress.
    pub progress: Option<ProgressSink>,
    /// Ends the work early, without a folder.
    pub cancel: Option<CancelToken>,
}

impl MergeOptions {
    /// Options with every field unset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports progress.
    #[must_use]
    pub fn with_progress(mut self, progress: ProgressSink) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Ends early when the token is cancelled.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = Some(cancel);
        self
    }
}

/// What [`merge_model`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors that the adapter changed.
    pub changed: usize,
    /// The head, which was the embedding, is a weight of its own now.
    pub untied_head: bool,
    /// Tensors of the adapter that were left out (where asked to be lenient).
    pub unmatched: Vec<String>,
    /// Modules that the adapter's configuration promises and its file lacks
    /// (where asked to be lenient).
    pub missing: Vec<String>,
}

/// Writes a folder of safetensors with an adapter merged into it: the same
/// files and shards, tensors of the same types, and everything that lies
/// beside them (configuration, tokenizer, chat template). The folder appears
/// under its name when it is whole. Tensor by tensor: beside the source's
/// mapped pages, about one tensor is in memory.
///
/// Where the adapter changes a head that is the embedding, the merged model has
/// both, and its `config.json` says so.
///
/// # Errors
///
/// Those of loading the source and of [`AdapterFiles`];
/// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) where `out` is
/// there already;
/// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for a
/// source that is GGUF or quantized:
/// [`quantize_model`](crate::quantize_model) writes those.
pub fn merge_model(
    source: &ModelSource,
    adapter: &MergeAdapter,
    out: &Path,
    options: &MergeOptions,
) -> Result<MergeReport> {
    if std::fs::symlink_metadata(out).is_ok() {
        let what = out.display().to_string();
        return Err(Error::invalid_input(what, "a path where nothing is yet", "something"));
    }
    let files = ModelFiles::new(source)?;
    if files.gguf()?.is_some() {
        let supported = "safetensors (of GGUF a merged GGUF can be written)";
        return Err(Error::unsupported_model(files.name(), "format", "GGUF", supported));
    }
    let json = parse(CONFIG, &files.read_required(CONFIG)?)?;
    if json.get("quantization_config").is_some_and(|value| !value.is_null()) {
        let supported = "dense weights (of others a merged GGUF can be written)";
        let what = "quantization_config";
        return Err(Error::unsupported_model(CONFIG, what, "quantized weights", supported));
    }
    let checkpoint = Checkpoint::open(files.clone())?;
    let (merged, unmatched) = adapter.apply(&checkpoint)?;
    let untied_head = merged.unties_head();
    let config = untied_head.then(|| untied(&checkpoint.config, json)).transpose()?;
    let stored = SafetensorsFiles::open(&files)?;
    let (bytes, changed) =
        shards::write(&files, &stored, &merged, config.as_deref(), out, options)?;
    let Unmatched { tensors, missing } = unmatched;
    Ok(MergeReport { bytes, changed, untied_head, unmatched: tensors, missing })
}

/// `config.json` of the same model with a head of its own.
fn untied(wanted: &DecoderConfig, mut json: Value) -> Result<Vec<u8>> {
    const FIELD: &str = "tie_word_embeddings";
    let nested = json.get("text_config").is_some_and(Value::is_object);
    if let (true, Some(text)) = (nested, json.get_mut("text_config"))
        && let Some(map) = text.as_object_mut()
    {
        map.insert(FIELD.to_owned(), Value::Bool(false));
    }
    if let Some(map) = json.as_object_mut() {
        map.insert(FIELD.to_owned(), Value::Bool(false));
    }
    let bytes = serde_json::to_vec_pretty(&json)
        .map_err(|error| Error::engine("writing config.json", error))?;
    let read = DecoderConfig::from_json(CONFIG, &bytes)?;
    if read == (DecoderConfig { tied_head: false, ..wanted.clone() }) {
        return Ok(bytes);
    }
    let supported = "an architecture whose head can be a weight of its own";
    Err(Error::unsupported_model(CONFIG, FIELD, "a changed head or embedding", supported))
}
