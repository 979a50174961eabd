//! The engines that run in a process of this program.

use std::time::Duration;

use clap::ValueEnum;
use inference_cpu::Tier;

use super::row::Row;
use crate::Result;

/// An engine of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineKind {
    /// The backend `cpu`.
    #[value(name = "cpu")]
    Cpu,
    /// The backend `llama_cpp`: llama.cpp below our generation loop.
    #[value(name = "llama_cpp")]
    LlamaCpp,
    /// Candle's own `quantized_llama`.
    #[value(name = "candle")]
    Candle,
}

impl EngineKind {
    /// The name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::LlamaCpp => "llama_cpp",
            Self::Candle => "candle",
        }
    }

    /// The name in tables.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Cpu => "ours",
            Self::LlamaCpp => "llama.cpp (linked)",
            Self::Candle => "Candle",
        }
    }
}

/// A loaded model that is measured.
pub(super) trait Engine {
    /// The time to the first token of a prompt that is new.
    fn first_token(&mut self, prompt_tokens: usize, seed: u64) -> Result<Duration>;

    /// Tokens per second; another seed is another prompt.
    fn measure(&mut self, row: Row, generate: usize, seed: u64) -> Result<f64>;
}

/// A tier by its name.
pub(super) fn tier(name: &str) -> std::result::Result<Tier, String> {
    let tier = Tier::ALL.into_iter().find(|tier| tier.as_str() == name);
    tier.ok_or_else(|| format!("expected one of {}", Tier::ALL.map(Tier::as_str).join(", ")))
}
