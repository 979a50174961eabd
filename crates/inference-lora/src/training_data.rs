//! Training data: JSON Lines in the usual shapes, as sequences of ids.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use inference_core::{
    ChatPrompt, Error, Message, Prompt, Result, Role, TextModel, TokenId, TrainingSequence,
};
use serde_json::Value;

/// What happens to a line that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadLines {
    /// Reading ends with an error that has the line's number.
    #[default]
    Refuse,
    /// It is left out, and listed in [`TrainingData::skipped`].
    Skip,
}

/// How data is read.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DataOptions {
    /// What happens to a line that cannot be used, a sequence that is too long
    /// included. Default: refused.
    pub bad_lines: BadLines,
    /// Longest sequence, in tokens; at most, and by default, the model's
    /// context.
    pub max_tokens: Option<usize>,
    /// Whether every token is a target, prompts and the user's turns too.
    /// Default: completions and the assistant's turns only.
    pub train_on_prompts: bool,
}

impl DataOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what happens to a line that cannot be used.
    #[must_use]
    pub fn with_bad_lines(mut self, bad_lines: BadLines) -> Self {
        self.bad_lines = bad_lines;
        self
    }

    /// Sets the longest sequence.
    #[must_use]
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = Some(max_tokens);
        self
    }

    /// Sets whether every token is a target.
    #[must_use]
    pub fn with_train_on_prompts(mut self, on: bool) -> Self {
        self.train_on_prompts = on;
        self
    }
}

/// A line that was left out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SkippedLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Error,
}

/// Sequences of a file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TrainingData {
    /// The sequences in the order of their lines.
    pub sequences: Vec<TrainingSequence>,
    /// Lines that were left out.
    pub skipped: Vec<SkippedLine>,
}

impl TrainingData {
    /// Data that was made by other means.
    #[must_use]
    pub fn new(sequences: Vec<TrainingSequence>) -> Self {
        Self { sequences, skipped: Vec::new() }
    }

    /// Tokens of all sequences.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.ids.len()).sum()
    }

    /// Reads a JSON Lines file: an object per line, empty lines apart.
    ///
    /// | shape | fields |
    /// |---|---|
    /// | text | `text` |
    /// | completion | `prompt`, `completion` |
    /// | chat | `messages`: objects with `role` and `content` |
    /// | alpaca | `instruction`, `output` and, if there is any, `input` |
    /// | sharegpt | `conversations`: objects with `from` and `value` |
    ///
    /// Chats, alpaca and sharegpt go through the model's chat template. Texts
    /// and completions end with the model's first end-of-sequence token, if it
    /// has one.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io);
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) naming file
    /// and line for one that cannot be used, or the file where no line can;
    /// [`Exhausted`](inference_core::ErrorKind::Exhausted) for a sequence that
    /// is too long; the model's own, such as
    /// [`Unsupported`](inference_core::ErrorKind::Unsupported) without a chat
    /// template.
    pub fn read(path: &Path, model: &dyn TextModel, options: &DataOptions) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        let mut data = Self::default();
        let mut lines = 0;
        for (index, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.map_err(|error| Error::io(path, "read", error))?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            lines += 1;
            let at = Place { path, line: index + 1 };
            match sequence(&line, &at, model, options) {
                Ok(sequence) => data.sequences.push(sequence),
                Err(error) if options.bad_lines == BadLines::Refuse => return Err(error),
                Err(reason) => data.skipped.push(SkippedLine { line: at.line, reason }),
            }
        }
        if data.sequences.is_empty() {
            let found = match data.skipped.first() {
                Some(first) => format!("{lines} that cannot be used; the first: {}", first.reason),
                None => "none".to_owned(),
            };
            let what = format!("training data {}", path.display());
            return Err(Error::invalid_input(what, "at least one usable line", found));
        }
        Ok(data)
    }
}

/// A line of a file.
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn invalid(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        let what = format!("line {} of {}", self.line, self.path.display());
        Error::invalid_input(what, expected, found)
    }
}

/// Ids with their targets, under construction.
#[derive(Default)]
struct Tokens {
    ids: Vec<TokenId>,
    targets: Vec<bool>,
}

impl Tokens {
    fn push(&mut self, ids: Vec<TokenId>, target: bool) {
        self.targets.extend(ids.iter().map(|_| target));
        self.ids.extend(ids);
    }
}

