//! The model card, written from what was measured.

use super::architecture::{CONTEXT, config, parameters};
use super::evaluation::Evaluation;
use super::instance::Task;

/// How a model was trained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) steps: usize,
    /// Steps that the schedule was made for.
    pub(crate) planned_steps: usize,
    pub(crate) tokens: usize,
    /// Running mean of the training loss at the end.
    pub(crate) loss: f32,
}

/// `MODEL_CARD.md`.
pub(crate) fn model_card(run: &Run, evaluation: &Evaluation) -> String {
    let config = config();
    let field = |name: &str| config.get(name).map(ToString::to_string).unwrap_or_default();
    let rows: String = evaluation
        .tasks
        .iter()
        .map(|(task, right, total)| {
            let percent = 100.0 * *right as f64 / (*total).max(1) as f64;
            format!(
                "| {} | {} | {right} of {total} | {percent:.1} % |\n",
                task.name(),
                held_out(*task)
            )
        })
        .collect();
    let planned = if run.steps < run.planned_steps {
        format!(" (stopped early; the schedule was made for {})", run.planned_steps)
    } else {
        String::new()
    };
    format!(
        "\
# Model card

A very small language model, trained from nothing by `cargo xtask train-demo` on text that the
same program generates. It exists so that the first command works without a download, and so that
tests have a real trained model. It is not useful for anything else.

## Architecture

Llama: {layers} layers, hidden size {hidden}, {heads} query heads and {kv_heads} key/value heads of
{head_dim}, gated MLP of {intermediate}, tied embeddings, context of {CONTEXT} tokens;
{parameters} parameters, stored as f16. Byte-level BPE with {vocab} tokens: a digit is one token, and
a word of up to 16 letters in quotation marks is one token a letter.

## Training

Text: short stories from a grammar; chats of the tasks below, with and without a system message,
of one to three turns; a little small talk. The loss counts stories and answers, not questions;
answers weigh more, and so do the pronouns and repeated names of stories. Sequences of 128 tokens,
every sixteenth step of {CONTEXT}. AdamW, cosine schedule with warm-up, gradients clipped at norm 1.

| | |
|---|---|
| seed | {seed} |
| steps | {steps}{planned} |
| tokens | {tokens} |
| training loss at the end | {loss:.3} nats per weighted token |
| held-out stories | {story:.3} nats per token, perplexity {perplexity:.2} |

## Accuracy on held-out questions

Greedy, chat format, f16 weights; an answer counts only if it is exactly right and ends there.

| task | what is held out | right | accuracy |
|---|---|---|---|
{rows}
`heldout.json` holds the questions. Which are held out is decided by a hash, one in ten. A story is
held out by its plot, hero, friend, place and thing; its sentences come from the same grammar as
those of training.

## Limits

- English, and only the words and patterns of its grammar: other questions get fluent nonsense.
- Sums of two digits 0 to 9 only. Words to reverse need quotation marks and have three to five
  letters.
- Stories are fluent and end by themselves, but names and pronouns still slip, and a request for a
  story about something is mostly ignored. A sentiment word that the grammar lacks can derail the
  answer.
- All training text is synthetic and harmless; the model knows nothing about the world.

## License

MIT OR Apache-2.0, like the rest of the repository.
",
        layers = field("num_hidden_layers"),
        hidden = field("hidden_size"),
        heads = field("num_attention_heads"),
        kv_heads = field("num_key_value_heads"),
        head_dim = field("head_dim"),
        intermediate = field("intermediate_size"),
        vocab = field("vocab_size"),
        parameters = parameters(),
        seed = run.seed,
        steps = run.steps,
        tokens = run.tokens,
        loss = run.loss,
        story = evaluation.story_loss,
        perplexity = evaluation.story_loss.exp(),
    )
}

fn held_out(task: Task) -> &'static str {
    match task {
        Task::Sentiment => {
            "the sentence, in any phrasing of the question; its words and patterns occur in others"
        }
        Task::Sums => "the exact question; the same two digits occur in other phrasings",
        Task::Reversing => "the word, in any phrasing of the question",
        Task::Colours => "the exact question; the same thing occurs in other phrasings",
    }
}
