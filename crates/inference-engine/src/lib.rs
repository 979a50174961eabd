//! Sequences: what lies between a model that computes logits and a caller that
//! wants text.
//!
//! A [`ModelRunner`] computes the logits of one ragged batch per call and knows
//! nothing of requests. [`EngineModel`] turns one into a
//! [`TextModel`](inference_core::TextModel): it schedules, samples, decodes,
//! streams and cancels. It knows no tensor library, so every backend shares it.
//!
//! # Using it
//!
//! A loader makes a runner and the [parts](ModelParts) around it:
//!
//! ```
//! # use inference_engine::{MemoryUsage, ModelRunner, RunnerSpec, StepBatch};
//! use inference_core::{GenerateOptions, ModelInfo, TextModel};
//! use inference_engine::{EngineModel, EngineOptions, ModelParts};
//! # struct Successor(RunnerSpec);
//! # impl ModelRunner for Successor {
//! #     fn spec(&self) -> &RunnerSpec { &self.0 }
//! #     fn forward(&mut self, batch: &StepBatch) -> inference_core::Result<Vec<f32>> {
//! #         let mut logits = vec![0.0; batch.logit_rows.len() * 10];
//! #         for (row, &token) in batch.logit_rows.iter().enumerate() {
//! #             logits[row * 10 + (batch.tokens[token] as usize + 1) % 10] = 1.0;
//! #         }
//! #         Ok(logits)
//! #     }
//! #     fn memory(&self) -> MemoryUsage { MemoryUsage::default() }
//! # }
//!
//! // A model of ten tokens, each followed by the next.
//! let runner = Successor(RunnerSpec::new(10, 128, 16, 64));
//! let parts = ModelParts::new(ModelInfo::default()).with_eos(vec![9]);
//! let model = EngineModel::start(Box::new(runner), parts, EngineOptions::default())?;
//!
//! let stream = model.generate(vec![4].into(), GenerateOptions::new())?;
//! let ids: Vec<u32> = stream.map(|token| Ok(token?.id)).collect::<inference_core::Result<_>>()?;
//! assert_eq!(ids, [5, 6, 7, 8]);
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! # How a request flows
//!
//! 1. **The call** renders, tokenizes, resolves the options (the request's own
//!    over the model's over the default) and refuses what cannot run. A prompt
//!    must leave room for one token; `max_tokens` is clamped to the room that
//!    the context leaves, and the text then ends with `Length`. The context is
//!    the smaller of the model's and of what the KV pool holds.
//! 2. **The first read** of the stream submits the request to a queue of
//!    [`max_queue`](EngineOptions::max_queue) places. If it is full, a single
//!    request fails with `Exhausted`, while the items of a batch, or of
//!    `classify`, wait outside. The items of a batch are submitted together.
//! 3. **The engine thread** owns the runner. Each turn it ends what was
//!    cancelled or is late, gives the slots to the best (by priority, for which
//!    waiting makes up at the rate of [`aging`](EngineOptions::aging), then by
//!    arrival) of those that run and wait, plans one step, calls [`ModelRunner::forward`] once, and hands out the logits. A
//!    step has the next token of every running sequence and, within
//!    [`step_token_budget`](EngineOptions::step_token_budget), chunks of
//!    prompts; so a long prompt delays nobody's tokens by more than a chunk.
//! 4. **The logits** of a sequence go through its sampler, the token through
//!    the streaming decoder and the stop strings, into the stream's channel.
//! 5. **The end**, of whatever kind, frees slot and KV blocks at once, before
//!    the reader hears of it.
//!
//! `classify`, prompt logits and `batch_generate` are sequences like all
//! others; there is no second loop. With nothing to do the thread sleeps; the
//! first request after that starts at once, or when
//! [`max_wait`](EngineOptions::max_wait) is over or as many have come as can run.
//!
//! # Speculative decoding
//!
//! With [`prompt_lookup`](inference_core::GenerateOptions::prompt_lookup) a
//! sequence that decodes brings, besides its next token, a draft of those after
//! it: what followed when the text last had its last four, three or two tokens.
//! One pass computes the logits of all of them. Each position is then sampled
//! as always, and the next one counts if the draft had named that token; so the
//! tokens are *the same* as without drafts, for greedy decoding and for every
//! way of sampling, penalties, biases and stop strings included. (That is more
//! than the same distribution. A draft is accepted with the probability that
//! the sampler gives to it, as in speculative sampling by accepting and
//! rejecting, where the draft is certain.)
//!
//! Drafts double after full success, shrink to one more than was right, and
//! pause for up to four steps when nothing was. They get what the step's token
//! budget leaves after all tokens and prompts that wait, so they delay others
//! by no more than a prompt may. Worth it where texts repeat their prompt or
//! themselves (editing, quoting, code, extraction); elsewhere they cost a
//! little. The runner must have [`KvBlocks`], otherwise the option is refused.
//!
//! # What it promises
//!
//! - **The same tokens, whatever else runs.** A request's tokens depend on its
//!   prompt, options and seed, if a row of the runner's logits depends on its
//!   own sequence alone. The random number of generated token `i` is a pure
//!   function of the seed and `i`: the `i`-th 64-bit little-endian word `w` of
//!   the ChaCha12 key stream whose key is the seed (8 bytes, little-endian)
//!   and 24 zero bytes, with nonce 0, gives `(w >> 11) / 2^53`; the token is
//!   found by inverse CDF over the surviving tokens in descending probability,
//!   ties by ascending id. The steps before that, and their order, are those
//!   of transformers' logits processors.
//! - **Every generated token is yielded once**, but for end-of-sequence and
//!   stop tokens, and the texts of the tokens, concatenated, are the whole
//!   text. A token after which text is unsettled (an incomplete character, the
//!   possible start of a stop string) is held until the next token or the end,
//!   so that the last token can carry the rest. Tokens that are part of a stop
//!   string are yielded, their text is not.
//! - **A slow reader parks its own sequence only.** A stream buffers
//!   [`channel_capacity`](EngineOptions::channel_capacity) tokens; beyond that
//!   its sequence pauses, keeping its slot and its blocks until others need
//!   them, and goes on when it is read. Without a slot it counts as a waiting
//!   request, so that slow readers are bounded by `max_queue` too.
//!   After [`lag_timeout`](EngineOptions::lag_timeout) without progress it ends
//!   as `Lagging`; what was generated can still be read.
//! - **Priorities hold for slots and blocks.** A request of better rank takes the
//!   slot of the worst that runs, which goes on later where it was, with its
//!   blocks unless those were needed. A new one also has the blocks of worse
//!   ones where there are not enough.
//! - **Cancelling is prompt**: by dropping the stream, by its `cancel`, by a
//!   [`CancelToken`](inference_core::CancelToken), by a deadline, by
//!   [`close`](inference_core::TextModel::close); in the queue, in the prompt,
//!   between tokens and while parked. A running step is not interrupted. A
//!   token is a plain flag: an engine with nothing else to do looks at it every
//!   10 ms. Items of a batch that wait outside of a full queue are looked at
//!   when they enter it.
//! - **Failures are typed errors.** An error of a forward pass ends the
//!   sequences of that step; whether the engine goes on is the runner's word
//!   ([`ModelRunner::survives`]). A panic of the runner is caught and always
//!   ends the engine. Once ended, every waiting request and every later call
//!   gets the first cause. Logits that are NaN, and panics in sampling and
//!   decoding, end their own sequence alone; a panicking waker or metrics
//!   recorder harms nobody. A waker may call the model too: what would wait for
//!   the engine thread on that very thread answers `Unsupported`.
//! - **Draining waits for what was submitted**, slow readers included, for as
//!   long as `lag_timeout` lets them be slow. Items of a batch that still wait
//!   outside of a full queue were not submitted and get `Closed`. A `close`
//!   from another thread cuts it short.
//! - **Nobody fails for lack of blocks, and nobody is stuck.** What can never
//!   fit is refused at the call; everybody else gets blocks as it grows, and
//!   when there are none the lowest rank gives its own back and is computed
//!   again later. See below.
//!
//! # KV blocks
//!
//! The pool is sized by the runner when it is loaded, and a sequence takes a
//! block when it comes to its first position. A request enters a slot when
//! there are blocks for its first chunk and one more for every sequence that
//! runs.
//!
//! **Prefix cache.** If the runner has [`KvBlocks`] and
//! [`prefix_cache`](EngineOptions::prefix_cache) is on, full blocks of running
//! and all blocks of ended sequences can be found by what they hold: by a hash
//! chain over the token ids, per adapter (its weights, not its name) and
//! [sharing class](KvBlocks::sharing_class). Tokens are compared before a hit
//! is believed. A sequence that begins the same uses the same blocks, each
//! counting its users; a block of which only the first tokens are of use is
//! shared too, and copied before it is written to. At least the last token of
//! a prompt is computed, for its logits, and all of it where all logits are
//! wanted. Only what was computed by a step that succeeded, for tokens that
//! were chosen, is kept; a sequence that ends with an error takes its blocks
//! out of the cache, if no other uses them. Prompts that come together and are
//! mostly the same are not computed side by side: the better one goes first, and
//! the others wait for its blocks while more than half of what they have to
//! compute is in them. Blocks that nobody uses count as
//! free, and are reused least recently used first, ends of sequences before
//! their beginnings.
//!
//! **Preemption.** A sequence that finds no block for its next position takes
//! those of a sequence that waits for its reader, of one without a slot, or else
//! of the lowest rank below its own. That one goes back to waiting with all its state but the
//! blocks, which stay in the prefix cache until they are needed. In its turn it
//! gets what the cache still has, computes the rest again, prompt and output,
//! and goes on where it was: the same tokens, and no row twice. Who has no one
//! below sits out steps until there are blocks. So the highest rank always
//! advances, and everybody becomes it.
//!
//! # Snapshots
//!
//! A runner with [`KvBlocks`] that can be read has
//! [`as_state`](inference_core::TextModel::as_state). A snapshot is a prefill
//! whose blocks are read before they are given back. A resumed sequence is an
//! ordinary request for the whole prompt: its first blocks come from the prefix
//! cache, the next ones from the snapshot, and the rest is computed; what was
//! written is in the prefix cache like what was computed. Snapshots of a model
//! without [`identity`](ModelParts::identity) are of use to the model itself
//! alone. Others can be written to safetensors files, whose metadata name
//! format version, architecture, model, tokenizer (a digest of its tokens), KV
//! format, positions and sharing class, with a SHA-256 over all of it. A file
//! of another model, or a damaged one, is refused by what differs, before
//! anything of its size is allocated.
//!
//! # What can be observed
//!
//! - **A request**: [`GenerateMetrics`](inference_core::GenerateMetrics) in its
//!   completion.
//! - **A model**: [`ModelMetrics`](inference_core::ModelMetrics), by
//!   [`metrics`](inference_core::TextModel::metrics), and the same through the
//!   `metrics` facade, whose recorder the program chooses. Labels: `model` (the
//!   architecture) and `backend`.
//!
//!   | name | kind | |
//!   |---|---|---|
//!   | `inference_requests_total` | counter | requests that entered the scheduler |
//!   | `inference_requests_finished_total` | counter | by `reason`: a finish reason's name, `complete` for one without text, `error` |
//!   | `inference_steps_total` | counter | forward passes |
//!   | `inference_prompt_tokens_total` | counter | prompt tokens computed, each once |
//!   | `inference_cached_prompt_tokens_total` | counter | prompt tokens that the prefix cache had |
//!   | `inference_generated_tokens_total` | counter | tokens generated |
//!   | `inference_draft_tokens_total` | counter | tokens drafted by prompt lookup |
//!   | `inference_accepted_draft_tokens_total` | counter | drafted tokens that were right |
//!   | `inference_preemptions_total` | counter | sequences that lost their KV blocks to others |
//!   | `inference_queued_requests` | gauge | requests that wait for a slot, or without one for their reader |
//!   | `inference_running_sequences` | gauge | sequences in slots |
//!   | `inference_kv_blocks_used` | gauge | KV blocks in use by sequences |
//!   | `inference_kv_blocks` | gauge | KV blocks in the pool |
//!   | `inference_active_bytes` | gauge | weights, KV blocks in use, activations |
//!   | `inference_prefix_hit_ratio` | gauge | part of all prompt tokens that the prefix cache had |
//!   | `inference_step_seconds` | histogram | durations of forward passes |
//!   | `inference_step_tokens` | histogram | tokens per forward pass |
//!   | `inference_ttft_seconds` | histogram | times to first token, from submission |
//!   | `inference_itl_seconds` | histogram | times from one token to the next; 0 within a step |
//!
//! - **Traces**: a `tracing` span `request` from the call to the end, below the
//!   span of the caller, with `id`, `prompt_tokens` and at the end `cached`,
//!   `generated` and `reason`; a span `forward` for every step with `sequences`
//!   and `tokens`.
//! - **Events**: all kinds of the [probe bus](inference_core::probe), the
//!   logits of every position only while a sink wants them.
//!
//! Without recorder, subscriber and sinks none of this costs anything that
//! could be measured.
//!
//! # Classification
//!
//! Each prompt is a sequence of its own, without output; the token and deadline
//! of [`ClassifyOptions`](inference_core::ClassifyOptions) hold for all of them,
//! in a slot, in the queue and outside of it. What has no answer by then ends
//! as `Cancelled`.
//!
//! `classify` scores a label by the token that follows the prompt's own in the
//! tokenization of both together. After a plain text a space is put between
//! where the label would be glued to a word or punctuation (`"Answer:"` and
//! `yes` make `Answer: yes`); text that ends in a space or an opening bracket,
//! and chats, are continued with the label as it is. For a prompt of ids, or
//! where label and prompt run into each other in one token, it is the first
//! token of the label alone.
//!
//! # Testing
//!
//! Feature `test-support` adds `sim_runner`, a deterministic runner that
//! notices wrong block tables and positions, costs what it is told to, and
//! fails at random. The crate's own tests run random workloads over it and
//! compare every request with a naive loop; `SIM_REQUESTS=100000 cargo test -p
//! inference-engine --lib -- --ignored a_hundred_thousand` does so for long.
//! The handshakes between threads are tried in all orders by loom: `cargo test
//! -p inference-engine --features loom-tests --lib loom`.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod adapters;
mod admission;
mod block_pool;
mod channel;
mod classify;
mod engine_thread;
mod exporter;
mod following;
mod generation;
mod identity;
mod kv_memory;
mod mailbox;
mod meter;
mod model;
mod options;
mod parts;
mod preemption;
mod prefix_cache;
mod prompt_lookup;
mod request;
mod rng;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
#[cfg(any(test, feature = "test-support"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-support")))]
pub mod sim_runner;
mod slots;
mod snapshot_file;
mod state;
mod step;
mod stream;
mod submission;
mod sync;
mod text_output;

#[cfg(test)]
mod tests;

#[cfg(all(test, feature = "loom-tests"))]
mod loom_tests;

pub use adapters::{AdapterId, AdapterLease, AdapterSource};
pub use model::EngineModel;
pub use options::EngineOptions;
pub use parts::ModelParts;
pub use runner::{
    BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence,
};
