//! The engine's numbers, for the recorder of the `metrics` facade.
//!
//! Counters and gauges are read off [`ModelMetrics`] after every turn, so that
//! they agree with it and cost the same however many places change it;
//! observations of times are handed over as they are made. Without a recorder
//! that is a dozen calls that do nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use inference_core::{ModelInfo, ModelMetrics};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit, with_recorder};

use crate::meter::StepTally;

static METADATA: Metadata<'static> =
    Metadata::new("inference_engine", Level::INFO, Some("inference_engine"));

/// A total of [`ModelMetrics`].
struct Counter {
    name: &'static str,
    about: &'static str,
    value: fn(&ModelMetrics) -> u64,
}

/// A level of [`ModelMetrics`].
struct Gauge {
    name: &'static str,
    unit: Unit,
    about: &'static str,
    value: fn(&ModelMetrics) -> f64,
}

const COUNTERS: [Counter; 8] = [
    Counter {
        name: "inference_requests_total",
        about: "Requests that entered the scheduler",
        value: |metrics| metrics.requests,
    },
    Counter {
        name: "inference_steps_total",
        about: "Forward passes",
        value: |metrics| metrics.forward_count,
    },
    Counter {
        name: "inference_prompt_tokens_total",
        about: "Prompt tokens computed, each once",
        value: |metrics| metrics.prompt_tokens,
    },
    Counter {
        name: "inference_cached_prompt_tokens_total",
        about: "Prompt tokens that the prefix cache had",
        value: |metrics| metrics.cached_prompt_tokens,
    },
    Counter {
        name: "inference_generated_tokens_total",
        about: "Tokens generated",
        value: |metrics| metrics.generated_tokens,
    },
    Counter {
        name: "inference_draft_tokens_total",
        about: "Tokens drafted by prompt lookup",
        value: |metrics| metrics.draft_tokens,
    },
    Counter {
        name: "inference_accepted_draft_tokens_total",
        about: "Drafted tokens that were right",
        value: |metrics| metrics.accepted_draft_tokens,
    },
    Counter {
        name: "inference_preemptions_total",
        about: "Sequences that lost their KV blocks to others",
        value: |metrics| metrics.preemptions,
    },
];

const GAUGES: [Gauge; 6] = [
    Gauge {
        name: "inference_queued_requests",
        unit: Unit::Count,
        about: "Requests that wait for a slot, or without one for their reader",
        value: |metrics| metrics.queued as f64,
    },
    Gauge {
        name: "inference_running_sequences",
        unit: Unit::Count,
        about: "Sequences in slots",
        value: |metrics| metrics.running as f64,
    },
    Gauge {
        name: "inference_kv_blocks_used",
        unit: Unit::Count,
        about: "KV blocks in use by sequences",
        value: |metrics| metrics.kv_blocks_used as f64,
    },
    Gauge {
        name: "inference_kv_blocks",
        unit: Unit::Count,
        about: "KV blocks in the pool",
        value: |metrics| metrics.kv_blocks_total as f64,
    },
    Gauge {
        name: "inference_active_bytes",
        unit: Unit::Bytes,
        about: "Bytes of weights, KV blocks in use and activations",
        value: |metrics| metrics.active_bytes as f64,
    },
    Gauge {
        name: "inference_prefix_hit_ratio",
        unit: Unit::Count,
        about: "Part of all prompt tokens that the prefix cache had",
        value: ModelMetrics::prefix_hit_rate,
    },
];

const FINISHED: &str = "inference_requests_finished_total";

/// The histograms, with what they measure.
const STEP_SECONDS: (&str, &str) = ("inference_step_seconds", "Durations of forward passes");
const STEP_TOKENS: (&str, &str) = ("inference_step_tokens", "Tokens per forward pass");
const TTFT_SECONDS: (&str, &str) = ("inference_ttft_seconds", "Times to first token");
const ITL_SECONDS: (&str, &str) = ("inference_itl_seconds", "Times from one token to the next");

/// Hands numbers to whatever recorder is installed.
#[derive(Debug)]
pub(crate) struct Exporter {
    labels: Vec<Label>,
    counters: [Key; COUNTERS.len()],
    gauges: [Key; GAUGES.len()],
    step_seconds: Key,
    step_tokens: Key,
    ttft: Key,
    itl: Key,
    /// What the recorder has seen.
    published: ModelMetrics,
    /// The recorder panicked, and is called no more.
    off: bool,
}

