//! How a command fails: what is reported, and with which exit code.

use std::error::Error as _;
use std::io::{self, Write as _};

use inference::{Error, ErrorKind};
use serde::Serialize;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the input cannot be used.
    Usage(String),
    /// No model, tokenizer or backend to work with.
    Load(Error),
    /// The model refused the request, or failed at it.
    Request(Error),
    /// Standard output cannot be written.
    Output(io::Error),
    /// Standard input, or a file that is not part of a model, failed.
    Input { what: String, source: io::Error },
    /// The reader of standard output was so slow that the text was cut off.
    Lagging,
    /// Ctrl-C; what came so far has been printed.
    Interrupted,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The exit code after Ctrl-C: 128 and the signal's number.
pub(crate) const INTERRUPTED: u8 = 130;

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Load(error) if is_callers(error.kind()) => 2,
            Self::Load(_) => 3,
            // A prompt that does not fit is bad input, whichever bound it hits.
            Self::Request(error) if error.kind() == ErrorKind::Exhausted => 2,
            Self::Request(error) if is_callers(error.kind()) => 2,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Input { source, .. } if source.kind() == io::ErrorKind::NotFound => 2,
            Self::Request(_) | Self::Output(_) | Self::Input { .. } | Self::Lagging => 1,
            Self::Interrupted => INTERRUPTED,
        }
    }

    /// Whether there is nothing to say about it.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }

    /// Writes the error and its causes to standard error: as text, or with
    /// `json` as one object on a line.
    pub(crate) fn report(&self, json: bool) {
        if self.is_quiet() {
            return;
        }
        let text = if json { self.to_json() } else { self.to_text() };
        // Nobody is left to tell where standard error fails.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Load(error) | Self::Request(error) => error.kind().as_str(),
            Self::Output(_) | Self::Input { .. } => "io",
            Self::Lagging => "lagging",
            Self::Interrupted => "interrupted",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Usage(message) => message.clone(),
            Self::Load(error) | Self::Request(error) => error.to_string(),
            Self::Output(_) => "standard output cannot be written".to_owned(),
            Self::Input { what, .. } => format!("{what} cannot be read"),
            Self::Lagging => {
                "the text was cut off: its reader was slower than the engine waits".to_owned()
            }
            Self::Interrupted => "interrupted".to_owned(),
        }
    }

    /// The messages of the causes, nearest first.
    fn causes(&self) -> Vec<String> {
        match self {
            Self::Load(error) | Self::Request(error) => {
                std::iter::successors(error.source(), |error| (*error).source())
                    .map(ToString::to_string)
                    .collect()
            }
            Self::Output(source) | Self::Input { source, .. } => vec![source.to_string()],
            Self::Usage(_) | Self::Lagging | Self::Interrupted => Vec::new(),
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("error: {}", self.message());
        for cause in self.causes() {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
        text
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::json!({ "error": self.detail() }).to_string()
    }

    pub(crate) fn detail(&self) -> Detail {
        Detail {
            kind: self.kind(),
            message: self.message(),
            causes: self.causes(),
            exit_code: self.exit_code(),
        }
    }
}

/// An error as JSON carries it.
#[derive(Debug, Serialize)]
pub(crate) struct Detail {
    kind: &'static str,
    message: String,
    causes: Vec<String>,
    exit_code: u8,
}

/// Whether the caller has to change an argument.
fn is_callers(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidOption
            | ErrorKind::InvalidInput
            | ErrorKind::Unsupported
            | ErrorKind::UnknownBackend
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_error_is_told_with_all_its_causes() {
        let io = Error::io("m/config.json", "open", io::Error::other("disk on fire"));
        let load = Error::Load { backend: "cpu".into(), model: "m".into(), source: Box::new(io) };
        let failure = Failure::Load(load);
        assert_eq!(
            failure.to_text(),
            "error: backend `cpu` could not load m\n  caused by: m/config.json: open failed\n  \
             caused by: disk on fire"
        );
        assert_eq!(failure.exit_code(), 3);
    }

    #[test]
    fn an_option_refused_at_load_is_a_usage_error() {
        let option = Error::invalid_option("threads", 0, "at least 1");
        let load =
            Error::Load { backend: "cpu".into(), model: "m".into(), source: Box::new(option) };
        assert_eq!(Failure::Load(load).exit_code(), 2);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert!(failure.is_quiet());
        assert_eq!(failure.exit_code(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }
}
