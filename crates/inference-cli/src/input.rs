//! Text from an argument, from standard input or from a file.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use crate::failure::{Failure, Result};

/// Where standard input stands for an argument.
pub(crate) const STDIN: &str = "-";

/// The argument's text; standard input, whole, where it is `-`, or absent
/// while standard input is not a terminal.
pub(crate) fn text_or_stdin(argument: Option<&str>, name: &str) -> Result<String> {
    match argument {
        Some(text) if text != STDIN => Ok(text.to_owned()),
        None if io::stdin().is_terminal() => {
            Err(Failure::Usage(format!("{name} is missing: give it, or text on standard input")))
        }
        _ => stdin(),
    }
}

/// A prompt: as [`text_or_stdin`], without the newline that ends the input's
/// last line.
pub(crate) fn prompt_or_stdin(argument: Option<&str>, name: &str) -> Result<String> {
    let mut text = text_or_stdin(argument, name)?;
    if argument.is_none_or(|argument| argument == STDIN) && text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// A file's text; standard input's where the path is `-`.
pub(crate) fn file_or_stdin(path: &Path) -> Result<String> {
    if path == Path::new(STDIN) {
        return stdin();
    }
    let what = || path.display().to_string();
    std::fs::read_to_string(path).map_err(|source| Failure::Input { what: what(), source })
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|source| Failure::Input { what: "standard input".into(), source })?;
    Ok(text)
}
