//! The specimen's tokenizer: bytes, four special tokens, and a decoder that
//! never breaks a character.

use inference_core::{ChatPrompt, Error, Result, Role, TokenId};

use crate::defect::{Defect, Flaw};

pub(crate) const EOS: TokenId = 256;
const BOS: TokenId = 257;
const TURN: TokenId = 258;
pub(crate) const VOCAB_SIZE: usize = 259;

const SPECIAL: [(&str, TokenId); 3] = [("</s>", EOS), ("<s>", BOS), ("<turn>", TURN)];

pub(crate) fn encode(text: &str, add_special: bool, flaw: Flaw) -> Vec<TokenId> {
    let mut ids = Vec::new();
    if add_special {
        ids.push(BOS);
    }
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        if let Some((name, id)) = SPECIAL.iter().find(|(name, _)| rest.starts_with(name)) {
            ids.push(*id);
            rest = &rest[name.len()..];
            continue;
        }
        let len = rest.chars().next().map_or(1, char::len_utf8);
        if len > 1 && flaw.is(Defect::EncodingLosesCharacters) {
            ids.push(u32::from(b'?'));
        } else if flaw.is(Defect::EncodingFoldsCase) {
            ids.extend(rest[..len].to_lowercase().bytes().map(TokenId::from));
        } else {
            debug_assert_eq!(TokenId::from(first), TokenId::from(rest.as_bytes()[0]));
            ids.extend(rest[..len].bytes().map(TokenId::from));
        }
        rest = &rest[len..];
    }
    ids
}

/// A token's bytes; special tokens have none unless they are wanted.
fn bytes(id: TokenId, skip_special: bool) -> Result<Vec<u8>> {
    if let Ok(byte) = u8::try_from(id) {
        return Ok(vec![byte]);
    }
    let special = SPECIAL.iter().find(|(_, special)| *special == id);
    let unknown = || {
        let expected = format!("below {VOCAB_SIZE}");
        Error::invalid_input("token id", expected, id.to_string())
    };
    let (name, _) = special.ok_or_else(unknown)?;
    Ok(if skip_special { Vec::new() } else { name.as_bytes().to_vec() })
}

pub(crate) fn decode(ids: &[TokenId], skip_special: bool, flaw: Flaw) -> Result<String> {
    let skip_special = skip_special && !flaw.is(Defect::SpecialTokensShown);
    let mut all = Vec::new();
    for id in ids {
        match bytes(*id, skip_special) {
            Ok(bytes) => all.extend(bytes),
            Err(_) if flaw.is(Defect::UnknownIdsSkipped) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// The chat template: `<turn>role: content</s>` for each message, and the
/// opening of the assistant's turn.
pub(crate) fn render(chat: &ChatPrompt, flaw: Flaw) -> Result<String> {
    if chat.messages.is_empty() {
        return Err(Error::invalid_input("messages", "at least one", "none"));
    }
    if chat.messages.iter().any(|m| m.role == Role::Tool) && !flaw.is(Defect::TemplateSwallows) {
        return Err(Error::template("the specimen", "tools are not known here"));
    }
    let mut text = String::new();
    for message in &chat.messages {
        let content = message.content.as_deref().unwrap_or_default();
        let role = message.role.as_str();
        let space = if flaw.is(Defect::TemplateLosesSpace) { "" } else { " " };
        text.push_str(&format!("<turn>{role}:{space}{content}</s>"));
    }
    if chat.add_generation_prompt {
        text.push_str("<turn>assistant: ");
    }
    Ok(text)
}

/// Decodes token by token.
#[derive(Default)]
pub(crate) struct Decoder {
    incomplete: Vec<u8>,
}

impl Decoder {
    /// The text that is complete with this token.
    pub(crate) fn push(&mut self, id: TokenId, flaw: Flaw) -> String {
        let mut text = String::new();
        self.incomplete.extend(bytes(id, true).unwrap_or_default());
        while !self.incomplete.is_empty() {
            let (valid, broken) = match std::str::from_utf8(&self.incomplete) {
                Ok(all) => (all.len(), Some(0)),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            text.push_str(&String::from_utf8_lossy(&self.incomplete[..valid]));
            self.incomplete.drain(..valid);
            let broken = match broken {
                // The tail of a character that is still to come.
                None if flaw.is(Defect::CharactersBroken) => Some(self.incomplete.len()),
                None => break,
                broken => broken,
            };
            if let Some(len @ 1..) = broken {
                text.push(char::REPLACEMENT_CHARACTER);
                self.incomplete.drain(..len);
            }
        }
        text
    }

    /// What is left at the end.
    pub(crate) fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.incomplete).into_owned();
        self.incomplete.clear();
        text
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.incomplete.is_empty()
    }
}
