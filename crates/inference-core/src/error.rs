//! The one error type of the workspace.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::FinishReason;

/// The result of every fallible call of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A shared, type-erased cause.
///
/// Causes are shared so that one engine failure can be reported to every
/// request that was waiting for it.
pub type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, coarse enough to branch on.
///
/// The kind decides what a caller can do; the [`Error`] itself says which
/// thing, what was expected and what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No backend crate is linked in or registered.
    NoBackendRegistered,
    /// Backends are registered, none of them can run on this machine.
    NoBackendAvailable,
    /// No backend has the name that was asked for.
    UnknownBackend,
    /// The named backend exists but cannot run on this machine.
    BackendUnavailable,
    /// No model of the name is on this machine, or on the hub.
    ModelNotFound,
    /// A model's files are missing, malformed or inconsistent.
    InvalidModel,
    /// The model is well formed, but this software does not implement it.
    UnsupportedModel,
    /// The model or backend lacks an optional ability.
    Unsupported,
    /// An option holds a value outside its accepted range.
    InvalidOption,
    /// A prompt, message, token id or other request input is not acceptable.
    InvalidInput,
    /// A bounded resource (context, KV budget, queue) cannot hold the request.
    Exhausted,
    /// The model was closed.
    Closed,
    /// What has no stream ended before its answer: cancelled, or too late.
    Cancelled,
    /// Reading or writing failed.
    Io,
    /// A server could not be reached, refused, or broke off.
    Network,
    /// The engine or device failed while it was computing.
    Engine,
}

impl ErrorKind {
    /// The stable name, in snake case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoBackendRegistered => "no_backend_registered",
            Self::NoBackendAvailable => "no_backend_available",
            Self::UnknownBackend => "unknown_backend",
            Self::BackendUnavailable => "backend_unavailable",
            Self::ModelNotFound => "model_not_found",
            Self::InvalidModel => "invalid_model",
            Self::UnsupportedModel => "unsupported_model",
            Self::Unsupported => "unsupported",
            Self::InvalidOption => "invalid_option",
            Self::InvalidInput => "invalid_input",
            Self::Exhausted => "exhausted",
            Self::Closed => "closed",
            Self::Cancelled => "cancelled",
            Self::Io => "io",
            Self::Network => "network",
            Self::Engine => "engine",
        }
    }
}

