//! The engine over the simulated runner.

mod adapters;
mod backpressure;
mod batching;
mod cancelling;
mod classifying;
mod companions;
mod draining;
mod endings;
mod failures;
mod hostile;
mod lifecycle;
mod panics;
mod parking;
mod preempting;
mod refusals;
mod reporting;
mod scheduling;
mod sharing;
mod simulation;
mod snapshot_files;
mod speculating;
mod state;
mod stress;

use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::{
    GenerateOptions, ModelInfo, ModelMetrics, TextModel, Token, TokenId, TokenStream,
};
use inference_text::Tokenizer;

use crate::sim_runner::{SimControl, SimRunner, SimSpec};
use crate::{EngineModel, EngineOptions, ModelParts};

/// The end-of-sequence token of [`text_model`].
const EOS: TokenId = 256;

/// A model that works on ids alone.
fn model(spec: SimSpec, options: EngineOptions) -> (Arc<EngineModel>, SimControl) {
    start(spec, ModelParts::new(info()), options)
}

fn start(
    spec: SimSpec,
    parts: ModelParts,
    options: EngineOptions,
) -> (Arc<EngineModel>, SimControl) {
    let (runner, control) = SimRunner::new(spec);
    (EngineModel::start(Box::new(runner), parts, options).unwrap(), control)
}

fn info() -> ModelInfo {
    let mut info = ModelInfo::default();
    info.architecture = "sim".into();
    info
}

/// A model whose token `b` is the byte `b`.
fn text_model(options: EngineOptions) -> (Arc<EngineModel>, SimControl) {
    let parts = ModelParts::new(info()).with_tokenizer(byte_tokenizer()).with_eos(vec![EOS]);
    start(SimSpec::default().with_vocab_size(260), parts, options)
}

/// Makes the model answer any prompt with `text`, and then end.
fn answer(control: &SimControl, prompt_len: usize, text: &str) {
    let bytes = text.as_bytes().to_vec();
    control.set_script(move |history| {
        let next = bytes.get(history.len() - prompt_len).map_or(EOS, |byte| TokenId::from(*byte));
        Some(next)
    });
}

/// One token per byte, and [`EOS`].
fn byte_tokenizer() -> Tokenizer {
    // GPT-2's printable stand-ins for bytes.
    let mut spare = 256_u32;
    let mut stand_in = |byte: u32| match byte {
        33..=126 | 161..=172 | 174..=255 => byte,
        _ => {
            spare += 1;
            spare - 1
        }
    };
    let vocab: serde_json::Map<String, serde_json::Value> = (0..256)
        .map(|byte| (char::from_u32(stand_in(byte)).unwrap().to_string(), byte.into()))
        .collect();
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": false, "use_regex": false});
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{
            "id": EOS, "content": "<eos>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        }],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(json.to_string().as_bytes(), "tokenizer.json").unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions::new().with_max_tokens(max_tokens)
}

fn ids(tokens: &[Token]) -> Vec<TokenId> {
    tokens.iter().map(|token| token.id).collect()
}

/// Submits the request of a stream that nobody reads: none of its tokens is
/// taken from the channel.
fn submit(control: &SimControl, stream: &mut TokenStream) {
    control.hold();
    stream.start();
    control.release();
}

/// Reads a stream to its end.
fn read(stream: &mut TokenStream) -> Vec<Token> {
    stream.map(|token| token.unwrap()).collect()
}

fn generate(model: &EngineModel, prompt: &[TokenId], options: GenerateOptions) -> Vec<TokenId> {
    ids(&read(&mut model.generate(prompt.to_vec().into(), options).unwrap()))
}

/// Waits until `condition` holds of the metrics.
#[track_caller]
fn eventually(model: &EngineModel, what: &str, condition: impl Fn(&ModelMetrics) -> bool) {
    let start = Instant::now();
    while !condition(&model.metrics()) {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: {:?}", model.metrics());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The pool, the slots and the queue are as at the start.
#[track_caller]
fn assert_idle(model: &EngineModel) {
    eventually(model, "everything is freed", |metrics| {
        (metrics.kv_blocks_used, metrics.running, metrics.queued) == (0, 0, 0)
    });
}
