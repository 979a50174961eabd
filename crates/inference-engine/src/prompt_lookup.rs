//! Drafts for speculative decoding, found in the text itself.
//!
//! What a model writes often repeats what it was given, or wrote before: names,
//! code, quotations. A draft is what followed the latest earlier occurrence of
//! the last four tokens, or else of the last three or two. (Saxena, *Prompt
//! Lookup Decoding*, 2023, begins with three. With four, copies of a text are
//! followed further past its commonplaces; one alone is as often wrong as
//! right.)
//!
//! Whether a draft is right, the sampler decides: see `Sequence::take_rows`.

use std::collections::HashMap;

use inference_core::TokenId;

/// Most tokens that one call of [`PromptLookup::index`] takes in, so that a
/// long prompt is not indexed at one go while others wait: a fraction of a
/// millisecond's worth.
const INDEXED_AT_ONCE: usize = 1024;

/// The most steps that are left out after drafts that were of no use.
const LONGEST_PAUSE: u32 = 4;

/// Finds drafts for one sequence.
///
/// A step costs three look-ups and, per new token, three insertions, however
/// long the text is; the memory is about 100 bytes per token of the text.
#[derive(Debug)]
pub(crate) struct PromptLookup {
    /// Where each n-gram was last continued: the position of the token that
    /// followed it.
    fourgrams: HashMap<[TokenId; 4], u32>,
    trigrams: HashMap<[TokenId; 3], u32>,
    bigrams: HashMap<[TokenId; 2], u32>,
    /// Positions whose token is in the maps as the continuation of others.
    indexed: usize,
    /// Most tokens of a draft, at least 1.
    longest: usize,
    pace: Pace,
}

/// How long drafts are, and when there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// Tokens of the next draft.
    len: usize,
    /// Steps without a draft, still to come.
    pause: u32,
    /// Steps to leave out if the next draft is of no use either.
    next_pause: u32,
}

impl Pace {
    /// Half of what is allowed: the first draft tells which way to go.
    fn new(longest: usize) -> Self {
        Self { len: longest.div_ceil(2), pause: 0, next_pause: 0 }
    }

    /// Learns that `accepted` of `drafted` tokens were right.
    fn learn(&mut self, drafted: usize, accepted: usize, longest: usize) {
        if accepted == 0 {
            self.pause = self.next_pause;
            self.next_pause = (2 * self.next_pause).clamp(1, LONGEST_PAUSE);
        } else {
            self.next_pause = 0;
        }
        let len = if accepted == drafted {
            // One that was cut short by the step says nothing about longer ones.
            (2 * drafted).max(self.len)
        } else {
            accepted + 1
        };
        self.len = len.clamp(1, longest);
    }
}

impl PromptLookup {
    /// Drafts of at most `longest` tokens, at least 1.
    pub(crate) fn new(longest: usize) -> Self {
        Self {
            fourgrams: HashMap::new(),
            trigrams: HashMap::new(),
            bigrams: HashMap::new(),
            indexed: 0,
            longest,
            pace: Pace::new(longest),
        }
    }

    /// Takes in what is new of `history`, or the next part of it.
    pub(crate) fn index(&mut self, history: &[TokenId]) {
        let end = history.len().min(self.indexed + INDEXED_AT_ONCE);
        for at in self.indexed..end {
            let (before, at) = (&history[..at], at as u32);
            before.last_chunk().map(|gram| self.fourgrams.insert(*gram, at));
            before.last_chunk().map(|gram| self.trigrams.insert(*gram, at));
            before.last_chunk().map(|gram| self.bigrams.insert(*gram, at));
        }
        self.indexed = end;
    }

    /// What probably follows `history`: at most `room` tokens, and none where
    /// nothing is found or drafts were of no use lately. What became of it,
    /// [`learn`](Self::learn) is told.
    pub(crate) fn draft(&mut self, history: &[TokenId], room: usize) -> Vec<TokenId> {
        self.index(history);
        let len = self.pace.len.min(room);
        if len == 0 {
            return Vec::new();
        }
        let Some(from) = self.continuation(history) else { return Vec::new() };
        if self.pace.pause > 0 {
            self.pace.pause -= 1;
            return Vec::new();
        }
        // Where the draft reaches the end of the text it repeats itself, as
        // the text does.
        (0..len).map(|i| history[from + i % (history.len() - from)]).collect()
    }

    fn continuation(&self, history: &[TokenId]) -> Option<usize> {
        let four = history.last_chunk().and_then(|gram| self.fourgrams.get(gram));
        let three = || history.last_chunk().and_then(|gram| self.trigrams.get(gram));
        let two = || history.last_chunk().and_then(|gram| self.bigrams.get(gram));
        four.or_else(three).or_else(two).map(|at| *at as usize)
    }

