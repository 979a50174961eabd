//! The colour of a thing.

use super::instance::{Instance, Task};
use super::random::Random;

/// Things, as they stand in a question, with `is` or `are` and their colour.
const THINGS: &[(&str, &str, &str)] = &[
    ("grass", "is", "green"),
    ("the sky", "is", "blue"),
    ("the sun", "is", "yellow"),
    ("snow", "is", "white"),
    ("coal", "is", "black"),
    ("blood", "is", "red"),
    ("milk", "is", "white"),
    ("a leaf", "is", "green"),
    ("a lemon", "is", "yellow"),
    ("a banana", "is", "yellow"),
    ("a carrot", "is", "orange"),
    ("a pumpkin", "is", "orange"),
    ("a strawberry", "is", "red"),
    ("a tomato", "is", "red"),
    ("a frog", "is", "green"),
    ("a crow", "is", "black"),
    ("a swan", "is", "white"),
    ("the sea", "is", "blue"),
    ("chocolate", "is", "brown"),
    ("wood", "is", "brown"),
    ("a fire truck", "is", "red"),
    ("a cherry", "is", "red"),
    ("a pig", "is", "pink"),
    ("an elephant", "is", "grey"),
    ("a mouse", "is", "grey"),
    ("a flamingo", "is", "pink"),
    ("the night", "is", "black"),
    ("a cloud", "is", "white"),
    ("honey", "is", "yellow"),
    ("a brown bear", "is", "brown"),
    ("a cucumber", "is", "green"),
    ("a pea", "is", "green"),
    ("bananas", "are", "yellow"),
    ("lemons", "are", "yellow"),
    ("leaves", "are", "green"),
    ("frogs", "are", "green"),
    ("carrots", "are", "orange"),
    ("tomatoes", "are", "red"),
    ("cherries", "are", "red"),
    ("clouds", "are", "white"),
];

/// Ways to ask; `IS` is `is` or `are`, `X` the thing.
const PHRASINGS: &[&str] = &[
    "What colour IS X?",
    "What color IS X?",
    "Which colour IS X?",
    "What colour IS X usually?",
    "Tell me the colour of X.",
    "What is the colour of X?",
    "Do you know what colour X IS?",
    "Name the colour of X.",
    "Which colour do you see when you look at X?",
];

/// Every thing in every phrasing.
pub(crate) fn all() -> impl Iterator<Item = Instance> {
    THINGS.iter().flat_map(|thing| PHRASINGS.iter().map(move |phrasing| instance(thing, phrasing)))
}

/// A random thing in a random phrasing.
pub(crate) fn draw(random: &mut Random) -> Instance {
    let thing = random.pick(THINGS);
    instance(&thing, random.pick(PHRASINGS))
}

fn instance((thing, verb, colour): &(&str, &str, &str), phrasing: &str) -> Instance {
    let prompt = phrasing.replace("IS", verb).replace('X', thing);
    Instance { task: Task::Colours, key: prompt.clone(), prompt, answer: (*colour).to_owned() }
}
