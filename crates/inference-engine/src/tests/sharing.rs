//! Prefixes that are computed once.

use inference_core::{BatchItem, ClassifyOptions, LogitRows};
use proptest::prelude::*;

use super::*;
use crate::sim_runner::SimFault;

/// What greedy decoding of the simulated model gives, without an engine.
pub(super) fn expected(prompt: &[TokenId], tokens: usize) -> Vec<TokenId> {
    let mut history = prompt.to_vec();
    for _ in 0..tokens {
        let logits = SimRunner::expected_logits(64, &history);
        // The lowest of those that are equal.
        let best = (0..64).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        history.push(best as TokenId);
    }
    history.split_off(prompt.len())
}

/// Serves a request alone; returns how much of the prompt was cached.
fn cached(model: &EngineModel, prompt: &[TokenId], tokens: usize) -> usize {
    let mut stream = model.generate(prompt.to_vec().into(), greedy(tokens)).unwrap();
    assert_eq!(ids(&read(&mut stream)), expected(prompt, tokens));
    stream.finish().unwrap().metrics.cached_prompt_tokens
}

fn numbers(range: std::ops::Range<u32>) -> Vec<TokenId> {
    range.map(|n| n % 64).collect()
}

#[test]
fn a_common_prefix_is_computed_once() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    let prompt = numbers(0..21);
    assert_eq!(cached(&model, &prompt, 3), 0);
    assert_eq!(cached(&model, &prompt, 3), 20, "all but the last token");
    let mut longer = prompt.clone();
    longer.extend(expected(&prompt, 3));
    longer.extend([9, 9, 9, 9]);
    assert_eq!(cached(&model, &longer, 3), 23, "output too, but for its last token");
    let mut other = numbers(0..10);
    other.extend([60, 61, 62]);
    assert_eq!(cached(&model, &other, 3), 10, "the part of a block that is the same");
    assert_eq!(cached(&model, &numbers(30..50), 3), 0);
    let metrics = model.metrics();
    let prompts = (21 + 21 + longer.len() + 13 + 20) as u64;
    assert_eq!(metrics.cached_prompt_tokens, 20 + 23 + 10);
    assert_eq!(metrics.prompt_tokens, prompts - metrics.cached_prompt_tokens);
    let computed: usize = control.batches().iter().map(|batch| batch.tokens.len()).sum();
    assert_eq!(metrics.step_tokens, computed as u64);
    assert_idle(&model);
}

#[test]
fn blocks_of_a_running_sequence_are_shared() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.hold();
    let mut first = model.generate(numbers(0..18).into(), greedy(30)).unwrap();
    first.start();
    control.allow(1);
    assert!(control.wait_for(2), "its prompt is computed");
    let mut second = model.generate(numbers(0..18).into(), greedy(5)).unwrap();
    second.start();
    control.release();
    assert_eq!(ids(&read(&mut second)), expected(&numbers(0..18), 5));
    assert_eq!(ids(&read(&mut first)), expected(&numbers(0..18), 30));
    assert!(second.finish().unwrap().metrics.cached_prompt_tokens >= 16, "four full blocks");
    assert_idle(&model);
}

#[test]
fn nothing_is_kept_where_it_is_off_or_cannot_be() {
    let off = EngineOptions::new().with_prefix_cache(false);
    let unable = SimSpec::default().with_shared_blocks(false);
    for (spec, options) in [(SimSpec::default(), off), (unable, EngineOptions::new())] {
        let (model, _) = model(spec, options);
        assert_eq!(cached(&model, &numbers(0..20), 2), 0);
        assert_eq!(cached(&model, &numbers(0..20), 2), 0);
    }
}