    /// Learns that `accepted` tokens were right of the last draft, or of its
    /// first `drafted` tokens where a step had no room for more.
    pub(crate) fn learn(&mut self, drafted: usize, accepted: usize) {
        if drafted > 0 {
            self.pace.learn(drafted, accepted, self.longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drafts(history: &[TokenId], len: usize) -> Vec<TokenId> {
        let mut lookup = PromptLookup::new(2 * len);
        lookup.draft(history, usize::MAX)
    }

    /// What [`PromptLookup::continuation`] finds, by looking at every position.
    fn naive(history: &[TokenId]) -> Option<usize> {
        (2..=4.min(history.len())).rev().find_map(|n| {
            let suffix = &history[history.len() - n..];
            (n..history.len()).rev().find(|&at| &history[at - n..at] == suffix)
        })
    }

    #[test]
    fn a_draft_is_what_followed_the_same_tokens() {
        assert_eq!(drafts(&[1, 2, 3, 4, 5, 6, 1, 2], 3), [3, 4, 5]);
        assert_eq!(drafts(&[1, 2, 7, 1, 2, 8, 9, 9, 1, 2], 2), [8, 9], "the latest");
        assert_eq!(drafts(&[5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], 1), [7], "the longest");
        assert_eq!(drafts(&[1, 2, 1, 2, 1, 2], 4), [1, 2, 1, 2], "on and on");
        assert!(drafts(&[1, 2, 3, 4], 4).is_empty());
        assert!(drafts(&[1, 2, 1], 4).is_empty(), "one token says too little");
        assert!(drafts(&[], 4).is_empty());
    }

    #[test]
    fn there_is_no_draft_without_room() {
        let mut lookup = PromptLookup::new(8);
        assert!(lookup.draft(&[1, 2, 1, 2], 0).is_empty());
        assert_eq!(lookup.draft(&[1, 2, 1, 2], 3), [1, 2, 1]);
    }

    #[test]
    fn drafts_grow_with_success_and_shrink_with_failure() {
        let mut lookup = PromptLookup::new(10);
        let history = [1, 2, 1, 2];
        let len = |lookup: &mut PromptLookup| lookup.draft(&history, 100).len();
        assert_eq!(len(&mut lookup), 5);
        lookup.learn(5, 5);
        assert_eq!(len(&mut lookup), 10);
        lookup.learn(10, 10);
        assert_eq!(len(&mut lookup), 10);
        lookup.learn(2, 2);
        assert_eq!(len(&mut lookup), 10, "a draft that was cut short says nothing");
        lookup.learn(10, 3);
        assert_eq!(len(&mut lookup), 4);
        lookup.learn(4, 1);
        assert_eq!(len(&mut lookup), 2);
    }

    #[test]
    fn useless_drafts_pause_ever_longer_and_a_useful_one_ends_that() {
        let mut lookup = PromptLookup::new(4);
        let history = [1, 2, 1, 2];
        let pause = |lookup: &mut PromptLookup| {
            (0..100).take_while(|_| lookup.draft(&history, 100).is_empty()).count()
        };
        let mut pauses = Vec::new();
        for _ in 0..6 {
            lookup.learn(1, 0);
            pauses.push(pause(&mut lookup));
        }
        assert_eq!(pauses, [0, 1, 2, 4, 4, 4]);
        lookup.learn(1, 1);
        lookup.learn(1, 0);
        assert_eq!(pause(&mut lookup), 0);
    }

    #[test]
    fn a_long_prompt_is_indexed_in_parts() {
        let history: Vec<TokenId> = (0..10_000).chain([0, 1, 2]).collect();
        let mut lookup = PromptLookup::new(2);
        assert!(lookup.draft(&history[..9000], 1).is_empty());
        assert_eq!(lookup.indexed, INDEXED_AT_ONCE);
        for _ in 1..history.len().div_ceil(INDEXED_AT_ONCE) {
            lookup.index(&history);
        }
        assert_eq!((lookup.indexed, lookup.draft(&history, 1)), (history.len(), vec![3]));
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_search_finds(
            history in prop::collection::vec(0_u32..4, 0..60),
            pieces in prop::collection::vec(1_usize..9, 60),
        ) {
            let mut lookup = PromptLookup::new(1);
            let mut end = 0;
            for piece in pieces {
                end = history.len().min(end + piece);
                lookup.index(&history[..end]);
                prop_assert_eq!(lookup.continuation(&history[..end]), naive(&history[..end]));
            }
        }
    }
}
