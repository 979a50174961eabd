//! Byte pair encoding over a vocabulary: the merges that a list ranks, or the
//! merges that the scores of their results rank.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_core::TokenId;
use tokenizers::Token;

/// Tokens by id, and ids by token. A text is held once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary {
    texts: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, TokenId>,
}

impl Vocabulary {
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self { texts: Vec::with_capacity(tokens), ids: HashMap::with_capacity(tokens) }
    }

    /// Gives `text` the next id; the id that it already has is the error.
    pub(crate) fn push(&mut self, text: Arc<str>) -> Result<(), TokenId> {
        let id = TokenId::try_from(self.texts.len()).unwrap_or(TokenId::MAX);
        match self.ids.entry(Arc::clone(&text)) {
            std::collections::hash_map::Entry::Occupied(entry) => return Err(*entry.get()),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(id),
        };
        self.texts.push(text);
        Ok(())
    }

    pub(crate) fn id(&self, text: &str) -> Option<TokenId> {
        self.ids.get(text).copied()
    }

    pub(crate) fn text(&self, id: TokenId) -> Option<&str> {
        self.texts.get(usize::try_from(id).ok()?).map(AsRef::as_ref)
    }

    pub(crate) fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.texts.iter().map(AsRef::as_ref)
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }
}

/// Which neighbours may merge, and which of them first.
#[derive(Clone, Debug)]
pub(crate) enum Merges {
    /// Pairs of tokens with their rank, lower first, and the token they make
    /// (byte-level BPE).
    Ranked(HashMap<(TokenId, TokenId), (u32, TokenId)>),
    /// Any neighbours whose text together is a token, higher score first, one
    /// score for each token (SentencePiece's BPE).
    Scored(Vec<f32>),
}

/// Splits a text into characters and merges neighbours, the best pair first
/// and of equal ones the leftmost, until nothing more can be merged.
#[derive(Clone, Debug)]
pub(crate) struct MergeModel {
    vocabulary: Vocabulary,
    merges: Merges,
    /// A text that is a token is that token, whatever the merges say.
    whole_tokens: bool,
    /// For a character that is no token: a token for each of its bytes.
    bytes: Option<Box<[TokenId; 256]>>,
    /// For a character that has no bytes either; `None` leaves it out.
    unknown: Option<TokenId>,
}

impl MergeModel {
    pub(crate) fn new(vocabulary: Vocabulary, merges: Merges) -> Self {
        Self { vocabulary, merges, whole_tokens: false, bytes: None, unknown: None }
    }

    pub(crate) fn with_whole_tokens(mut self, value: bool) -> Self {
        self.whole_tokens = value;
        self
    }

    pub(crate) fn with_bytes(mut self, bytes: Option<Box<[TokenId; 256]>>) -> Self {
        self.bytes = bytes;
        self
    }

    pub(crate) fn with_unknown(mut self, unknown: Option<TokenId>) -> Self {
        self.unknown = unknown;
        self
    }

    /// The tokens of a text, each with where it starts and ends in it.
    fn encode(&self, text: &str) -> Vec<(TokenId, (usize, usize))> {
        if self.whole_tokens
            && let Some(id) = self.vocabulary.id(text)
        {
            return vec![(id, (0, text.len()))];
        }
        let mut chain = Chain::new(text, &self.vocabulary);
        let mut queue = BinaryHeap::new();
        for left in 0..chain.pieces.len() {
            queue.extend(self.candidate(&chain, left).map(Reverse));
        }
        while let Some(Reverse(candidate)) = queue.pop() {
            let Some(left) = chain.merge(&candidate) else { continue };
            if let Some(before) = chain.before(left) {
                queue.extend(self.candidate(&chain, before).map(Reverse));
            }
            queue.extend(self.candidate(&chain, left).map(Reverse));
        }
        let mut tokens = Vec::new();
        for piece in chain.pieces.iter().filter(|piece| !piece.is_merged()) {
            let span = (piece.start, piece.end);
            match (piece.id, &self.bytes) {
                (Some(id), _) => tokens.push((id, span)),
                (None, Some(bytes)) => {
                    let spelled = text.get(piece.start..piece.end).unwrap_or_default().bytes();
                    tokens.extend(
                        spelled.filter_map(|byte| Some((*bytes.get(usize::from(byte))?, span))),
                    );
                }
                (None, None) => tokens.extend(self.unknown.map(|id| (id, span))),
            }
        }
        tokens
    }