#[test]
fn all_rows_are_computed_where_all_are_wanted() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new().with_step_token_budget(8));
    let prompt = numbers(0..19);
    let expected: Vec<f32> =
        (1..=19).flat_map(|len| SimRunner::expected_logits(64, &prompt[..len])).collect();
    for _ in 0..2 {
        let scorer = model.as_scorer().unwrap();
        let rows = scorer.prompt_logits(prompt.clone().into(), LogitRows::All).unwrap();
        assert_eq!(rows.values, expected);
    }
    assert_eq!(model.metrics().cached_prompt_tokens, 0);
    let last = model.as_scorer().unwrap().prompt_logits(prompt.clone().into(), LogitRows::Last);
    assert_eq!(last.unwrap().values, expected[18 * 64..]);
    assert_eq!(model.metrics().cached_prompt_tokens, 18, "they are kept for others");
}

#[test]
fn a_prompt_of_another_sharing_class_has_blocks_of_its_own() {
    let (model, _) = model(SimSpec::default().with_long_prompt(20), EngineOptions::new());
    assert_eq!(cached(&model, &numbers(0..20), 1), 0);
    let long = |metric: fn(&ModelMetrics) -> u64| {
        generate(&model, &numbers(0..30), greedy(1));
        metric(&model.metrics())
    };
    assert_eq!(long(|m| m.cached_prompt_tokens), 0, "the class of long prompts has nothing yet");
    assert_eq!(long(|m| m.cached_prompt_tokens), 29);
    // A short one that grew long is still of the class of its prompt.
    assert_eq!(cached(&model, &numbers(0..20), 10), 19);
}

#[test]
fn what_a_failed_step_wrote_is_not_used() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.fail_at(1, SimFault::Error { survives: true });
    let stream = model.generate(numbers(0..9).into(), greedy(5)).unwrap();
    stream.finish().unwrap_err();
    assert_eq!(cached(&model, &numbers(0..9), 5), 0);
    control.fail_at(control.batches().len(), SimFault::Nan(7));
    let stream = model.generate(numbers(7..20).into(), greedy(5)).unwrap();
    stream.finish().unwrap_err();
    assert_eq!(cached(&model, &numbers(7..20), 5), 0, "NaN may come from keys and values");
    assert_idle(&model);
}

#[test]
fn classification_uses_what_generation_computed() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    generate(&model, &numbers(0..16), greedy(1));
    let prompts = vec![numbers(0..16).into(), numbers(0..12).into()];
    let found = model.classify(prompts, &ClassifyOptions::new()).unwrap();
    for (found, len) in found.into_iter().zip([16, 12]) {
        assert_eq!(found.unwrap().token.id, expected(&numbers(0..len), 1)[0]);
    }
    assert_eq!(model.metrics().cached_prompt_tokens, 15 + 11);
}

/// Serves a batch of prompts; returns how much of them was cached and in how
/// many steps.
fn together(options: EngineOptions, prompts: &[Vec<TokenId>]) -> (u64, u64) {
    let (model, _) = model(SimSpec::default(), options);
    let items = prompts.iter().map(|ids| BatchItem::new(ids.clone()).with_options(greedy(3)));
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    let mut cached = 0;
    for (prompt, output) in prompts.iter().zip(outputs) {
        let output = output.unwrap();
        assert_eq!(ids(&output.tokens), expected(prompt, 3));
        cached += output.completion.metrics.cached_prompt_tokens;
    }
    let metrics = model.metrics();
    let tokens: usize = prompts.iter().map(Vec::len).sum();
    assert_eq!(metrics.cached_prompt_tokens, cached as u64);
    assert_eq!(metrics.prompt_tokens + metrics.cached_prompt_tokens, tokens as u64);
    assert_idle(&model);
    (metrics.cached_prompt_tokens, metrics.forward_count)
}

#[test]
fn prompts_that_come_together_share_what_one_of_them_computes() {
    let question = |id: TokenId| [numbers(0..200), vec![id; 30]].concat();
    let questions: Vec<_> = (0..8).map(question).collect();
    let options = |budget| EngineOptions::new().with_step_token_budget(budget);
    // One step more than each for itself, with a seventh of the tokens.
    assert_eq!(together(options(4000), &questions), (7 * 200, 4));
    // In chunks, but for the last 8 that are common, it is far fewer steps: of
    // 496 tokens, not 1840.
    let (cached, steps) = together(options(64), &questions);
    assert_eq!(cached, 7 * 192);
    assert!(steps <= 496_u64.div_ceil(64) + 5, "{steps}");
    let alone = options(64).with_prefix_cache(false);
    assert_eq!(together(alone, &questions).0, 0);
}

