//! An engine's process, from outside.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use clap::Args;
use inference::KvDtype;
use serde_json::{Value, json};

use super::engine::EngineKind;
use super::failure::reason;
use super::llama_tools::Outcome;
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

/// An engine that is measured: in one process, and in another one once that has ended.
pub(super) struct Worker {
    setup: Setup,
    process: Option<WorkerProcess>,
}

impl Worker {
    pub(super) fn new(setup: Setup) -> Self {
        Self { setup, process: None }
    }

    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Tokens per second, or why this engine has no such row.
    pub(super) fn measure(&mut self, row: Row, seed: u64) -> Outcome {
        let process = match &mut self.process {
            Some(process) => process,
            empty => empty.insert(WorkerProcess::start(&self.setup).map_err(|e| e.to_string())?.0),
        };
        let outcome = process.measure(row, seed);
        if outcome.is_err() {
            self.process = None;
        }
        outcome.map_err(|error| error.to_string())?
    }
}

/// A process that holds a loaded engine; it ends when this is dropped.
pub(super) struct WorkerProcess {
    child: Child,
    /// Dropped first of all: its end is what the process waits for.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Reads what the process says of itself, until it ends.
    errors: Option<JoinHandle<String>>,
    name: &'static str,
}

impl WorkerProcess {
    /// Starts one and waits until its model is loaded.
    pub(super) fn start(setup: &Setup) -> Result<(Self, Start)> {
        let mut command = setup.command()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("a process without an output")?);
        let errors = child.stderr.take().ok_or("a process without an error output")?;
        let errors = Some(std::thread::spawn(|| shown(errors)));
        let mut worker = Self { child, requests, answers, errors, name: setup.engine.label() };
        let answer = worker.answer()?;
        let start = Start::from_json(&answer)
            .ok_or_else(|| format!("{}: unexpected answer {answer}", worker.name))?;
        Ok((worker, start))
    }

    /// Tokens per second, or why this engine has no such row; an error where
    /// the process is of no more use.
    fn measure(&mut self, row: Row, seed: u64) -> Result<Outcome> {
        let mut request = row.to_json();
        request["seed"] = json!(seed);
        let requests = self.requests.as_mut().ok_or("a process without an input")?;
        // Where it has ended, that there is no answer tells why.
        let _ = writeln!(requests, "{request}");
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
            let status = self.child.wait()?;
            let errors = self.errors.take().and_then(|errors| errors.join().ok());
            return Err(reason(status, &errors.unwrap_or_default()).into());
        }
        Ok(serde_json::from_str(&line)
            .map_err(|error| format!("{}: {line}: {error}", self.name))?)
    }
}

/// Passes the lines on; all of them in the end.
#[expect(clippy::print_stderr, reason = "what a process of a command says is shown")]
fn shown(errors: ChildStderr) -> String {
    let mut all = String::new();
    for line in BufReader::new(errors).split(b'\n').map_while(std::result::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        all.push_str(&line);
        all.push('\n');
    }
    all
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Its failure would have been an answer; there is no more to ask for.
        let _ = self.child.wait();
    }
}
