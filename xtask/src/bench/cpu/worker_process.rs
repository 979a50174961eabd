//! An engine's process, from outside.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::Args;
use inference::KvDtype;
use serde_json::{Value, json};

use super::engine::EngineKind;
use super::row::Row;
use crate::Result;

/// What a process is started with.
#[derive(Clone, Debug, Args)]
pub(super) struct Setup {
    #[arg(long, value_enum)]
    pub(super) engine: EngineKind,
    #[arg(long)]
    pub(super) model: PathBuf,
    #[arg(long)]
    pub(super) threads: usize,
    #[arg(long)]
    pub(super) tier: Option<String>,
    #[arg(long)]
    pub(super) kv_dtype: KvDtype,
    /// Longest sequence, in tokens.
    #[arg(long)]
    pub(super) context: usize,
    /// Most sequences at once.
    #[arg(long)]
    pub(super) sequences: usize,
    /// Tokens that each sequence generates where decoding is measured.
    #[arg(long)]
    pub(super) generate: usize,
}

impl Setup {
    fn command(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "cpu-worker", "--engine", self.engine.name(), "--model"]);
        command.arg(&self.model).args(["--kv-dtype", self.kv_dtype.as_str()]);
        for (option, value) in [
            ("--threads", self.threads),
            ("--context", self.context),
            ("--sequences", self.sequences),
            ("--generate", self.generate),
        ] {
            command.args([option, &value.to_string()]);
        }
        if let Some(tier) = &self.tier {
            command.args(["--tier", tier]);
        }
        // Candle has no other way to be told.
        command.env("RAYON_NUM_THREADS", self.threads.to_string());
        Ok(command)
    }
}

/// How an engine came up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Until the first request could be made.
    pub(super) load_seconds: f64,
    /// Of the first request after the load.
    pub(super) first_token_seconds: f64,
    /// Of the requests after it.
    pub(super) later_token_seconds: f64,
    /// After those requests; `None` where the system does not tell.
    pub(super) resident_bytes: Option<u64>,
    /// Of these, what no file stands behind.
    pub(super) anonymous_bytes: Option<u64>,
}

impl Start {
    pub(super) fn to_json(self) -> Value {
        json!({
            "load": self.load_seconds, "first": self.first_token_seconds,
            "later": self.later_token_seconds, "resident": self.resident_bytes,
            "anonymous": self.anonymous_bytes,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            load_seconds: value["load"].as_f64()?,
            first_token_seconds: value["first"].as_f64()?,
            later_token_seconds: value["later"].as_f64()?,
            resident_bytes: value["resident"].as_u64(),
            anonymous_bytes: value["anonymous"].as_u64(),
        })
    }
}

/// A process that holds a loaded engine; it ends when this is dropped.
pub(super) struct WorkerProcess {
    child: Child,
    /// Dropped first of all: its end is what the process waits for.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: &'static str,
}

impl WorkerProcess {
    /// Starts one and waits until its model is loaded.
    pub(super) fn start(setup: &Setup) -> Result<(Self, Start)> {
        let mut child = setup.command()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("a process without an output")?);
        let mut worker = Self { child, requests, answers, name: setup.engine.label() };
        let answer = worker.answer()?;
        let start = Start::from_json(&answer)
            .ok_or_else(|| format!("{}: unexpected answer {answer}", worker.name))?;
        Ok((worker, start))
    }

    /// Tokens per second, or why this engine has no such row.
    pub(super) fn measure(
        &mut self,
        row: Row,
        seed: u64,
    ) -> Result<std::result::Result<f64, String>> {
        let mut request = row.to_json();
        request["seed"] = json!(seed);
        let requests = self.requests.as_mut().ok_or("a process without an input")?;
        writeln!(requests, "{request}")?;
        let answer = self.answer()?;
        match (answer["rate"].as_f64(), answer["error"].as_str()) {
            (Some(rate), _) => Ok(Ok(rate)),
            (None, Some(error)) => Ok(Err(error.to_owned())),
            _ => Err(format!("{}: unexpected answer {answer}", self.name).into()),
        }
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("{}: its process ended ({})", self.name, self.child.wait()?).into());
        }
        Ok(serde_json::from_str(&line)
            .map_err(|error| format!("{}: {line}: {error}", self.name))?)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Its failure would have been an answer; there is no more to ask for.
        let _ = self.child.wait();
    }
}
