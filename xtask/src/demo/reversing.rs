//! Short words, written backwards.
//!
//! A word in quotation marks is spelled by the tokenizer, one token a letter
//! (see [`super::tokenizer`]), so the model can see what it is made of.

use super::instance::{Instance, Task};
use super::random::Random;

/// Ways to ask; `X` is the word.
const PHRASINGS: &[&str] = &[
    "Reverse the word \"X\".",
    "Reverse \"X\".",
    "Write \"X\" backwards.",
    "Spell \"X\" backwards.",
    "What is \"X\" backwards?",
    "What is \"X\" reversed?",
    "Say \"X\" from back to front.",
    "Please reverse \"X\".",
];

/// Some words that people know; the others are made up.
const WORDS: &[&str] = &[
    "cat", "dog", "sun", "moon", "tree", "star", "fish", "bird", "ball", "cake", "milk", "rain",
    "snow", "wind", "fire", "boat", "car", "bus", "hat", "cup", "pen", "book", "door", "bed",
    "lamp", "frog", "bear", "wolf", "fox", "duck", "hen", "cow", "pig", "goat", "ant", "bee",
    "leaf", "root", "seed", "rose", "hill", "lake", "sea", "sand", "rock", "road", "town", "home",
    "hand", "foot", "nose", "ear", "eye", "leg", "arm", "red", "blue", "pink", "gold", "grey",
    "run", "jump", "walk", "swim", "sing", "play", "read", "draw", "cook", "help", "love", "hope",
    "day", "year", "week", "hour", "one", "two", "four", "five", "nine", "ten", "king", "rust",
    "code", "word", "time", "name", "good", "kind", "warm", "cold", "tall", "fast", "soft", "loud",
];

const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxyz";
const VOWELS: &[u8] = b"aeiou";

/// A random word in a random phrasing.
pub(crate) fn draw(random: &mut Random) -> Instance {
    let word = if random.chance(25) { random.pick(WORDS).to_owned() } else { made_up(random) };
    let prompt = random.pick(PHRASINGS).replace('X', &word);
    let backwards: String = word.chars().rev().collect();
    Instance { task: Task::Reversing, key: word, prompt, answer: format!("\"{backwards}\"") }
}

/// Three to five letters, mostly consonant and vowel in turn.
fn made_up(random: &mut Random) -> String {
    let len = 3 + random.below(3);
    let mut vowel = random.chance(30);
    let mut word = String::new();
    for _ in 0..len {
        let letters = if vowel { VOWELS } else { CONSONANTS };
        word.push(char::from(random.pick(letters)));
        vowel = if random.chance(80) { !vowel } else { vowel };
    }
    word
}