impl Exporter {
    /// An exporter whose numbers are labelled with the model's architecture
    /// and backend.
    pub(crate) fn new(info: &ModelInfo) -> Self {
        let labels = vec![
            Label::new("model", info.architecture.clone()),
            Label::new("backend", info.backend.clone()),
        ];
        let key = |name: &'static str| Key::from_parts(name, labels.clone());
        let mut exporter = Self {
            counters: COUNTERS.each_ref().map(|counter| key(counter.name)),
            gauges: GAUGES.each_ref().map(|gauge| key(gauge.name)),
            step_seconds: key(STEP_SECONDS.0),
            step_tokens: key(STEP_TOKENS.0),
            ttft: key(TTFT_SECONDS.0),
            itl: key(ITL_SECONDS.0),
            labels,
            published: ModelMetrics::default(),
            off: false,
        };
        exporter.call(|_, recorder| describe(recorder));
        exporter
    }

    fn call(&mut self, record: impl FnOnce(&mut Self, &dyn Recorder)) {
        if self.off {
            return;
        }
        let call = AssertUnwindSafe(|| with_recorder(|recorder| record(self, recorder)));
        if catch_unwind(call).is_err() {
            tracing::error!("the metrics recorder panicked and is called no more");
            self.off = true;
        }
    }

    /// Brings counters and gauges up to `now`.
    pub(crate) fn publish(&mut self, now: ModelMetrics) {
        if now == self.published {
            return;
        }
        self.call(|this, recorder| {
            for (counter, key) in COUNTERS.iter().zip(&this.counters) {
                let more = (counter.value)(&now).saturating_sub((counter.value)(&this.published));
                if more > 0 {
                    recorder.register_counter(key, &METADATA).increment(more);
                }
            }
            for (gauge, key) in GAUGES.iter().zip(&this.gauges) {
                recorder.register_gauge(key, &METADATA).set((gauge.value)(&now));
            }
            this.published = now;
        });
    }

    /// Records a forward pass.
    pub(crate) fn step(&mut self, duration: Duration, tokens: usize) {
        self.call(|this, recorder| {
            recorder.register_histogram(&this.step_seconds, &METADATA).record(duration);
            recorder.register_histogram(&this.step_tokens, &METADATA).record(tokens as f64);
        });
    }

    /// Records the times of a step's tokens.
    pub(crate) fn tokens(&mut self, tally: &StepTally) {
        self.call(|this, recorder| {
            if !tally.ttft.is_empty() {
                let histogram = recorder.register_histogram(&this.ttft, &METADATA);
                tally.ttft.iter().for_each(|time| histogram.record(*time));
            }
            if !tally.itl.is_empty() {
                let histogram = recorder.register_histogram(&this.itl, &METADATA);
                for (time, count) in &tally.itl {
                    histogram.record_many(*time, *count as usize);
                }
            }
        });
    }

    /// Counts the end of a request.
    pub(crate) fn finished(&mut self, reason: &'static str) {
        self.call(|this, recorder| {
            let mut labels = this.labels.clone();
            labels.push(Label::from_static_parts("reason", reason));
            let key = Key::from_parts(FINISHED, labels);
            recorder.register_counter(&key, &METADATA).increment(1);
        });
    }
}

fn describe(recorder: &dyn Recorder) {
    let name = KeyName::from_const_str;
    for counter in COUNTERS {
        recorder.describe_counter(name(counter.name), Some(Unit::Count), counter.about.into());
    }
    let ended = "Requests that ended, by reason".into();
    recorder.describe_counter(name(FINISHED), Some(Unit::Count), ended);
    for gauge in GAUGES {
        recorder.describe_gauge(name(gauge.name), Some(gauge.unit), gauge.about.into());
    }
    for (histogram, unit) in [
        (STEP_SECONDS, Unit::Seconds),
        (STEP_TOKENS, Unit::Count),
        (TTFT_SECONDS, Unit::Seconds),
        (ITL_SECONDS, Unit::Seconds),
    ] {
        recorder.describe_histogram(name(histogram.0), Some(unit), histogram.1.into());
    }
}