    /// The merge of a piece with the next one.
    fn candidate(&self, chain: &Chain<'_>, left: usize) -> Option<Candidate> {
        let first = chain.pieces.get(left)?;
        let right = chain.after(left)?;
        let second = chain.pieces.get(right)?;
        let (order, id) = match &self.merges {
            Merges::Ranked(pairs) => *pairs.get(&(first.id?, second.id?))?,
            Merges::Scored(scores) => {
                let id = self.vocabulary.id(chain.text.get(first.start..second.end)?)?;
                (descending(*scores.get(usize::try_from(id).ok()?)?), id)
            }
        };
        Some(Candidate { order, left, right, end: second.end, start: second.start, id })
    }
}

/// Orders floats from high to low; the two zeros are equal.
fn descending(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    // Negative floats count backwards, and all lie below the others.
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

/// A possible merge. The fields are compared in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    order: u32,
    left: usize,
    right: usize,
    /// Where the right piece started and ended when this was found.
    start: usize,
    end: usize,
    id: TokenId,
}

/// A part of the text.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    /// `None` for a character that is no token.
    id: Option<TokenId>,
    previous: usize,
    next: usize,
}

impl Piece {
    fn is_merged(&self) -> bool {
        self.start == self.end
    }
}

/// Stands for "no piece".
const NONE: usize = usize::MAX;

/// The pieces of a text, linked to their neighbours.
struct Chain<'a> {
    text: &'a str,
    pieces: Vec<Piece>,
}

impl<'a> Chain<'a> {
    fn new(text: &'a str, vocabulary: &Vocabulary) -> Self {
        let mut pieces: Vec<Piece> = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let end = start + c.len_utf8();
            let index = pieces.len();
            pieces.push(Piece {
                start,
                end,
                id: text.get(start..end).and_then(|c| vocabulary.id(c)),
                previous: index.wrapping_sub(1),
                next: index + 1,
            });
        }
        if let Some(last) = pieces.last_mut() {
            last.next = NONE;
        }
        Self { text, pieces }
    }

    fn before(&self, index: usize) -> Option<usize> {
        self.pieces.get(index).map(|piece| piece.previous).filter(|&index| index != NONE)
    }

    fn after(&self, index: usize) -> Option<usize> {
        self.pieces.get(index).map(|piece| piece.next).filter(|&index| index != NONE)
    }

    /// Does a merge, and returns the piece that has grown; `None` if one of
    /// the two has changed since it was found.
    fn merge(&mut self, candidate: &Candidate) -> Option<usize> {
        let right = *self.pieces.get(candidate.right)?;
        let left = self.pieces.get_mut(candidate.left)?;
        // A piece only grows to its right, so the left one is as it was
        // exactly when it still ends where the right one starts.
        let same = !left.is_merged()
            && left.end == candidate.start
            && right.start == candidate.start
            && right.end == candidate.end
            && !right.is_merged();
        if !same {
            return None;
        }
        left.end = right.end;
        left.id = Some(candidate.id);
        left.next = right.next;
        if let Some(next) = self.pieces.get_mut(right.next) {
            next.previous = candidate.left;
        }
        if let Some(right) = self.pieces.get_mut(candidate.right) {
            right.end = right.start;
        }
        Some(candidate.left)
    }
}

impl tokenizers::Model for MergeModel {
    type Trainer = tokenizers::models::bpe::BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let token = |(id, span)| {
            Token::new(id, self.vocabulary.text(id).unwrap_or_default().to_owned(), span)
        };
        Ok(self.encode(sequence).into_iter().map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary.text(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        let entries = self.vocabulary.ids.iter();
        entries.map(|(text, &id)| (text.as_ref().to_owned(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a vocabulary from a model file cannot be saved".into())
    }

    fn get_trainer(&self) -> Self::Trainer {
        Self::Trainer::default()
    }
}
