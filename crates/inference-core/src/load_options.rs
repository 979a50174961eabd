//! What a caller asks of loading a model.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, ProbeBus, ProgressSink, Result};

/// A model's files, embedded in a binary: file name and content.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// Where a model comes from. Loading never touches the network.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelSource {
    /// A folder (or file) on this machine.
    Path(PathBuf),
    /// Files embedded in the binary, by name, as they would lie in a folder.
    Embedded(EmbeddedFiles),
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelSource({self})")
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Embedded(_) => f.write_str("the embedded model"),
        }
    }
}

impl From<&str> for ModelSource {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<&Path> for ModelSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<EmbeddedFiles> for ModelSource {
    fn from(files: EmbeddedFiles) -> Self {
        Self::Embedded(files)
    }
}

macro_rules! named_types {
    ($(#[$meta:meta])* $type:ident, $what:literal: $($(#[doc = $doc:literal])* $name:ident = $id:literal;)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        pub enum $type {
            $($(#[doc = $doc])* #[cfg_attr(feature = "serde", serde(rename = $id))] $name,)*
        }

        impl $type {
            /// Every value.
            pub const ALL: &[$type] = &[$(Self::$name),*];

            /// The stable name, which [`FromStr`] reads.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    Error::invalid_option($what, format!("`{name}`"), known.join(", "))
                })
            }
        }
    };
}

named_types! {
    /// How keys and values are stored.
    KvDtype, "kv_dtype":
    /// 32-bit floats.
    F32 = "f32";
    /// 16-bit IEEE floats.
    F16 = "f16";
    /// 16-bit brain floats.
    Bf16 = "bf16";
    /// 8-bit blocks of 32 with one scale each; for heads of whole blocks.
    Q8_0 = "q8_0";
}

named_types! {
    /// A type that dense weights can be quantized to while they load.
    QuantizeType, "quantize":
    /// 8 bits, blocks of 32.
    Q8_0 = "q8_0";
    /// 4 bits, blocks of 32.
    Q4_0 = "q4_0";
    /// 4 bits, superblocks of 256.
    Q4K = "q4_k";
    /// 6 bits, superblocks of 256.
    Q6K = "q6_k";
}

named_types! {
    /// How products with quantized weights are computed. Dense weights are
    /// computed in f32 either way.
    Precision, "precision":
    /// Activations are quantized too, to 8 bits per block, as llama.cpp does.
    Fast = "fast";
    /// Weights are dequantized block by block and activations stay f32.
    Exact = "exact";
}

/// Options of loading a model. Every field is optional; an option that a
/// backend cannot honour is refused by name, never ignored.
///
/// ```
/// use inference_core::{KvDtype, LoadOptions};
///
/// let options = LoadOptions::new()
///     .with_backend("cpu")
///     .with_context_len(2048)
///     .with_parallel_slots(8)
///     .with_threads(2)
///     .with_kv_dtype(KvDtype::F32);
/// options.validate()?;
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The backend's name. Default: the first available in automatic order.
    pub backend: Option<String>,
    /// Longest sequence (prompt and output), in tokens, 1 up to the model's
    /// own limit. Default: the model's limit, within the KV budget.
    pub context_len: Option<usize>,
    /// Layers kept on the accelerator; -1 means all. Default: -1. A backend
    /// that cannot split a model refuses any other value.
    pub gpu_layers: Option<i32>,
    /// Most sequences that run at once, at least 1. Default: the backend's.
    pub parallel_slots: Option<usize>,
    /// An adapter to apply, loaded with the model: under the name
    /// [`DEFAULT_ADAPTER`](crate::DEFAULT_ADAPTER), for requests that name none.
    pub adapter_path: Option<PathBuf>,
    /// Factor on top of the scaling of the adapter at
    /// [`adapter_path`](Self::adapter_path). Default: 1.
    pub adapter_scale: Option<f32>,
    /// Most bytes of adapters in memory. Those that no request uses make room
    /// for others. Default: the backend's.
    pub adapter_budget: Option<u64>,
    /// Quantize dense weights to this type while loading.
    pub quantize: Option<QuantizeType>,
    /// How products with quantized weights are computed. Default:
    /// [`Precision::Fast`].
    pub precision: Option<Precision>,
    /// How keys and values are stored. Default: the backend's.
    pub kv_dtype: Option<KvDtype>,
    /// Bytes for keys and values, fixed at load. Default: what
    /// `parallel_slots` sequences of `context_len` need, within a bound that
    /// the backend documents.
    pub kv_budget: Option<u64>,
    /// Most tokens that one forward pass computes; at least `parallel_slots`.
    /// Larger: prompts are computed in fewer, more efficient passes. Smaller:
    /// running streams are held up less by a long prompt. Default: the
    /// backend's.
    pub step_token_budget: Option<usize>,
    /// How long an idle model waits for more requests before it starts a batch
    /// that is not full. Longer: fuller batches, higher throughput. Default: 0.
    pub max_wait: Option<Duration>,
    /// Requests that may wait for a slot, at least 1; a further one is refused
    /// with [`Exhausted`](crate::ErrorKind::Exhausted). Default: the backend's.
    pub max_queue: Option<usize>,
    /// How long a reader may take no token before its request ends as
    /// [`Lagging`](crate::FinishReason::Lagging); greater than zero. Default:
    /// the backend's.
    pub lag_timeout: Option<Duration>,
    /// Whether keys and values of finished and running sequences are kept, as
    /// long as there is room, for prompts that begin the same. Default: true
    /// where the backend can.
    pub prefix_cache: Option<bool>,
    /// Worker threads, at least 1. Default: the available parallelism.
    pub threads: Option<usize>,
    /// The logical CPUs that the worker threads are pinned to, one each in
    /// turn; not empty. Default: not pinned.
    pub affinity: Option<Vec<usize>>,
    /// Receives probe events of this model.
    pub probe_bus: Option<Arc<ProbeBus>>,
    /// Receives progress of the load.
    pub progress: Option<ProgressSink>,
}

