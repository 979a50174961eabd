//! What a simulation runs: drawn by proptest, so that it shrinks, or from a
//! seed alone.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use inference_core::{GenerateOptions, TokenId};

use crate::sim_runner::FaultRates;

/// Everything that a simulation depends on, but for the order in which its
/// threads run.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) model: Sizes,
    pub(super) knobs: Knobs,
    pub(super) faults: Faults,
    /// Each a thread that drives several streams at once.
    pub(super) clients: Vec<Client>,
    /// Each a thread that calls `batch_generate`, `classify` and
    /// `prompt_logits`.
    pub(super) callers: Vec<Vec<Call>>,
    pub(super) end: End,
}

#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Bytes with a tokenizer, or ids alone.
    pub(super) text: bool,
    pub(super) block_size: usize,
    pub(super) num_blocks: usize,
    pub(super) context_len: usize,
    pub(super) shares_blocks: bool,
    pub(super) long_prompt: Option<usize>,
    /// Whether its texts repeat themselves.
    pub(super) repeats: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Knobs {
    pub(super) max_batch: usize,
    /// Beyond `max_batch`.
    pub(super) spare_budget: usize,
    pub(super) capacity: usize,
    pub(super) max_queue: usize,
    pub(super) lag_millis: u64,
    pub(super) prefix_cache: bool,
    pub(super) aging_micros: u64,
    pub(super) max_wait_micros: u64,
    /// What a step costs, really.
    pub(super) step_micros: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) seed: u64,
    pub(super) rates: FaultRates,
}

#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Streams open at once.
    pub(super) window: usize,
    pub(super) requests: Vec<Request>,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Rounds of its client's loop to wait before it is made.
    pub(super) gap: usize,
    pub(super) prompt: PromptPlan,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    pub(super) min_tokens: usize,
    pub(super) priority: i32,
    pub(super) prompt_lookup: usize,
    pub(super) reader: Reader,
    pub(super) pace: Pace,
}

/// A prompt: the beginning of a family's common text, then its own.
#[derive(Clone, Debug)]
pub(super) struct PromptPlan {
    pub(super) family: u64,
    pub(super) shared: usize,
    pub(super) own: usize,
    pub(super) salt: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Sampling {
    pub(super) temperature: f32,
    pub(super) top_k: usize,
    pub(super) top_p: f32,
    pub(super) repeat_penalty: f32,
    pub(super) frequency_penalty: f32,
    pub(super) bias: Option<(TokenId, f32)>,
    pub(super) stop_token: Option<TokenId>,
    /// With a tokenizer only.
    pub(super) stop_string: Option<String>,
    pub(super) logprobs: Option<usize>,
    pub(super) seed: u64,
}

/// How a reader ends it, after so many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    ReadsAll,
    Drops(usize),
    Cancels(usize),
    CancelsByToken(usize),
    /// Gives it so many microseconds.
    IsInAHurry(u64),
    /// Never reads it.
    ForgetsIt,
}

