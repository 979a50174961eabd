//! The tokenizer: byte-level BPE, trained on the corpus.

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::corpus::{Corpus, Document};
use crate::Result;

/// Begins every text.
pub(crate) const BOS: &str = "<|bos|>";
/// Ends a plain text.
pub(crate) const EOS: &str = "<|eos|>";
/// Ends a message.
pub(crate) const END: &str = "<|end|>";
/// Begins a system message.
pub(crate) const SYSTEM: &str = "<|system|>";
/// Begins a user's message.
pub(crate) const USER: &str = "<|user|>";
/// Begins an answer.
pub(crate) const ASSISTANT: &str = "<|assistant|>";

/// The special tokens, whose ids are 0, 1, 2, …
pub(crate) const SPECIAL: [&str; 6] = [BOS, EOS, END, SYSTEM, USER, ASSISTANT];

/// The id of a special token.
pub(crate) fn special_id(token: &str) -> u32 {
    SPECIAL.iter().zip(0..).find(|(name, _)| **name == token).map_or(0, |(_, id)| id)
}

/// Size of the vocabulary.
pub(crate) const VOCAB_SIZE: usize = 1024;

/// Documents that the tokenizer is trained on.
const DOCUMENTS: usize = 20_000;

/// What may become one token, in this order:
/// - one letter of a word of up to 16 letters before a quotation mark: such a
///   word is spelled, which makes its letters visible to the model (the bound
///   keeps the look-ahead linear);
/// - a word, with the space before it;
/// - one digit;
/// - punctuation, with the space before it;
/// - white space.
const PIECES: &str = concat!(
    r#"\p{L}(?=\p{L}{0,15}")"#,
    r"| ?\p{L}+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Trains a tokenizer on the documents of `seed`.
pub(crate) fn train(seed: u64) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let split = Split::new(
        SplitPattern::Regex(PIECES.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )?;
    let bytes = ByteLevel::new(false, true, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, true, false)));

    let special = SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut corpus = Corpus::new(seed);
    let texts: Vec<String> = (0..DOCUMENTS).flat_map(|_| texts(corpus.next_document())).collect();
    tokenizer.train(&mut trainer, texts.iter())?;

    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))?
        .try_pair(format!("{BOS} $A $B"))?
        .special_tokens(vec![(BOS, special_id(BOS))])
        .build()?;
    tokenizer.with_post_processor(Some(template));

    for token in SPECIAL {
        let found = tokenizer.token_to_id(token);
        if found != Some(special_id(token)) {
            return Err(format!(
                "token {token}: expected id {}, found {found:?}",
                special_id(token)
            )
            .into());
        }
    }
    Ok(tokenizer)
}

fn texts(document: Document) -> Vec<String> {
    match document {
        Document::Text(text) => vec![text],
        Document::Completion { prompt, completion } => vec![prompt, completion],
        Document::Chat { system, turns } => system
            .map(str::to_owned)
            .into_iter()
            .chain(turns.into_iter().flat_map(|turn| [turn.said, turn.answer]))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    fn trained() -> &'static Tokenizer {
        static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
        TOKENIZER.get_or_init(|| train(42).unwrap())
    }

    fn pieces(text: &str) -> Vec<String> {
        trained().encode(text, false).unwrap().get_tokens().to_vec()
    }

    #[test]
    fn training_is_repeatable() {
        let again = train(42).unwrap();
        assert_eq!(trained().to_string(false).unwrap(), again.to_string(false).unwrap());
        assert_eq!(trained().get_vocab_size(true), VOCAB_SIZE);
    }

    #[test]
    fn any_text_survives() {
        for text in ["", " ", "Hello", "a\n\n b\t", "größe 日本語 🦀", "\u{0}\u{7f}", "3+4=12"]
        {
            let ids = trained().encode(text, false).unwrap();
            assert_eq!(trained().decode(ids.get_ids(), false).unwrap(), text);
        }
    }

    #[test]
    fn digits_and_quoted_letters_stand_alone() {
        assert_eq!(pieces("12"), ["1", "2"]);
        assert_eq!(pieces("\"tac\""), ["\"", "t", "a", "c", "\""]);
        assert!(
            pieces("Reverse \"water\".")
                .ends_with(&["w", "a", "t", "e", "r", "\"."].map(str::to_owned))
        );
        assert_eq!(pieces("positive"), ["positive"]);
        assert_eq!(pieces("negative"), ["negative"]);
    }

    #[test]
    fn plain_text_begins_with_bos() {
        let ids = trained().encode("Once", true).unwrap();
        assert_eq!(ids.get_ids().first(), Some(&special_id(BOS)));
    }
}
