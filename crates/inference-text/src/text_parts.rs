//! Everything about text that lies beside a model's weights.

use std::collections::BTreeMap;
use std::path::Path;

use inference_core::{Error, Result, TokenId};
use serde_json::Value as Json;

use crate::chat_json::kind_of;
use crate::special_tokens::SpecialTokens;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Folders where named templates lie, and the names that are looked for.
const TEMPLATE_FOLDERS: [&str; 2] = ["chat_templates", "additional_chat_templates"];
const TEMPLATE_NAMES: [&str; 3] = ["default", "tool_use", "rag"];

/// Special tokens without a role of their own here.
const OTHER_TOKENS: [&str; 3] = ["cls_token", "sep_token", "mask_token"];

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// What a model's folder says about text. Each part may be absent; a folder
/// needs no weights.
///
/// | from | what |
/// |---|---|
/// | `tokenizer.json` | the tokenizer |
/// | `tokenizer_config.json` | `bos_token`, `eos_token`, `unk_token`, `pad_token`, `cls_token`, `sep_token`, `mask_token`, `extra_special_tokens`; `chat_template`, text or a list of `{name, template}` |
/// | `special_tokens_map.json` | tokens that `tokenizer_config.json` does not name |
/// | `chat_template.jinja` | the default template |
/// | `chat_templates/NAME.jinja`, `additional_chat_templates/NAME.jinja` | templates `default`, `tool_use`, `rag` |
/// | `generation_config.json` | `eos_token_id`, a number or a list |
///
/// A template in a file of its own wins over `tokenizer_config.json`. Where
/// `generation_config.json` names no end, the end is `eos_token`. Settings
/// that transformers applies outside of the tokenizer
/// (`clean_up_tokenization_spaces`, `add_bos_token`) are not applied: what
/// `tokenizer.json` says is what happens.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TextParts {
    /// The tokenizer, from `tokenizer.json`.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template, or templates.
    pub template: Option<ChatTemplate>,
    /// Special tokens by their role.
    pub special: SpecialTokens,
    /// Tokens that end a text, in the order of `generation_config.json`.
    pub eos_ids: Vec<TokenId>,
}

impl TextParts {
    /// Reads the parts through `read`, which returns a file's contents, or
    /// `None` where there is no such file. Names are relative to the model,
    /// with `/` between folder and file.
    ///
    /// # Errors
    ///
    /// `InvalidModel`, with file and field, where a file is malformed; what
    /// `read` returns.
    pub fn load(mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>>) -> Result<Self> {
        let tokenizer = match read(TOKENIZER)? {
            Some(json) => Some(Tokenizer::from_json(&json, TOKENIZER)?),
            None => None,
        };
        let config = object(&mut read, TOKENIZER_CONFIG)?;
        let map = object(&mut read, SPECIAL_TOKENS_MAP)?;
        let generation = object(&mut read, GENERATION_CONFIG)?;

        let token = |name: &str| -> Result<Option<String>> {
            match special_token(&config, TOKENIZER_CONFIG, name)? {
                Some(token) => Ok(Some(token)),
                None => special_token(&map, SPECIAL_TOKENS_MAP, name),
            }
        };
        let mut others = BTreeMap::new();
        for name in OTHER_TOKENS {
            others.extend(token(name)?.map(|token| (name.to_owned(), token)));
        }
        // A model's own, such as `image_token`.
        if let Some(Json::Object(extra)) = config.get("extra_special_tokens") {
            for name in extra.keys() {
                let token = special_token(extra, TOKENIZER_CONFIG, name)?;
                others.extend(token.map(|token| (name.clone(), token)));
            }
        }
        let special = SpecialTokens {
            others,
            bos: token("bos_token")?,
            eos: token("eos_token")?,
            unk: token("unk_token")?,
            pad: token("pad_token")?,
        };
        let eos_ids = match generation.get("eos_token_id") {
            None | Some(Json::Null) => {
                let id = |eos: &String| tokenizer.as_ref()?.token_to_id(eos);
                special.eos.as_ref().and_then(id).into_iter().collect()
            }
            Some(value) => token_ids(value)?,
        };
        let template = templates(&config, &mut read, special.clone())?;
        Ok(Self { tokenizer, template, special, eos_ids })
    }

