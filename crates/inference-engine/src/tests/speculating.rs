//! Drafts change how fast tokens come, and nothing else.

use inference_core::{BatchItem, ErrorKind, FinishReason};
use proptest::prelude::*;

use super::*;

/// Everything a reader sees.
type Seen = (Vec<Token>, FinishReason);

fn run(model: &EngineModel, prompt: &[TokenId], options: GenerateOptions) -> Seen {
    let mut stream = model.generate(prompt.to_vec().into(), options).unwrap();
    let tokens = read(&mut stream);
    (tokens, stream.finish().unwrap().finish_reason)
}

fn any_options() -> impl Strategy<Value = GenerateOptions> {
    let sampling = (
        prop::sample::select(vec![0.0_f32, 0.6, 1.0, 3.0]),
        prop::sample::select(vec![0_usize, 1, 3]),
        prop::sample::select(vec![1.0_f32, 0.8]),
        prop::sample::select(vec![0.0_f32, 0.1]),
        prop::sample::select(vec![1.0_f32, 0.7]),
        any::<u64>(),
    );
    let penalties = (
        prop::sample::select(vec![1.0_f32, 1.3, 0.7]),
        prop::sample::select(vec![0.0_f32, 0.5, -0.5]),
        prop::sample::select(vec![0.0_f32, 0.5]),
        prop::sample::select(vec![None, Some(0_usize), Some(3), Some(20)]),
        prop::sample::select(vec![0.0_f32, 1.0, f32::NEG_INFINITY]),
    );
    let output = (
        1_usize..60,
        prop::sample::select(vec![None, Some(1_u32)]),
        prop::sample::select(vec![None, Some(0_usize), Some(2)]),
        any::<bool>(),
        any::<bool>(),
    );
    (sampling, penalties, output).prop_map(|(sampling, penalties, output)| {
        let (temperature, top_k, top_p, min_p, typical_p, seed) = sampling;
        let (repeat, frequency, presence, window, bias) = penalties;
        let (max_tokens, stop, logprobs, logits, late) = output;
        let mut options = greedy(max_tokens)
            .with_temperature(temperature)
            .with_top_k(top_k)
            .with_top_p(top_p)
            .with_min_p(min_p)
            .with_typical_p(typical_p)
            .with_seed(seed)
            .with_repeat_penalty(repeat)
            .with_frequency_penalty(frequency)
            .with_presence_penalty(presence)
            .with_logit_bias(0, bias);
        options.penalty_window = window;
        options.stop_tokens.extend(stop);
        options.logprobs = logprobs;
        options.logits = Some(logits);
        options.min_tokens = late.then_some(max_tokens.div_ceil(2));
        options
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A vocabulary so small that texts repeat themselves, and sampling is
    /// sometimes what was drafted and sometimes not.
    #[test]
    fn the_tokens_are_those_without_drafts(
        vocab in 3_usize..7,
        requests in prop::collection::vec(
            (prop::collection::vec(0_u32..2, 1..30), any_options(), 0_usize..9),
            1..5,
        ),
        budget in 4_usize..30,
        capacity in 1_usize..6,
        block_size in 1_usize..6,
    ) {
        let spec = SimSpec::default().with_vocab_size(vocab).with_context_len(80);
        let (plain, _) = model(spec.clone(), EngineOptions::new());
        let expected: Vec<Seen> =
            requests.iter().map(|(prompt, options, _)| run(&plain, prompt, options.clone())).collect();
        let options = EngineOptions::new()
            .with_max_batch(3)
            .with_step_token_budget(budget)
            .with_channel_capacity(capacity);
        let (model, _) = model(spec.with_blocks(block_size, 400), options);
        let items = requests.iter().map(|(prompt, options, drafts)| {
            BatchItem::new(prompt.clone()).with_options(options.clone().with_prompt_lookup(*drafts))
        });
        let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
        let (mut drafted, mut accepted) = (0, 0);
        for (output, (tokens, reason)) in outputs.into_iter().zip(expected) {
            let output = output.unwrap();
            prop_assert_eq!(&output.tokens, &tokens);
            let completion = output.completion;
            prop_assert_eq!(completion.finish_reason, reason);
            drafted += completion.metrics.draft_tokens as u64;
            accepted += completion.metrics.accepted_draft_tokens as u64;
        }
        let metrics = model.metrics();
        prop_assert_eq!((metrics.draft_tokens, metrics.accepted_draft_tokens), (drafted, accepted));
        prop_assert!(accepted <= drafted);
        prop_assert_eq!(metrics.generated_tokens, metrics.ttft.count() + metrics.itl.count());
        prop_assert_eq!(metrics.kv_blocks_used, 0);
    }

    /// Stop strings that lie across tokens, in a text of few letters.
    #[test]
    fn stop_strings_end_the_same_text(
        text in "[ab]{1,20}",
        turns in prop::collection::vec(0_u8..5, 40),
        stops in prop::collection::vec("[ab]{1,4}|é", 0..3),
        drafts in 1_usize..9,
    ) {
        let speak = |control: &SimControl| {
            let turns = turns.clone();
            control.set_script(move |history| {
                Some(match turns[history.len() % turns.len()] {
                    // Both bytes of é, one after the other.
                    _ if history.last() == Some(&0xc3) => 0xa9,
                    0 => 0xc3,
                    turn => TokenId::from(b'a') + u32::from(turn % 2),
                })
            });
        };
        let mut options = greedy(50).with_ignore_eos(true);
        options.stop_strings = stops;
        let prompt: Vec<TokenId> = text.bytes().map(TokenId::from).collect();
        let (plain, control) = text_model(EngineOptions::new());
        speak(&control);
        let expected = run(&plain, &prompt, options.clone());
        let (model, control) = text_model(EngineOptions::new());
        speak(&control);
        prop_assert_eq!(run(&model, &prompt, options.with_prompt_lookup(drafts)), expected);
    }
}

/// A model that counts to nine again and again.
fn counting(options: EngineOptions) -> (Arc<EngineModel>, SimControl) {
    let (model, control) = model(SimSpec::default(), options);
    control.set_script(|history| history.last().map(|last| (last + 1) % 10));
    (model, control)
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_steps() {
    let (model, control) = counting(EngineOptions::new());
    let mut stream =
        model.generate(vec![0, 1, 2, 3].into(), greedy(100).with_prompt_lookup(8)).unwrap();
    let expected: Vec<TokenId> = (4..104).map(|token| token % 10).collect();
    assert_eq!(ids(&read(&mut stream)), expected);
    // The first round is new, and then comes a draft of half the length.
    let lens: Vec<usize> = control.batches().iter().map(|batch| batch.tokens.len()).collect();
    assert_eq!(lens, [4, 1, 1, 1, 1, 1, 1, 1, 5, 9, 9, 9, 9, 9, 9, 9, 9, 9, 6]);
    let metrics = stream.finish().unwrap().metrics;
    assert_eq!((metrics.draft_tokens, metrics.accepted_draft_tokens), (81, 81));
    assert_eq!(model.metrics().draft_acceptance_rate(), 1.0);
    assert_eq!(model.metrics().forward_count, 19);
    assert_idle(&model);
}

#[test]
fn drafts_never_take_the_room_of_prompts() {
    let options = EngineOptions::new().with_step_token_budget(10).with_max_batch(2);
    let (model, control) = counting(options);
    control.hold();
    let mut drafting = model
        .generate((0..10).chain(0..4).collect::<Vec<_>>().into(), greedy(60).with_prompt_lookup(8))
        .unwrap();
    drafting.start();
    assert!(control.wait_for(1));
    let mut prompt = model.generate(vec![50; 40].into(), greedy(1)).unwrap();
    prompt.start();
    control.release();
    assert_eq!(read(&mut drafting).len(), 60);
    assert_eq!(read(&mut prompt).len(), 1);
    let batches = control.batches();
    let with_prompt =
        || batches.iter().filter(|batch| batch.sequences.iter().any(|s| s.prompt_len == 40));
    assert_eq!(with_prompt().count(), 5, "4 + 9 + 9 + 9 + 9 of its tokens");
    assert!(batches.iter().all(|batch| batch.tokens.len() <= 10));
    assert!(model.metrics().accepted_draft_tokens > 20);
}

#[test]
fn drafts_stay_inside_context_and_max_tokens() {
    for (max_tokens, context) in [(7, 512), (400, 16)] {
        let spec = SimSpec::default().with_context_len(context).with_blocks(1, context);
        let (model, control) = model(spec, EngineOptions::new());
        control.set_script(|_| Some(3));
        let room = max_tokens.min(context - 4);
        let tokens = generate(&model, &[3; 4], greedy(max_tokens).with_prompt_lookup(32));
        assert_eq!(tokens, vec![3; room]);
        let computed = control.batches().iter().map(|batch| batch.tokens.len()).sum::<usize>();
        assert_eq!(computed, 4 + room - 1, "no draft is longer than what may come");
    }
}

#[test]
fn a_reader_that_stands_still_stops_the_drafts_too() {
    let (model, control) = counting(EngineOptions::new().with_channel_capacity(2));
    let options = greedy(100).with_prompt_lookup(8);
    let mut stream =
        model.generate((0..10).chain(0..4).collect::<Vec<_>>().into(), options).unwrap();
    submit(&control, &mut stream);
    // The first token, then one and four drafts.
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 6);
    assert_eq!(read(&mut stream).len(), 100);
}

#[test]
fn a_runner_that_cannot_compute_positions_again_refuses_drafts() {
    let spec = SimSpec::default().with_shared_blocks(false);
    let (model, _) = model(spec, EngineOptions::new());
    let refused = model.generate(vec![1].into(), greedy(1).with_prompt_lookup(2)).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("prompt_lookup"), "{refused}");
    assert_eq!(generate(&model, &[1], greedy(3).with_prompt_lookup(0)).len(), 3);
}

#[test]
fn drafts_never_take_the_blocks_that_others_need() {
    for blocks in 30..40 {
        let spec = SimSpec::default().with_context_len(30).with_blocks(1, blocks);
        let (model, control) = model(spec, EngineOptions::new());
        control.set_script(|history| history.last().map(|last| (last + 1) % 10));
        control.hold();
        let prompt: Vec<TokenId> = (0..10).chain(0..4).collect();
        let mut drafting = model.generate(prompt.into(), greedy(16).with_prompt_lookup(3)).unwrap();
        drafting.start();
        assert!(control.wait_for(1));
        let mut plain = model.generate(vec![7; 3].into(), greedy(25)).unwrap();
        plain.start();
        for passes in 2.. {
            control.allow(1);
            assert!(control.wait_for(passes));
            let (metrics, batch) = (model.metrics(), control.batches().pop().unwrap());
            let left_out = batch.sequences.iter().all(|sequence| sequence.prompt_len == 14);
            if metrics.preemptions > 0 || metrics.finished > 0 {
                break;
            }
            if left_out && batch.tokens.len() > 1 {
                control.release();
                panic!("with {blocks} blocks drafts left one out: {batch:?}");
            }
        }
        control.release();
        assert_eq!(read(&mut drafting).len(), 16);
        assert_eq!(read(&mut plain).len(), 25);
        assert_idle(&model);
    }
}
