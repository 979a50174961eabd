//! Training, where a model can be trained.

use inference_core::{
    CapabilityId, ErrorKind, LogitRows, LoraConfig, OptimizerConfig, TrainableModel,
    TrainingSequence,
};

use crate::behaviour::Behaviour;
use crate::context::{Context, ensure_kind};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::LoraTraining];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "training/learns",
        demand: "steps make the loss of a batch fall; the same seed gives the same bits",
        requires: REQUIRES,
        check: learns,
    },
    Behaviour {
        id: "training/base-unchanged",
        demand: "training changes the adapter, never what the model itself computes",
        requires: &[CapabilityId::Load, CapabilityId::LoraTraining, CapabilityId::Logits],
        check: base_unchanged,
    },
    Behaviour {
        id: "training/misuse",
        demand: "a bad configuration, a batch without targets and a step without gradients are refused",
        requires: REQUIRES,
        check: misuse,
    },
];

fn batch(context: &Context) -> Result<Vec<TrainingSequence>, Stop> {
    let prompts = context.prompts()?;
    let long = prompts.into_iter().filter(|prompt| prompt.len() > 1);
    Ok(long.map(TrainingSequence::new).collect())
}

/// The losses of some steps with a fresh adapter of all of one kind of module.
fn losses(
    trainable: &dyn TrainableModel,
    batch: &[TrainingSequence],
) -> inference_core::Result<Vec<f32>> {
    let modules = trainable.modules();
    let name = modules.first().and_then(|name| name.rsplit('.').next()).unwrap_or_default();
    trainable.apply_lora(&LoraConfig::new().with_target_modules([name]).with_seed(3))?;
    trainable.set_optimizer(&OptimizerConfig::new().with_learning_rate(2e-3))?;
    let mut losses = Vec::new();
    for _ in 0..6 {
        let loss = trainable.forward_loss(batch)?;
        losses.push(loss.value());
        trainable.backward(loss)?;
        trainable.step()?;
    }
    losses.push(trainable.evaluate(batch)?);
    Ok(losses)
}

fn learns(context: &Context) -> Check {
    let model = context.model()?;
    let Some(trainable) = model.as_trainable() else { return fail("`as_trainable` is `None`") };
    let batch = batch(context)?;
    let first = losses(trainable, &batch)?;
    ensure!(first.iter().all(|loss| loss.is_finite()), "losses are {first:?}");
    ensure!(first.last() < first.first(), "the loss does not fall: {first:?}");
    ensure_eq!(losses(trainable, &batch)?, first, "losses of the same seed");
    Ok(Outcome::PASS)
}

fn base_unchanged(context: &Context) -> Check {
    let model = context.model()?;
    let (Some(trainable), Some(scorer)) = (model.as_trainable(), model.as_scorer()) else {
        return fail("`as_trainable` or `as_scorer` is `None`");
    };
    let batch = batch(context)?;
    let Some(first) = batch.first() else { return fail("no prompt of two tokens") };
    let logits = || scorer.prompt_logits(first.ids.clone().into(), LogitRows::All);
    let before = logits()?;
    losses(trainable, &batch)?;
    ensure!(logits()? == before, "the logits are others after training");
    Ok(Outcome::PASS)
}

fn misuse(context: &Context) -> Check {
    let model = context.model()?;
    let Some(trainable) = model.as_trainable() else { return fail("`as_trainable` is `None`") };
    let unknown = LoraConfig::new().with_target_modules(["no such module"]);
    ensure_kind(trainable.apply_lora(&unknown), ErrorKind::InvalidOption, "an unknown module")?;
    let zero = LoraConfig::new().with_rank(0);
    ensure_kind(trainable.apply_lora(&zero), ErrorKind::InvalidOption, "rank 0")?;
    let batch = batch(context)?;
    losses(trainable, &batch)?;
    ensure_kind(trainable.step(), ErrorKind::Engine, "a step without gradients")?;
    let none: Vec<_> = batch
        .into_iter()
        .map(|one| {
            let targets = vec![false; one.ids.len()];
            one.with_targets(targets)
        })
        .collect();
    ensure_kind(trainable.forward_loss(&none), ErrorKind::InvalidInput, "no targets")?;
    ensure_kind(trainable.forward_loss(&[]), ErrorKind::InvalidInput, "no sequences")?;
    Ok(Outcome::PASS)
}
