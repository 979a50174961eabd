//! Token ids to text, one at a time.

use inference_core::{Result, TokenId};

use crate::decode_pipeline::Pipeline;
use crate::decode_window::Window;
use crate::tokenizer::Tokenizer;

/// Decodes a sequence of token ids as they come.
///
/// The texts that [`push`](Self::push) and [`finish`](Self::finish) return,
/// concatenated, are what [`Tokenizer::decode`] makes of all the ids. Each
/// piece is valid UTF-8: a character that spans tokens comes out with its last
/// token, and one that never completes comes out as U+FFFD. A push costs time
/// in proportion to its token, however long the text is.
///
/// Text is held back only as long as the decoder could still change it:
///
/// - byte-level BPE: the bytes of an unfinished character;
/// - byte fallback (`<0xE6>` and the like): the run of byte tokens, because
///   the whole run decodes to replacement characters if any part of it is not
///   UTF-8. [`eager`](Self::eager) trades that for less latency;
/// - a decoder that treats the last token apart: one token;
/// - a decoder that strips the end of the text: the characters it may strip.
///
/// A decoder that is none of the known kinds (one that rewrites the joined
/// text, say) is re-run on a window of recent tokens, as `tokenizers`' own
/// `DecodeStream` does. That gives the full decode as long as the decoder
/// changes text only near the end of what it is given; where it changes text
/// that was emitted already, that text stays as it was.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Pipeline(Pipeline),
    Window(Window),
}

impl StreamDecoder {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let state = match tokenizer.pipeline() {
            Some(pipeline) => State::Pipeline(pipeline.clone()),
            None => State::Window(Window::default()),
        };
        Self { tokenizer, skip_special, state }
    }

    /// Lets complete characters of byte-fallback tokens out at once.
    ///
    /// Without it, a run of byte tokens waits for its end, so that malformed
    /// output decodes exactly as [`Tokenizer::decode`] does. With it, every
    /// character comes out with its last byte, as in `tokenizers`'
    /// `DecodeStream`; only where a model emits bytes that are not UTF-8 does
    /// the text then differ from the full decode, by showing the characters
    /// before the malformed byte instead of replacement characters.
    #[must_use]
    pub fn eager(mut self) -> Self {
        if let State::Pipeline(pipeline) = &mut self.state {
            pipeline.set_eager(true);
        }
        self
    }

    /// Takes the next token and returns the text that is complete with it,
    /// often empty.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the id is not in the vocabulary (the decoder is
    /// then as if the call had not been made); `Engine` where the tokenizer's
    /// decoder fails.
    pub fn push(&mut self, id: TokenId) -> Result<String> {
        let token = self.tokenizer.known_token(id)?;
        if self.skip_special && self.tokenizer.is_special_text(&token) {
            return Ok(String::new());
        }
        match &mut self.state {
            State::Pipeline(pipeline) => self.tokenizer.guard("decode", || pipeline.push(token)),
            State::Window(window) => window.push(&self.tokenizer, id),
        }
    }

    /// Ends the text: what was held back, with U+FFFD for a character that
    /// never completed. The decoder is then ready for another text.
    pub fn finish(&mut self) -> String {
        let fresh = Self::new(self.tokenizer.clone(), self.skip_special);
        let last = std::mem::replace(&mut self.state, fresh.state);
        match last {
            State::Pipeline(mut pipeline) => {
                self.tokenizer.guard("decode", || pipeline.finish()).unwrap_or_default()
            }
            State::Window(window) => window.finish(),
        }
    }
}
