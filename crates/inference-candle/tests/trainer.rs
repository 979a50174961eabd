//! Whole runs: data, resuming, early stopping, files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use inference_candle::{ReferenceOps, load_model};
use inference_core::{
    AdapterDtype, ErrorKind, LoadOptions, LoraConfig, ModelSource, OptimizerConfig, TextModel,
    TrainingState,
};
use inference_lora::{
    AfterEvent, BadLines, BatchSize, Checkpoints, DataOptions, Decay, RunEnd, Trainer,
    TrainerOptions, TrainingData, TrainingEvent, TrainingSummary,
};

fn model() -> Option<Arc<dyn TextModel>> {
    let source = ModelSource::from(inference_fixtures::dir("models/stories260k")?);
    Some(load_model("cpu", &source, &LoadOptions::new(), Arc::new(ReferenceOps::cpu())).unwrap())
}

fn data(model: &dyn TextModel, folder: &Path, text: &str) -> inference_core::Result<TrainingData> {
    let path = folder.join("data.jsonl");
    std::fs::write(&path, text).unwrap();
    TrainingData::read(&path, model, &DataOptions::new().with_max_tokens(64))
}

const STORIES: &str = r#"{"text": "Once upon a time there was a cat."}
{"prompt": "The dog saw", "completion": " a red ball and ran."}

{"text": "Tim and Sue went to the park. They had fun."}
{"text": "The sun was hot."}
{"prompt": "Lily had", "completion": " a big box."}
"#;

fn options(output: Option<&Path>) -> TrainerOptions {
    let lora = LoraConfig::new()
        .with_rank(4)
        .with_dropout(0.1)
        .with_seed(5)
        .with_target_modules(["q_proj", "v_proj", "up_proj"]);
    let mut options = TrainerOptions::new()
        .with_lora(lora)
        .with_optimizer(OptimizerConfig::new().with_learning_rate(3e-3))
        .with_decay(Decay::Cosine)
        .with_warmup_steps(2)
        .with_epochs(3)
        .with_batch_size(BatchSize::Tokens(40))
        .with_accumulation(2);
    if let Some(output) = output {
        options = options.with_output(output).with_checkpoint_every(1);
    }
    options
}

fn run(
    model: &dyn TextModel,
    options: TrainerOptions,
    data: &TrainingData,
    stop_after: u64,
) -> (TrainingSummary, TrainingState) {
    let trainer = Trainer::new(model, options).unwrap();
    let mut event = |event: &TrainingEvent| {
        Ok(match event {
            TrainingEvent::Step { step, .. } if *step >= stop_after => AfterEvent::Stop,
            _ => AfterEvent::Continue,
        })
    };
    let summary = trainer.run(data, None, &mut event).unwrap();
    (summary, model.as_trainable().unwrap().training_state().unwrap())
}

#[test]
fn a_run_that_was_ended_continues_to_the_same_bits() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data(&*model, folder.path(), STORIES).unwrap();
    for dtype in [AdapterDtype::F32, AdapterDtype::Bf16] {
        let folder = tempfile::tempdir().unwrap();
        let typed = |output: Option<&Path>| {
            let options = options(output);
            let lora = options.lora.clone().with_dtype(dtype);
            options.with_lora(lora)
        };
        let (whole, wanted) = run(&*model, typed(None), &data, u64::MAX);
        assert!(whole.steps >= 3, "{whole:?}");
        assert!(whole.last_loss < whole.first_loss, "{whole:?}");
        let (again, state) = run(&*model, typed(None), &data, u64::MAX);
        assert_eq!((again.last_loss, &state), (whole.last_loss, &wanted));
        let (part, _) = run(&*model, typed(Some(folder.path())), &data, 1);
        assert_eq!((part.steps, part.end), (1, RunEnd::Asked));
        let options = typed(Some(folder.path())).with_resume(true);
        let (rest, state) = run(&*model, options.clone(), &data, 2);
        assert_eq!((rest.resumed_from, rest.steps), (1, 2));
        assert_ne!(state, wanted);
        let (rest, state) = run(&*model, options.clone(), &data, u64::MAX);
        assert_eq!((rest.resumed_from, rest.last_loss), (2, whole.last_loss));
        assert_eq!(state, wanted);
        assert!(folder.path().join("adapter_model.safetensors").exists());
        // Other settings are not continued.
        let optimizer = OptimizerConfig::new().with_learning_rate(1.0);
        let trainer = Trainer::new(&*model, options.with_optimizer(optimizer)).unwrap();
        let error = trainer.run(&data, None, &mut |_| Ok(AfterEvent::Continue)).unwrap_err();
        assert!(error.to_string().contains("optimizer"), "{error}");
        let latest = Checkpoints::new(folder.path()).latest().unwrap().unwrap();
        assert_eq!(Checkpoints::load(&latest).unwrap().1, wanted);
    }
}

