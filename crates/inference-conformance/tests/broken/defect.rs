//! What can be wrong with a backend: each defect sits in one place of the
//! specimen, and is there for one behaviour of the suite.

/// The one defect of a specimen, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flaw(pub(crate) Option<Defect>);

impl Flaw {
    pub(crate) fn is(self, defect: Defect) -> bool {
        self.0 == Some(defect)
    }
}

macro_rules! defects {
    ($($(#[doc = $doc:literal])* $name:ident => $behaviour:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Defect {
            $($(#[doc = $doc])* $name,)*
        }

        impl Defect {
            pub(crate) const ALL: &[Defect] = &[$(Self::$name),*];

            /// The behaviour that must fail with it.
            pub(crate) fn breaks(self) -> &'static str {
                match self { $(Self::$name => $behaviour,)* }
            }
        }
    };
}

defects! {
    /// Once it has loaded a model it declares more.
    CapabilitiesGrow => "capabilities/constant",
    /// Its name has a capital letter.
    NameInCapitals => "capabilities/available",
    /// A quantization that it cannot do is accepted.
    QuantizeAccepted => "capabilities/undeclared-refused",
    /// Snapshots are declared, but there is no accessor.
    StateMissing => "capabilities/declared-present",
    /// The model says that another backend runs it.
    InfoNamesAnother => "capabilities/info",
    /// A request runs before its stream is read.
    StreamEager => "stream/lazy",
    /// The first look at a stream does not submit its request.
    StartIgnored => "stream/starts",
    /// Nothing holds the engine back.
    Unbounded => "stream/bounded",
    /// A request goes on after its stream was dropped.
    DropForgotten => "stream/drop-cancels",
    /// Reaching `max_tokens` is an error.
    LengthIsAnError => "stream/ends-once",
    /// Whoever waits for a token is not woken.
    WakesNobody => "stream/async",
    /// `max_tokens` is exceeded by one.
    OneTokenMore => "endings/length",
    /// `max_tokens` beyond the context is refused.
    LongTextRefused => "endings/context-full",
    /// A stop token is yielded.
    StopTokenYielded => "endings/stop-token",
    /// The end-of-sequence token is yielded.
    EosYielded => "endings/eos",
    /// `ignore_eos` is not looked at.
    IgnoreEosIgnored => "endings/ignore-eos",
    /// The stop string is part of the text.
    StopStringYielded => "endings/stop-string",
    /// `min_tokens` is not looked at.
    MinTokensIgnored => "endings/min-tokens",
    /// A prompt that is too long is cut.
    PromptTruncated => "endings/too-long",
    /// A request that was cancelled in the queue is computed.
    QueueNotSwept => "cancel/before-prefill",
    /// Prompts are computed to their end.
    PrefillNotInterrupted => "cancel/inside-prefill",
    /// The blocks of a cancelled request are not given back.
    CancelLeaksBlocks => "cancel/mid-decode",
    /// Cancel tokens are not looked at.
    CancelTokenIgnored => "cancel/by-token",
    /// Deadlines are not looked at.
    DeadlineIgnored => "cancel/by-deadline",
    /// Items of a batch are not cancelled.
    BatchCancelIgnored => "cancel/batch",
    /// All but the first of a batch are computed with other weights.
    NeighboursMix => "batch/equals-alone",
    /// A forward pass has one sequence.
    OneByOne => "batch/forward-count",
    /// An item that is refused fails the batch.
    BatchFailsWhole => "batch/failing-item",
    /// Items that are refused are left out.
    RefusedItemsDropped => "batch/ends-once",
    /// A batch of more items than slots is refused.
    LargeBatchRefused => "batch/more-than-slots",
    /// A batch runs before it is read.
    BatchEager => "batch/lazy",
    /// A classification reports the second best token.
    ClassifySecondBest => "classify/first-token",
    /// Log-probabilities are reported as logits.
    ClassifyLogprobs => "classify/first-logits",
    /// Logits are reported without being asked for.
    ClassifyAlwaysLogits => "classify/without-logits",
    /// Alternatives come in ascending order.
    AlternativesUnsorted => "classify/top",
    /// The shares of labels do not sum to 1.
    LabelsUnnormalized => "classify/labels",
    /// A prompt that is refused fails all.
    ClassifyFailsWhole => "classify/failing-item",
    /// Nothing ends a classification.
    ClassifyUncancelled => "classify/cancel",
    /// Prompts are classified one after the other.
    ClassifyOneByOne => "classify/forward-count",
    /// Load options that mean nothing to it are ignored.
    LoadOptionIgnored => "capabilities/undeclared-refused",
    /// A resumed snapshot goes on without what it held.
    ResumeForgets => "state/resume",
    /// A snapshot can be resumed once.
    SnapshotSpent => "state/fork",
    /// A file lacks the first position.
    SaveLosesPosition => "state/save-load",
    /// The checksum of a file is not looked at.
    ChecksumIgnored => "state/damaged-file",
    /// Snapshots of other models are taken.
    ForeignSnapshots => "state/other-model",
    /// A snapshot keeps a block for ever.
    SnapshotsPinBlocks => "state/frees",
    /// Tokens lose their white space.
    SpacesLost => "text/stream-equals-decode",
    /// A character that spans tokens is cut.
    CharactersBroken => "text/hard-characters",
    /// Letters become small.
    EncodingFoldsCase => "text/round-trip",
    /// What is not ASCII becomes a question mark.
    EncodingLosesCharacters => "text/encodings",
    /// A prompt of text lacks its special tokens.
    PromptWithoutSpecial => "text/prompt-equals-ids",
    /// Ids outside the vocabulary decode to nothing.
    UnknownIdsSkipped => "text/unknown-id",
    /// Without a tokenizer text is bytes.
    TokenizerInvented => "text/without-tokenizer",
    /// Drafts are not verified.
    DraftsTrusted => "speculation/equals-greedy",
    /// With drafts the seed is not all that counts.
    SpeculationUnseeded => "speculation/seeded",
    /// `prompt_lookup` is accepted and nothing drafted.
    NothingDrafted => "speculation/fewer-passes",
    /// A prompt's logits are 1 percent too large.
    ScoresScaled => "logits/parity",
    /// It is another model.
    OtherWeights => "logits/greedy-parity",
    /// A prompt's rows come last first.
    RowsReversed => "logits/every-position",
    /// Logits come without being asked for.
    LogitsUnasked => "logits/on-demand",
    /// Single tokens are computed differently.
    DecodeDrifts => "logits/decode-equals-prefill",
    /// There is one alternative less than asked for.
    AlternativeMissing => "logits/logprobs",
    /// A token's log-probability is its logit.
    LogprobsUnnormalized => "logits/logprobs-of-logits",
    /// The options' values are not checked.
    OptionsUnchecked => "options/invalid",
    /// A refusal does not name the option.
    OptionUnnamed => "options/refused-by-name",
    /// `min_tokens` of 0 is refused.
    NeutralRefused => "options/neutral",
    /// An unknown adapter is a failure of the engine.
    AdapterCrashes => "options/unknown-adapter",
    /// The load options' values are not checked.
    LoadUnchecked => "options/load-invalid",
    /// A chunk of a prompt forgets the one before.
    ChunksForget => "options/load-honoured",
    /// `parallel_slots` is not looked at.
    SlotsIgnored => "options/parallel-slots",
    /// `max_queue` is not looked at.
    QueueUnbounded => "options/max-queue",
    /// `lag_timeout` is not looked at.
    LaggardsKept => "options/lag-timeout",
    /// What cannot fit is let wait.
    LimitForgotten => "options/kv-budget",
    /// The KV pool has a block more than fits its budget.
    BudgetExceeded => "options/kv-budget",
    /// The template lacks a space.
    TemplateLosesSpace => "chat/template-golden",
    /// `chat` does not open the assistant's turn.
    ChatLosesOpening => "chat/equals-prompt",
    /// What the template refuses is rendered anyway.
    TemplateSwallows => "chat/template-raises",
    /// Without a template there is one all the same.
    TemplateInvented => "chat/without-template",
    /// Every other request takes the second best token.
    GreedyNoisy => "sampling/greedy-deterministic",
    /// The seed is always drawn.
    SeedIgnored => "sampling/same-seed",
    /// A drawn seed is not reported.
    DrawnSeedHidden => "sampling/drawn-seed",
    /// All seeds are one.
    SeedConstant => "sampling/seeds-differ",
    /// `top_k` is not looked at.
    TopKIgnored => "sampling/narrowed-to-one",
    /// `logit_bias` is not looked at.
    BiasIgnored => "sampling/logit-bias",
    /// `repeat_penalty` is not looked at.
    RepeatPenaltyIgnored => "sampling/penalties",
    /// `frequency_penalty` is not looked at.
    FrequencyPenaltyIgnored => "sampling/penalties",
    /// `presence_penalty` is not looked at.
    PresencePenaltyIgnored => "sampling/penalties",
    /// `penalty_window` is not looked at.
    WindowIgnored => "sampling/penalties",
    /// The logits told are those after the penalties.
    LogitsProcessed => "sampling/penalties",
    /// `top_p` is not looked at.
    TopPIgnored => "sampling/truncations",
    /// `min_p` is not looked at.
    MinPIgnored => "sampling/truncations",
    /// `typical_p` is not looked at.
    TypicalPIgnored => "sampling/truncations",
    /// A request's prompt has one token less.
    PromptMiscounted => "metrics/request",
    /// Every request ends twice.
    EndsCountTwice => "metrics/totals",
    /// Inter-token latencies are not recorded.
    LatenciesUnrecorded => "metrics/histograms",
    /// Every sequence of a step counts one token more.
    StepsPadded => "metrics/steps",
    /// A request's peak of bytes is 0.
    PeakUntold => "metrics/bytes",
    /// A request that is cancelled counts as failed.
    CancelCountsAsFailure => "metrics/cancelled",
    /// Prefixes of one length and first token are one.
    PrefixesByLength => "prefix-cache/equality",
    /// Nothing is kept for later prompts.
    CacheNeverHits => "prefix-cache/skips",
    /// `prefix_cache` off is not looked at.
    CacheAlwaysOn => "prefix-cache/off",
    /// A full cache gives its blocks away and still finds them.
    EvictionMixesBlocks => "prefix-cache/eviction",
    /// An adapter is loaded and forgotten.
    AdapterUnapplied => "adapters/applied",
    /// All of a step have the adapter of the first.
    AdaptersMix => "adapters/together",
    /// The cache does not ask for the adapter.
    AdaptersShareCache => "adapters/prefix-cache",
    /// `unload` does not wait.
    UnloadsAtOnce => "adapters/unload",
    /// The default adapter is for whoever names none, and for the base.
    BaseAdapted => "adapters/base",
    /// `adapter_path` is not looked at.
    AdapterPathIgnored => "adapters/load-path",
    /// What is no number is loaded.
    NanLoaded => "adapters/damaged",
    /// A step changes nothing.
    StepForgotten => "training/learns",
    /// Training changes the weights of the base.
    TrainingMovesBase => "training/base-unchanged",
    /// A step without gradients is taken.
    StepsOnNothing => "training/misuse",
    /// Every token's event says that it is the first.
    TokenEventsUnnumbered => "probes/tokens",
    /// The logits of events are those of the next id.
    LogitEventsRotated => "probes/logits",
    /// Nobody is told of admissions.
    AdmissionsUntold => "probes/scheduler",
    /// There are events only where somebody wants logits.
    CheapEventsMissing => "probes/unasked",
    /// A step ends when every sink has taken its events.
    SinksWaitedFor => "probes/isolation",
    /// A key lacks its last value.
    AttentionShort => "attention/shapes",
    /// Queries depend on how long the prompt is.
    AttentionLooksAhead => "attention/causal",
    /// The prompt of an inspection is not checked.
    AttentionUnchecked => "attention/refused-prompts",
    /// A closed model takes prompts to classify.
    ClosedClassifies => "close/refuses-calls",
    /// A closed model has no metrics.
    MetricsForgotten => "close/idempotent",
    /// What `close` ends is said to be complete.
    ClosingReportsLength => "close/ends-running",
    /// A model that is dropped goes on.
    DropLeavesRunning => "close/drop",
    /// `drain` does what `close` does.
    DrainCancels => "close/drain",
    /// The error for a model that is not there does not say which.
    MissingUnnamed => "loading/missing",
    /// A damaged model is loaded.
    DamageUnnoticed => "loading/damaged",
    /// A phase that began does not end.
    PhaseUnfinished => "loading/progress",
    /// Only one model can be loaded in its life.
    LoadsOnce => "loading/again",
    /// A fifth caller is refused.
    BusyRefuses => "concurrency/many-threads",
    /// All models have the weights of the last one.
    WeightsShared => "concurrency/two-models",
    /// Nobody runs while somebody's buffer is full.
    SlowestSetsThePace => "concurrency/slow-reader",
    /// Who waits for a reader keeps its slot.
    ParkedKeepSlots => "concurrency/slow-readers-in-all-slots",
    /// What else runs is part of the seed.
    CompanyCounts => "concurrency/sampled-company",
    /// `priority` is not looked at.
    PriorityIgnored => "scheduling/priority",
    /// A prompt is computed in one step.
    PromptsWhole => "scheduling/step-budget",
    /// Every temperature but 0 is 1.
    TemperatureIgnored => "sampling/temperature",
    /// Special tokens are never left out.
    SpecialTokensShown => "text/special-tokens",
}
