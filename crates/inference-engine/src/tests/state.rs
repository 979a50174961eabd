//! Snapshots of sequences, in memory.

use std::sync::Arc;

use inference_core::{Error, ErrorKind, SequenceState, StateSnapshot};

use super::*;

/// Six tokens, and how many positions of the prompt were computed.
fn resume(
    model: &EngineModel,
    control: &SimControl,
    snapshot: &dyn StateSnapshot,
    continuation: &[TokenId],
) -> (Vec<TokenId>, usize) {
    let before = control.batches().len();
    let state = model.as_state().unwrap();
    let mut stream = state.resume(snapshot, continuation, greedy(6)).unwrap();
    let tokens = ids(&read(&mut stream));
    // The last token of six is not computed.
    (tokens, computed_since(control, before) - 5)
}

/// Positions that were computed after the first `before` steps.
fn computed_since(control: &SimControl, before: usize) -> usize {
    control.batches()[before..].iter().map(|batch| batch.tokens.len()).sum()
}

fn prompt(len: u32) -> Vec<TokenId> {
    (0..len).map(|i| (i * 7 + 3) % 60).collect()
}

fn snapshot(model: &EngineModel, ids: &[TokenId]) -> Arc<dyn StateSnapshot> {
    model.as_state().unwrap().snapshot(ids.to_vec().into()).unwrap()
}

/// With the prefix cache and without.
fn both() -> [(Arc<EngineModel>, SimControl); 2] {
    [true, false].map(|cache| {
        let options = EngineOptions::default().with_prefix_cache(cache);
        model(SimSpec::default(), options)
    })
}

#[test]
fn a_resumed_text_is_that_of_the_whole_prompt_and_its_prefix_is_not_computed() {
    for block_size in [1, 3, 4, 16] {
        for len in [1, 3, 4, 5, 16, 23] {
            for continuation in [&[][..], &[9], &[1, 2, 3, 4, 5, 6, 7]] {
                // Without a cache, so that it cannot help.
                let spec = SimSpec::default().with_blocks(block_size, 100);
                let options = EngineOptions::default().with_prefix_cache(false);
                let (model, control) = model(spec, options);
                let taken = snapshot(&model, &prompt(len));
                assert_eq!(taken.ids(), prompt(len));
                assert!(taken.bytes() > u64::from(len) * 4);
                let whole = [prompt(len), continuation.to_vec()].concat();
                let expected = generate(&model, &whole, greedy(6));

                let (tokens, computed) = resume(&model, &control, &*taken, continuation);
                assert_eq!(tokens, expected, "{len} in blocks of {block_size}");
                assert_eq!(computed, continuation.len().max(1));
                assert_idle(&model);
            }
        }
    }
}

#[test]
fn a_snapshot_can_be_resumed_many_times_and_at_once() {
    for (model, control) in both() {
        let taken = snapshot(&model, &prompt(10));
        let state = model.as_state().unwrap();
        let forks: Vec<Vec<TokenId>> = (0..5).map(|fork| vec![fork, 50]).collect();
        control.hold();
        let mut streams: Vec<_> =
            forks.iter().map(|fork| state.resume(&*taken, fork, greedy(8)).unwrap()).collect();
        streams.iter_mut().for_each(TokenStream::start);
        control.release();
        for (stream, fork) in streams.iter_mut().zip(&forks) {
            let expected = generate(&model, &[prompt(10), fork.clone()].concat(), greedy(8));
            assert_eq!(ids(&read(stream)), expected);
        }
        assert_idle(&model);
    }
}

#[test]
fn a_running_text_is_kept_by_a_snapshot_of_prompt_and_output() {
    let (model, control) = model(SimSpec::default(), EngineOptions::default());
    let mut text = prompt(9);
    let all = generate(&model, &text, greedy(20));
    text.extend(&all[..14]);
    let before = control.batches().len();
    let taken = snapshot(&model, &text);
    let computed = computed_since(&control, before);
    assert!(computed <= 4, "the prefix cache has the rest: {computed}");
    assert_eq!(resume(&model, &control, &*taken, &[]).0, all[14..]);
}

