//! The questions that training never sees, by which the model is judged.

use std::collections::HashSet;

use super::instance::{Instance, Task};
use super::random::Random;
use super::{colours, reversing, sentiment, sums};

/// Questions of each task that is drawn rather than enumerated.
const DRAWN: usize = 200;

/// The seed of the draw; never used for training, whose seed is an option.
const SEED: u64 = 0x68656c64_6f757400;

/// All held-out questions: the enumerable ones whole, 200 each of the others.
pub(crate) fn all() -> Vec<Instance> {
    let mut instances = draw(sentiment::draw, 0);
    instances.extend(sums::all().filter(Instance::is_held_out));
    instances.extend(draw(reversing::draw, 1));
    instances.extend(colours::all().filter(Instance::is_held_out));
    instances
}

fn draw(source: fn(&mut Random) -> Instance, stream: u64) -> Vec<Instance> {
    let mut random = Random::new(SEED, stream);
    let mut seen = HashSet::new();
    let mut instances = Vec::new();
    while instances.len() < DRAWN {
        let instance = source(&mut random);
        if instance.is_held_out() && seen.insert(instance.key.clone()) {
            instances.push(instance);
        }
    }
    instances
}

/// `instances` as `heldout.json` holds them, one a line.
pub(crate) fn to_json(instances: &[Instance]) -> String {
    let lines: Vec<String> = instances.iter().map(|i| i.to_json().to_string()).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// How many of `instances` are of `task`.
pub(crate) fn count(instances: &[Instance], task: Task) -> usize {
    instances.iter().filter(|instance| instance.task == task).count()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::demo::corpus::{Corpus, Document};

    #[test]
    fn the_checked_in_file_is_what_the_generator_makes() {
        let checked_in: Value = serde_json::from_str(inference_demo::HELD_OUT).unwrap();
        let made: Value = serde_json::from_str(&to_json(&all())).unwrap();
        assert!(checked_in == made, "run `cargo xtask train-demo` to renew heldout.json");
    }

    #[test]
    fn every_task_has_enough() {
        let instances = all();
        for task in Task::ALL {
            let count = count(&instances, task);
            assert!(count >= 25, "{count} of {}", task.name());
        }
    }

    #[test]
    fn training_never_asks_them() {
        let prompts: HashSet<String> = all().into_iter().map(|i| i.prompt).collect();
        let mut corpus = Corpus::new(5);
        let mut asked = 0;
        for _ in 0..20_000 {
            if let Document::Chat { turns, .. } = corpus.next_document() {
                for turn in turns {
                    asked += 1;
                    assert!(!prompts.contains(&turn.said), "held out: {}", turn.said);
                }
            }
        }
        assert!(asked > 10_000, "{asked}");
    }
}
