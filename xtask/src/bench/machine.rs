//! What figures were measured on.

use std::fmt;
use std::process::Command;

use inference::{Availability, Registry};
use serde_json::{Value, json};

use crate::Result;

/// The machine, the build and the commit.
#[derive(Debug)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: Option<u64>,
    facts: Vec<(String, String)>,
    /// Processes that ran or wanted to, of the last minute (Linux).
    load: Option<f64>,
    profile: &'static str,
    /// `None` outside of a checkout.
    commit: Option<String>,
}

impl Machine {
    pub(super) fn describe() -> Result<Self> {
        let Availability::Ready { devices } = Registry::global().get("cpu")?.availability() else {
            return Err("the backend `cpu` is not available".into());
        };
        let device = devices.into_iter().next().ok_or("the backend `cpu` names no device")?;
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        Ok(Self {
            cpu: device.name,
            cores: device.compute_units.unwrap_or(1),
            memory_bytes: device.memory_bytes,
            facts: device.facts,
            load: load.and_then(|text| text.split_whitespace().next()?.parse().ok()),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            commit: commit(),
        })
    }

    /// Processes that ran or wanted to, of the last minute (Linux).
    pub(super) fn load(&self) -> Option<f64> {
        self.load
    }

    pub(super) fn to_json(&self) -> Value {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        json!({
            "cpu": self.cpu, "cores": self.cores, "memory_bytes": self.memory_bytes,
            "facts": facts, "load_average": self.load, "profile": self.profile,
            "commit": self.commit,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores of {}", self.cores, self.cpu)?;
        if let Some((_, kernels)) = self.facts.iter().find(|(key, _)| key == "kernels") {
            write!(f, ", {kernels}")?;
        }
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", {:.1} GiB", bytes as f64 / f64::from(1 << 30))?;
        }
        if let Some(load) = self.load {
            write!(f, ", load {load}")?;
        }
        let commit = self.commit.as_deref().unwrap_or("unknown");
        write!(f, "; profile {}; commit {commit}", self.profile)
    }
}

/// The checkout's commit, with a `+` where files differ from it.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { format!("{commit}+") } else { commit })
}
