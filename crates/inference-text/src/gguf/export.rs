//! A folder's tokenizer and templates as the metadata of a GGUF file: what
//! [`TextParts::from_gguf`] reads, the other way round.

use std::collections::HashMap;

use inference_core::{Error, Result, TokenId};
use inference_gguf::GgufWriter;
use serde_json::{Map, Value as Json};

use super::pre_tokenizer::{self, PreTokenizer};
use super::token_table::{SCORES, TOKENS, TYPES};
use super::{ADD_BOS, ADD_EOS, ADD_SPACE, MERGES, MODEL, SPACE, TEMPLATE};
use crate::chat_json::kind_of;
use crate::text_parts::{TOKENIZER, TOKENIZER_CONFIG, TextParts, object, template_sources};

/// Numbers of token types.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of tokens that no merge makes.
const LEAST_SCORE: f32 = -1e9;

impl TextParts {
    /// Writes the tokenizer and the chat templates of a folder into the
    /// metadata of a GGUF file, so that [`from_gguf`](Self::from_gguf) and
    /// llama.cpp find the same tokens. `read` returns a file's contents, as
    /// for [`load`](Self::load); `rows` is the number of rows of the
    /// embedding, up to which the vocabulary is filled with unused tokens.
    ///
    /// Byte-level BPE becomes `gpt2` with the kind of pre-tokenizer that has
    /// the same patterns, or the kind `pre` where it is given; BPE with byte
    /// fallback becomes `llama`, its scores the ranks of its merges.
    ///
    /// Answers what GGUF cannot say, one sentence each. Without a
    /// `tokenizer.json` the file has no vocabulary.
    ///
    /// # Errors
    ///
    /// `UnsupportedModel` with the field of `tokenizer.json` for a tokenizer
    /// that GGUF cannot describe, `InvalidModel` for malformed files,
    /// `InvalidOption` for an unknown `pre`; what `read` returns.
    pub fn write_gguf(
        writer: &mut GgufWriter,
        mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>>,
        rows: usize,
        pre: Option<&str>,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if read(TOKENIZER)?.is_none() {
            writer.set(MODEL, "no_vocab");
            notes.push(format!("there is no {TOKENIZER}: the file has no vocabulary"));
        } else {
            let parts = Self::load(&mut read)?;
            let json = object(&mut read, TOKENIZER)?;
            let config = object(&mut read, TOKENIZER_CONFIG)?;
            let export = Export { json: &json, config: &config, parts: &parts };
            export.write(writer, rows, pre, &mut notes)?;
        }
        let config = object(&mut read, TOKENIZER_CONFIG)?;
        let mut named = Vec::new();
        for (name, source, _) in template_sources(&config, &mut read)? {
            if name == "default" {
                writer.set(TEMPLATE, source);
            } else {
                writer.set(&format!("{TEMPLATE}.{name}"), source);
                named.push(name);
            }
        }
        if !named.is_empty() {
            writer.set_array("tokenizer.chat_templates", named);
        }
        Ok(notes)
    }
}

struct Export<'a> {
    /// `tokenizer.json`.
    json: &'a Map<String, Json>,
    /// `tokenizer_config.json`.
    config: &'a Map<String, Json>,
    parts: &'a TextParts,
}

/// The vocabulary by id.
struct Tokens {
    texts: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, TokenId>,
}

