//! What runs together answers as it would alone.

use inference_core::{
    BatchItem, CapabilityId, ErrorKind, GenerateOptions, Prompt, TextModel, TokenEvent, TokenId,
};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME, ensure_kind};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail};

/// Prompts and their answers.
type Answers = Vec<(Vec<TokenId>, Vec<TokenId>)>;

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::BatchGenerate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "batch/equals-alone",
        demand: "prompts of unequal lengths answer in a batch, in any order, as they do alone",
        requires: REQUIRES,
        check: equals_alone,
    },
    Behaviour {
        id: "batch/forward-count",
        demand: "a batch takes fewer forward passes than its items take alone",
        requires: &[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::BatchGenerate,
            CapabilityId::ContinuousBatching,
        ],
        check: forward_count,
    },
    Behaviour {
        id: "batch/failing-item",
        demand: "an item that fails does not disturb its neighbours",
        requires: REQUIRES,
        check: failing_item,
    },
    Behaviour {
        id: "batch/ends-once",
        demand: "every item ends exactly once, and nothing follows its end",
        requires: REQUIRES,
        check: ends_once,
    },
    Behaviour {
        id: "batch/more-than-slots",
        demand: "more items than run at once are all answered",
        requires: REQUIRES,
        check: more_than_slots,
    },
    Behaviour {
        id: "batch/lazy",
        demand: "a batch that nobody reads computes nothing, and an empty one ends at once",
        requires: REQUIRES,
        check: lazy,
    },
];

fn alone(context: &Context, model: &dyn TextModel) -> Result<Answers, Stop> {
    let mut answers = Vec::new();
    for (index, prompt) in context.prompts()?.into_iter().enumerate() {
        // Unequal lengths of the answers too.
        let output = context.run(model, prompt.clone(), context.greedy(SOME - index % 5)?)?;
        answers.push((prompt, output.ids()));
    }
    Ok(answers)
}

fn item(context: &Context, index: usize, prompt: &[TokenId]) -> Result<BatchItem, Stop> {
    let options = context.greedy(SOME - index % 5)?;
    Ok(BatchItem::new(prompt.to_vec()).with_options(options))
}

fn equals_alone(context: &Context) -> Check {
    let model = context.model()?;
    let alone = alone(context, &*model)?;
    let count = alone.len();
    let orders: [Vec<usize>; 3] = [
        (0..count).collect(),
        (0..count).rev().collect(),
        // Every item twice, the halves interleaved.
        (0..2 * count).map(|i| if i % 2 == 0 { i / 2 } else { count - 1 - i / 2 }).collect(),
    ];
    for order in orders {
        let items = order.iter().map(|i| item(context, *i, &alone[*i].0));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        for (result, index) in model.batch_generate(items)?.collect_all().into_iter().zip(&order) {
            let output = result?;
            let ids: Vec<TokenId> = output.tokens.iter().map(|token| token.id).collect();
            ensure_eq!(
                ids,
                alone[*index].1,
                "tokens of prompt {index} in a batch of {} in the order {order:?}",
                order.len()
            );
        }
    }
    Ok(Outcome::PASS)
}

fn forward_count(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_parallel_slots(4))?;
    let before = model.metrics().forward_count;
    let alone = alone(context, &*model)?;
    context.wait_idle(&*model)?;
    let one_by_one = model.metrics().forward_count - before;
    let items = alone.iter().enumerate().map(|(i, (prompt, _))| item(context, i, prompt));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    for result in model.batch_generate(items)?.collect_all() {
        result?;
    }
    context.wait_idle(&*model)?;
    let together = model.metrics().forward_count - before - one_by_one;
    ensure!(
        together < one_by_one,
        "{} items take {one_by_one} forward passes alone and {together} together",
        alone.len()
    );
    Ok(Outcome::PASS)
}

fn failing_item(context: &Context) -> Check {
    let model = context.model()?;
    let alone = alone(context, &*model)?;
    let vocab = model.info().vocab_size as TokenId;
    let bad = [
        (
            "an id outside the vocabulary",
            vec![vocab],
            GenerateOptions::new(),
            ErrorKind::InvalidInput,
        ),
        ("an empty prompt", vec![], GenerateOptions::new(), ErrorKind::InvalidInput),
        (
            "an option outside its range",
            alone[0].0.clone(),
            GenerateOptions::new().with_top_p(7.0),
            ErrorKind::InvalidOption,
        ),
    ];
    let mut items = Vec::new();
    for (index, (prompt, _)) in alone.iter().enumerate() {
        items.push(item(context, index, prompt)?);
        if let Some((_, ids, options, _)) = bad.get(index) {
            items.push(BatchItem::new(Prompt::Tokens(ids.clone())).with_options(options.clone()));
        }
    }
    let mut results = model.batch_generate(items)?.collect_all().into_iter();
    for (index, (_, expected)) in alone.iter().enumerate() {
        let Some(result) = results.next() else { return fail("an item has no result") };
        let ids: Vec<TokenId> = result?.tokens.iter().map(|token| token.id).collect();
        ensure_eq!(ids, *expected, "tokens of item {index} beside items that fail");
        if let Some((what, _, _, kind)) = bad.get(index) {
            let Some(result) = results.next() else { return fail("an item has no result") };
            ensure_kind(result, *kind, what)?;
        }
    }
    context.wait_idle(&*model)?;
    Ok(Outcome::PASS)
}

fn ends_once(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let mut items = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        items.push(item(context, index, prompt)?);
    }
    items.push(BatchItem::new(Prompt::Tokens(Vec::new())));
    let count = items.len();
    let mut ended = vec![false; count];
    let mut stream = model.batch_generate(items)?;
    for (index, event) in stream.by_ref() {
        ensure!(index < count, "an event of item {index} of {count}");
        ensure!(!ended[index], "an event of item {index} after its end: {event:?}");
        ended[index] = !matches!(event, TokenEvent::Token(_));
    }
    ensure!(ended.iter().all(|ended| *ended), "items without an end: {ended:?}");
    ensure!(stream.next().is_none(), "an event after the end of the batch");
    Ok(Outcome::PASS)
}

fn more_than_slots(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_parallel_slots(2))?;
    let alone = alone(context, &*model)?;
    let order: Vec<usize> = (0..3 * alone.len()).map(|i| i % alone.len()).collect();
    let items = order.iter().map(|i| item(context, *i, &alone[*i].0));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    let results = model.batch_generate(items)?.collect_all();
    ensure_eq!(results.len(), order.len(), "results");
    for (result, index) in results.into_iter().zip(order) {
        let ids: Vec<TokenId> = result?.tokens.iter().map(|token| token.id).collect();
        ensure_eq!(ids, alone[index].1, "tokens of prompt {index}, more items waiting than run");
    }
    Ok(Outcome::PASS)
}

fn lazy(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let unread = model.batch_generate(vec![item(context, 0, &prompts[0])?])?;
    ensure!(model.batch_generate(Vec::new())?.next().is_none(), "an event of an empty batch");
    context.run(&*model, prompts[1].clone(), context.greedy(SOME)?)?;
    ensure_eq!(model.metrics().requests, 1, "requests in the scheduler, the batch being unread");
    drop(unread);
    context.run(&*model, prompts[1].clone(), context.greedy(SOME)?)?;
    ensure_eq!(model.metrics().requests, 2, "requests, an unread batch having been dropped");
    Ok(Outcome::PASS)
}