#[test]
fn who_has_little_in_common_waits_for_nobody() {
    let options = EngineOptions::new().with_step_token_budget(4000);
    let long = [numbers(0..64), vec![1; 100]].concat();
    let other = [numbers(0..64), vec![2; 100]].concat();
    assert_eq!(together(options.clone(), &[long.clone(), other]), (0, 3));
    // A short one behind a long one would wait for all of its chunk.
    assert_eq!(together(options.clone(), &[long, numbers(0..30)]), (0, 3));
    assert_eq!(together(options, &[numbers(0..15), numbers(0..15)]), (0, 3));
}

#[test]
fn who_followed_goes_on_when_the_other_ends() {
    let (model, control) =
        model(SimSpec::default(), EngineOptions::new().with_step_token_budget(32));
    control.hold();
    let prompt = numbers(0..200);
    let mut first = model.generate(prompt.clone().into(), greedy(3)).unwrap();
    first.start();
    assert!(control.wait_for(1));
    let mut second = model.generate(prompt.clone().into(), greedy(3)).unwrap();
    second.start();
    control.allow(2);
    assert!(control.wait_for(3));
    drop(first);
    control.release();
    assert_eq!(ids(&read(&mut second)), expected(&prompt, 3));
    assert_eq!(second.finish().unwrap().metrics.cached_prompt_tokens, 3 * 32);
    assert!(control.batches().iter().take(3).all(|batch| batch.sequences.len() == 1));
    assert_idle(&model);
}

/// Blocks that are only kept do not keep a request waiting.
#[test]
fn kept_blocks_give_way() {
    let spec = SimSpec::default().with_context_len(32).with_blocks(4, 8);
    let (model, _) = model(spec, EngineOptions::new());
    for start in 0..20 {
        assert!(cached(&model, &numbers(start * 3..start * 3 + 25), 7) < 25);
    }
    assert_eq!(model.metrics().preemptions, 0);
    assert_idle(&model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Prompts over two tokens have much in common, and tight pools preempt.
    #[test]
    fn tokens_are_those_of_a_naive_loop(
        rounds in prop::collection::vec(
            prop::collection::vec(
                (prop::collection::vec(0_u32..2, 1..24), 1_usize..12, -1..2, 0_usize..4), 1..8,
            ),
            1..4,
        ),
        max_batch in 1_usize..6,
        budget in 6_usize..40,
        block_size in 1_usize..6,
        spare in 0_usize..20,
        keep in any::<bool>(),
        shares in any::<bool>(),
    ) {
        let blocks = 36_usize.div_ceil(block_size) + spare;
        let spec = SimSpec::default()
            .with_context_len(36)
            .with_blocks(block_size, blocks)
            .with_shared_blocks(shares);
        let options = EngineOptions::new()
            .with_max_batch(max_batch)
            .with_step_token_budget(budget)
            .with_channel_capacity(2)
            .with_prefix_cache(keep);
        let (model, _) = model(spec, options);
        let mut prompts = 0;
        for round in rounds {
            prompts += round.iter().map(|(prompt, ..)| prompt.len()).sum::<usize>();
            let items = round.iter().map(|(prompt, tokens, priority, lookup)| {
                let mut options = greedy(*tokens).with_priority(*priority);
                if shares {
                    options = options.with_prompt_lookup(*lookup);
                }
                BatchItem::new(prompt.clone()).with_options(options)
            });
            let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
            for ((prompt, tokens, ..), output) in round.iter().zip(outputs) {
                prop_assert_eq!(ids(&output.unwrap().tokens), expected(prompt, *tokens));
            }
        }
        let metrics = model.metrics();
        prop_assert_eq!(metrics.prompt_tokens + metrics.cached_prompt_tokens, prompts as u64);
        prop_assert!((keep && shares) || metrics.cached_prompt_tokens == 0);
        prop_assert_eq!(metrics.kv_blocks_used, 0);
    }
}
