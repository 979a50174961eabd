//! Chat templates: messages to prompt text, as transformers renders them.

mod bounds;
mod clock;
mod deep;
mod jinja;
mod json;
mod python;
mod rewrite;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use inference_core::{ChatPrompt, Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use serde_json::Value as Json;

use crate::chat_json;
use crate::special_tokens::SpecialTokens;

pub use clock::LocalTime;

/// Most template instructions that one rendering may execute: a loop without
/// end is over within a second, a conversation of thousands of turns is far
/// below.
const MAX_STEPS: u64 = 8_000_000;
/// Most bytes that one rendering may produce.
const MAX_OUTPUT: usize = 64 << 20;
/// Most bytes of a template's source.
const MAX_SOURCE: usize = 4 << 20;
/// The template that is used where nothing else is asked for.
const DEFAULT: &str = "default";
/// The template that is used where tools are given.
const TOOL_USE: &str = "tool_use";

/// A model's chat template, or its set of named ones.
///
/// Renders as transformers' `apply_chat_template` does: Jinja with
/// `trim_blocks` and `lstrip_blocks`, loop controls, `{% generation %}`
/// blocks, `raise_exception`, `strftime_now`, `tojson` in Python's spelling,
/// and the methods of Python's strings, lists and dicts. A template cannot
/// read files, and one rendering is bounded: 20 million template
/// instructions, 64 MiB of output. It runs on a thread of its own, because
/// minijinja recurses deeper than the stack of an ordinary thread allows.
///
/// Cheap to clone, and shared freely between threads.
///
/// ```
/// use inference_core::{ChatPrompt, Message};
/// use inference_text::{ChatTemplate, SpecialTokens};
///
/// let source = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
///               {% if add_generation_prompt %}<assistant>{% endif %}";
/// let special = SpecialTokens::default().with_bos("<s>");
/// let template = ChatTemplate::new(source, "chat_template.jinja", special)?;
/// let chat = ChatPrompt::from(vec![Message::user("Hi")]);
/// assert_eq!(template.render(&chat)?, "<s><user>Hi\n<assistant>");
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ChatTemplate {
    templates: BTreeMap<String, Arc<Compiled>>,
    special: SpecialTokens,
    clock: Option<LocalTime>,
}

struct Compiled {
    environment: Environment<'static>,
    file: String,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("templates", &self.names().collect::<Vec<_>>())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

/// What a template renders, as JSON.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TemplateRequest {
    /// The messages, an array of objects with at least a `role`.
    pub messages: Json,
    /// Tool definitions, an array.
    pub tools: Option<Json>,
    /// Documents for retrieval, an array.
    pub documents: Option<Json>,
    /// Extra variables for the template.
    pub variables: serde_json::Map<String, Json>,
    /// Whether the text ends with the opening of the assistant's turn.
    /// Default: true.
    pub add_generation_prompt: bool,
    /// The template's name, where a model has several. Default: `tool_use`
    /// where tools are given and there is one, otherwise `default`.
    pub template: Option<String>,
}

impl TemplateRequest {
    /// A request for these messages and nothing else.
    #[must_use]
    pub fn new(messages: Json) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            variables: serde_json::Map::new(),
            add_generation_prompt: true,
            template: None,
        }
    }

    /// Sets the tool definitions, an array.
    #[must_use]
    pub fn with_tools(mut self, tools: Json) -> Self {
        self.tools = Some(tools);
        self
    }

    /// Sets the documents, an array.
    #[must_use]
    pub fn with_documents(mut self, documents: Json) -> Self {
        self.documents = Some(documents);
        self
    }

    /// Sets an extra variable.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: Json) -> Self {
        self.variables.insert(name.into(), value);
        self
    }

    /// Whether the text ends with the opening of the assistant's turn.
    #[must_use]
    pub fn with_generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }

    /// Chooses a template by name.
    #[must_use]
    pub fn with_template(mut self, name: impl Into<String>) -> Self {
        self.template = Some(name.into());
        self
    }
}

impl ChatTemplate {
    /// Compiles a template; `file` names it in messages.
    ///
    /// # Errors
    ///
    /// `InvalidModel` where it is not a template, with the line.
    pub fn new(source: &str, file: &str, special: SpecialTokens) -> Result<Self> {
        Self::empty(special).with_named(DEFAULT, source, file)
    }

    /// A set without a template yet.
    pub(crate) fn empty(special: SpecialTokens) -> Self {
        Self { templates: BTreeMap::new(), special, clock: None }
    }

