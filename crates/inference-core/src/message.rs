//! Prompts and chat messages.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::{Error, Result, TokenId};

/// Who speaks in a chat message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Role {
    /// Instructions that frame the conversation.
    System,
    /// Instructions of the application's developer, where a template tells
    /// them from the system's.
    Developer,
    /// The human.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// Every role, in the order of their documentation.
    pub const ALL: [Role; 5] =
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool];

    /// The name that chat templates know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|role| role.as_str()).collect();
            Error::invalid_input("message role", known.join(", "), format!("`{name}`"))
        })
    }
}

/// A JSON value as text, for the parts of a chat that only a template reads.
///
/// The contract carries JSON without a JSON library; the layer that renders
/// templates parses it and reports what is malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct RawJson(pub String);

impl From<&str> for RawJson {
    fn from(json: &str) -> Self {
        Self(json.to_owned())
    }
}

impl From<String> for RawJson {
    fn from(json: String) -> Self {
        Self(json)
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; `None` where a message consists of tool calls alone.
    pub content: Option<String>,
    /// Further fields that the template may read (`tool_calls`,
    /// `tool_call_id`, `name`, `reasoning_content`, …), as JSON. A field
    /// `content` here, such as a list of parts, replaces [`Message::content`].
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "BTreeMap::is_empty"))]
    pub fields: BTreeMap<String, RawJson>,
}

impl Message {
    /// A message with text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), fields: BTreeMap::new() }
    }

    /// A system message.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// A user message.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// An assistant message.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// A message whose content is null.
    #[must_use]
    pub fn without_content(role: Role) -> Self {
        Self { role, content: None, fields: BTreeMap::new() }
    }

    /// Adds a field for the template.
    #[must_use]
    pub fn with_field(mut self, name: impl Into<String>, json: impl Into<RawJson>) -> Self {
        self.fields.insert(name.into(), json.into());
        self
    }
}

/// A conversation and everything else that its template may read.
///
/// ```
/// use inference_core::{ChatPrompt, Message};
///
/// let chat = ChatPrompt::from(vec![Message::user("What is 2 plus 3?")])
///     .with_variable("enable_thinking", "false");
/// assert_eq!(chat.messages.len(), 1);
/// assert!(chat.add_generation_prompt);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatPrompt {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Tool definitions, a JSON array.
    pub tools: Option<RawJson>,
    /// Documents for retrieval templates, a JSON array.
    pub documents: Option<RawJson>,
    /// Extra template variables, each a JSON value.
    pub variables: BTreeMap<String, RawJson>,
    /// Whether the text ends with the opening of the assistant's turn.
    /// Default: true.
    pub add_generation_prompt: bool,
}

impl ChatPrompt {
    /// A conversation without tools, documents or variables.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            variables: BTreeMap::new(),
            add_generation_prompt: true,
        }
    }

    /// Sets the tool definitions, a JSON array.
    #[must_use]
    pub fn with_tools(mut self, json: impl Into<RawJson>) -> Self {
        self.tools = Some(json.into());
        self
    }

    /// Sets the documents, a JSON array.
    #[must_use]
    pub fn with_documents(mut self, json: impl Into<RawJson>) -> Self {
        self.documents = Some(json.into());
        self
    }

    /// Sets an extra template variable to a JSON value.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, json: impl Into<RawJson>) -> Self {
        self.variables.insert(name.into(), json.into());
        self
    }

    /// Whether the text ends with the opening of the assistant's turn.
    #[must_use]
    pub fn with_generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }
}

impl From<Vec<Message>> for ChatPrompt {
    fn from(messages: Vec<Message>) -> Self {
        Self::new(messages)
    }
}

/// What a request starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// Plain text; the tokenizer adds its special tokens (such as BOS).
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<TokenId>),
    /// A conversation, rendered by the model's chat template.
    Chat(ChatPrompt),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<TokenId>> for Prompt {
    fn from(ids: Vec<TokenId>) -> Self {
        Self::Tokens(ids)
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self::Chat(messages.into())
    }
}

impl From<ChatPrompt> for Prompt {
    fn from(chat: ChatPrompt) -> Self {
        Self::Chat(chat)
    }
}
