//! Remarks for the user, on standard error.

use std::io::{self, IsTerminal as _, Write as _};

/// Where remarks go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notes {
    json: bool,
    /// Standard error is a terminal.
    person: bool,
    /// It shows colours, and the user has not asked for none (`NO_COLOR`).
    styled: bool,
}

impl Notes {
    pub(crate) fn new(json: bool) -> Self {
        let person = io::stderr().is_terminal();
        let styled = person && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, person, styled }
    }

    /// Whether somebody is watching standard error.
    pub(crate) fn person(self) -> bool {
        self.person
    }

    /// Something the user should know, in every mode.
    pub(crate) fn note(self, message: &str) {
        if self.json {
            self.write(&format!("{}\n", serde_json::json!({ "note": message })));
        } else {
            self.write(&format!("note: {message}\n"));
        }
    }

    /// A quiet line that only a person at a terminal gets to see.
    pub(crate) fn aside(self, message: &str) {
        if self.person {
            self.write(&format!("{}\n", self.dim(message)));
        }
    }

    /// The start of a line that the user will end.
    pub(crate) fn prompt(self, prompt: &str) {
        if self.person {
            self.write(&self.dim(prompt));
        }
    }

    fn dim(self, text: &str) -> String {
        if self.styled { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(self, text: &str) {
        let mut stderr = io::stderr().lock();
        // A remark that cannot be shown is no reason to stop working.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}