#[test]
fn evaluations_that_do_not_get_better_end_a_run() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let all = data(&*model, folder.path(), STORIES).unwrap();
    let options = options(Some(folder.path()))
        .with_checkpoint_every(0)
        .with_epochs(50)
        .with_evaluate_every(1)
        .with_patience(2)
        // So large a step that it gets worse.
        .with_optimizer(OptimizerConfig::new().with_learning_rate(0.5));
    let trainer = Trainer::new(&*model, options).unwrap();
    let mut losses = Vec::new();
    let summary = trainer
        .run(&all, Some(&all), &mut |event| {
            if let TrainingEvent::Evaluation { loss, .. } = event {
                losses.push(*loss);
            }
            Ok(AfterEvent::Continue)
        })
        .unwrap();
    assert_eq!(summary.end, RunEnd::Patience);
    let best = losses.iter().copied().fold(f32::INFINITY, f32::min);
    assert_eq!(summary.best_evaluation, Some(best));
    assert_eq!(losses.iter().position(|loss| *loss == best).unwrap() + 3, losses.len());
    assert!(folder.path().join("best/adapter_config.json").exists());
}

#[test]
fn lines_become_sequences_or_are_named() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let found = data(&*model, folder.path(), STORIES).unwrap();
    assert_eq!(found.sequences.len(), 5);
    let eos = model.info().eos_tokens[0];
    assert!(found.sequences.iter().all(|sequence| sequence.ids.last() == Some(&eos)));
    let completion = &found.sequences[1];
    let prompt = model.encode("The dog saw", true).unwrap();
    assert!(completion.ids.starts_with(&prompt));
    assert_eq!(completion.targets.iter().filter(|t| !**t).count(), prompt.len());
    assert!(completion.targets[prompt.len()..].iter().all(|t| *t));
    for (line, part) in [
        ("not JSON", "not JSON"),
        ("[1]", "a list"),
        (r#"{"story": "x"}"#, "`story`"),
        (r#"{"text": 5}"#, "number 5"),
        (r#"{"prompt": "a"}"#, "`completion`"),
        (r#"{"messages": [{"role": "wizard", "content": "x"}]}"#, "wizard"),
    ] {
        let text = format!("{STORIES}{line}\n");
        let error = data(&*model, folder.path(), &text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(
            error.to_string().contains(part) && error.to_string().contains("line 7"),
            "{error}"
        );
        let skip = DataOptions::new().with_bad_lines(BadLines::Skip);
        let kept = TrainingData::read(&folder.path().join("data.jsonl"), &*model, &skip).unwrap();
        assert_eq!((kept.sequences.len(), kept.skipped[0].line), (5, 7));
    }
    let long = format!("{{\"text\": \"{}\"}}", "a cat and ".repeat(100));
    assert_eq!(data(&*model, folder.path(), &long).unwrap_err().kind(), ErrorKind::Exhausted);
    let empty = data(&*model, folder.path(), "\n\n").unwrap_err();
    assert!(empty.to_string().contains("usable line"), "{empty}");
    // A chat needs a template, which this model has not.
    let chat = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    assert_eq!(data(&*model, folder.path(), chat).unwrap_err().kind(), ErrorKind::Unsupported);
}
