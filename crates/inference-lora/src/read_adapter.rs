//! An adapter that was read, and how strictly.

use inference_core::{Error, Result};

use crate::{AdapterWeights, ModuleTable};

/// How an adapter is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Tensors that match no module of the model, and modules that the
    /// configuration promises and the file lacks, are listed instead of
    /// refused. Default: false.
    pub lenient: bool,
}

impl ReadOptions {
    /// Strict.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether what does not match is listed instead of refused.
    #[must_use]
    pub fn with_lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }
}

/// An adapter, checked against a model's modules.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadAdapter {
    /// What it changes.
    pub weights: AdapterWeights,
    /// Tensors of the file that match no module, left out (lenient only).
    pub unmatched: Vec<String>,
    /// Modules that the configuration promises and the file lacks (lenient
    /// only).
    pub missing: Vec<String>,
}

/// What did not match.
pub(crate) struct Unmatched<'a> {
    /// The file of the tensors.
    pub(crate) file: &'a str,
    pub(crate) tensors: Vec<String>,
    /// The file of the promises.
    pub(crate) config: &'a str,
    /// Field and module.
    pub(crate) missing: Vec<(&'static str, String)>,
}

impl Unmatched<'_> {
    /// Refuses what does not match and has to.
    pub(crate) fn check(&self, table: &ModuleTable, options: ReadOptions) -> Result<()> {
        let Self { file, tensors, config, missing } = self;
        if let Some(first) = tensors.first().filter(|_| !options.lenient) {
            let what = format!("tensor `{first}`{}", and_more(tensors.len()));
            let expected = format!("a module of the model ({})", table.suffixes().join(", "));
            return Err(Error::invalid_model(*file, what, expected, "none of that name"));
        }
        if let Some((field, module)) = missing.first().filter(|_| !options.lenient) {
            let what = format!("{field}: `{module}`{}", and_more(missing.len()));
            let expected = format!("its tensors in {file}");
            return Err(Error::invalid_model(*config, what, expected, "nothing"));
        }
        Ok(())
    }

    /// The adapter that was read beside.
    pub(crate) fn into_adapter(self, weights: AdapterWeights) -> Result<ReadAdapter> {
        let Self { file, tensors, missing, .. } = self;
        if weights.tensors().next().is_none() {
            let expected = "an adapter of this model";
            return Err(Error::invalid_model(file, "tensors", expected, "none of its modules"));
        }
        let missing = missing.into_iter().map(|(_, module)| module).collect();
        Ok(ReadAdapter { weights, unmatched: tensors, missing })
    }
}

fn and_more(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    }
}
