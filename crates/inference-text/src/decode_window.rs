//! The fallback for decoders that no pipeline covers: decode a window again.

use inference_core::{Result, TokenId};

use crate::tokenizer::Tokenizer;

/// Most tokens that are decoded again for one push.
const MAX_WINDOW: usize = 64;

/// Recent tokens and how much of their text is out.
///
/// After a piece is emitted the window keeps the tokens of that piece as
/// context for the next one, because decoders treat the start of a text
/// specially.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    ids: Vec<TokenId>,
    /// How many of `ids` are context.
    context: usize,
    /// The text of the context; it is out.
    out: String,
    /// The text of all `ids`.
    text: String,
}

impl Window {
    /// Takes the next id (special ones are filtered by the caller).
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: TokenId) -> Result<String> {
        self.ids.push(id);
        self.text = match tokenizer.decode(&self.ids, false) {
            Ok(text) => text,
            Err(error) => {
                self.ids.pop();
                return Err(error);
            }
        };
        let full = self.ids.len() >= MAX_WINDOW;
        let settled = self.text.len() > self.out.len()
            && self.text.starts_with(&self.out)
            && !self.text.ends_with(char::REPLACEMENT_CHARACTER);
        if !settled && !full {
            return Ok(String::new());
        }
        let piece = self.rest().to_owned();
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        self.text = tokenizer.decode(&self.ids, false)?;
        self.out = self.text.clone();
        Ok(piece)
    }

    /// What is not out yet.
    pub(crate) fn finish(self) -> String {
        self.rest().to_owned()
    }

    fn rest(&self) -> &str {
        self.text.get(common_prefix(&self.text, &self.out)..).unwrap_or_default()
    }
}

/// Bytes of the longest common prefix that ends between characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}
