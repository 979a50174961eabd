//! How to load a model.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use inference::{KvDtype, LoadOptions, Precision, QuantizeType};

use super::{SourceArgs, values};

/// Which model, on what, and how. An option that the backend cannot honour is
/// refused by the backend, so every one that is given is passed on.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,

    /// Backend, as `inference backends` lists them; default: the first that is ready
    #[arg(short, long, value_name = "NAME")]
    backend: Option<String>,

    /// Longest sequence, prompt and output; default: the model's limit
    #[arg(long, value_name = "TOKENS")]
    context_len: Option<usize>,

    /// Worker threads; default: all
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,

    /// Logical CPUs to pin the worker threads to, such as 0,2,4
    #[arg(long, value_name = "CPUS", value_delimiter = ',')]
    affinity: Option<Vec<usize>>,

    /// How keys and values are stored
    #[arg(long, value_name = "TYPE", value_parser = values::kv_dtype())]
    kv_dtype: Option<KvDtype>,

    /// Memory for keys and values, such as 512M
    #[arg(long, value_name = "BYTES", value_parser = values::byte_count)]
    kv_budget: Option<u64>,

    /// Most sequences at once; default: as many as the command has use for
    #[arg(long, alias = "parallel-slots", value_name = "N")]
    parallel: Option<usize>,

    /// Most tokens that one forward pass computes, of prompts and running texts together
    #[arg(long, value_name = "TOKENS")]
    step_token_budget: Option<usize>,

    /// How long an idle model waits for more requests to compute with the first
    #[arg(long, value_name = "SECONDS", value_parser = values::wait, allow_negative_numbers = true)]
    max_wait: Option<Duration>,

    /// Most requests that wait; further ones are refused
    #[arg(long, value_name = "N")]
    max_queue: Option<usize>,

    /// End a text that nobody has read on for so long
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, allow_negative_numbers = true)]
    lag_timeout: Option<Duration>,

    /// Keep nothing for later prompts that begin the same
    #[arg(long)]
    no_prefix_cache: bool,

    /// Quantize dense weights while loading
    #[arg(long, value_name = "TYPE", value_parser = values::quantize_type())]
    quantize: Option<QuantizeType>,

    /// Multiply by quantized weights exactly, with f32 activations; default:
    /// activations are quantized to 8 bits, which is faster
    #[arg(long)]
    exact: bool,

    /// Layers kept on the accelerator; -1 means all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    gpu_layers: Option<i32>,

    /// Adapter to apply (a folder of PEFT or mlx-lm, or a GGUF file); with =SCALE times a factor
    #[arg(long, value_name = "PATH[=SCALE]", value_parser = values::adapter)]
    adapter: Option<(PathBuf, f32)>,

    /// Write the engine's probe events to this file, as JSON Lines
    #[arg(long, value_name = "FILE")]
    pub(crate) probe: Option<PathBuf>,
}

impl LoadArgs {
    /// The worker threads that were asked for.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// The options of the load, without sinks.
    pub(crate) fn options(&self) -> LoadOptions {
        let mut options = LoadOptions::new();
        options.backend.clone_from(&self.backend);
        options.context_len = self.context_len;
        options.threads = self.threads;
        options.affinity.clone_from(&self.affinity);
        options.kv_dtype = self.kv_dtype;
        options.kv_budget = self.kv_budget;
        options.parallel_slots = self.parallel;
        options.step_token_budget = self.step_token_budget;
        options.max_wait = self.max_wait;
        options.max_queue = self.max_queue;
        options.lag_timeout = self.lag_timeout;
        options.prefix_cache = self.no_prefix_cache.then_some(false);
        options.quantize = self.quantize;
        options.precision = self.exact.then_some(Precision::Exact);
        options.gpu_layers = self.gpu_layers;
        if let Some((path, scale)) = &self.adapter {
            options.adapter_path = Some(path.clone());
            options.adapter_scale = Some(*scale);
        }
        options
    }
}