#[test]
fn another_sharing_class_is_computed_anew() {
    for cache in [true, false] {
        let options = EngineOptions::default().with_prefix_cache(cache);
        let (model, control) = model(SimSpec::default().with_long_prompt(10), options);
        let taken = snapshot(&model, &prompt(8));
        let expected = generate(&model, &[prompt(8), vec![1, 2, 3]].concat(), greedy(6));
        let plain = generate(&model, &[prompt(8), vec![1]].concat(), greedy(6));
        let (tokens, _) = resume(&model, &control, &*taken, &[1, 2, 3]);
        assert_eq!(tokens, expected, "eleven are a long prompt");
        let (tokens, computed) = resume(&model, &control, &*taken, &[1]);
        assert_eq!((tokens, computed), (plain, 1), "nine are not");
    }
}

#[test]
fn snapshots_outlive_pressure_on_blocks() {
    let spec = SimSpec::default().with_blocks(4, 12);
    let (model, _) = model(spec, EngineOptions::default());
    let taken = snapshot(&model, &prompt(20));
    let state = model.as_state().unwrap();
    let mut streams: Vec<_> =
        (0..6).map(|fork| state.resume(&*taken, &[fork], greedy(20)).unwrap()).collect();
    streams.iter_mut().for_each(TokenStream::start);
    for (stream, fork) in streams.iter_mut().zip(0..) {
        let expected = generate(&model, &[prompt(20), vec![fork]].concat(), greedy(20));
        assert_eq!(ids(&read(stream)), expected);
    }
    assert_idle(&model);
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    struct Foreign;
    impl StateSnapshot for Foreign {
        fn ids(&self) -> &[TokenId] {
            &[1]
        }
        fn bytes(&self) -> u64 {
            0
        }
        fn save(&self, _: &std::path::Path) -> inference_core::Result<()> {
            Ok(())
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let (first, _) = model(SimSpec::default(), EngineOptions::default());
    let (second, _) = model(SimSpec::default(), EngineOptions::default());
    let taken = snapshot(&first, &prompt(5));
    let refused = |state: &dyn SequenceState, snapshot: &dyn StateSnapshot, ids: &[TokenId]| {
        state.resume(snapshot, ids, greedy(1)).map(drop).unwrap_err()
    };
    // Nothing says that both have the same weights.
    let error = refused(second.as_state().unwrap(), &*taken, &[]);
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = refused(first.as_state().unwrap(), &Foreign, &[]);
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = refused(first.as_state().unwrap(), &*taken, &[64]);
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = refused(first.as_state().unwrap(), &*taken, &prompt(510));
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let state = first.as_state().unwrap();
    for bad in [vec![], vec![64]] {
        let error = state.snapshot(bad.into()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    first.close();
    assert!(matches!(state.snapshot(prompt(3).into()).map(drop), Err(Error::Closed)));
    assert!(matches!(refused(state, &*taken, &[]), Error::Closed));

    let spec = SimSpec::default().with_shared_blocks(false);
    let (without, _) = model(spec, EngineOptions::default());
    assert!(without.as_state().is_none());

    let spec = SimSpec::default().with_readable_blocks(false);
    let (unreadable, _) = model(spec, EngineOptions::default());
    assert!(unreadable.as_state().is_none());
    let options = GenerateOptions::new().with_max_tokens(4).with_prompt_lookup(4);
    let cached = |options: GenerateOptions| {
        let stream = unreadable.generate(prompt(9).into(), options).unwrap();
        stream.finish().unwrap().metrics.cached_prompt_tokens
    };
    assert_eq!((cached(options.clone()), cached(options)), (0, 8), "they can be shared");
}

#[test]
fn a_failed_step_is_the_answer() {
    let (model, control) = model(SimSpec::default(), EngineOptions::default());
    control.fail_at(0, crate::sim_runner::SimFault::Error { survives: true });
    let state = model.as_state().unwrap();
    let error = state.snapshot(prompt(3).into()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert_idle(&model);
    snapshot(&model, &prompt(3));
}