impl Export<'_> {
    fn write(
        &self,
        writer: &mut GgufWriter,
        rows: usize,
        pre: Option<&str>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let model = self.json.get("model").unwrap_or(&Json::Null);
        match model.get("type").and_then(Json::as_str) {
            Some("BPE") | None => {}
            Some(other) => return Err(unsupported("model.type", other, "BPE")),
        }
        for field in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            let given = model.get(field).unwrap_or(&Json::Null);
            if !given.is_null() && given.as_str() != Some("") && given.as_f64() != Some(0.0) {
                return Err(unsupported(&format!("model.{field}"), &given.to_string(), "null"));
            }
        }
        let flag = |field: &str| model.get(field).and_then(Json::as_bool).unwrap_or(false);
        let merges = merges(model)?;
        if flag("byte_fallback") {
            let tokens = self.tokens(model, rows, true)?;
            let space = self.space_prefix(notes)?;
            writer.set(MODEL, "llama");
            writer.set(pre_tokenizer::KEY, "default");
            tokens.write(writer);
            let mut scores = vec![LEAST_SCORE; tokens.texts.len()];
            // From the last merge to the first: of several that make a token the first counts.
            for (rank, (left, right)) in merges.iter().enumerate().rev() {
                let id = tokens.ids.get(&format!("{left}{right}"));
                if let Some(score) = id.and_then(|id| scores.get_mut(*id as usize)) {
                    *score = -(rank as f32);
                }
            }
            writer.set_array(SCORES, scores);
            writer.set(ADD_SPACE, space);
            self.specials(writer, &tokens, notes);
            return Ok(());
        }
        let tokens = self.tokens(model, rows, false)?;
        self.normalizer_of_bytes(notes)?;
        let kind = match pre {
            Some(name) => PreTokenizer::by_name(name).ok_or_else(|| {
                Error::invalid_option("pre", format!("`{name}`"), PreTokenizer::names())
            })?,
            None => {
                let patterns = self.patterns()?;
                let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
                PreTokenizer::by_patterns(&patterns, flag("ignore_merges")).ok_or_else(|| {
                    let found = patterns.join(" then ");
                    let supported = "the patterns of a kind that GGUF knows; name the kind to use \
                                     one all the same";
                    unsupported("pre_tokenizer", &found, supported)
                })?
            }
        };
        writer.set(MODEL, "gpt2");
        writer.set(pre_tokenizer::KEY, pre.unwrap_or(kind.name()));
        tokens.write(writer);
        let lines: Vec<String> =
            merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        writer.set_array(MERGES, lines);
        self.specials(writer, &tokens, notes);
        Ok(())
    }

    /// The vocabulary with added tokens, filled up to `rows`.
    fn tokens(&self, model: &Json, rows: usize, sentence_piece: bool) -> Result<Tokens> {
        let invalid = |what: &str, expected: String, found: String| {
            Error::invalid_model(TOKENIZER, what, expected, found)
        };
        let Some(vocabulary) = model.get("vocab").and_then(Json::as_object) else {
            let found = "another value".to_owned();
            return Err(invalid("model.vocab", "an object".to_owned(), found));
        };
        let mut texts = vec![None; rows];
        let mut types = vec![UNUSED; rows];
        let mut ids = HashMap::new();
        let mut put = |id: &Json, text: &str, kind: i32| -> Result<()> {
            let place = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < rows);
            let Some(place) = place else {
                let expected = format!("below {rows}, the rows of the embedding");
                return Err(invalid(&format!("id of `{text}`"), expected, id.to_string()));
            };
            texts[place] = Some(text.to_owned());
            types[place] = kind;
            ids.insert(text.to_owned(), place as TokenId);
            Ok(())
        };
        let unknown = model.get("unk_token").and_then(Json::as_str);
        for (text, id) in vocabulary {
            let kind = match text.as_str() {
                text if sentence_piece && is_byte(text) => BYTE,
                text if Some(text) == unknown => UNKNOWN,
                _ => NORMAL,
            };
            put(id, text, kind)?;
        }
        for token in self.json.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
            let Some(text) = token.get("content").and_then(Json::as_str) else {
                return Err(invalid("added_tokens", "content".to_owned(), token.to_string()));
            };
            let flag = |field: &str| token.get(field).and_then(Json::as_bool).unwrap_or(false);
            let kind = match (flag("special"), Some(text) == unknown) {
                (_, true) => UNKNOWN,
                (true, false) => CONTROL,
                (false, false) => USER_DEFINED,
            };
            // Such tokens are found before spaces are rewritten.
            let plain = sentence_piece && kind == USER_DEFINED && flag("normalized");
            let text = if plain { text.replace(SPACE, " ") } else { text.to_owned() };
            put(token.get("id").unwrap_or(&Json::Null), &text, kind)?;
        }
        let fill =
            |(id, text): (usize, Option<String>)| text.unwrap_or_else(|| format!("[PAD{id}]"));
        let texts = texts.into_iter().enumerate().map(fill).collect();
        Ok(Tokens { texts, types, ids })
    }

    /// Whether SentencePiece's space goes before a text.
    fn space_prefix(&self, notes: &mut Vec<String>) -> Result<bool> {
        let mut prefix = false;
        for step in steps(self.json.get("normalizer"), "normalizers") {
            let text = |field: &str| step.get(field).and_then(Json::as_str);
            let replaced = step.pointer("/pattern/String").and_then(Json::as_str);
            match text("type") {
                Some("Prepend") if text("prepend") == Some(SPACE) => prefix = true,
                Some("Replace") if replaced == Some(" ") && text("content") == Some(SPACE) => {}
                _ => return Err(unsupported("normalizer", &step.to_string(), "spaces as U+2581")),
            }
        }
        for step in steps(self.json.get("pre_tokenizer"), "pretokenizers") {
            let scheme = step.get("prepend_scheme").and_then(Json::as_str);
            match (step.get("type").and_then(Json::as_str), scheme) {
                (Some("Metaspace"), Some("never")) => {}
                (Some("Metaspace"), Some("always" | "first") | None) => {
                    prefix = true;
                    notes.push(
                        "in GGUF a space goes before every text, also one that begins with a \
                         space or follows a special token"
                            .to_owned(),
                    );
                }
                // What Gemma has: a space never begins or ends a merge's right part alone.
                (Some("Split"), _)
                    if step.pointer("/pattern/String").and_then(Json::as_str) == Some(" ") => {}
                _ => return Err(unsupported("pre_tokenizer", &step.to_string(), "Metaspace")),
            }
        }
        Ok(prefix)
    }

    fn normalizer_of_bytes(&self, notes: &mut Vec<String>) -> Result<()> {
        for step in steps(self.json.get("normalizer"), "normalizers") {
            match step.get("type").and_then(Json::as_str) {
                Some("NFC") => notes.push(
                    "GGUF has no normalization to NFC: text that is not in that form may become \
                     other tokens"
                        .to_owned(),
                ),
                _ => return Err(unsupported("normalizer", &step.to_string(), "null, NFC")),
            }
        }
        Ok(())
    }

    /// The patterns that split a text before byte-level BPE.
    fn patterns(&self) -> Result<Vec<String>> {
        let mut patterns = Vec::new();
        for step in steps(self.json.get("pre_tokenizer"), "pretokenizers") {
            let flag = |field: &str| step.get(field).and_then(Json::as_bool).unwrap_or(false);
            let refuse =
                |supported: &str| Err(unsupported("pre_tokenizer", &step.to_string(), supported));
            match step.get("type").and_then(Json::as_str) {
                Some("Split") => {
                    let pattern = step.pointer("/pattern/Regex").and_then(Json::as_str);
                    let isolated = step.get("behavior").and_then(Json::as_str) == Some("Isolated");
                    match pattern {
                        Some(pattern) if isolated && !flag("invert") => {
                            patterns.push(pattern.to_owned());
                        }
                        _ => return refuse("a regular expression with the behavior Isolated"),
                    }
                }
                Some("Digits") if flag("individual_digits") => {
                    patterns.push(r"\p{N}".to_owned());
                }
                Some("ByteLevel") if flag("add_prefix_space") => {
                    return refuse("add_prefix_space = false");
                }
                Some("ByteLevel") => {
                    if step.get("use_regex").and_then(Json::as_bool).unwrap_or(true) {
                        patterns.push(pre_tokenizer::GPT2.to_owned());
                    }
                }
                _ => return refuse("Split, Digits and ByteLevel"),
            }
        }
        Ok(patterns)
    }

    /// Ids of special tokens, and what goes around a text.
    fn specials(&self, writer: &mut GgufWriter, tokens: &Tokens, notes: &mut Vec<String>) {
        let special = &self.parts.special;
        let id = |text: &Option<String>| tokens.ids.get(text.as_deref()?).copied();
        let mut bos = id(&special.bos);
        let ends = &self.parts.eos_ids;
        let mut eos = id(&special.eos).or(ends.first().copied());
        let (first, last) = self.around();
        let around = |text: Option<&str>| tokens.ids.get(text?).copied();
        let (first, last) = (around(first), around(last));
        bos = first.or(bos);
        eos = last.or(eos);
        let configured = |key: &str| self.config.get(key).and_then(Json::as_bool) == Some(true);
        let none = self.json.get("post_processor").is_none_or(Json::is_null);
        // transformers makes the post-processor of such tokenizers from this.
        let add_bos = first.is_some() || none && configured("add_bos_token") && bos.is_some();
        let add_eos = last.is_some() || none && configured("add_eos_token") && eos.is_some();
        if add_bos && first.is_none() {
            notes.push(format!("a text begins with BOS, because {TOKENIZER_CONFIG} says so"));
        }
        let mut others = ends.iter().copied().filter(|id| Some(*id) != eos);
        for (key, id) in [
            ("bos", bos),
            ("eos", eos),
            ("eot", others.next()),
            ("eom", others.next()),
            ("unknown", id(&special.unk)),
            ("padding", id(&special.pad)),
        ] {
            if let Some(id) = id {
                writer.set(&format!("tokenizer.ggml.{key}_token_id"), id);
            }
        }
        writer.set(ADD_BOS, add_bos);
        writer.set(ADD_EOS, add_eos);
    }

    /// The special tokens before and after a text.
    fn around(&self) -> (Option<&str>, Option<&str>) {
        let (mut first, mut last) = (None, None);
        for step in steps(self.json.get("post_processor"), "processors") {
            let Some(pieces) = step.get("single").and_then(Json::as_array) else { continue };
            first = pieces.first().and_then(|p| p.pointer("/SpecialToken/id")?.as_str());
            last = match pieces.len() {
                0 | 1 => None,
                _ => pieces.last().and_then(|p| p.pointer("/SpecialToken/id")?.as_str()),
            };
        }
        (first, last)
    }
}

