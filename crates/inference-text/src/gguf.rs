//! The metadata of a GGUF file: the same parts as a folder's.

mod export;
mod pre_tokenizer;
mod sampling;
mod special_ids;
mod token_table;

use std::collections::HashMap;

use inference_core::{Error, Result, TokenId};
use inference_gguf::Metadata;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, SplitDelimiterBehavior};

use self::pre_tokenizer::PreTokenizer;
pub use self::sampling::sampling_defaults;
use self::special_ids::SpecialIds;
use self::token_table::{TOKENS, TokenKind, TokenTable};
use crate::merge_model::{MergeModel, Merges};
use crate::model::{Definition, TextModel};
use crate::panic_boundary;
use crate::special_tokens::SpecialTokens;
use crate::template::ChatTemplate;
use crate::text_parts::TextParts;
use crate::tokenizer::Tokenizer;

const MODEL: &str = "tokenizer.ggml.model";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";

/// The space of SentencePiece vocabularies, U+2581.
const SPACE: &str = "\u{2581}";

/// The kinds of vocabulary that are built here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// SentencePiece's BPE (`llama`).
    SentencePiece,
    /// Byte-level BPE (`gpt2`).
    ByteLevel,
}

impl TextParts {
    /// Reads the parts from the metadata of a GGUF file.
    ///
    /// | from | what |
    /// |---|---|
    /// | `tokenizer.ggml.model` | `gpt2` (byte-level BPE) or `llama` (SentencePiece's BPE); absent, `no_vocab` or `none`: no tokenizer |
    /// | `tokenizer.ggml.tokens`, `token_type`, `scores`, `merges` | the vocabulary |
    /// | `tokenizer.ggml.pre` | how byte-level BPE finds words |
    /// | `tokenizer.ggml.*_token_id` | special tokens and ends |
    /// | `tokenizer.ggml.add_bos_token`, `add_eos_token`, `add_space_prefix` | what goes around and before a text |
    /// | `tokenizer.chat_template`, `tokenizer.chat_template.NAME` | the templates |
    ///
    /// The ids are llama.cpp's with special tokens recognised in the text. A
    /// generation ends at the tokens that the metadata names, with or without a
    /// vocabulary, and at every token whose text is a known end of turn, such
    /// as `<|im_end|>`.
    ///
    /// # Errors
    ///
    /// `InvalidModel` with the key, where a value is malformed, an id is not
    /// in the vocabulary, a token is there twice, or a merge is none;
    /// `UnsupportedModel` for other kinds of tokenizer or pre-tokenizer.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let family = match metadata.text(MODEL)? {
            None | Some("no_vocab" | "none") => None,
            Some("llama") => Some(Family::SentencePiece),
            Some("gpt2") => Some(Family::ByteLevel),
            Some(other) => {
                let supported = "`gpt2`, `llama` and `no_vocab`";
                return Err(Error::unsupported_model(metadata.file(), MODEL, other, supported));
            }
        };
        let mut parts = Self::default();
        if let Some(family) = family {
            let mut table = TokenTable::read(metadata)?;
            let ids = SpecialIds::read(metadata, &table, family == Family::SentencePiece)?;
            parts.eos_ids = ids.ends(metadata, &mut table)?;
            parts.special = ids.texts(&table);
            parts.tokenizer = Some(tokenizer(metadata, family, table, ids)?);
        } else {
            parts.eos_ids = special_ids::named_ends(metadata)?;
        }
        parts.template = templates(metadata, &parts.special)?;
        Ok(parts)
    }
}

