//! The special tokens that a tokenizer's configuration names.

use std::collections::BTreeMap;

/// Special tokens by their role, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialTokens {
    /// Beginning of a sequence.
    pub bos: Option<String>,
    /// End of a sequence.
    pub eos: Option<String>,
    /// Stands for what the vocabulary cannot spell.
    pub unk: Option<String>,
    /// Fills short rows of a batch.
    pub pad: Option<String>,
    /// Further ones, by the name that templates know: `cls_token`,
    /// `sep_token`, `mask_token`, and a model's own such as `image_token`.
    pub others: BTreeMap<String, String>,
}

impl SpecialTokens {
    /// Sets the beginning-of-sequence token.
    #[must_use]
    pub fn with_bos(mut self, token: impl Into<String>) -> Self {
        self.bos = Some(token.into());
        self
    }

    /// Sets the end-of-sequence token.
    #[must_use]
    pub fn with_eos(mut self, token: impl Into<String>) -> Self {
        self.eos = Some(token.into());
        self
    }

    /// Sets the unknown token.
    #[must_use]
    pub fn with_unk(mut self, token: impl Into<String>) -> Self {
        self.unk = Some(token.into());
        self
    }

    /// Sets the padding token.
    #[must_use]
    pub fn with_pad(mut self, token: impl Into<String>) -> Self {
        self.pad = Some(token.into());
        self
    }

    /// Sets a further token under the name that templates know.
    #[must_use]
    pub fn with_other(mut self, name: impl Into<String>, token: impl Into<String>) -> Self {
        self.others.insert(name.into(), token.into());
        self
    }

    /// Those that are set, under the names that templates know.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("unk_token", &self.unk),
            ("pad_token", &self.pad),
        ];
        let others = self.others.iter().map(|(name, token)| (name.as_str(), token.as_str()));
        others.chain(all.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?))))
    }
}
