//! Requests that ended leave nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::sync::Arc;

use inference_core::{
    BatchItem, CancelToken, ClassifyOptions, GenerateOptions, ModelInfo, TextModel,
};
use inference_engine::sim_runner::{SimRunner, SimSpec};
use inference_engine::{EngineModel, EngineOptions, ModelParts};
use peak_alloc::PeakAlloc;

/// Counts every byte of this process.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Twenty requests of all kinds, with prompts that occur once.
fn serve(model: &Arc<EngineModel>, round: u32) {
    let prompt = |own: u32| -> Vec<u32> {
        let digits = [round, round >> 6, round >> 12, own].map(|digit| digit % 64);
        [5, 6, 7, 8].into_iter().chain(digits).chain([9, 9, 9]).collect()
    };
    let options = || {
        let options = GenerateOptions::new().with_max_tokens(6).with_temperature(1.0);
        options.with_seed(u64::from(round)).with_prompt_lookup(3).with_logprobs(2)
    };
    let items = (0..10).map(|own| BatchItem::new(prompt(own)).with_options(options()));
    assert_eq!(model.batch_generate(items.collect()).unwrap().collect_all().len(), 10);
    let prompts = (10..14).map(|own| prompt(own).into()).collect();
    assert_eq!(model.classify(prompts, &ClassifyOptions::new()).unwrap().len(), 4);
    let cancel = CancelToken::new();
    let mut streams: Vec<_> = (14..20)
        .map(|own| {
            let options = options().with_cancel(cancel.clone());
            let mut stream = model.generate(prompt(own).into(), options).unwrap();
            stream.start();
            stream
        })
        .collect();
    // One is read, one dropped in the middle, one cancelled; the others by
    // their token.
    streams.remove(0).finish().unwrap();
    let _ = streams[0].next();
    drop(streams.remove(0));
    streams[0].cancel();
    cancel.cancel();
    for stream in streams {
        stream.finish().unwrap();
    }
}

fn bytes_at_rest(model: &EngineModel) -> usize {
    loop {
        let metrics = model.metrics();
        if (metrics.requests, metrics.running, metrics.queued) == (metrics.finished, 0, 0) {
            break;
        }
        std::thread::yield_now();
    }
    // The engine thread answers, and so has left the step before.
    model.classify(vec![vec![1].into()], &ClassifyOptions::new()).unwrap();
    HEAP.current_usage()
}

#[test]
fn ten_thousand_requests_hold_no_more_than_a_thousand() {
    let (runner, control) = SimRunner::new(SimSpec::default().with_blocks(4, 100));
    control.forget_batches();
    let options = EngineOptions::new().with_max_batch(8).with_channel_capacity(4);
    let parts = ModelParts::new(ModelInfo::default());
    let model = EngineModel::start(Box::new(runner), parts, options).unwrap();
    (0..50).for_each(|round| serve(&model, round));
    let early = bytes_at_rest(&model);
    (50..500).for_each(|round| serve(&model, round));
    let late = bytes_at_rest(&model);
    assert!(model.metrics().requests > 9_500);
    // Tables and queues keep the room that they once needed: less than a byte
    // for each request.
    assert!(late <= early + 8 * 1024, "{early} bytes after 1,000 requests, {late} after 10,000");
    drop(model);
    assert!(HEAP.current_usage() < early / 2, "the model is gone");
}
