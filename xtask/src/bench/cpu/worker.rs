//! The process that one engine runs in.

use std::io::{BufRead, Write};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::engine::{Engine, EngineKind};
use super::row::Row;
use super::text_model::ContractModel;
use super::worker_process::{Setup, Start};
use crate::Result;

/// Prompt of the requests that the first token is measured of.
const FIRST_PROMPT: usize = 64;
/// Requests that the first one is compared with.
const LATER: u64 = 5;

/// One engine, for `bench cpu`: answers requests on standard input
#[derive(Debug, Args)]
pub(crate) struct CpuWorker {
    #[command(flatten)]
    setup: Setup,
}

impl CpuWorker {
    pub(crate) fn run(&self) -> Result<()> {
        let began = Instant::now();
        let mut engine = load(&self.setup)?;
        let load_seconds = began.elapsed().as_secs_f64();
        let prompt = FIRST_PROMPT.min(self.setup.context.saturating_sub(1)).max(1);
        let mut first = |seed| Ok::<f64, Box<_>>(engine.first_token(prompt, seed)?.as_secs_f64());
        let first_token_seconds = first(u64::MAX - 1)?;
        let mut later = (2..2 + LATER).map(|n| first(u64::MAX - n)).collect::<Result<Vec<_>>>()?;
        later.sort_by(f64::total_cmp);
        let start = Start {
            load_seconds,
            first_token_seconds,
            later_token_seconds: later[later.len() / 2],
            resident_bytes: status_bytes("VmRSS:"),
            anonymous_bytes: status_bytes("RssAnon:"),
        };
        answer(&start.to_json())?;
        for line in std::io::stdin().lock().lines() {
            let request: Value = serde_json::from_str(&line?)?;
            let row = Row::from_json(&request).ok_or("a request names no row")?;
            let seed = request["seed"].as_u64().ok_or("a request has no seed")?;
            answer(&match engine.measure(row, self.setup.generate, seed) {
                Ok(rate) => json!({ "rate": rate }),
                // A backtrace may follow.
                Err(error) => json!({ "error": error.to_string().lines().next() }),
            })?;
        }
        Ok(())
    }
}

fn answer(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn load(setup: &Setup) -> Result<Box<dyn Engine>> {
    match setup.engine {
        EngineKind::Cpu | EngineKind::LlamaCpp => Ok(Box::new(ContractModel::load(setup)?)),
        #[cfg(feature = "candle-peer")]
        EngineKind::Candle => Ok(Box::new(super::candle_model::CandleModel::load(setup)?)),
        #[cfg(not(feature = "candle-peer"))]
        EngineKind::Candle => Err("candle needs the feature `candle-peer` of xtask".into()),
    }
}

/// A field of this process's `/proc/self/status` (Linux).
fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