    /// Reads the parts of the model in a folder.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); `Io` where the folder or a file cannot be
    /// read.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        std::fs::read_dir(dir).map_err(|error| Error::io(dir, "open", error))?;
        Self::load(|name| {
            let path = dir.join(name);
            let size = match std::fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io(path, "open", error)),
            };
            if size > MAX_FILE {
                let expected = format!("at most {MAX_FILE} bytes");
                return Err(Error::invalid_model(name, "size", expected, format!("{size} bytes")));
            }
            std::fs::read(&path).map(Some).map_err(|error| Error::io(path, "read", error))
        })
    }
}

pub(crate) type Read<'a> = dyn FnMut(&str) -> Result<Option<Vec<u8>>> + 'a;

/// The object in a JSON file; empty where the file is absent.
pub(crate) fn object(read: &mut Read<'_>, file: &str) -> Result<serde_json::Map<String, Json>> {
    let Some(bytes) = read(file)? else { return Ok(serde_json::Map::new()) };
    let invalid = |found: String| Error::invalid_model(file, "file", "a JSON object", found);
    match serde_json::from_slice(&bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(other) => Err(invalid(kind_of(&other).to_owned())),
        Err(error) => Err(invalid(format!("malformed JSON: {error}"))),
    }
}

/// A token given as text, or as an object with its `content`.
fn special_token(
    object: &serde_json::Map<String, Json>,
    file: &str,
    name: &str,
) -> Result<Option<String>> {
    let value = match object.get(name) {
        Some(Json::Object(token)) => token.get("content").unwrap_or(&Json::Null),
        Some(Json::Null) | None => return Ok(None),
        Some(value) => value,
    };
    match value {
        Json::String(token) => Ok(Some(token.clone())),
        other => {
            let expected = "a string or an object with `content`";
            Err(Error::invalid_model(file, name, expected, kind_of(other)))
        }
    }
}

fn token_ids(value: &Json) -> Result<Vec<TokenId>> {
    let items = match value {
        Json::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let id = |item: &Json| item.as_u64().and_then(|id| TokenId::try_from(id).ok());
    items.iter().map(id).collect::<Option<_>>().ok_or_else(|| {
        let expected = "a token id or a list of them";
        Error::invalid_model(GENERATION_CONFIG, "eos_token_id", expected, value.to_string())
    })
}

/// Name, source and file of each chat template.
pub(crate) fn template_sources(
    config: &serde_json::Map<String, Json>,
    read: &mut Read<'_>,
) -> Result<Vec<(String, String, String)>> {
    let mut found = Vec::new();
    let invalid = |what: String, found: &Json| {
        let expected = "a string, or a list of objects with `name` and `template`";
        Error::invalid_model(TOKENIZER_CONFIG, what, expected, kind_of(found))
    };
    match config.get("chat_template") {
        None | Some(Json::Null) => {}
        Some(Json::String(source)) => {
            found.push(("default".to_owned(), source.clone(), TOKENIZER_CONFIG.to_owned()));
        }
        Some(Json::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let text = |field: &str| match item.get(field) {
                    Some(Json::String(text)) => Ok(text.clone()),
                    other => {
                        let what = format!("chat_template[{index}].{field}");
                        Err(invalid(what, other.unwrap_or(&Json::Null)))
                    }
                };
                found.push((text("name")?, text("template")?, TOKENIZER_CONFIG.to_owned()));
            }
        }
        Some(other) => return Err(invalid("chat_template".to_owned(), other)),
    }
    let mut files = vec![("default", CHAT_TEMPLATE.to_owned())];
    for folder in TEMPLATE_FOLDERS {
        files.extend(TEMPLATE_NAMES.map(|name| (name, format!("{folder}/{name}.jinja"))));
    }
    for (name, file) in files {
        if let Some(bytes) = read(&file)? {
            let source = String::from_utf8(bytes).map_err(|error| {
                Error::invalid_model(&file, "chat template", "UTF-8 text", error.to_string())
            })?;
            found.push((name.to_owned(), source, file));
        }
    }
    // A later source of the same name wins.
    let mut index = 0;
    while let Some((name, ..)) = found.get(index) {
        if found.iter().skip(index + 1).any(|(later, ..)| later == name) {
            found.remove(index);
        } else {
            index += 1;
        }
    }
    Ok(found)
}

fn templates(
    config: &serde_json::Map<String, Json>,
    read: &mut Read<'_>,
    special: SpecialTokens,
) -> Result<Option<ChatTemplate>> {
    let sources = template_sources(config, read)?;
    if sources.is_empty() {
        return Ok(None);
    }
    let mut set = ChatTemplate::empty(special);
    for (name, source, file) in &sources {
        set = set.with_named(name, source, file)?;
    }
    Ok(Some(set))
}
