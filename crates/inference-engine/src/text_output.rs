//! From generated ids to the texts of tokens.

use inference_core::{ErrorKind, Result, TokenId};
use inference_text::{StopMatcher, StreamDecoder};

/// Decodes one request's tokens and looks for its stop strings.
#[derive(Debug)]
pub(crate) struct TextOutput {
    /// `None` for a model without a tokenizer.
    decoder: Option<StreamDecoder>,
    /// `None` where there are no stop strings.
    matcher: Option<StopMatcher>,
    /// Bytes that the matcher holds back.
    withheld: usize,
}

/// What became of one token.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// The text that became certain with it.
    pub(crate) text: String,
    /// The stop string that is now complete.
    pub(crate) matched: Option<String>,
    /// Whether there is more text that a later token, or the end, will settle.
    pub(crate) unsettled: bool,
}

impl TextOutput {
    pub(crate) fn new(decoder: Option<StreamDecoder>, stop_strings: Vec<String>) -> Self {
        let matcher = (!stop_strings.is_empty()).then(|| StopMatcher::new(stop_strings));
        Self { decoder, matcher, withheld: 0 }
    }

    /// Takes a token. Without `may_stop` stop strings are not looked for.
    ///
    /// An id that the tokenizer does not know has no text: a model's output
    /// vocabulary is often padded beyond the tokenizer's.
    ///
    /// # Errors
    ///
    /// What the tokenizer's decoder reports.
    pub(crate) fn push(&mut self, id: TokenId, may_stop: bool) -> Result<Piece> {
        let Some(decoder) = &mut self.decoder else { return Ok(Piece::default()) };
        let text = match decoder.push(id) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => String::new(),
            decoded => decoded?,
        };
        let undecoded = !decoder.clone().finish().is_empty();
        let (text, matched) = if may_stop { self.search(text) } else { (text, None) };
        Ok(Piece { text, matched, unsettled: undecoded || self.withheld > 0 })
    }

    /// Ends the text: what was held back, and the stop string that it turned
    /// out to complete.
    pub(crate) fn finish(&mut self) -> (String, Option<String>) {
        let rest = self.decoder.as_mut().map(StreamDecoder::finish).unwrap_or_default();
        let (mut text, matched) = self.search(rest);
        if matched.is_none()
            && let Some(matcher) = &mut self.matcher
        {
            text.push_str(&matcher.flush());
        }
        self.withheld = 0;
        (text, matched)
    }

    fn search(&mut self, text: String) -> (String, Option<String>) {
        let Some(matcher) = &mut self.matcher else { return (text, None) };
        let found = matcher.push(&text);
        self.withheld = (self.withheld + text.len()).saturating_sub(found.text.len());
        (found.text, found.matched)
    }
}
