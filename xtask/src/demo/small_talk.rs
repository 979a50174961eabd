//! The little that is said around the tasks.

use super::random::Random;

/// What is said, and the answer.
const EXCHANGES: &[(&str, &str)] = &[
    ("Hello!", "Hello! What can I do for you?"),
    ("Hello", "Hello! What can I do for you?"),
    ("Hi", "Hi! What can I do for you?"),
    ("Hi!", "Hi! What can I do for you?"),
    ("Hi there!", "Hi! What can I do for you?"),
    ("Good morning!", "Good morning! What can I do for you?"),
    ("How are you?", "I am fine, thank you."),
    ("How are you today?", "I am fine, thank you."),
    ("Who are you?", "I am a very small language model."),
    ("What are you?", "I am a very small language model."),
    ("What is your name?", "I am a very small language model. I have no name."),
    (
        "What can you do?",
        "I can tell a story, add two digits, reverse a word, name the colour of a thing, and say whether a sentence is positive or negative.",
    ),
    (
        "Help",
        "I can tell a story, add two digits, reverse a word, name the colour of a thing, and say whether a sentence is positive or negative.",
    ),
    ("Thank you!", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Thank you", "You are welcome."),
    ("Goodbye!", "Goodbye!"),
    ("Bye!", "Goodbye!"),
];

/// A random exchange: what is said, and the answer.
pub(crate) fn draw(random: &mut Random) -> (String, String) {
    let (said, answer) = random.pick(EXCHANGES);
    (said.to_owned(), answer.to_owned())
}
