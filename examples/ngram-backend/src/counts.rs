//! The model: how often which token followed which.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use inference_core::{Error, Result, TokenId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::byte_vocabulary::{EOS, VOCAB_SIZE};

/// The file of a model's folder.
pub(crate) const COUNTS_FILE: &str = "counts.json";

/// The architecture, `model_type` in [`COUNTS_FILE`].
pub(crate) const MODEL_TYPE: &str = "byte_ngram";

/// The longest n-gram that a model may have.
const MAX_ORDER: usize = 16;

/// Counts of the n-grams of a text, from 1 to [`order`](Self::order) tokens long.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    order: usize,
    contexts: HashMap<Vec<TokenId>, Continuations>,
}

/// What followed one context.
#[derive(Clone, Debug, Default, PartialEq)]
struct Continuations {
    total: u64,
    next: BTreeMap<TokenId, u64>,
}

impl Continuations {
    fn add(&mut self, token: TokenId, count: u32) {
        self.total += u64::from(count);
        *self.next.entry(token).or_default() += u64::from(count);
    }
}

/// [`COUNTS_FILE`].
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CountsFile {
    model_type: String,
    order: usize,
    ngrams: Vec<Ngram>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Ngram {
    ids: Vec<TokenId>,
    count: u32,
}

impl Counts {
    /// Counts the n-grams of a text, in which an empty line ends a paragraph
    /// and thereby what the model will take for a whole text.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) for an order
    /// outside 1 to 16.
    pub fn of_text(text: &str, order: usize) -> Result<Self> {
        if !(1..=MAX_ORDER).contains(&order) {
            return Err(Error::invalid_option("order", order, format!("1 to {MAX_ORDER}")));
        }
        let mut counts = Self { order, contexts: HashMap::new() };
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            let bytes = paragraph.trim_end().bytes().map(TokenId::from);
            let ids: Vec<_> = bytes.chain([EOS]).collect();
            for end in 1..=ids.len() {
                for len in 1..=order.min(end) {
                    counts.add(&ids[end - len..end], 1);
                }
            }
        }
        Ok(counts)
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming the
    /// field, [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for another kind of model.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let invalid = |what: &str, expected: String, found: String| {
            Error::invalid_model(COUNTS_FILE, what, expected, found)
        };
        let file: CountsFile = serde_json::from_slice(json).map_err(|error| {
            let what = format!("line {}, column {}", error.line(), error.column());
            invalid(&what, "model_type, order and ngrams".into(), error.to_string())
        })?;
        let CountsFile { model_type, order, ngrams } = file;
        if model_type != MODEL_TYPE {
            let what = "model_type";
            return Err(Error::unsupported_model(COUNTS_FILE, what, model_type, MODEL_TYPE));
        }
        if !(1..=MAX_ORDER).contains(&order) {
            return Err(invalid("order", format!("1 to {MAX_ORDER}"), order.to_string()));
        }
        let mut counts = Self { order, contexts: HashMap::new() };
        for (index, Ngram { ids, count }) in ngrams.iter().enumerate() {
            let expected = if !(1..=order).contains(&ids.len()) {
                format!("1 to {order} ids")
            } else if ids.iter().any(|id| *id as usize >= VOCAB_SIZE) {
                format!("ids below {VOCAB_SIZE}")
            } else if *count == 0 {
                "a count of at least 1".to_owned()
            } else {
                counts.add(ids, *count);
                continue;
            };
            let found = format!("{ids:?}, {count} times");
            return Err(invalid(&format!("ngrams[{index}]"), expected, found));
        }
        Ok(counts)
    }

    /// The content of a `counts.json`; the same counts give the same text.
    #[must_use]
    pub fn to_json(&self) -> String {
        let ngram = |context: &[TokenId], id: TokenId, count: u64| {
            let ids: Vec<_> = context.iter().copied().chain([id]).collect();
            serde_json::json!({"ids": ids, "count": count})
        };
        let sorted: BTreeMap<_, _> = self.contexts.iter().collect();
        let ngrams: Vec<_> = sorted
            .iter()
            .flat_map(|(context, next)| next.next.iter().map(|(id, n)| ngram(context, *id, *n)))
            .collect();
        serde_json::json!({"model_type": MODEL_TYPE, "order": self.order, "ngrams": ngrams})
            .to_string()
    }

    /// What tells these counts from others, so that no snapshot is resumed with
    /// another model: the SHA-256 of [`to_json`](Self::to_json).
    #[must_use]
    pub fn digest(&self) -> String {
        let bytes = Sha256::digest(self.to_json());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the counts into a folder, which is then a model.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io).
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(COUNTS_FILE);
        std::fs::write(&path, self.to_json()).map_err(|error| Error::io(path, "write", error))
    }

    /// The length of the longest n-grams.
    #[must_use]
    pub fn order(&self) -> usize {
        self.order
    }

    /// How many different n-grams were counted.
    #[must_use]
    pub fn ngrams(&self) -> usize {
        self.contexts.values().map(|context| context.next.len()).sum()
    }

    fn add(&mut self, ngram: &[TokenId], count: u32) {
        if let Some((token, context)) = ngram.split_last() {
            self.contexts.entry(context.to_vec()).or_default().add(*token, count);
        }
    }

    /// Natural-log probabilities of what follows `history`, `[VOCAB_SIZE]`.
    ///
    /// Interpolated Witten–Bell smoothing: from a context after which `t`
    /// different tokens came `n` times in all, the part `t / (n + t)` goes to
    /// the distribution of the context that is one token shorter, and from the
    /// empty one to the uniform distribution. Nothing is impossible. Chen and
    /// Goodman, *An Empirical Study of Smoothing Techniques for Language
    /// Modeling*, 1999.
    pub fn log_probabilities(&self, history: &[TokenId]) -> Vec<f32> {
        let mut p = vec![1.0 / VOCAB_SIZE as f64; VOCAB_SIZE];
        for len in 0..self.order.min(history.len() + 1) {
            // A longer context than one that never occurred did not occur.
            let Some(seen) = self.contexts.get(&history[history.len() - len..]) else { break };
            let different = seen.next.len() as f64;
            let total = seen.total as f64 + different;
            p.iter_mut().for_each(|p| *p *= different / total);
            for (token, count) in &seen.next {
                p[*token as usize] += *count as f64 / total;
            }
        }
        p.into_iter().map(|p| p.ln() as f32).collect()
    }
}
