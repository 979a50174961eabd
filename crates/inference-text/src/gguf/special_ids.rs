//! Which tokens begin and end a text.

use inference_core::{Result, TokenId};
use inference_gguf::Metadata;

use super::token_table::{TokenKind, TokenTable};
use crate::special_tokens::SpecialTokens;

/// Texts that end a generation wherever a vocabulary holds them: converters
/// often name only one of several ends.
const END_TEXTS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens of fill-in-the-middle that end a generation, by their key, and the
/// texts that mean the same where the key is absent.
const FILL_IN_ENDS: [(&str, &[&str]); 3] = [
    (
        "tokenizer.ggml.fim_pad_token_id",
        &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// Texts that a conversation shows although files call them control tokens
/// (the channels of gpt-oss).
const SHOWN_TEXTS: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The ids that the metadata names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SpecialIds {
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    pub(super) unknown: Option<TokenId>,
    eot: Option<TokenId>,
    eom: Option<TokenId>,
    padding: Option<TokenId>,
    separator: Option<TokenId>,
    mask: Option<TokenId>,
}

/// Keys of tokens that end a text, a turn or a message.
const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The ends that a file without a vocabulary names.
pub(super) fn named_ends(metadata: &Metadata) -> Result<Vec<TokenId>> {
    let mut ends = Vec::new();
    for key in ENDS {
        let Some(id) = metadata.size(key)? else { continue };
        let too_large = || metadata.invalid(key, "a token id", id.to_string());
        let id = TokenId::try_from(id).map_err(|_| too_large())?;
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    Ok(ends)
}

impl SpecialIds {
    /// Where the metadata is silent, `llama` vocabularies begin with
    /// `<unk>`, `<s>`, `</s>`.
    pub(super) fn read(metadata: &Metadata, table: &TokenTable, is_llama: bool) -> Result<Self> {
        let id = |key: &str| token_id(metadata, table, key);
        let or = |key: &str, text: &str| {
            let known = || table.vocabulary.id(text).filter(|_| is_llama);
            id(key).map(|id| id.or_else(known))
        };
        Ok(Self {
            bos: or("tokenizer.ggml.bos_token_id", "<s>")?,
            eos: or("tokenizer.ggml.eos_token_id", "</s>")?,
            unknown: or("tokenizer.ggml.unknown_token_id", "<unk>")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            padding: id("tokenizer.ggml.padding_token_id")?,
            separator: id("tokenizer.ggml.seperator_token_id")?,
            mask: id("tokenizer.ggml.mask_token_id")?,
        })
    }

    /// As the names that templates know.
    pub(super) fn texts(&self, table: &TokenTable) -> SpecialTokens {
        let text = |id: Option<TokenId>| id.map(|id| table.text(id).to_owned());
        let mut special = SpecialTokens {
            bos: text(self.bos),
            eos: text(self.eos),
            unk: text(self.unknown),
            pad: text(self.padding),
            ..SpecialTokens::default()
        };
        for (name, id) in [("sep_token", self.separator), ("mask_token", self.mask)] {
            special.others.extend(text(id).map(|text| (name.to_owned(), text)));
        }
        special
    }

    /// The tokens that end a generation: those that the metadata names first
    /// (eos, eot, eom), then known texts in the order of their ids. They are
    /// control tokens from here on, whatever the file says.
    ///
    /// The rule is llama.cpp's, with its two exceptions: `<|end|>` ends only a
    /// message where `<|return|>` and `<|call|>` (or `<|calls|>` and
    /// `<|flush|>`) end the turn, and `</s>` is text beside
    /// `<|tool_response>`.
    pub(super) fn ends(&self, metadata: &Metadata, table: &mut TokenTable) -> Result<Vec<TokenId>> {
        let mut ends: Vec<TokenId> = Vec::new();
        for key_id in [self.eos, self.eot, self.eom] {
            ends.extend(key_id);
        }
        let mut known: Vec<TokenId> =
            END_TEXTS.iter().filter_map(|text| table.vocabulary.id(text)).collect();
        for (key, texts) in FILL_IN_ENDS {
            known.extend(match token_id(metadata, table, key)? {
                Some(id) => Some(id),
                None => texts.iter().find_map(|text| table.vocabulary.id(text)),
            });
        }
        known.sort_unstable();
        for &id in &known {
            table.set_kind(id, TokenKind::Control);
        }
        for text in SHOWN_TEXTS {
            if let Some(id) = table.vocabulary.id(text) {
                table.set_kind(id, TokenKind::UserDefined);
            }
        }
        ends.extend(known);
        let mut seen = std::collections::HashSet::new();
        ends.retain(|&id| seen.insert(id));

        let texts: Vec<String> = ends.iter().map(|&id| table.text(id).to_owned()).collect();
        let has = |end: &str| texts.iter().any(|text| text == end);
        let turn = has("<|return|>") || has("<|flush|>");
        if turn && (has("<|call|>") || has("<|calls|>")) {
            remove(&mut ends, table, "<|end|>", TokenKind::UserDefined);
        }
        if has("<|tool_response>") {
            remove(&mut ends, table, "</s>", TokenKind::Plain);
        }
        Ok(ends)
    }
}

fn remove(ends: &mut Vec<TokenId>, table: &mut TokenTable, text: &str, kind: TokenKind) {
    if let Some(id) = table.vocabulary.id(text)
        && let Some(place) = ends.iter().position(|&end| end == id)
    {
        ends.remove(place);
        table.set_kind(id, kind);
    }
}

fn token_id(metadata: &Metadata, table: &TokenTable, key: &str) -> Result<Option<TokenId>> {
    let Some(number) = metadata.size(key)? else { return Ok(None) };
    match TokenId::try_from(number) {
        Ok(id) if number < table.len() => Ok(Some(id)),
        _ => {
            let expected = format!("a token id below {}", table.len());
            Err(metadata.invalid(key, expected, number.to_string()))
        }
    }
}