fn tokenizer(
    metadata: &Metadata,
    family: Family,
    table: TokenTable,
    ids: SpecialIds,
) -> Result<Tokenizer> {
    let added = added_tokens(metadata, &table)?;
    let size = table.len();
    let split = match family {
        Family::ByteLevel => Some(PreTokenizer::of(metadata)?),
        Family::SentencePiece => None,
    };
    // Before the vocabulary moves into the model.
    let around = Around {
        bos: around(metadata, ADD_BOS, split.is_none_or(|split| split.add_bos), ids.bos, &table)?,
        eos: around(metadata, ADD_EOS, false, ids.eos, &table)?,
    };
    let model = match split {
        Some(split) => byte_level_model(metadata, table, split)?,
        None => sentence_piece_model(metadata, table, ids)?,
    };
    let space = metadata.flag(ADD_SPACE)?.unwrap_or(family == Family::SentencePiece);
    let build = || -> tokenizers::Result<Definition> {
        let mut definition = Definition::new(TextModel::Merges(model));
        match split {
            Some(split) => byte_level_steps(&mut definition, split)?,
            None => sentence_piece_steps(&mut definition, space)?,
        }
        around.apply(&mut definition)?;
        definition.add_tokens(added)?;
        Ok(definition)
    };
    match panic_boundary::catch(build) {
        Ok(Ok(definition)) => Ok(Tokenizer::from_definition(definition, metadata.file(), size)),
        Ok(Err(error)) => {
            Err(metadata.invalid(TOKENS, "a vocabulary that can be used", error.to_string()))
        }
        Err(panic) => Err(metadata.invalid(TOKENS, "a vocabulary that can be used", panic)),
    }
}