/// Why a call failed: what, where, what was expected and what was found.
///
/// Errors are cheap to clone, because one engine failure answers every request
/// that was running. Branch on [`Error::kind`]; print with `{}` for the
/// message, and walk [`std::error::Error::source`] for the causes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The registry is empty.
    NoBackendRegistered,

    /// Every registered backend is unavailable.
    NoBackendAvailable {
        /// Backend name and why it cannot run here, in automatic order.
        reasons: Vec<(String, String)>,
    },

    /// No backend is registered under this name.
    UnknownBackend {
        /// The name that was asked for.
        name: String,
        /// The names that are registered, sorted.
        known: Vec<String>,
    },

    /// The backend is registered but cannot run on this machine.
    BackendUnavailable {
        /// The backend's name.
        name: String,
        /// Why it cannot run here.
        reason: String,
    },

    /// A backend could not load a model; the source says why.
    Load {
        /// The backend that tried.
        backend: String,
        /// The model's path, or what else names it.
        model: String,
        /// The cause; its kind is this error's kind.
        source: Box<Error>,
    },

    /// A name stands for no model.
    ModelNotFound {
        /// The name that was asked for.
        model: String,
        /// What would help, one clause.
        hint: String,
    },

    /// A model's file, field or tensor is missing, malformed or inconsistent.
    InvalidModel {
        /// The file, relative to the model where that is clear.
        file: String,
        /// The field, tensor or part of the file.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A well-formed model that is not implemented.
    UnsupportedModel {
        /// The file that names the feature.
        file: String,
        /// The field, for example `model_type` or `rope_scaling.rope_type`.
        what: String,
        /// The value of that field.
        found: String,
        /// What is implemented.
        supported: String,
    },

    /// An optional ability that this backend or model does not have.
    Unsupported {
        /// The backend or model.
        subject: String,
        /// The ability, by capability id or option name.
        ability: String,
    },

    /// An option outside its range.
    InvalidOption {
        /// The option's field name.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// The accepted range.
        expected: String,
    },

    /// A request's input that cannot be used.
    InvalidInput {
        /// The part of the input.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What was given.
        found: String,
    },

    /// A chat template that raised or could not be rendered.
    Template {
        /// Where the template comes from.
        file: String,
        /// The template's own message, with the line where it is known.
        message: String,
    },

    /// A bounded resource that cannot hold the request.
    Exhausted {
        /// The resource, with its unit.
        resource: String,
        /// How much the request needs.
        needed: u64,
        /// How much there is.
        available: u64,
    },

    /// The model was closed before or while the request ran.
    Closed,

    /// A request without a stream that its caller's token or deadline ended
    /// before it had an answer.
    Cancelled {
        /// [`Cancelled`](FinishReason::Cancelled) or
        /// [`Deadline`](FinishReason::Deadline).
        reason: FinishReason,
    },

    /// Reading or writing failed.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done, for example `open`.
        action: &'static str,
        /// The operating system's error.
        source: Arc<std::io::Error>,
    },

    /// A server could not be reached, refused, or broke off.
    Network {
        /// What was asked for; without credentials.
        url: String,
        /// What went wrong, one clause.
        problem: String,
        /// The cause, where there is one.
        source: Option<Source>,
    },

    /// The engine or device failed while computing.
    Engine {
        /// What was being computed.
        context: String,
        /// The cause, where there is one.
        source: Option<Source>,
    },
}

impl Error {
    /// The kind to branch on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoBackendRegistered => ErrorKind::NoBackendRegistered,
            Self::NoBackendAvailable { .. } => ErrorKind::NoBackendAvailable,
            Self::UnknownBackend { .. } => ErrorKind::UnknownBackend,
            Self::BackendUnavailable { .. } => ErrorKind::BackendUnavailable,
            Self::Load { source, .. } => source.kind(),
            Self::ModelNotFound { .. } => ErrorKind::ModelNotFound,
            Self::InvalidModel { .. } => ErrorKind::InvalidModel,
            Self::UnsupportedModel { .. } => ErrorKind::UnsupportedModel,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::InvalidOption { .. } => ErrorKind::InvalidOption,
            Self::InvalidInput { .. } | Self::Template { .. } => ErrorKind::InvalidInput,
            Self::Exhausted { .. } => ErrorKind::Exhausted,
            Self::Closed => ErrorKind::Closed,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Io { .. } => ErrorKind::Io,
            Self::Network { .. } => ErrorKind::Network,
            Self::Engine { .. } => ErrorKind::Engine,
        }
    }

    /// A name that stands for no model, and what would help.
    pub fn model_not_found(model: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::ModelNotFound { model: model.into(), hint: hint.into() }
    }

    /// A malformed or inconsistent model file.
    pub fn invalid_model(
        file: impl Into<String>,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::InvalidModel {
            file: file.into(),
            what: brief(what.into()),
            expected: brief(expected.into()),
            found: brief(found.into()),
        }
    }

    /// A model feature that is not implemented.
    pub fn unsupported_model(
        file: impl Into<String>,
        what: impl Into<String>,
        found: impl Into<String>,
        supported: impl Into<String>,
    ) -> Self {
        Self::UnsupportedModel {
            file: file.into(),
            what: brief(what.into()),
            found: brief(found.into()),
            supported: supported.into(),
        }
    }

    /// An ability that `subject` lacks.
    pub fn unsupported(subject: impl Into<String>, ability: impl Into<String>) -> Self {
        Self::Unsupported { subject: subject.into(), ability: ability.into() }
    }

    /// An option outside its range.
    pub fn invalid_option(
        field: &'static str,
        value: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidOption { field, value: value.to_string(), expected: expected.into() }
    }

    /// A request input that cannot be used.
    pub fn invalid_input(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::InvalidInput { what: what.into(), expected: expected.into(), found: found.into() }
    }

    /// A bounded resource that cannot hold the request. `resource` bears its
    /// unit, for example `context (tokens)`.
    pub fn exhausted(resource: impl Into<String>, needed: u64, available: u64) -> Self {
        Self::Exhausted { resource: resource.into(), needed, available }
    }

    /// A chat template that raised or could not be rendered.
    pub fn template(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Template { file: file.into(), message: message.into() }
    }

    /// A failed read or write of `path`.
    pub fn io(path: impl Into<PathBuf>, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), action, source: Arc::new(source) }
    }

    /// A server that could not be reached, refused, or broke off.
    pub fn network(url: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Network { url: url.into(), problem: problem.into(), source: None }
    }

    /// A failure while computing, with its cause.
    pub fn engine(
        context: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Engine { context: context.into(), source: Some(Arc::new(source)) }
    }

    /// A failure while computing that has no further cause.
    pub fn engine_message(context: impl Into<String>) -> Self {
        Self::Engine { context: context.into(), source: None }
    }
}

