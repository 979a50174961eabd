//! Many requests at once, with readers of every temper.

use inference_core::{CancelToken, FinishReason};
use proptest::prelude::*;

use super::*;

/// What a reader does with its stream.
#[derive(Clone, Copy, Debug)]
enum Reader {
    ReadsAll,
    /// Drops the stream after so many tokens.
    Leaves(usize),
    /// Cancels the stream after so many tokens, and reads on.
    Cancels(usize),
    /// The same, through the request's token.
    CancelsByToken(usize),
    /// Gives it so many microseconds.
    IsInAHurry(u64),
}

fn reader() -> impl Strategy<Value = Reader> {
    prop_oneof![
        3 => Just(Reader::ReadsAll),
        1 => (0_usize..12).prop_map(Reader::Leaves),
        1 => (0_usize..12).prop_map(Reader::Cancels),
        1 => (0_usize..12).prop_map(Reader::CancelsByToken),
        1 => (0_u64..800).prop_map(Reader::IsInAHurry),
    ]
}

/// Serves one request; what came must be the beginning of `expected`, or all
/// of it, as the reason says.
fn serve(model: &EngineModel, prompt: &[TokenId], expected: &[TokenId], reader: Reader) {
    let cancel = CancelToken::new();
    let mut options = greedy(expected.len()).with_cancel(cancel.clone());
    if let Reader::IsInAHurry(micros) = reader {
        options = options.with_timeout(Duration::from_micros(micros));
    }
    let mut stream = model.generate(prompt.to_vec().into(), options).unwrap();
    let patience = match reader {
        Reader::Leaves(n) | Reader::Cancels(n) | Reader::CancelsByToken(n) => n,
        Reader::ReadsAll | Reader::IsInAHurry(_) => usize::MAX,
    };
    let mut got = Vec::new();
    while got.len() < patience
        && let Some(token) = stream.next()
    {
        got.push(token.unwrap().id);
    }
    match reader {
        Reader::Leaves(_) => return assert!(expected.starts_with(&got)),
        Reader::Cancels(_) => stream.cancel(),
        Reader::CancelsByToken(_) => cancel.cancel(),
        Reader::ReadsAll | Reader::IsInAHurry(_) => {}
    }
    got.extend(ids(&read(&mut stream)));
    let completion = stream.finish().unwrap();
    assert!(expected.starts_with(&got), "{reader:?}: {got:?}");
    assert_eq!(completion.metrics.generated_tokens, got.len(), "{reader:?}");
    match completion.finish_reason {
        FinishReason::Length => assert_eq!(got, expected, "{reader:?}"),
        FinishReason::Cancelled => {
            assert!(matches!(reader, Reader::Cancels(_) | Reader::CancelsByToken(_)));
        }
        FinishReason::Deadline => assert!(matches!(reader, Reader::IsInAHurry(_))),
        reason => panic!("{reader:?} ended by {reason}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn everything_is_freed_and_nobody_sees_anothers_tokens(
        readers in prop::collection::vec((reader(), 1_usize..30, 1_usize..16), 1..40),
        max_batch in 1_usize..5,
        capacity in 1_usize..4,
        blocks in 12_usize..40,
    ) {
        let spec = SimSpec::default().with_context_len(48).with_blocks(4, blocks);
        let options = EngineOptions::new()
            .with_max_batch(max_batch)
            .with_step_token_budget(8)
            .with_channel_capacity(capacity);
        let (model, _) = model(spec.clone(), options);
        let requests: Vec<_> = (0..)
            .zip(&readers)
            .map(|(first, (reader, prompt, output))| {
                let prompt: Vec<TokenId> = (first..).map(|t| t % 64).take(*prompt).collect();
                let mut history = prompt.clone();
                for _ in 0..*output {
                    let logits = SimRunner::expected_logits(64, &history);
                    let best = (0..64).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                    history.push(best as TokenId);
                }
                (prompt.clone(), history.split_off(prompt.len()), *reader)
            })
            .collect();
        std::thread::scope(|scope| {
            for chunk in requests.chunks(5) {
                let model = &model;
                scope.spawn(move || {
                    chunk.iter().for_each(|(prompt, expected, reader)| {
                        serve(model, prompt, expected, *reader);
                    });
                });
            }
        });
        assert_idle(&model);
        let metrics = model.metrics();
        prop_assert_eq!((metrics.requests, metrics.failed), (metrics.finished, 0));
    }
}
