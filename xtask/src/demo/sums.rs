//! Sums of two digits.

use super::instance::{Instance, Task};
use super::random::Random;

/// Ways to ask.
const PHRASINGS: &[&str] = &[
    "What is {a} plus {b}?",
    "What is {a} + {b}?",
    "{a} + {b}",
    "{a} + {b} =",
    "{a}+{b}",
    "{a}+{b}=?",
    "How much is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "Add {b} to {a}.",
    "What is the sum of {a} and {b}?",
    "Tell me {a} plus {b}.",
    "What do you get when you add {a} and {b}?",
    "{a} plus {b}",
    "{a} plus {b} is what?",
    "Can you add {a} and {b}?",
    "Please add {a} and {b}.",
    "I have {a} apples and get {b} more. How many do I have?",
    "There are {a} red balls and {b} blue balls. How many balls are there?",
    "Tom has {a} coins. He finds {b} more. How many coins does he have?",
];

/// Every sum in every phrasing.
pub(crate) fn all() -> impl Iterator<Item = Instance> {
    (0..10).flat_map(|a| {
        (0..10).flat_map(move |b| PHRASINGS.iter().map(move |phrasing| instance(a, b, phrasing)))
    })
}

/// A random sum.
pub(crate) fn draw(random: &mut Random) -> Instance {
    let (a, b) = (random.below(10), random.below(10));
    instance(a, b, random.pick(PHRASINGS))
}

fn instance(a: usize, b: usize, phrasing: &str) -> Instance {
    let prompt = phrasing.replace("{a}", &a.to_string()).replace("{b}", &b.to_string());
    Instance { task: Task::Sums, key: prompt.clone(), prompt, answer: (a + b).to_string() }
}