/// How fast it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Fast,
    /// One token per so many rounds.
    Slow(usize),
    /// Stops after so many tokens, for so many rounds.
    Pauses(usize, usize),
    /// Stops after so many tokens, until it was ended or the time is over.
    Stands(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Call {
    Batch(Vec<Request>),
    Classify(Vec<PromptPlan>),
    Score(PromptPlan, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// When everybody is done.
    Close,
    Drain,
    /// In the middle, after so many steps.
    CloseEarly(usize),
    DrainEarly(usize),
}

fn prompt() -> impl Strategy<Value = PromptPlan> {
    (
        0_u64..3,
        prop_oneof![Just(0), 0_usize..24],
        prop_oneof![4 => 0_usize..8, 1 => 0_usize..48],
        0_u64..4,
    )
        .prop_map(|(family, shared, own, salt)| PromptPlan {
            family,
            shared,
            own: own.max(usize::from(shared == 0)),
            salt,
        })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (
        (prop_oneof![Just(0.0_f32), 0.3_f32..2.0], prop_oneof![Just(0), 1_usize..20]),
        prop_oneof![Just(1.0_f32), 0.5_f32..1.0],
        (
            prop_oneof![3 => Just(1.0_f32), 1 => 0.8_f32..1.5],
            prop_oneof![3 => Just(0.0_f32), 1 => -1.0_f32..2.0],
        ),
        proptest::option::weighted(0.2, (0_u32..64, -20.0_f32..20.0)),
        (proptest::option::weighted(0.3, 0_u32..64), proptest::option::weighted(0.3, "[a-c]{1,2}")),
        (proptest::option::weighted(0.2, 0_usize..4), any::<u64>()),
    )
        .prop_map(|((temperature, top_k), top_p, penalties, bias, stops, (logprobs, seed))| {
            Sampling {
                temperature,
                top_k,
                top_p,
                repeat_penalty: penalties.0,
                frequency_penalty: penalties.1,
                bias,
                stop_token: stops.0,
                stop_string: stops.1,
                logprobs,
                seed,
            }
        })
}

fn reader() -> impl Strategy<Value = Reader> {
    prop_oneof![
        8 => Just(Reader::ReadsAll),
        1 => (0_usize..12).prop_map(Reader::Drops),
        1 => (0_usize..12).prop_map(Reader::Cancels),
        1 => (0_usize..12).prop_map(Reader::CancelsByToken),
        1 => (0_u64..3000).prop_map(Reader::IsInAHurry),
        1 => Just(Reader::ForgetsIt),
    ]
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![
        6 => Just(Pace::Fast),
        1 => (1_usize..4).prop_map(Pace::Slow),
        1 => (0_usize..8, 1_usize..20).prop_map(|(after, rounds)| Pace::Pauses(after, rounds)),
        2 => (0_usize..8).prop_map(Pace::Stands),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    (
        prop_oneof![3 => Just(0_usize), 1 => 0_usize..6],
        prompt(),
        sampling(),
        (
            prop_oneof![8 => 1_usize..24, 1 => 1_usize..90],
            prop_oneof![4 => Just(0_usize), 1 => 0_usize..6],
        ),
        prop_oneof![3 => Just(0), 1 => -3_i32..4],
        prop_oneof![2 => Just(0_usize), 1 => 1_usize..9],
        reader(),
        pace(),
    )
        .prop_map(
            |(gap, prompt, sampling, (max, min), priority, prompt_lookup, reader, pace)| Request {
                gap,
                prompt,
                sampling,
                max_tokens: max,
                min_tokens: min.min(max),
                priority,
                prompt_lookup,
                reader,
                pace,
            },
        )
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        prop::collection::vec(request(), 0..10).prop_map(Call::Batch),
        prop::collection::vec(prompt(), 0..10).prop_map(Call::Classify),
        (prompt(), any::<bool>()).prop_map(|(prompt, all)| Call::Score(prompt, all)),
    ]
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let blocks = prop_oneof![3 => 6_usize..24, 2 => 24_usize..200];
    let long_prompt = proptest::option::weighted(0.2, 4_usize..40);
    let shares = proptest::bool::weighted(0.8);
    (any::<bool>(), 1_usize..9, blocks, 60_usize..160, shares, long_prompt, any::<bool>()).prop_map(
        |(text, block_size, num_blocks, context_len, shares_blocks, long_prompt, repeats)| Sizes {
            text,
            block_size,
            num_blocks: num_blocks.max(24_usize.div_ceil(block_size)),
            context_len,
            shares_blocks,
            long_prompt,
            repeats,
        },
    )
}

fn knobs() -> impl Strategy<Value = Knobs> {
    (
        prop_oneof![3 => 1_usize..6, 1 => 6_usize..40],
        prop_oneof![2 => 0_usize..8, 1 => 8_usize..200],
        prop_oneof![2 => 1_usize..5, 1 => 5_usize..100],
        prop_oneof![1 => 1_usize..6, 3 => 6_usize..200],
        prop_oneof![Just(20_u64), Just(60_000)],
        any::<bool>(),
        prop_oneof![1_u64..500, Just(5_000_000)],
        prop_oneof![4 => Just(0_u64), 1 => 1_u64..500],
        prop_oneof![3 => Just(0_u64), 1 => 1_u64..100],
    )
        .prop_map(
            |(max_batch, spare_budget, capacity, max_queue, lag, cache, aging, wait, step)| Knobs {
                max_batch,
                spare_budget,
                capacity,
                max_queue,
                lag_millis: lag,
                prefix_cache: cache,
                aging_micros: aging,
                max_wait_micros: wait,
                step_micros: step,
            },
        )
}

fn faults() -> impl Strategy<Value = Faults> {
    let none = FaultRates::default();
    let rates = prop_oneof![
        8 => Just(none),
        2 => (0.0_f64..0.05, 0.0_f64..0.05)
            .prop_map(move |(error, nan)| none.with_error(error).with_nan(nan)),
        1 => (0.0_f64..0.02, 0.0_f64..0.02, 0.0_f64..0.02)
            .prop_map(move |(a, b, c)| none.with_fatal(a).with_panic(b).with_short(c)),
    ];
    (any::<u64>(), rates).prop_map(|(seed, rates)| Faults { seed, rates })
}

pub(super) fn workload() -> impl Strategy<Value = Workload> {
    let client = (1_usize..9, prop::collection::vec(request(), 1..24))
        .prop_map(|(window, requests)| Client { window, requests });
    let end = prop_oneof![
        5 => Just(End::Close),
        5 => Just(End::Drain),
        1 => (0_usize..300).prop_map(End::CloseEarly),
        1 => (0_usize..300).prop_map(End::DrainEarly),
    ];
    (
        sizes(),
        knobs(),
        faults(),
        prop::collection::vec(client, 1..6),
        prop::collection::vec(prop::collection::vec(call(), 0..4), 0..3),
        end,
    )
        .prop_map(|(model, knobs, faults, clients, callers, end)| Workload {
            model,
            knobs,
            faults,
            clients,
            callers,
            end,
        })
}

impl Workload {
    /// The workload of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        workload().new_tree(&mut runner).unwrap().current()
    }

    /// Requests in it.
    pub(super) fn len(&self) -> usize {
        let calls = self.callers.iter().flatten().map(|call| match call {
            Call::Batch(requests) => requests.len(),
            Call::Classify(prompts) => prompts.len(),
            Call::Score(..) => 1,
        });
        self.clients.iter().map(|client| client.requests.len()).chain(calls).sum()
    }
}

impl Sizes {
    pub(super) fn vocab_size(&self) -> usize {
        if self.text { 257 } else { 64 }
    }

    /// The longest sequence.
    pub(super) fn longest(&self) -> usize {
        self.context_len.min(self.num_blocks * self.block_size)
    }

    /// The ids of a prompt that leaves room for `room` more.
    pub(super) fn ids(&self, plan: &PromptPlan, room: usize) -> Vec<TokenId> {
        let id = |a: u64, b: usize| {
            let word = (a ^ (b as u64) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (word >> 33) as TokenId % 64 + if self.text { 32 } else { 0 }
        };
        let shared = (0..plan.shared).map(|i| id(plan.family, i));
        let own = (0..plan.own).map(|i| id(1000 + plan.salt, i));
        shared.chain(own).take(self.longest() - room).collect()
    }
}

impl Request {
    /// Its options, but for cancelling.
    pub(super) fn options(&self, sizes: &Sizes) -> GenerateOptions {
        let Sampling { temperature, top_k, top_p, repeat_penalty, frequency_penalty, .. } =
            self.sampling;
        let mut options = GenerateOptions::new()
            .with_max_tokens(self.max_tokens)
            .with_min_tokens(self.min_tokens)
            .with_temperature(temperature)
            .with_top_k(top_k)
            .with_top_p(top_p)
            .with_repeat_penalty(repeat_penalty)
            .with_frequency_penalty(frequency_penalty)
            .with_seed(self.sampling.seed)
            .with_priority(self.priority);
        if let Some((token, bias)) = self.sampling.bias {
            options = options.with_logit_bias(token, bias);
        }
        if let Some(token) = self.sampling.stop_token {
            options = options.with_stop_token(token);
        }
        if let Some(text) = self.stop_string(sizes) {
            options = options.with_stop_string(text);
        }
        if let Some(alternatives) = self.sampling.logprobs {
            options = options.with_logprobs(alternatives);
        }
        // It goes back over positions, which not every runner can.
        let lookup = if sizes.shares_blocks { self.prompt_lookup } else { 0 };
        options.with_prompt_lookup(lookup)
    }

    /// Where strings are looked for from the first token on.
    pub(super) fn stop_string(&self, sizes: &Sizes) -> Option<&str> {
        self.sampling.stop_string.as_deref().filter(|_| sizes.text && self.min_tokens == 0)
    }
}