    /// Adds a template under a name, such as `tool_use`, or replaces it.
    ///
    /// # Errors
    ///
    /// `InvalidModel` where it is not a template, with the line.
    pub fn with_named(mut self, name: &str, source: &str, file: &str) -> Result<Self> {
        let invalid = |found: String| {
            Error::invalid_model(file, format!("chat template `{name}`"), "a Jinja template", found)
        };
        if source.len() > MAX_SOURCE {
            return Err(invalid(format!("{} bytes, more than {MAX_SOURCE}", source.len())));
        }
        let source = rewrite::rewrite(source).map_err(invalid)?;
        let environment = deep::run(|| {
            let mut environment = environment();
            environment
                .add_template_owned(name.to_owned(), source)
                .map_err(|error| describe(&error))?;
            Ok(environment)
        })
        .map_err(invalid)?;
        let compiled = Compiled { environment, file: file.to_owned() };
        self.templates.insert(name.to_owned(), Arc::new(compiled));
        Ok(self)
    }

    /// Fixes the time that `strftime_now` shows; it is the time of the
    /// rendering otherwise.
    #[must_use]
    pub fn with_clock(mut self, clock: LocalTime) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The names of the templates, sorted; `default` where there is only one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where a part of the conversation is not the JSON it
    /// should be, with the name of the part; `Template` where the template
    /// raises or fails, with its message.
    pub fn render(&self, chat: &ChatPrompt) -> Result<String> {
        self.render_json(&chat_json::to_request(chat)?)
    }

    /// Renders messages given as JSON.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub fn render_json(&self, request: &TemplateRequest) -> Result<String> {
        chat_json::check_request(request)?;
        let (name, compiled) = self.choose(request)?;
        let fail = |message| Error::Template { file: compiled.file.clone(), message };

        let render = || self.render_here(request, name, &compiled.environment);
        deep::run(render).map_err(fail)
    }

    /// Renders on this thread's stack; the error is the message.
    fn render_here(
        &self,
        request: &TemplateRequest,
        name: &str,
        environment: &Environment<'static>,
    ) -> Result<String, String> {
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, token) in self.special.named() {
            context.insert(name, Value::from(token));
        }
        let clock = self.clock;
        let strftime_now = move |format: &str| -> Result<String, minijinja::Error> {
            let time = clock.unwrap_or_else(LocalTime::now);
            time.strftime(format).map_err(|error| {
                minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string())
            })
        };
        context.insert("strftime_now", Value::from_function(strftime_now));
        for (name, value) in &request.variables {
            context.insert(name, Value::from(Serde(value)));
        }
        context.insert("messages", Value::from(Serde(&request.messages)));
        context.insert("tools", Value::from(Serde(&request.tools)));
        context.insert("documents", Value::from(Serde(&request.documents)));
        context.insert("add_generation_prompt", Value::from(request.add_generation_prompt));

        let mut output = BoundedOutput { bytes: Vec::new(), overflow: false };
        let rendered = environment.get_template(name).and_then(|template| {
            template.render_captured_to(Value::from_pairs(context), &mut output)
        });
        if output.overflow {
            return Err(format!("it renders more than {MAX_OUTPUT} bytes"));
        }
        rendered.map_err(|error| describe(&error))?;
        String::from_utf8(output.bytes).map_err(|error| error.to_string())
    }

    fn choose(&self, request: &TemplateRequest) -> Result<(&str, &Compiled)> {
        let wanted = match &request.template {
            Some(name) => name.as_str(),
            None if request.tools.is_some() && self.templates.contains_key(TOOL_USE) => TOOL_USE,
            None => DEFAULT,
        };
        match self.templates.get_key_value(wanted) {
            Some((name, compiled)) => Ok((name, compiled)),
            None => {
                let known: Vec<_> = self.names().collect();
                let expected = format!("one of {}", known.join(", "));
                Err(Error::invalid_input("chat template", expected, format!("`{wanted}`")))
            }
        }
    }
}

/// transformers' Jinja environment.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_unknown_method_callback(python::method);
    jinja::install(&mut environment);
    bounds::install(&mut environment);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(rewrite::ITERABLE, python::iterable);
    environment.add_filter(rewrite::BOUNDED, bounds::assigned);
    environment.add_filter(rewrite::ARGUMENT, bounds::argument);
    environment.add_function("raise_exception", raise_exception);
    environment
}

/// Marks an error as the template's own.
#[derive(Debug)]
struct Raised;

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

/// An error's innermost message, with the line where it is known.
fn describe(error: &minijinja::Error) -> String {
    let mut innermost = error;
    let mut raised = false;
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<minijinja::Error>() {
            innermost = cause;
        }
        raised |= cause.is::<Raised>();
        source = cause.source();
    }
    let message = match (innermost.kind(), innermost.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it takes more than {MAX_STEPS} steps"),
        (_, Some(detail)) if raised => return detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match innermost.line().or_else(|| error.line()) {
        Some(line) => format!("{message} (line {line})"),
        None => message,
    }
}

/// Refuses to grow beyond [`MAX_OUTPUT`].
struct BoundedOutput {
    bytes: Vec<u8>,
    overflow: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.bytes.len() {
            self.overflow = true;
            return Err(io::Error::other("the output is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
