//! A request's answer does not depend on its company.

use inference_core::{BatchItem, Prompt};
use proptest::prelude::*;

use super::*;
use crate::rng::SeededUniform;

/// One request of a random load.
#[derive(Clone, Debug)]
struct Case {
    prompt: Vec<TokenId>,
    max_tokens: usize,
    temperature: f32,
    seed: u64,
    priority: i32,
}

impl Case {
    fn options(&self) -> GenerateOptions {
        greedy(self.max_tokens)
            .with_temperature(self.temperature)
            .with_seed(self.seed)
            .with_priority(self.priority)
            .with_top_p(0.9)
            .with_repeat_penalty(1.1)
    }
}

prop_compose! {
    fn case()(
        prompt in prop::collection::vec(0_u32..64, 1..40),
        max_tokens in 1_usize..20,
        temperature in prop::sample::select(vec![0.0_f32, 0.7, 1.5]),
        seed in any::<u64>(),
        priority in -1..2,
    ) -> Case {
        Case { prompt, max_tokens, temperature, seed, priority }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn alone_is_batched(
        cases in prop::collection::vec(case(), 1..12),
        max_batch in 1_usize..6,
        budget in 6_usize..50,
        block_size in 1_usize..9,
        tight in any::<bool>(),
    ) {
        let spec = SimSpec::default().with_context_len(64);
        let alone: Vec<Vec<TokenId>> = cases
            .iter()
            .map(|case| {
                let (model, _) = model(spec.clone(), EngineOptions::new());
                generate(&model, &case.prompt, case.options())
            })
            .collect();
        // A tight pool holds one sequence of the full context.
        let blocks = 64_usize.div_ceil(block_size) * if tight { 1 } else { 8 };
        let options =
            EngineOptions::new().with_max_batch(max_batch).with_step_token_budget(budget);
        let (model, _) = model(spec.with_blocks(block_size, blocks), options);
        let items = cases.iter().map(|case| {
            BatchItem::new(Prompt::from(case.prompt.clone())).with_options(case.options())
        });
        let batched = model.batch_generate(items.collect()).unwrap().collect_all();
        for (expected, found) in alone.iter().zip(batched) {
            prop_assert_eq!(expected, &ids(&found.unwrap().tokens));
        }
        prop_assert_eq!(model.metrics().kv_blocks_used, 0);
    }
}

/// The engine's output is what a loop without an engine would compute.
#[test]
fn greedy_output_is_that_of_a_naive_loop() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new().with_step_token_budget(8));
    let prompt: Vec<TokenId> = (0..30).collect();
    let mut history = prompt.clone();
    for _ in 0..12 {
        let logits = SimRunner::expected_logits(64, &history);
        let best = (0..64).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        history.push(best as TokenId);
    }
    assert_eq!(generate(&model, &prompt, greedy(12)), history[30..]);
}

/// As is the sampled output, with the documented random numbers.
#[test]
fn sampled_output_is_that_of_a_naive_loop() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    let mut uniform = SeededUniform::new(99);
    let mut history: Vec<TokenId> = vec![5];
    for index in 0..16 {
        let logits = SimRunner::expected_logits(64, &history);
        let mut order: Vec<usize> = (0..64).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let weights: Vec<f64> = order.iter().map(|i| f64::from(logits[*i]).exp()).collect();
        let target = uniform.at(index) * weights.iter().sum::<f64>();
        let mut cumulative = 0.0;
        let rank = weights.iter().position(|weight| {
            cumulative += weight;
            cumulative > target
        });
        history.push(order[rank.unwrap()] as TokenId);
    }
    let options = greedy(16).with_temperature(1.0).with_seed(99);
    assert_eq!(generate(&model, &[5], options), history[1..]);
}

