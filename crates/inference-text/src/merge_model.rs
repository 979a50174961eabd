//! Byte pair encoding over a vocabulary: the merges that a list ranks, or the
//! merges that the scores of their results rank.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use inference_core::TokenId;
use tokenizers::Token;

use crate::vocabulary::Vocabulary;

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
        self.vocabulary.iter().map(|(id, text)| (text.to_owned(), id)).collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vocabulary(texts: &[String]) -> Vocabulary {
        let mut vocabulary = Vocabulary::default();
        for text in texts {
            // Repeated texts are dropped.
            let _ = vocabulary.push(text);
        }
        vocabulary
    }

    /// The definition: look at all neighbours, merge the best pair, repeat.
    fn naive(model: &MergeModel, text: &str) -> Vec<String> {
        let mut pieces: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let order = |left: &String, right: &String| match &model.merges {
                Merges::Ranked(pairs) => {
                    let pair = (model.vocabulary.id(left)?, model.vocabulary.id(right)?);
                    Some(f64::from(pairs.get(&pair)?.0))
                }
                Merges::Scored(scores) => {
                    let id = model.vocabulary.id(&format!("{left}{right}"))?;
                    Some(-f64::from(scores[id as usize]))
                }
            };
            let mut best: Option<(f64, usize)> = None;
            for (index, pair) in pieces.windows(2).enumerate() {
                let Some(order) = order(&pair[0], &pair[1]) else { continue };
                if best.is_none_or(|(least, _)| order < least) {
                    best = Some((order, index));
                }
            }
            let Some((_, index)) = best else { return pieces };
            let right = pieces.remove(index + 1);
            pieces[index].push_str(&right);
        }
    }

    fn pieces(model: &MergeModel, text: &str) -> Vec<String> {
        model
            .encode(text)
            .into_iter()
            .map(|(_, (start, end))| text[start..end].to_owned())
            .collect()
    }

    /// Tokens over a small alphabet, each of its letters among them.
    fn tokens() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[abé]{2,5}", 0..40).prop_map(|more| {
            let letters = ["a", "b", "é"].map(str::to_owned);
            letters.into_iter().chain(more).collect()
        })
    }

    proptest! {
        #[test]
        fn scored_merges_are_as_defined(
            tokens in tokens(),
            scores in prop::collection::vec(-4i8..4, 43),
            text in "[abéx]{0,40}",
        ) {
            let scores = scores.into_iter().map(f32::from).collect();
            let model = MergeModel::new(vocabulary(&tokens), Merges::Scored(scores))
                .with_unknown(Some(0));
            prop_assert_eq!(pieces(&model, &text), naive(&model, &text));
        }

        #[test]
        fn ranked_merges_are_as_defined(
            tokens in tokens(),
            pairs in prop::collection::vec((any::<prop::sample::Index>(), 1..4usize), 0..60),
            text in "[abé]{0,40}",
        ) {
            let vocabulary = vocabulary(&tokens);
            let mut ranked = HashMap::new();
            for (rank, (token, at)) in (0..).zip(pairs) {
                let text = token.get(&tokens);
                let Some((at, _)) = text.char_indices().nth(at) else { continue };
                let (left, right) = text.split_at(at);
                let ids = (vocabulary.id(left), vocabulary.id(right), vocabulary.id(text));
                if let (Some(left), Some(right), Some(made)) = ids {
                    ranked.entry((left, right)).or_insert((rank, made));
                }
            }
            let model = MergeModel::new(vocabulary, Merges::Ranked(ranked));
            prop_assert_eq!(pieces(&model, &text), naive(&model, &text));
        }

        #[test]
        fn scores_are_ordered_from_high_to_low(a in any::<f32>(), b in any::<f32>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(descending(a) < descending(b), a > b, "{} {}", a, b);
        }
    }

    #[test]
    fn a_character_that_is_no_token_is_bytes_or_unknown_or_left_out() {
        let mut texts: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
        texts.push("a".to_owned());
        let bytes: Vec<TokenId> = (0..256).collect();
        let model = || MergeModel::new(vocabulary(&texts), Merges::Ranked(HashMap::new()));
        let ids = |model: MergeModel| {
            model.encode("aé").into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(ids(model()), [256]);
        assert_eq!(ids(model().with_unknown(Some(7))), [256, 7]);
        let bytes = bytes.into_boxed_slice().try_into().ok();
        assert_eq!(ids(model().with_bytes(bytes).with_unknown(Some(7))), [256, 0xC3, 0xA9]);
    }

    #[test]
    fn long_texts_take_no_quadratic_time() {
        let texts: Vec<String> = (0..10).map(|power| "a".repeat(1 << power)).collect();
        let scores = (0..10u8).map(f32::from).collect();
        let model = MergeModel::new(vocabulary(&texts), Merges::Scored(scores));
        let text = "a".repeat(1 << 16);
        assert_eq!(model.encode(&text).len(), 1 << 7);
    }
}
