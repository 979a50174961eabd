//! Documents as training sequences of one length.

use tokenizers::Tokenizer;

use super::corpus::{Corpus, Document};
use super::stories::{is_name, is_pronoun};
use super::tokenizer::{ASSISTANT, BOS, END, EOS, SYSTEM, USER, special_id};
use crate::Result;

/// What a token of an answer weighs in the loss, against 1 for most tokens of
/// a story: answers are short, and every token of them is the point.
const ANSWER_WEIGHT: f32 = 3.0;

/// What a token of a story weighs that has to agree with what came before: a
/// pronoun, and a name that is said again. They are few, and a story is one
/// only if they are right.
const AGREEMENT_WEIGHT: f32 = 4.0;

/// Tokens, and what predicting each of them weighs (0: given, not learned).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) tokens: Vec<u32>,
    pub(crate) weights: Vec<f32>,
}

impl Weighted {
    fn push(&mut self, token: u32, weight: f32) {
        self.tokens.push(token);
        self.weights.push(weight);
    }

    fn push_text(&mut self, tokenizer: &Tokenizer, text: &str, weight: f32) -> Result<()> {
        let encoding = tokenizer.encode_fast(text, false)?;
        for id in encoding.get_ids() {
            self.push(*id, weight);
        }
        Ok(())
    }

    fn push_story(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<()> {
        let encoding = tokenizer.encode(text, false)?;
        for (id, token) in encoding.get_ids().iter().zip(encoding.get_tokens()) {
            // `Ġ` is how byte-level BPE writes a space.
            let word = token.trim_start_matches('Ġ');
            let agrees = is_pronoun(word) || is_name(word) && self.tokens.contains(id);
            self.push(*id, if agrees { AGREEMENT_WEIGHT } else { 1.0 });
        }
        Ok(())
    }
}

/// `document` in tokens, as the chat template and the post-processor write it.
pub(crate) fn tokenize(document: &Document, tokenizer: &Tokenizer) -> Result<Weighted> {
    let mut out = Weighted::default();
    out.push(special_id(BOS), 0.0);
    match document {
        Document::Text(text) => {
            out.push_story(tokenizer, text)?;
            out.push(special_id(EOS), 1.0);
        }
        Document::Completion { prompt, completion } => {
            out.push_text(tokenizer, prompt, 0.0)?;
            out.push_text(tokenizer, completion, ANSWER_WEIGHT)?;
            out.push(special_id(EOS), ANSWER_WEIGHT);
        }
        Document::Chat { system, turns } => {
            if let Some(system) = system {
                out.push(special_id(SYSTEM), 0.0);
                out.push_text(tokenizer, system, 0.0)?;
                out.push(special_id(END), 0.0);
            }
            for turn in turns {
                out.push(special_id(USER), 0.0);
                out.push_text(tokenizer, &turn.said, 0.0)?;
                out.push(special_id(END), 0.0);
                out.push(special_id(ASSISTANT), 0.0);
                if turn.is_story {
                    out.push_story(tokenizer, &turn.answer)?;
                    out.push(special_id(END), 1.0);
                } else {
                    out.push_text(tokenizer, &turn.answer, ANSWER_WEIGHT)?;
                    out.push(special_id(END), ANSWER_WEIGHT);
                }
            }
        }
    }
    Ok(out)
}

/// Sequences of one length, and what is learned from them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    /// Inputs, `[count * len]`.
    pub(crate) tokens: Vec<u32>,
    /// Length of each sequence.
    pub(crate) len: usize,
    /// Indices into `tokens` of which the next token is learned, ascending.
    pub(crate) rows: Vec<usize>,
    /// The token after each row.
    pub(crate) targets: Vec<u32>,
    /// What each row weighs.
    pub(crate) weights: Vec<f32>,
}

/// Packs documents, one after the other, into sequences.
#[derive(Debug)]
pub(crate) struct Packer<'a> {
    corpus: Corpus,
    tokenizer: &'a Tokenizer,
    /// A document that did not fit the last sequence.
    waiting: Option<Weighted>,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(corpus: Corpus, tokenizer: &'a Tokenizer) -> Self {
        Self { corpus, tokenizer, waiting: None }
    }

    /// The next `count` sequences of `len` tokens. A document that does not
    /// fit what is left of a sequence begins the next one; one that is longer
    /// than a whole sequence is cut.
    pub(crate) fn batch(&mut self, count: usize, len: usize) -> Result<Batch> {
        let mut batch = Batch {
            tokens: Vec::with_capacity(count * len),
            len,
            rows: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
        };
        for _ in 0..count {
            let sequence = self.sequence(len + 1)?;
            let start = batch.tokens.len();
            batch.tokens.extend(&sequence.tokens[..len]);
            for next in 1..=len {
                if sequence.weights[next] > 0.0 {
                    batch.rows.push(start + next - 1);
                    batch.targets.push(sequence.tokens[next]);
                    batch.weights.push(sequence.weights[next]);
                }
            }
        }
        Ok(batch)
    }

    fn sequence(&mut self, len: usize) -> Result<Weighted> {
        let mut sequence = Weighted::default();
        loop {
            let next = match self.waiting.take() {
                Some(waiting) => waiting,
                None => tokenize(&self.corpus.next_document(), self.tokenizer)?,
            };
            if sequence.tokens.len() + next.tokens.len() > len && !sequence.tokens.is_empty() {
                self.waiting = Some(next);
                break;
            }
            sequence.tokens.extend(next.tokens);
            sequence.weights.extend(next.weights);
        }
        sequence.tokens.resize(len, special_id(EOS));
        sequence.weights.resize(len, 0.0);
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tokenizer::train;

    #[test]
    fn batches_learn_answers_and_stories_only() {
        let tokenizer = train(42).unwrap();
        let mut packer = Packer::new(Corpus::new(1), &tokenizer);
        for (count, len) in [(8, 128), (2, 512)] {
            let batch = packer.batch(count, len).unwrap();
            assert_eq!(batch.tokens.len(), count * len);
            assert!(batch.weights.iter().all(|weight| *weight > 0.0));
            assert!(!batch.rows.is_empty() && batch.rows.len() < batch.tokens.len());
            for (row, target) in batch.rows.iter().zip(&batch.targets) {
                assert_ne!(*target, special_id(USER));
                if (row + 1) % len != 0 {
                    assert_eq!(batch.tokens[row + 1], *target);
                }
            }
            assert!(batch.tokens.chunks(len).all(|sequence| sequence[0] == special_id(BOS)));
        }
    }

    #[test]
    fn what_must_agree_weighs_more() {
        let tokenizer = train(42).unwrap();
        let text = "Once there was a fox called Tom. Tom was sad, and he cried. Lily came.";
        let story = tokenize(&Document::Text(text.to_owned()), &tokenizer).unwrap();
        let heavy: Vec<u32> = (story.tokens.iter().zip(&story.weights))
            .filter(|(_, weight)| **weight == AGREEMENT_WEIGHT)
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(tokenizer.decode(&heavy, false).unwrap(), " Tom he");
    }

    #[test]
    fn a_chat_is_written_as_the_template_writes_it() {
        let tokenizer = train(42).unwrap();
        let document = Document::Chat {
            system: Some("Be kind."),
            turns: vec![crate::demo::corpus::Turn {
                said: "Hi".into(),
                answer: "Hello!".into(),
                is_story: false,
            }],
        };
        let ids = tokenize(&document, &tokenizer).unwrap().tokens;
        let text = tokenizer.decode(&ids, false).unwrap();
        assert_eq!(
            text,
            "<|bos|><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Hello!<|end|>"
        );
    }
}
