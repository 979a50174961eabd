//! `cargo xtask lora-demo`: the embedded model learns a task.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use inference::lora::{
    AfterEvent, BatchSize, DataOptions, Decay, Draws, MergeAdapter, MergeOptions, Trainer,
    TrainerOptions, TrainingData, TrainingEvent, merge_model,
};
use inference::prelude::*;
use inference::{LoraConfig, OptimizerConfig};
use serde_json::json;

use crate::Result;
use crate::demo::held_out;
use crate::demo::instance::Task;

/// Teach the embedded model to count the letters of a word.
///
/// Words are made up, and those that are asked about were not learned. Prints
/// accuracy before and after, and that of the model's own tasks.
#[derive(Debug, Args)]
pub(crate) struct LoraDemo {
    /// Where data and adapter go.
    #[arg(long, default_value = "target/lora-demo")]
    out: PathBuf,
    /// Words to learn.
    #[arg(long, default_value_t = 4000)]
    words: usize,
    /// Passes over them.
    #[arg(long, default_value_t = 3)]
    epochs: u64,
    /// Seed of words and training.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads; default: all.
    #[arg(long)]
    threads: Option<usize>,
}

/// Words that are asked about.
const HELD_OUT: usize = 300;

#[expect(clippy::print_stdout, reason = "a command prints its result")]
impl LoraDemo {
    pub(crate) fn run(&self) -> Result<()> {
        let started = Instant::now();
        std::fs::create_dir_all(&self.out)?;
        let mut load = LoadOptions::new().with_backend("cpu");
        load.threads = self.threads;
        let model = inference::load(inference::demo(), &load)?;
        let words = words(self.seed, self.words + HELD_OUT);
        let (asked, learned) = words.split_at(HELD_OUT);
        let path = self.out.join("letters.jsonl");
        let lines: String = learned.iter().enumerate().map(|(i, word)| line(i, word)).collect();
        std::fs::write(&path, lines)?;
        let data = TrainingData::read(&path, &*model, &DataOptions::new())?;
        println!("{} questions to learn, {} tokens", data.sequences.len(), data.tokens());

        let questions: Vec<(String, String)> =
            asked.iter().enumerate().map(|(i, word)| (question(i, word), answer(word))).collect();
        let before = right(&*model, &questions)?;
        let own = own_tasks(&*model)?;
        let lora = LoraConfig::new()
            .with_rank(16)
            .with_alpha(32.0)
            .with_target_pattern(".*_proj")
            .with_seed(self.seed);
        let options = TrainerOptions::new()
            .with_lora(lora)
            .with_optimizer(OptimizerConfig::new().with_learning_rate(3e-3))
            .with_decay(Decay::Cosine)
            .with_warmup_steps(20)
            .with_epochs(self.epochs)
            .with_batch_size(BatchSize::Sequences(32))
            .with_output(&self.out);
        let trainer = Trainer::new(&*model, options)?;
        let summary = trainer.run(&data, None, &mut |event| {
            if let TrainingEvent::Step { step, total, loss, tokens_per_second, .. } = event
                && step.is_multiple_of(50)
            {
                println!("step {step} of {total}: loss {loss:.4}, {tokens_per_second:.0} tokens/s");
            }
            Ok(AfterEvent::Continue)
        })?;

        let merged = self.out.join("merged");
        if merged.exists() {
            std::fs::remove_dir_all(&merged)?;
        }
        merge_model(
            &inference::demo(),
            &MergeAdapter::new(&self.out),
            &merged,
            &MergeOptions::new(),
        )?;
        let with = inference::load(merged.as_path(), &load)?;
        let after = right(&*with, &questions)?;
        println!("counting letters: {before} of {HELD_OUT} before, {after} of {HELD_OUT} after");
        let (off, on) = (own_tasks(&*model)?, own_tasks(&*with)?);
        for (index, task) in Task::ALL.into_iter().enumerate() {
            println!(
                "{}: {} of {} before; after: {} without the adapter, {} with it",
                task.name(),
                own[index].0,
                own[index].1,
                off[index].0,
                on[index].0,
            );
        }
        if own != off {
            return Err("training changed the base model".into());
        }
        let tokens = summary.tokens as f64 / summary.seconds;
        let (seconds, all) = (summary.seconds, started.elapsed().as_secs_f64());
        println!("trained for {seconds:.1} s at {tokens:.0} tokens/s; {all:.1} s in all");
        Ok(())
    }
}

/// Made-up words of 3 to 9 letters, each once.
fn words(seed: u64, count: usize) -> Vec<String> {
    let draws = Draws::new(seed).stream(7);
    let mut known = std::collections::HashSet::new();
    let mut words = Vec::with_capacity(count);
    for index in 0.. {
        let draws = draws.stream(index);
        let len = 3 + draws.bits(0) % 7;
        let letter = |i: u64| char::from(b'a' + (draws.bits(i) % 26) as u8);
        let word: String = (1..=len).map(letter).collect();
        if known.insert(word.clone()) {
            words.push(word);
        }
        if words.len() == count {
            break;
        }
    }
    words
}

fn question(index: usize, word: &str) -> String {
    match index % 3 {
        0 => format!("How many letters are in \"{word}\"?"),
        1 => format!("Count the letters of \"{word}\"."),
        _ => format!("How many letters does \"{word}\" have?"),
    }
}

fn answer(word: &str) -> String {
    word.chars().count().to_string()
}

fn line(index: usize, word: &str) -> String {
    let messages = json!([
        { "role": "user", "content": question(index, word) },
        { "role": "assistant", "content": answer(word) },
    ]);
    format!("{}\n", json!({ "messages": messages }))
}

/// How many questions are answered as they should be.
fn right(model: &dyn TextModel, questions: &[(String, String)]) -> Result<usize> {
    let items = questions
        .iter()
        .map(|(question, _)| {
            let chat = ChatPrompt::new(vec![Message::user(question)]);
            let options = GenerateOptions::new().with_max_tokens(12).with_temperature(0.0);
            BatchItem::new(chat).with_options(options)
        })
        .collect();
    let answers = model.batch_generate(items)?.collect_all();
    let mut right = 0;
    for ((_, expected), answer) in questions.iter().zip(answers) {
        let answer = answer?;
        let stopped = matches!(answer.completion.finish_reason, FinishReason::StopToken(_));
        right += usize::from(stopped && answer.text == *expected);
    }
    Ok(right)
}

/// Right answers and questions of each of the model's own tasks.
fn own_tasks(model: &dyn TextModel) -> Result<Vec<(usize, usize)>> {
    let all = held_out::all();
    let of_task = |task: Task| {
        let questions: Vec<(String, String)> = all
            .iter()
            .filter(|question| question.task == task)
            .map(|question| (question.prompt.clone(), question.answer.clone()))
            .collect();
        Ok((right(model, &questions)?, questions.len()))
    };
    Task::ALL.into_iter().map(of_task).collect()
}
