//! What a sequence's company may cost it, counted in steps.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Tokens that a stream buffers: those of a patient request.
const BUFFERED: usize = 12;

#[derive(Clone, Debug)]
struct Companion {
    prompt_len: usize,
    max_tokens: usize,
    /// Nobody reads it, until the others are done.
    slow: bool,
}

fn companion() -> impl Strategy<Value = Companion> {
    (1_usize..40, 1..=BUFFERED, any::<bool>()).prop_map(|(prompt_len, tokens, slow)| {
        let max_tokens = if slow { tokens + BUFFERED } else { tokens };
        Companion { prompt_len, max_tokens, slow }
    })
}

/// In which steps the request with each first token computed what, by position.
fn steps_of(control: &SimControl) -> HashMap<TokenId, Vec<(usize, usize)>> {
    let mut owners = HashMap::new();
    let mut steps = HashMap::<_, Vec<_>>::new();
    for (step, batch) in control.batches().iter().enumerate() {
        for sequence in &batch.sequences {
            if sequence.position == 0 {
                owners.insert(sequence.block_table[0], batch.tokens[sequence.start]);
            }
            let owner = owners[&sequence.block_table[0]];
            steps.entry(owner).or_default().push((step, sequence.position + sequence.len));
        }
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Whoever has a slot gets a token in every step once its prompt is done,
    /// and its prompt is done as soon as the budget allows, whoever else reads
    /// slowly or has a long prompt.
    #[test]
    fn nobody_waits_for_slow_readers_or_long_prompts(
        companions in prop::collection::vec(companion(), 1..8),
        spare in 1_usize..20,
    ) {
        let options = EngineOptions::new()
            .with_max_batch(8)
            .with_step_token_budget(8 + spare)
            .with_channel_capacity(BUFFERED)
            .with_prefix_cache(false);
        let (model, control) = model(SimSpec::default(), options);
        control.hold();
        let mut streams: Vec<_> = (0..)
            .zip(&companions)
            .map(|(first, companion)| {
                let prompt: Vec<TokenId> = (first..).take(companion.prompt_len).collect();
                let prompt: Vec<TokenId> = prompt.into_iter().map(|id| id % 64).collect();
                let options = greedy(companion.max_tokens);
                let mut stream = model.generate(prompt.into(), options).unwrap();
                stream.start();
                stream
            })
            .collect();
        // The first may run a step before the last came, but not more.
        prop_assert!(control.wait_for(1));
        control.release();
        for pass in [false, true] {
            for (stream, companion) in streams.iter_mut().zip(&companions) {
                if companion.slow == pass {
                    prop_assert_eq!(read(stream).len(), companion.max_tokens);
                }
            }
        }
        let steps = steps_of(&control);
        let mut ahead = 0;
        for (first, companion) in (0..).zip(&companions) {
            let own = &steps[&first];
            ahead += companion.prompt_len;
            let begun = own.iter().find(|(_, end)| *end == companion.prompt_len).unwrap().0;
            // The step that ran before all had come, and each with what seven
            // others that decode leave of the budget.
            let most = 1 + ahead.div_ceil(1 + spare);
            prop_assert!(begun < most, "{} tokens in {} steps", ahead, begun);
            let decoding: Vec<usize> =
                own.iter().map(|(step, _)| *step).filter(|step| *step > begun).collect();
            prop_assert_eq!(decoding.len(), companion.max_tokens - 1);
            if !companion.slow {
                let every = begun + 1..begun + companion.max_tokens;
                prop_assert!(decoding.iter().copied().eq(every), "{:?} after {}", decoding, begun);
            }
        }
    }
}