/// The tokens that are found in a text before anything else.
fn added_tokens(metadata: &Metadata, table: &TokenTable) -> Result<Vec<AddedToken>> {
    // Phi-3's tokens take the white space after them; a file cannot say so.
    let name = metadata.text("general.name")?.unwrap_or_default().to_lowercase();
    let strips = name.contains("phi-3") || name.contains("phi3");
    let added = table.iter().filter(|(_, _, kind)| *kind != TokenKind::Plain);
    Ok(added
        .map(|(_, text, kind)| {
            AddedToken::from(text, kind.is_special())
                .normalized(false)
                .rstrip(strips && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>"))
        })
        .collect())
}

fn byte_level_model(
    metadata: &Metadata,
    table: TokenTable,
    split: &PreTokenizer,
) -> Result<MergeModel> {
    let Some(lines) = metadata.texts(MERGES)? else {
        return Err(metadata.invalid(MERGES, "the merges of the vocabulary", "nothing"));
    };
    let vocabulary = table.vocabulary;
    let mut pairs = HashMap::with_capacity(lines.len());
    let mut merged = String::new();
    // Merges are listed in the order of what they make: mostly the token of the
    // merge before, or the next one.
    let mut last: TokenId = 0;
    for (rank, line) in (0..=u32::MAX).zip(lines) {
        // A token may itself begin with a space.
        let space = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let halves = space.and_then(|at| Some((line.get(..at)?, line.get(at + 1..)?)));
        let Some((left, right)) = halves else {
            let expected = "two tokens with a space between";
            return Err(metadata.invalid(MERGES, expected, format!("`{line}` at {rank}")));
        };
        let mut pair = || {
            merged.clear();
            merged.push_str(left);
            merged.push_str(right);
            let near = [last, last.saturating_add(1)];
            let near = near.into_iter().find(|&id| vocabulary.text(id) == Some(merged.as_str()));
            let made = near.or_else(|| vocabulary.id(&merged))?;
            last = made;
            Some(((vocabulary.id(left)?, vocabulary.id(right)?), (rank, made)))
        };
        // One that makes no token can make no id; only vocabularies of fillers have such.
        let Some((pair, made)) = pair() else { continue };
        // Of two equal merges the first counts.
        pairs.entry(pair).or_insert(made);
    }
    Ok(MergeModel::new(vocabulary, Merges::Ranked(pairs)).with_whole_tokens(split.whole_tokens))
}

fn byte_level_steps(definition: &mut Definition, split: &PreTokenizer) -> tokenizers::Result<()> {
    let mut steps = Vec::with_capacity(split.patterns.len() + 1);
    for &pattern in split.patterns {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let isolated = SplitDelimiterBehavior::Isolated;
        steps.push(Split::new(pattern, isolated, false)?.into());
    }
    steps.push(ByteLevel::new(false, true, false).into());
    definition.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    definition.with_decoder(Some(ByteLevel::new(false, true, false)));
    Ok(())
}

fn sentence_piece_model(
    metadata: &Metadata,
    table: TokenTable,
    ids: SpecialIds,
) -> Result<MergeModel> {
    let scores = table.scores(metadata)?;
    let vocabulary = table.vocabulary;
    // A byte is spelled as a token of its own; ASCII may stand for itself.
    let byte = |byte: u8| {
        let raw = [byte];
        let plain = std::str::from_utf8(&raw).ok().and_then(|text| vocabulary.id(text));
        vocabulary.id(&format!("<0x{byte:02X}>")).or(plain)
    };
    let bytes: Option<Vec<TokenId>> = (0..=u8::MAX).map(byte).collect();
    let bytes = bytes.and_then(|bytes| bytes.into_boxed_slice().try_into().ok());
    Ok(MergeModel::new(vocabulary, Merges::Scored(scores))
        .with_bytes(bytes)
        .with_unknown(ids.unknown))
}

/// Spaces are written as U+2581; with `space`, one goes before every piece of
/// text that follows a special token or nothing.
fn sentence_piece_steps(definition: &mut Definition, space: bool) -> tokenizers::Result<()> {
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> =
        vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if space {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(Replace::new(" ", SPACE)?.into());
    definition.with_normalizer(Some(Normalizers::new(normalizers)))?;
    definition.with_decoder(Some(Decoders::new(decoders)));
    Ok(())
}

/// The tokens before and after every text.
struct Around {
    bos: Option<(TokenId, String)>,
    eos: Option<(TokenId, String)>,
}

impl Around {
    fn apply(self, definition: &mut Definition) -> tokenizers::Result<()> {
        let mut pieces = vec!["$A"];
        let mut tokens = Vec::new();
        // The token's own text could not be a name in the template.
        let token = |name: &str, (id, text): (TokenId, String)| {
            SpecialToken::new(name.to_owned(), vec![id], vec![text])
        };
        if let Some(bos) = self.bos {
            pieces.insert(0, "bos");
            tokens.push(token("bos", bos)?);
        }
        if let Some(eos) = self.eos {
            pieces.push("eos");
            tokens.push(token("eos", eos)?);
        }
        if !tokens.is_empty() {
            let mut template = TemplateProcessing::builder();
            template.try_single(pieces)?.special_tokens(tokens);
            definition.with_post_processor(Some(template.build()?));
        }
        Ok(())
    }
}

/// The token to put around a text; `default` is what happens where the file
/// does not say, and then only where it names the token.
fn around(
    metadata: &Metadata,
    key: &str,
    default: bool,
    id: Option<TokenId>,
    table: &TokenTable,
) -> Result<Option<(TokenId, String)>> {
    let token = id.map(|id| (id, table.text(id).to_owned()));
    match metadata.flag(key)? {
        Some(true) if token.is_none() => {
            Err(metadata.invalid(key, "false, as the token's id is not given", "true"))
        }
        Some(true) => Ok(token),
        Some(false) => Ok(None),
        None => Ok(token.filter(|_| default)),
    }
}

fn templates(metadata: &Metadata, special: &SpecialTokens) -> Result<Option<ChatTemplate>> {
    let named = |key: &str| {
        Some((key.strip_prefix(TEMPLATE)?.strip_prefix('.')?.to_owned(), key.to_owned()))
    };
    let mut found: Vec<(String, String)> = metadata.keys().filter_map(named).collect();
    found.push(("default".to_owned(), TEMPLATE.to_owned()));
    let mut set = None;
    for (name, key) in found {
        let Some(source) = metadata.text(&key)? else { continue };
        let templates = set.unwrap_or_else(|| ChatTemplate::empty(special.clone()));
        let origin = format!("{}: {key}", metadata.file());
        set = Some(templates.with_named(&name, source, &origin)?);
    }
    Ok(set)
}
