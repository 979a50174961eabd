//! `cargo xtask eval-demo`: asks a model the held-out questions.

use std::path::PathBuf;

use clap::Args;
use inference::prelude::*;

use crate::Result;
use crate::demo::held_out;
use crate::demo::instance::Task;

/// Ask a model folder the held-out questions, through the CPU backend.
///
/// Example: `cargo xtask eval-demo crates/inference-demo/model`.
#[derive(Debug, Args)]
pub(crate) struct EvalDemo {
    /// The model's folder.
    model: PathBuf,
    /// Print the questions that were answered wrongly.
    #[arg(long)]
    wrong: bool,
}

impl EvalDemo {
    #[expect(clippy::print_stdout, reason = "a command prints its result")]
    pub(crate) fn run(&self) -> Result<()> {
        let options = LoadOptions::new().with_backend("cpu");
        let model = inference::load(self.model.as_path(), &options)?;
        let questions = held_out::all();
        let items = questions
            .iter()
            .map(|question| {
                let chat = ChatPrompt::new(vec![Message::user(&question.prompt)]);
                BatchItem::new(chat).with_options(GenerateOptions::new().with_max_tokens(12))
            })
            .collect();
        let answers = model.batch_generate(items)?.collect_all();
        let mut right = Vec::new();
        for (question, answer) in questions.iter().zip(answers) {
            let answer = answer?;
            let stopped = matches!(answer.completion.finish_reason, FinishReason::StopToken(_));
            if stopped && answer.text == question.answer {
                right.push(question.task);
            } else if self.wrong {
                println!("{} -> {}, not {}", question.prompt, answer.text, question.answer);
            }
        }
        for task in Task::ALL {
            let correct = right.iter().filter(|t| **t == task).count();
            println!("{}: {correct} of {}", task.name(), held_out::count(&questions, task));
        }
        Ok(())
    }
}
