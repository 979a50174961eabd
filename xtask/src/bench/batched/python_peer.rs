//! numpy and PyTorch, in a Python process that waits for its turn.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::shape::Shape;
use crate::Result;

/// Says which products it has, then answers each of their names with the
/// seconds of a call.
const SCRIPT: &str = include_str!("python_peer.py");

pub(super) struct PythonPeer {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    names: Vec<String>,
}

impl PythonPeer {
    pub(super) fn start(python: &Path, shape: &Shape, threads: usize) -> Result<Self> {
        let widths: Vec<_> = shape.widths.iter().map(ToString::to_string).collect();
        let mut process = Command::new(python)
            .args(["-c", SCRIPT, &threads.to_string(), &shape.models.to_string()])
            .args(widths)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let questions = process.stdin.take().ok_or("no pipe to Python")?;
        let answers = process.stdout.take().ok_or("no pipe from Python")?;
        let mut this =
            Self { process, questions, answers: BufReader::new(answers), names: Vec::new() };
        this.names = this.line()?.split_whitespace().map(str::to_owned).collect();
        if this.names.is_empty() {
            return Err(format!("{}: numpy is not installed", python.display()).into());
        }
        Ok(this)
    }

    /// Which products it has.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Seconds of a call.
    pub(super) fn seconds(&mut self, name: &str) -> Result<f64> {
        writeln!(self.questions, "{name}")?;
        self.questions.flush()?;
        let line = self.line()?;
        Ok(line.trim().parse().map_err(|_| format!("Python answered `{line}`"))?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("Python ended early".into());
        }
        Ok(line)
    }
}

impl Drop for PythonPeer {
    fn drop(&mut self) {
        // It ends with its input; whether it did, nobody asks.
        let _ = writeln!(self.questions, "end");
        let _ = self.process.wait();
    }
}