#[test]
fn a_batch_takes_fewer_steps_than_its_requests_alone() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new().with_max_batch(16));
    let items = (0..16).map(|i| BatchItem::new(vec![i, i + 1]).with_options(greedy(10)));
    let mut stream = model.batch_generate(items.collect()).unwrap();
    assert_eq!(
        stream.by_ref().filter(|(_, e)| matches!(e, inference_core::TokenEvent::Token(_))).count(),
        160
    );
    let forwards = model.metrics().forward_count;
    assert_eq!(forwards, 10, "all run together from the start");
    assert_eq!(model.metrics().generated_tokens, 160);
    assert_eq!(model.metrics().prompt_tokens, 32);
}

#[test]
fn prompts_are_cut_to_the_token_budget() {
    let options = EngineOptions::new().with_max_batch(2).with_step_token_budget(8);
    let (model, control) = model(SimSpec::default(), options);
    generate(&model, &[7; 30], greedy(2));
    let batches = control.batches();
    let sizes: Vec<usize> = batches.iter().map(|batch| batch.tokens.len()).collect();
    assert_eq!(sizes, [8, 8, 8, 6, 1]);
    let rows: Vec<usize> = batches.iter().map(|batch| batch.logit_rows.len()).collect();
    assert_eq!(rows, [0, 0, 0, 1, 1], "no logits are computed in vain");
    assert!(batches.iter().all(|batch| batch.sequences[0].prompt_len == 30));
}

#[test]
fn a_long_prompt_does_not_stop_the_decoding_of_others() {
    let options = EngineOptions::new().with_max_batch(2).with_step_token_budget(4);
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let mut short = model.generate(vec![1].into(), greedy(20)).unwrap();
    short.start();
    assert!(control.wait_for(1));
    let mut long = model.generate(vec![2; 40].into(), greedy(1)).unwrap();
    long.start();
    control.release();
    read(&mut long);
    read(&mut short);
    let mixed = control.batches().iter().filter(|batch| batch.sequences.len() == 2).count();
    assert!(mixed >= 13, "{mixed} steps held both");
}

#[test]
fn many_threads_share_one_model() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new().with_max_batch(5));
    let expected: Vec<_> = (0..24).map(|i| generate(&model, &[i, 3], greedy(12))).collect();
    std::thread::scope(|scope| {
        for (i, expected) in (0..24).zip(&expected) {
            let model = &model;
            scope.spawn(move || assert_eq!(&generate(model, &[i, 3], greedy(12)), expected));
        }
    });
    assert_idle(&model);
    assert_eq!(model.metrics().finished, 48);
}

#[test]
fn priority_decides_who_runs_next() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_max_batch(1));
    control.hold();
    let mut streams: Vec<TokenStream> = [(1, 0), (2, 0), (3, 5), (4, 0), (5, 5)]
        .into_iter()
        .map(|(token, priority)| {
            let options = greedy(1).with_priority(priority);
            let mut stream = model.generate(vec![token].into(), options).unwrap();
            stream.start();
            if token == 1 {
                assert!(control.wait_for(1), "the first takes the slot");
            }
            stream
        })
        .collect();
    control.release();
    streams.iter_mut().for_each(|stream| assert_eq!(read(stream).len(), 1));
    let order: Vec<TokenId> = control.batches().iter().map(|batch| batch.tokens[0]).collect();
    assert_eq!(order, [1, 3, 5, 2, 4]);
}

#[test]
fn a_request_that_lacks_blocks_waits_for_them() {
    let spec = SimSpec::default().with_context_len(32).with_blocks(4, 8);
    let (model, control) = model(spec, EngineOptions::new());
    let items = (0..6).map(|i| BatchItem::new(vec![i; 10]).with_options(greedy(15)));
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    assert!(outputs.iter().all(|output| output.as_ref().unwrap().tokens.len() == 15));
    // Each needs 6 blocks of 8, so that two cannot end at the same time.
    assert!(control.batches().iter().all(|batch| batch.sequences.len() <= 2));
    assert!(control.batches().iter().any(|batch| batch.sequences.len() == 2));
    assert_idle(&model);
}
