//! Steps of training are the same bits on any number of threads.

#![allow(clippy::unwrap_used, reason = "a test")]

use inference_core::{
    Backend, LoadOptions, LoraConfig, ModelSource, OptimizerConfig, QuantizeType, TrainingSequence,
    TrainingState,
};
use inference_cpu::CpuBackend;

/// The factors and means after three steps of two passes each, and the losses.
fn trained(load: &LoadOptions, threads: usize, checkpointing: bool) -> (TrainingState, Vec<u32>) {
    let load = load.clone().with_threads(threads);
    let source = ModelSource::Embedded(inference_demo::FILES);
    let model = CpuBackend::new().load_model(&source, &load).unwrap();
    let trainable = model.as_trainable().unwrap();
    let config = LoraConfig::new().with_target_pattern(".*_proj").with_dropout(0.1);
    trainable.apply_lora(&config).unwrap();
    trainable.set_optimizer(&OptimizerConfig::new()).unwrap();
    trainable.set_gradient_checkpointing(checkpointing);
    // Lengths that no number of threads divides.
    let batch = |seed: u32| {
        [37, 1, 50].map(|len: u32| {
            TrainingSequence::new((0..len + 1).map(|i| (seed + i * i * 7 + len) % 500).collect())
        })
    };
    let mut losses = Vec::new();
    for step in 0..3 {
        for pass in 0..2 {
            let loss = trainable.forward_loss(&batch(step * 2 + pass)).unwrap();
            losses.push(loss.value().to_bits());
            trainable.backward(loss).unwrap();
        }
        trainable.step().unwrap();
    }
    (trainable.training_state().unwrap(), losses)
}

#[test]
fn threads_and_checkpointing_change_no_bit() {
    let quantized = LoadOptions::new().with_quantize(QuantizeType::Q8_0);
    for load in [LoadOptions::new(), quantized] {
        let wanted = trained(&load, 1, false);
        for (threads, checkpointing) in [(2, false), (3, false), (2, true)] {
            let found = trained(&load, threads, checkpointing);
            assert_eq!(found, wanted, "{threads} threads, checkpointing {checkpointing}");
        }
    }
}