/// The sequence of one line.
fn sequence(
    line: &[u8],
    at: &Place<'_>,
    model: &dyn TextModel,
    options: &DataOptions,
) -> Result<TrainingSequence> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| at.invalid("a JSON object", format!("what is not JSON: {error}")))?;
    let Value::Object(fields) = &value else {
        return Err(at.invalid("a JSON object", kind(&value)));
    };
    let has = |name: &str| fields.contains_key(name);
    let tokens = if has("messages") {
        chat(
            &turns(at, fields.get("messages"), "messages", ["role", "content"])?,
            at,
            model,
            options,
        )?
    } else if has("conversations") {
        let turns = turns(at, fields.get("conversations"), "conversations", ["from", "value"])?;
        chat(&turns, at, model, options)?
    } else if has("instruction") {
        let mut user = text(at, fields.get("instruction"), "instruction")?.to_owned();
        if has("input") {
            let input = text(at, fields.get("input"), "input")?;
            if !input.is_empty() {
                user = format!("{user}\n\n{input}");
            }
        }
        let output = text(at, fields.get("output"), "output")?;
        chat(&[Message::user(user), Message::assistant(output)], at, model, options)?
    } else if has("prompt") || has("completion") {
        let prompt = text(at, fields.get("prompt"), "prompt")?;
        let completion = text(at, fields.get("completion"), "completion")?;
        let mut tokens = Tokens::default();
        tokens.push(model.encode(prompt, true)?, options.train_on_prompts);
        tokens.push(model.encode(completion, false)?, true);
        end(tokens, model)
    } else if has("text") {
        let mut tokens = Tokens::default();
        tokens.push(model.encode(text(at, fields.get("text"), "text")?, true)?, true);
        end(tokens, model)
    } else {
        let expected = "`text`, `prompt` and `completion`, `messages`, `instruction` and \
                        `output`, or `conversations`";
        let names: Vec<String> = fields.keys().map(|name| format!("`{name}`")).collect();
        return Err(at.invalid(expected, names.join(", ")));
    };
    let context = model.info().context_len;
    let most = options.max_tokens.unwrap_or(context).min(context);
    if tokens.ids.len() > most {
        let resource = format!("tokens for line {} of {}", at.line, at.path.display());
        return Err(Error::exhausted(resource, tokens.ids.len() as u64, most as u64));
    }
    let sequence = TrainingSequence::new(tokens.ids).with_targets(tokens.targets);
    if sequence.num_targets() == 0 {
        return Err(at.invalid("a token to learn after the first", "none"));
    }
    Ok(sequence)
}

/// Ends a text as generation would.
fn end(mut tokens: Tokens, model: &dyn TextModel) -> Tokens {
    if let Some(eos) = model.info().eos_tokens.first()
        && tokens.ids.last() != Some(eos)
    {
        tokens.push(vec![*eos], true);
    }
    tokens
}

/// A chat's ids; the targets are what the model itself would have to write in
/// its turns.
fn chat(
    messages: &[Message],
    at: &Place<'_>,
    model: &dyn TextModel,
    options: &DataOptions,
) -> Result<Tokens> {
    let ids = |messages: &[Message], opening: bool| {
        let chat = ChatPrompt::new(messages.to_vec()).with_generation_prompt(opening);
        model.prompt_tokens(&Prompt::Chat(chat))
    };
    let all = ids(messages, false)?;
    let mut targets = vec![options.train_on_prompts; all.len()];
    for (index, message) in messages.iter().enumerate() {
        if message.role != Role::Assistant {
            continue;
        }
        let before = ids(messages.get(..index).unwrap_or_default(), true)?;
        let after = ids(messages.get(..=index).unwrap_or_default(), false)?;
        if !all.starts_with(&before) || !all.starts_with(&after) || after.len() < before.len() {
            let expected = "a chat whose turns the template renders one after the other";
            let found = format!("turn {} that changes what comes before it", index + 1);
            return Err(at.invalid(expected, found));
        }
        targets.iter_mut().take(after.len()).skip(before.len()).for_each(|t| *t = true);
    }
    Ok(Tokens { ids: all, targets })
}

/// The messages of a list.
fn turns(
    at: &Place<'_>,
    list: Option<&Value>,
    field: &str,
    [role, content]: [&str; 2],
) -> Result<Vec<Message>> {
    let Some(Value::Array(items)) = list else {
        return Err(at.invalid(format!("`{field}` to be a list"), list.map_or("none".into(), kind)));
    };
    let message = |item: &Value| -> Result<Message> {
        let name = text(at, item.get(role), role)?;
        let role = match name {
            "human" => Role::User,
            "gpt" | "chatgpt" | "bing" => Role::Assistant,
            name => name
                .parse()
                .map_err(|_| at.invalid("a known role", format!("`{name}` in `{field}`")))?,
        };
        Ok(Message::new(role, text(at, item.get(content), content)?))
    };
    items.iter().map(message).collect()
}

/// A string.
fn text<'a>(at: &Place<'_>, value: Option<&'a Value>, field: &str) -> Result<&'a str> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(at.invalid(format!("`{field}` to be a string"), kind(other))),
        None => Err(at.invalid(format!("`{field}`"), "an object without it")),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => format!("the number {value}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
