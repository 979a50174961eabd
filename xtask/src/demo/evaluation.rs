//! How good a network is on what training never sees.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::{D, DType};
use tokenizers::Tokenizer;

use super::corpus::{Document, Turn, held_out_story};
use super::instance::{Instance, Task};
use super::loss::cross_entropy;
use super::network::Network;
use super::packing::{Weighted, tokenize};
use super::random::Random;
use crate::Result;

/// Held-out stories whose loss is measured.
const STORIES: usize = 100;

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    /// Task, right answers, questions.
    pub(crate) tasks: Vec<(Task, usize, usize)>,
    /// Mean negative log-probability per token of held-out stories, in nats.
    pub(crate) story_loss: f32,
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (task, right, total) in &self.tasks {
            write!(f, "{} {right} of {total}, ", task.name())?;
        }
        write!(f, "stories {:.3} nats per token", self.story_loss)
    }
}

/// Asks every held-out question.
///
/// An answer is right where each of its tokens, and the end after it, is the
/// likeliest given the ones before: exactly then greedy generation writes it.
pub(crate) fn evaluate(
    network: &Network,
    tokenizer: &Tokenizer,
    held_out: &[Instance],
) -> Result<Evaluation> {
    // Questions of one length are one batch.
    let mut by_len: BTreeMap<usize, Vec<(Task, Weighted)>> = BTreeMap::new();
    for instance in held_out {
        let turn = Turn {
            said: instance.prompt.clone(),
            answer: instance.answer.clone(),
            is_story: false,
        };
        let chat = tokenize(&Document::Chat { system: None, turns: vec![turn] }, tokenizer)?;
        by_len.entry(chat.tokens.len()).or_default().push((instance.task, chat));
    }
    let mut tasks: Vec<_> = Task::ALL.iter().map(|task| (*task, 0, 0)).collect();
    for batch in by_len.values().flat_map(|group| group.chunks(16)) {
        let rights = all_likeliest(network, batch)?;
        for ((task, _), right) in batch.iter().zip(rights) {
            if let Some((_, correct, total)) = tasks.iter_mut().find(|(t, ..)| t == task) {
                *correct += usize::from(right);
                *total += 1;
            }
        }
    }
    Ok(Evaluation { tasks, story_loss: story_loss(network, tokenizer)? })
}

/// For each sequence: whether all its learned tokens are the likeliest.
fn all_likeliest(network: &Network, batch: &[(Task, Weighted)]) -> Result<Vec<bool>> {
    let mut tokens = Vec::new();
    let mut rows = Vec::new();
    let mut expected = Vec::new();
    let mut len = 0;
    for (sequence, (_, chat)) in batch.iter().enumerate() {
        len = chat.tokens.len() - 1;
        tokens.extend(&chat.tokens[..len]);
        for next in 1..=len {
            if chat.weights[next] > 0.0 {
                rows.push(sequence * len + next - 1);
                expected.push((sequence, chat.tokens[next]));
            }
        }
    }
    let likeliest = network.logits(&tokens, len, &rows)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let mut rights = vec![true; batch.len()];
    for ((sequence, expected), found) in expected.into_iter().zip(likeliest) {
        rights[sequence] &= expected == found;
    }
    Ok(rights)
}

fn story_loss(network: &Network, tokenizer: &Tokenizer) -> Result<f32> {
    let mut random = Random::new(0, 9);
    let (mut sum, mut count) = (0.0, 0);
    for _ in 0..STORIES {
        let text = held_out_story(&mut random).text;
        let tokens = tokenize(&Document::Text(text), tokenizer)?.tokens;
        let len = tokens.len() - 1;
        let rows: Vec<usize> = (0..len).collect();
        let logits = network.logits(&tokens[..len], len, &rows)?.to_dtype(DType::F32)?;
        let loss = cross_entropy(&logits, &tokens[1..], &vec![1.0; len])?;
        sum += loss.to_scalar::<f32>()?;
        count += len;
    }
    Ok(sum / count as f32)
}
