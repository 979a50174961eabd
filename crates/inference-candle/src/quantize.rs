//! Quantization: of weights while a model loads, and of whole models into
//! GGUF files.

mod describe;
mod encode;
mod from_folder;
mod from_gguf;
mod imatrix;
mod on_load;
mod recipe;
mod rope_tensors;
mod tensors;

use std::path::{Path, PathBuf};

use inference_core::{CancelToken, Error, ModelSource, ProgressSink, Result};
use inference_gguf::BlockType;
use rayon::ThreadPoolBuilder;

pub(crate) use on_load::QuantizedOnLoad;
pub use recipe::FileType;

use crate::{MergeAdapter, ModelFiles};
use imatrix::ImportanceMatrix;

/// Options of [`quantize_model`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// The kind of file.
    pub file_type: FileType,
    /// Every matrix gets the type of most, without mixture.
    pub pure: bool,
    /// An importance matrix, as llama.cpp writes them (GGUF or `.dat`).
    pub imatrix: Option<PathBuf>,
    /// Quantizes what is quantized already, although that adds errors.
    pub requantize: bool,
    /// An adapter that is merged into the weights before.
    pub adapter: Option<MergeAdapter>,
    /// The kind of pre-tokenizer to name, in place of the one that is
    /// recognised.
    pub pre_tokenizer: Option<String>,
    /// Replaces a file that is there.
    pub overwrite: bool,
    /// Worker threads, at least 1. Default: the available parallelism.
    pub threads: Option<usize>,
    /// Receives progress.
    pub progress: Option<ProgressSink>,
    /// Ends the work early, without a file.
    pub cancel: Option<CancelToken>,
}

impl QuantizeOptions {
    /// Options for a kind of file, with every other field unset.
    #[must_use]
    pub fn new(file_type: FileType) -> Self {
        Self {
            file_type,
            pure: false,
            imatrix: None,
            requantize: false,
            adapter: None,
            pre_tokenizer: None,
            overwrite: false,
            threads: None,
            progress: None,
            cancel: None,
        }
    }

    /// Gives every matrix the type of most.
    #[must_use]
    pub fn with_pure(mut self, pure: bool) -> Self {
        self.pure = pure;
        self
    }

    /// Weighs errors by an importance matrix.
    #[must_use]
    pub fn with_imatrix(mut self, path: impl Into<PathBuf>) -> Self {
        self.imatrix = Some(path.into());
        self
    }

    /// Allows to quantize what is quantized already.
    #[must_use]
    pub fn with_requantize(mut self, requantize: bool) -> Self {
        self.requantize = requantize;
        self
    }

    /// Merges an adapter into the weights before.
    #[must_use]
    pub fn with_adapter(mut self, adapter: MergeAdapter) -> Self {
        self.adapter = Some(adapter);
        self
    }

    /// Names the kind of pre-tokenizer.
    #[must_use]
    pub fn with_pre_tokenizer(mut self, name: impl Into<String>) -> Self {
        self.pre_tokenizer = Some(name.into());
        self
    }

    /// Replaces a file that is there.
    #[must_use]
    pub fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets the number of worker threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
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

/// What [`quantize_model`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// Size of the file.
    pub bytes: u64,
    /// Parameters.
    pub parameters: u64,
    /// Types with the number of their tensors and bytes, largest first.
    pub types: Vec<(BlockType, usize, u64)>,
}

/// Writes a model as a GGUF file, quantized as the options say.
///
/// The source is a folder of safetensors, which is converted (metadata,
/// tokenizer, chat template, and tensors in the order and form that llama.cpp
/// expects), or a GGUF file, whose metadata is kept. Tensor by tensor and in
/// parallel: beside the source's mapped pages, about one tensor is in memory.
/// The file appears under its name when it is whole.
///
/// # Errors
///
/// Those of loading the source;
/// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) where the file is
/// there and is not to be replaced;
/// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for what
/// GGUF cannot say, by name;
/// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) where the
/// source is quantized already.
pub fn quantize_model(
    source: &ModelSource,
    out: &Path,
    options: &QuantizeOptions,
) -> Result<QuantizeReport> {
    if options.threads == Some(0) {
        return Err(Error::invalid_option("threads", 0, "at least 1"));
    }
    check_output(out, options.overwrite)?;
    let importance = match &options.imatrix {
        Some(path) => {
            let matrix = ImportanceMatrix::read(path)?;
            tensors::note(options, format!("importance of {} matrices", matrix.len()));
            Some(matrix)
        }
        None => None,
    };
    let files = ModelFiles::new(source)?;
    let plan = match files.gguf()? {
        Some(file) => from_gguf::plan(&files, file, options, importance.is_some())?,
        None => from_folder::plan(&files, options, importance.is_some())?,
    };
    let pool = ThreadPoolBuilder::new()
        .num_threads(options.threads.unwrap_or(0))
        .build()
        .map_err(|e| Error::engine("starting threads to quantize", e))?;
    plan.write(out, options, importance.as_ref(), &pool)
}

fn check_output(out: &Path, overwrite: bool) -> Result<()> {
    let refuse = |expected: &str, found: &str| {
        Err(Error::invalid_input(out.display().to_string(), expected, found))
    };
    match std::fs::metadata(out) {
        Ok(facts) if facts.is_dir() => refuse("the path of a file", "a folder"),
        Ok(_) if !overwrite => refuse("no file, or leave to replace it", "a file"),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(out, "open", error))
        }
        _ => Ok(()),
    }
}