impl LoadOptions {
    /// Options with every field unset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the backend by name.
    #[must_use]
    pub fn with_backend(mut self, name: impl Into<String>) -> Self {
        self.backend = Some(name.into());
        self
    }

    /// Sets the longest sequence, in tokens.
    #[must_use]
    pub fn with_context_len(mut self, tokens: usize) -> Self {
        self.context_len = Some(tokens);
        self
    }

    /// Sets the layers kept on the accelerator; -1 means all.
    #[must_use]
    pub fn with_gpu_layers(mut self, layers: i32) -> Self {
        self.gpu_layers = Some(layers);
        self
    }

    /// Sets the most sequences that run at once.
    #[must_use]
    pub fn with_parallel_slots(mut self, slots: usize) -> Self {
        self.parallel_slots = Some(slots);
        self
    }

    /// Applies an adapter.
    #[must_use]
    pub fn with_adapter_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.adapter_path = Some(path.into());
        self
    }

    /// Sets the factor on top of that adapter's scaling.
    #[must_use]
    pub fn with_adapter_scale(mut self, scale: f32) -> Self {
        self.adapter_scale = Some(scale);
        self
    }

    /// Sets the most bytes of adapters in memory.
    #[must_use]
    pub fn with_adapter_budget(mut self, bytes: u64) -> Self {
        self.adapter_budget = Some(bytes);
        self
    }

    /// Quantizes dense weights while loading.
    #[must_use]
    pub fn with_quantize(mut self, quantize: QuantizeType) -> Self {
        self.quantize = Some(quantize);
        self
    }

    /// Sets how products with quantized weights are computed.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// Sets how keys and values are stored.
    #[must_use]
    pub fn with_kv_dtype(mut self, dtype: KvDtype) -> Self {
        self.kv_dtype = Some(dtype);
        self
    }

    /// Sets the bytes for keys and values.
    #[must_use]
    pub fn with_kv_budget(mut self, bytes: u64) -> Self {
        self.kv_budget = Some(bytes);
        self
    }

    /// Sets the most tokens of one forward pass.
    #[must_use]
    pub fn with_step_token_budget(mut self, tokens: usize) -> Self {
        self.step_token_budget = Some(tokens);
        self
    }

    /// Sets how long an idle model waits to fill a batch.
    #[must_use]
    pub fn with_max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// Sets how many requests may wait for a slot.
    #[must_use]
    pub fn with_max_queue(mut self, requests: usize) -> Self {
        self.max_queue = Some(requests);
        self
    }

    /// Sets how long a slow reader is waited for.
    #[must_use]
    pub fn with_lag_timeout(mut self, timeout: Duration) -> Self {
        self.lag_timeout = Some(timeout);
        self
    }

    /// Sets whether shared prefixes are kept.
    #[must_use]
    pub fn with_prefix_cache(mut self, keep: bool) -> Self {
        self.prefix_cache = Some(keep);
        self
    }

    /// Sets the number of worker threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Pins the worker threads to these logical CPUs.
    #[must_use]
    pub fn with_affinity(mut self, cpus: Vec<usize>) -> Self {
        self.affinity = Some(cpus);
        self
    }

    /// Sends probe events to this bus.
    #[must_use]
    pub fn with_probe_bus(mut self, bus: Arc<ProbeBus>) -> Self {
        self.probe_bus = Some(bus);
        self
    }

    /// Reports the progress of the load.
    #[must_use]
    pub fn with_progress(mut self, progress: ProgressSink) -> Self {
        self.progress = Some(progress);
        self
    }

    /// These options, with every unset field taken from `fallback`.
    ///
    /// ```
    /// use inference_core::LoadOptions;
    ///
    /// let usual = LoadOptions::new().with_backend("cpu").with_threads(8);
    /// let options = LoadOptions::new().with_threads(2).or(&usual);
    /// assert_eq!((options.backend.as_deref(), options.threads), (Some("cpu"), Some(2)));
    /// ```
    #[must_use]
    pub fn or(mut self, fallback: &Self) -> Self {
        macro_rules! fill {
            ($($field:ident),*) => {
                // A field that is missing here does not compile.
                let Self { $($field),* } = &mut self;
                $(if $field.is_none() { $field.clone_from(&fallback.$field); })*
            };
        }
        fill!(
            backend,
            context_len,
            gpu_layers,
            parallel_slots,
            adapter_path,
            adapter_scale,
            adapter_budget,
            quantize,
            precision,
            kv_dtype,
            kv_budget,
            step_token_budget,
            max_wait,
            max_queue,
            lag_timeout,
            prefix_cache,
            threads,
            affinity,
            probe_bus,
            progress
        );
        self
    }

    /// Whether a load with `other` would lead to the same model: every field
    /// is equal, the probe bus the same one. Progress sinks are not compared;
    /// they only watch.
    #[must_use]
    pub fn loads_as(&self, other: &Self) -> bool {
        macro_rules! same {
            ($($field:ident),*) => {{
                // A field that is missing here does not compile.
                let Self { $($field,)* probe_bus, progress: _ } = self;
                let same_bus = match (probe_bus, &other.probe_bus) {
                    (Some(own), Some(other)) => Arc::ptr_eq(own, other),
                    (None, None) => true,
                    _ => false,
                };
                same_bus $(&& *$field == other.$field)*
            }};
        }
        same!(
            backend,
            context_len,
            gpu_layers,
            parallel_slots,
            adapter_path,
            adapter_scale,
            adapter_budget,
            quantize,
            precision,
            kv_dtype,
            kv_budget,
            step_token_budget,
            max_wait,
            max_queue,
            lag_timeout,
            prefix_cache,
            threads,
            affinity
        )
    }

    /// Checks every field that is set, as far as no model is needed for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for the
    /// first value outside its range.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("context_len", self.context_len),
            ("parallel_slots", self.parallel_slots),
            ("threads", self.threads),
            ("step_token_budget", self.step_token_budget),
            ("max_queue", self.max_queue),
        ] {
            if value == Some(0) {
                return Err(Error::invalid_option(field, 0, "at least 1"));
            }
        }
        if let Some(layers) = self.gpu_layers.filter(|n| *n < -1) {
            return Err(Error::invalid_option("gpu_layers", layers, "-1 (all) or more"));
        }
        if let Some(scale) = self.adapter_scale {
            if !scale.is_finite() {
                return Err(Error::invalid_option("adapter_scale", scale, "a finite number"));
            }
            if self.adapter_path.is_none() {
                let expected = "unset, or together with adapter_path";
                return Err(Error::invalid_option("adapter_scale", scale, expected));
            }
        }
        if self.adapter_budget == Some(0) {
            return Err(Error::invalid_option("adapter_budget", 0, "at least 1 byte"));
        }
        if self.kv_budget == Some(0) {
            return Err(Error::invalid_option("kv_budget", 0, "at least 1 byte"));
        }
        if self.lag_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::invalid_option("lag_timeout", "0 s", "more than 0 s"));
        }
        if self.affinity.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid_option("affinity", "[]", "at least one CPU"));
        }
        Ok(())
    }
}
