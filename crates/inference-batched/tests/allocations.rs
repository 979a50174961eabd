//! Calls into buffers of the caller's allocate nothing once they were made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, Request, WeightLayout,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

#[test]
fn calls_allocate_nothing_once_they_were_made() {
    for (layout, widths) in
        [(WeightLayout::PerModel, &[40, 64, 30][..]), (WeightLayout::Interleaved, &[16, 32, 8])]
    {
        let architecture = Architecture::mlp(widths, Activation::Gelu, Activation::None).unwrap();
        let options = BatchedOptions::new().with_threads(3).with_layout(layout);
        let group =
            BatchedInference::with_options(200, architecture.clone(), Device::cpu(), &options)
                .unwrap();
        for index in 0..200 {
            let mut weights = Vec::new();
            for (at, layer) in architecture.layers.iter().enumerate() {
                weights.push((format!("layer_{at}"), vec![0.01; layer.inputs * layer.outputs]));
                weights.push((format!("layer_{at}.bias"), vec![0.5; layer.outputs]));
            }
            group.load_weights(index, weights).unwrap();
        }
        let indices: Vec<usize> = (0..200).rev().collect();
        let rows: Vec<usize> = (0..200).map(|index| index % 4).collect();
        let count: usize = rows.iter().sum();
        let inputs = vec![0.5; count * widths[0]];
        let mut outputs = vec![0.0; count * widths[2]];
        let (some, few) = (200 * widths[0], 200 * widths[2]);
        let mut calls = || {
            group.forward_into(&inputs[..some], &mut outputs[..few]).unwrap();
            group.forward_subset_into(&indices, &inputs[..some], &mut outputs[..few]).unwrap();
            group.forward_rows_into(&rows, &inputs, &mut outputs).unwrap();
            let request = Request::new(&inputs).with_models(&indices).with_rows(&rows);
            group.run_into(&request, &mut outputs).unwrap();
        };
        calls();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        for _ in 0..50 {
            calls();
        }
        assert_eq!(ALLOCATOR.peak_usage(), before, "{layout:?}");
    }
}
