//! The tokens of a vocabulary, compactly.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use inference_core::TokenId;

/// Tokens by id, and ids by token.
///
/// A model with 150,000 tokens looks up half a million texts while it loads,
/// so all texts lie in one piece, and only their ids in the table. The hash is
/// keyed: the texts come with a file that may mean harm.
#[derive(Clone, Default)]
pub(crate) struct Vocabulary {
    texts: String,
    /// Where the text of each id ends.
    ends: Vec<usize>,
    ids: HashTable<TokenId>,
    hasher: RandomState,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.len()).finish_non_exhaustive()
    }
}

impl Vocabulary {
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self {
            ends: Vec::with_capacity(tokens),
            ids: HashTable::with_capacity(tokens),
            ..Self::default()
        }
    }

    /// Gives `text` the next id; an id that it already has is the error.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), TokenId> {
        let hash = self.hasher.hash_one(text);
        if let Some(&id) = self.ids.find(hash, |&id| self.text(id) == Some(text)) {
            return Err(id);
        }
        let id = TokenId::try_from(self.ends.len()).unwrap_or(TokenId::MAX);
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        let Self { texts, ends, hasher, .. } = self;
        self.ids.insert_unique(hash, id, |&id| {
            hasher.hash_one(span(texts, ends, id).unwrap_or_default())
        });
        Ok(())
    }

    pub(crate) fn id(&self, text: &str) -> Option<TokenId> {
        let hash = self.hasher.hash_one(text);
        self.ids.find(hash, |&id| self.text(id) == Some(text)).copied()
    }

    pub(crate) fn text(&self, id: TokenId) -> Option<&str> {
        span(&self.texts, &self.ends, id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TokenId, &str)> {
        (0..=TokenId::MAX).map_while(|id| Some((id, self.text(id)?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }
}

fn span<'a>(texts: &'a str, ends: &[usize], id: TokenId) -> Option<&'a str> {
    let index = usize::try_from(id).ok()?;
    let end = *ends.get(index)?;
    let start = match index.checked_sub(1) {
        Some(before) => *ends.get(before)?,
        None => 0,
    };
    texts.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_get_ids_in_order_and_only_once() {
        let mut vocabulary = Vocabulary::with_capacity(1);
        let texts = ["b", "", "a", "ab", "é"];
        for text in texts {
            vocabulary.push(text).unwrap();
        }
        assert_eq!(vocabulary.push("ab"), Err(3));
        assert_eq!(vocabulary.len(), 5);
        for (id, text) in vocabulary.iter() {
            assert_eq!(texts[id as usize], text);
            assert_eq!(vocabulary.id(text), Some(id));
        }
        assert_eq!(vocabulary.text(5), None);
        assert_eq!(vocabulary.id("ba"), None);
    }
}