impl Tokens {
    fn write(&self, writer: &mut GgufWriter) {
        writer.set_array(TOKENS, self.texts.iter().map(String::as_str));
        writer.set_array(TYPES, self.types.iter().copied());
    }
}

fn unsupported(field: &str, found: &str, supported: &str) -> Error {
    let short: String = found.chars().take(300).collect();
    Error::unsupported_model(TOKENIZER, field, short, supported)
}

/// `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The members of a `Sequence`, or the one step; none of `null`.
fn steps<'a>(value: Option<&'a Json>, members: &str) -> Vec<&'a Json> {
    match value {
        None | Some(Json::Null) => Vec::new(),
        Some(value) if value.get("type").and_then(Json::as_str) == Some("Sequence") => {
            value.get(members).and_then(Json::as_array).into_iter().flatten().collect()
        }
        Some(one) => vec![one],
    }
}

/// The merges in order: `"a b"`, or `["a", "b"]`.
fn merges(model: &Json) -> Result<Vec<(&str, &str)>> {
    let lines = model.get("merges").and_then(Json::as_array);
    lines
        .into_iter()
        .flatten()
        .map(|line| {
            merge_pair(line).ok_or_else(|| {
                let found = format!("{}: {line}", kind_of(line));
                Error::invalid_model(TOKENIZER, "model.merges", "pairs of tokens", found)
            })
        })
        .collect()
}

fn merge_pair(line: &Json) -> Option<(&str, &str)> {
    match line {
        Json::String(line) => line.split_once(' '),
        Json::Array(pair) => match pair.as_slice() {
            [left, right] => Some((left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}
