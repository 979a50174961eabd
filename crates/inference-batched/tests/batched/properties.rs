//! Random architectures against the naive loop.

use inference_batched::{
    Activation, Architecture, BatchedOptions, LayerSpec, Request, WeightLayout,
};
use proptest::prelude::*;

use crate::naive::{Model, Random, assert_close, forward, group};

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        (-0.5f32..0.5).prop_map(|slope| Activation::LeakyRelu { slope }),
        Just(Activation::Tanh),
        Just(Activation::Sigmoid),
        Just(Activation::Silu),
        Just(Activation::Gelu),
        Just(Activation::GeluTanh),
    ]
}

/// Widths around the sizes of registers and panels.
fn width() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..20, 2 => 28usize..36, 1 => 60usize..70, 1 => 120usize..140]
}

fn architecture() -> impl Strategy<Value = Architecture> {
    (1usize..4)
        .prop_flat_map(|layers| {
            let specs = proptest::collection::vec((activation(), any::<bool>()), layers);
            (proptest::collection::vec(width(), layers + 1), specs)
        })
        .prop_map(|(widths, specs)| {
            let layers: Vec<_> = widths
                .windows(2)
                .zip(specs)
                .map(|(pair, (activation, bias))| {
                    LayerSpec::new(pair[0], pair[1], activation).with_bias(bias)
                })
                .collect();
            Architecture::new(layers).unwrap()
        })
}

fn layout() -> impl Strategy<Value = Option<WeightLayout>> {
    prop_oneof![
        Just(None),
        Just(Some(WeightLayout::PerModel)),
        Just(Some(WeightLayout::Interleaved))
    ]
}

/// What the reference says of rows of models.
fn expected(
    architecture: &Architecture,
    models: &[Model],
    indices: &[usize],
    rows: &[usize],
    inputs: &[f32],
) -> Vec<(f64, f64)> {
    let mut inputs = inputs.chunks(architecture.inputs());
    let mut all = Vec::new();
    for (index, rows) in indices.iter().zip(rows) {
        for _ in 0..*rows {
            all.extend(forward(architecture, &models[*index], inputs.next().unwrap()));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn groups_compute_what_the_loop_does(
        architecture in architecture(),
        layout in layout(),
        num_models in 1usize..40,
        threads in 1usize..4,
        seed in any::<u64>(),
    ) {
        let mut options = BatchedOptions::new().with_threads(threads);
        options.layout = layout;
        let (group, models) = group(num_models, &architecture, &options, seed);
        let mut random = Random(seed ^ 1);

        // All models, a row each.
        let inputs = random.numbers(num_models * architecture.inputs());
        let all = group.forward(&inputs).unwrap();
        let indices: Vec<usize> = (0..num_models).collect();
        let reference = expected(&architecture, &models, &indices, &vec![1; num_models], &inputs);
        assert_close(&all, &reference, "forward");

        // Some models, in any order, with any number of rows each.
        let count = random.bits() as usize % 30;
        let mut subset: Vec<usize> =
            (0..count).map(|_| random.bits() as usize % num_models).collect();
        if seed % 2 == 0 {
            subset.sort_unstable();
        }
        let rows: Vec<usize> = subset.iter().map(|_| random.bits() as usize % 8).collect();
        let inputs = random.numbers(rows.iter().sum::<usize>() * architecture.inputs());
        let request = Request::new(&inputs).with_models(&subset).with_rows(&rows);
        let found = group.run(&request).unwrap();
        let reference = expected(&architecture, &models, &subset, &rows, &inputs);
        assert_close(&found, &reference, "some rows of some models");
    }

    #[test]
    fn bits_depend_on_the_model_and_the_row_alone(
        architecture in architecture(),
        layout in layout(),
        num_models in 1usize..40,
        seed in any::<u64>(),
    ) {
        let build = |threads: usize| {
            let mut options = BatchedOptions::new().with_threads(threads);
            options.layout = layout;
            group(num_models, &architecture, &options, seed).0
        };
        let (one, many) = (build(1), build(3));
        let mut random = Random(seed ^ 2);
        let width = architecture.inputs();
        let rows: Vec<usize> = (0..num_models).map(|_| random.bits() as usize % 40).collect();
        let inputs = random.numbers(rows.iter().sum::<usize>() * width);
        let outputs = one.forward_rows(&rows, &inputs).unwrap();
        prop_assert_eq!(&many.forward_rows(&rows, &inputs).unwrap(), &outputs);
        // Every row alone.
        let mut at = 0;
        for (model, rows) in rows.iter().enumerate() {
            for _ in 0..*rows {
                let row = &inputs[at * width..(at + 1) * width];
                let alone = many.forward_subset(&[model], row).unwrap();
                let width = architecture.outputs();
                prop_assert_eq!(&alone[..], &outputs[at * width..(at + 1) * width]);
                at += 1;
            }
        }
    }
}

#[test]
fn a_model_of_many_rows_is_shared_and_keeps_its_bits() {
    for layout in [WeightLayout::PerModel, WeightLayout::Interleaved] {
        let architecture =
            Architecture::mlp(&[6, 20, 3], Activation::Tanh, Activation::None).unwrap();
        let options = BatchedOptions::new().with_threads(3).with_layout(layout);
        let (group, models) = group(3, &architecture, &options, 11);
        let rows = [5, 3000, 0];
        let inputs = Random(4).numbers(3005 * 6);
        let outputs = group.forward_rows(&rows, &inputs).unwrap();
        let reference = expected(&architecture, &models, &[0, 1, 2], &rows, &inputs);
        assert_close(&outputs, &reference, "many rows");
    }
}
