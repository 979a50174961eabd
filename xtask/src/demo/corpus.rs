//! The training text: an endless, seeded sequence of documents.

use super::instance::Instance;
use super::random::Random;
use super::{colours, reversing, sentiment, small_talk, stories, sums};

/// One document; a training sequence is made of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// Plain text, all of which is learned.
    Text(String),
    /// Plain text of which only the end is learned: a prompt, a completion.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// A conversation, of which the answers are learned.
    Chat {
        /// The system message.
        system: Option<&'static str>,
        /// What is said, and answered.
        turns: Vec<Turn>,
    },
}

/// What a user says, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) said: String,
    pub(crate) answer: String,
    /// Whether the answer is a story.
    pub(crate) is_story: bool,
}

const SYSTEM_MESSAGES: &[&str] = &[
    "You are a helpful assistant.",
    "You are a friendly helper.",
    "Answer briefly.",
    "Answer in one word.",
    "Be kind.",
];

/// The source of documents.
#[derive(Debug)]
pub(crate) struct Corpus {
    random: Random,
}

impl Corpus {
    /// The documents of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed, 1) }
    }

    /// The next document; none of its questions and stories is held out.
    pub(crate) fn next_document(&mut self) -> Document {
        let random = &mut self.random;
        match random.below(100) {
            0..7 => Document::Text(story(random).text),
            7..11 => sentiment_completion(random),
            _ => {
                let system = random.chance(15).then(|| random.pick(SYSTEM_MESSAGES));
                let more = if random.chance(15) { 1 + random.below(2) } else { 0 };
                let turns = (0..=more).map(|_| turn(random)).collect();
                Document::Chat { system, turns }
            }
        }
    }
}

/// A story that is not held out.
fn story(random: &mut Random) -> stories::Story {
    loop {
        let story = stories::draw(random);
        if !story.is_held_out() {
            return story;
        }
    }
}

/// A story that training never sees.
pub(crate) fn held_out_story(random: &mut Random) -> stories::Story {
    loop {
        let story = stories::draw(random);
        if story.is_held_out() {
            return story;
        }
    }
}

fn turn(random: &mut Random) -> Turn {
    let source: fn(&mut Random) -> Instance = match random.below(100) {
        0..31 => sentiment::draw,
        31..61 => sums::draw,
        61..85 => reversing::draw,
        85..93 => colours::draw,
        93..95 => {
            let (said, answer) = small_talk::draw(random);
            return Turn { said, answer, is_story: false };
        }
        _ => {
            let story = story(random);
            return Turn {
                said: stories::request(&story, random),
                answer: story.text,
                is_story: true,
            };
        }
    };
    loop {
        let instance = source(random);
        if !instance.is_held_out() {
            return Turn { said: instance.prompt, answer: instance.answer, is_story: false };
        }
    }
}

/// Sentiment as a continuation, for prompts without a chat template.
fn sentiment_completion(random: &mut Random) -> Document {
    loop {
        let positive = random.chance(50);
        let sentence = sentiment::sentence(positive, random);
        if !sentiment::is_held_out(&sentence) {
            return Document::Completion {
                prompt: format!("{sentence} Sentiment:"),
                completion: format!(" {}", sentiment::label(positive)),
            };
        }
    }
}