/// What a file says, short enough for a message: files may be hostile. Nothing
/// is shown as two quotation marks.
fn brief(mut text: String) -> String {
    const MOST: usize = 200;
    if text.is_empty() {
        text.push_str("\"\"");
    }
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

// By hand: a derive would bring a parser of Rust, which takes longer to compile
// than this crate.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBackendRegistered => f.write_str(
                "no backend is registered: link one with `use inference_cpu as _;` or call its \
                 `register`",
            ),
            Self::NoBackendAvailable { reasons } => {
                write!(f, "no registered backend is available: {}", Reasons(reasons))
            }
            Self::UnknownBackend { name, known } => {
                write!(f, "unknown backend `{name}`; registered: {}", List(known))
            }
            Self::BackendUnavailable { name, reason } => {
                write!(f, "backend `{name}` is unavailable: {reason}")
            }
            Self::Load { backend, model, .. } => {
                write!(f, "backend `{backend}` could not load {model}")
            }
            Self::ModelNotFound { model, hint } => write!(f, "no model `{model}`: {hint}"),
            Self::InvalidModel { file, what, expected, found } => {
                write!(f, "{file}: {what}: expected {expected}, found {found}")
            }
            Self::UnsupportedModel { file, what, found, supported } => {
                write!(f, "{file}: {what} `{found}` is not supported; supported: {supported}")
            }
            Self::Unsupported { subject, ability } => {
                write!(f, "{subject} does not support {ability}")
            }
            Self::InvalidOption { field, value, expected } => {
                write!(f, "invalid option `{field}` = {value}: expected {expected}")
            }
            Self::InvalidInput { what, expected, found } => {
                write!(f, "invalid {what}: expected {expected}, found {found}")
            }
            Self::Template { file, message } => {
                write!(f, "chat template of {file} failed: {message}")
            }
            Self::Exhausted { resource, needed, available } => {
                write!(f, "{resource} exhausted: {needed} needed, {available} available")
            }
            Self::Closed => f.write_str("the model is closed"),
            Self::Cancelled { reason } => {
                write!(f, "the request ended without an answer: {reason}")
            }
            Self::Io { path, action, .. } => write!(f, "{}: {action} failed", path.display()),
            Self::Network { url, problem, .. } => write!(f, "{url}: {problem}"),
            Self::Engine { context, .. } => f.write_str(context),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Load { source, .. } => Some(source.as_ref()),
            Self::Io { source, .. } => Some(source.as_ref()),
            Self::Network { source: Some(source), .. }
            | Self::Engine { source: Some(source), .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// Formats a list of names, or `none`.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.join(", "))
    }
}

/// Formats `name (reason)` pairs.
struct Reasons<'a>(&'a [(String, String)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, reason)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{name} ({reason})")?;
        }
        Ok(())
    }
}
