//! Standard output: text unbuffered, JSON a line at a time.

use std::io::{self, IsTerminal as _, StdoutLock, Write as _};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// Standard output, locked for a command's life.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: StdoutLock<'static>,
    is_terminal: bool,
    at_line_start: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        Self { stdout, is_terminal, at_line_start: true }
    }

    /// Writes text at once.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.at_line_start = text.ends_with('\n');
        self.stdout.write_all(text.as_bytes()).map_err(Failure::Output)?;
        self.stdout.flush().map_err(Failure::Output)
    }

    /// Writes a line at once.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Writes one JSON value on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?;
        self.line(&line)
    }

    /// Ends the line that is open.
    pub(crate) fn end_line(&mut self) -> Result<()> {
        if self.at_line_start { Ok(()) } else { self.text("\n") }
    }

    /// Ends the line that is open, but only for a person's eyes: a file or a
    /// pipe gets the text exactly.
    pub(crate) fn end_text(&mut self) -> Result<()> {
        if self.is_terminal { self.end_line() } else { Ok(()) }
    }
}
