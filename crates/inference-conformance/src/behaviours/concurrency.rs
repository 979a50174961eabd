//! Requests from anywhere share a model without disturbing one another.

use std::sync::Arc;

use inference_core::{CapabilityId, ClassifyOptions, TextModel, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, SOME, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "concurrency/many-threads",
        demand: "many threads that call at once each get the answer that they get alone",
        requires: REQUIRES,
        check: many_threads,
    },
    Behaviour {
        id: "concurrency/two-models",
        demand: "two models side by side answer as each does alone, and one outlives the other",
        requires: REQUIRES,
        check: two_models,
    },
    Behaviour {
        id: "concurrency/slow-reader",
        demand: "a reader that stays away delays nobody",
        requires: REQUIRES,
        check: slow_reader,
    },
    Behaviour {
        id: "concurrency/slow-readers-in-all-slots",
        demand: "readers that stay away from as many requests as may run at once delay nobody \
                 either",
        requires: REQUIRES,
        check: slow_readers_in_all_slots,
    },
    Behaviour {
        id: "concurrency/sampled-company",
        demand: "a seeded sample does not depend on what else runs",
        requires: REQUIRES,
        check: sampled_company,
    },
];

const THREADS: usize = 8;

fn many_threads(context: &Context) -> Check {
    let model = context.model()?;
    let classifies = context.backend().capabilities().status(CapabilityId::Classify).is_usable();
    let mut expected = Vec::new();
    for prompt in context.prompts()? {
        let ids = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?.ids();
        expected.push((prompt, ids));
    }
    let one = |thread: usize| -> Result<(), Stop> {
        for turn in 0..3 {
            let index = (thread + turn) % expected.len();
            let (prompt, ids) = &expected[index];
            let output = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?;
            ensure_eq!(output.ids(), *ids, "tokens of prompt {index} among {THREADS} threads");
            if classifies && thread.is_multiple_of(2) {
                let prompts = vec![prompt.clone().into()];
                for result in model.classify(prompts, &ClassifyOptions::new())? {
                    let best = result?.token.id;
                    ensure!(
                        ids.first().is_none_or(|first| *first == best),
                        "the classification of prompt {index} among {THREADS} threads is {best}"
                    );
                }
            }
        }
        Ok(())
    };
    let results: Vec<Result<(), Stop>> = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || one(thread))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), Stop>>| {
            thread.join().unwrap_or_else(|_| fail("a call panicked"))
        };
        threads.into_iter().map(join).collect()
    });
    results.into_iter().collect::<Result<Vec<()>, Stop>>()?;
    context.wait_idle(&*model)?;
    Ok(Outcome::PASS)
}

fn two_models(context: &Context) -> Check {
    let first = context.model()?;
    let mut alone = Vec::new();
    for prompt in context.prompts()? {
        alone.push(context.run(&*first, prompt, context.greedy(SOME)?)?.ids());
    }
    let second: Arc<dyn TextModel> = match &context.data().other {
        Some(source) => context.backend().load_model(source, &context.data().load)?,
        None => context.load_with(|load| load)?,
    };
    // Before there was a second one.
    for (prompt, alone) in context.prompts()?.into_iter().zip(alone) {
        let found = context.run(&*first, prompt, context.greedy(SOME)?)?.ids();
        ensure_eq!(found, alone, "tokens of the first model once there is a second");
    }
    let vocab = first.info().vocab_size.min(second.info().vocab_size) as TokenId;
    let mut prompts = context.prompts()?;
    prompts.iter_mut().flatten().for_each(|id| *id %= vocab);
    for prompt in prompts {
        let room = second.info().context_len.saturating_sub(SOME);
        let prompt = prompt[..prompt.len().min(room)].to_vec();
        let alone_first = context.run(&*first, prompt.clone(), context.greedy(SOME)?)?;
        let alone_second = context.run(&*second, prompt.clone(), context.greedy(SOME)?)?;
        // Token by token in turn.
        let mut one = first.generate(prompt.clone().into(), context.greedy(SOME)?)?;
        let mut two = second.generate(prompt.into(), context.greedy(SOME)?)?;
        let (mut ids_one, mut ids_two): (Vec<TokenId>, Vec<TokenId>) = (Vec::new(), Vec::new());
        for _ in 0..=SOME {
            for (stream, ids) in [(&mut one, &mut ids_one), (&mut two, &mut ids_two)] {
                if let Some(token) = stream.next() {
                    ids.push(token?.id);
                }
            }
        }
        ensure_eq!(ids_one, alone_first.ids(), "tokens of the first model beside the second");
        ensure_eq!(ids_two, alone_second.ids(), "tokens of the second model beside the first");
    }
    second.close();
    drop(second);
    let prompt = context.prompts()?.swap_remove(0);
    let output = context.run(&*first, prompt, context.greedy(SOME)?)?;
    ensure!(output.completion.metrics.generated_tokens > 0, "nothing after the other was closed");
    Ok(Outcome::PASS)
}

fn slow_reader(context: &Context) -> Check {
    beside_slow_readers(context, &*context.model()?)
}

fn slow_readers_in_all_slots(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_parallel_slots(2))?;
    beside_slow_readers(context, &*model)
}

fn beside_slow_readers(context: &Context, model: &dyn TextModel) -> Check {
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = model.generate(prompt.clone().into(), options.clone())?;
        ensure!(matches!(stream.next(), Some(Ok(_))), "no first token");
        slow.push(stream);
    }
    // If they held the others up, this would never end.
    for turn in 0..3 {
        let peer = context.run(model, prompt.clone(), options.clone())?;
        ensure_eq!(peer.tokens.len(), tokens, "tokens of peer {turn} of a slow reader");
    }
    for stream in slow {
        ensure_eq!(read(stream)?.tokens.len() + 1, tokens, "tokens of the slow reader");
    }
    Ok(Outcome::PASS)
}

fn sampled_company(context: &Context) -> Check {
    let model = context.model()?;
    let prompts = context.prompts()?;
    let options = |seed| -> Result<_, Stop> {
        Ok(context.greedy(SOME)?.with_temperature(1.5).with_seed(seed))
    };
    let mut alone = Vec::new();
    for (seed, prompt) in prompts.iter().enumerate() {
        let output = context.run_honoured(&*model, prompt.clone(), options(seed as u64)?)?;
        alone.push(output.ids());
    }
    let mut streams = Vec::new();
    for (seed, prompt) in prompts.iter().enumerate().rev() {
        let mut stream = model.generate(prompt.clone().into(), options(seed as u64)?)?;
        stream.start();
        streams.push((seed, stream));
    }
    for (seed, stream) in streams {
        ensure_eq!(read(stream)?.ids(), alone[seed], "tokens of the seed {seed} in company");
    }
    Ok(Outcome::PASS)
}
