//! Sentences that are positive or negative.

use super::instance::{Instance, Task};
use super::phrase::{expand, with_article};
use super::random::Random;

/// What people have opinions about, with `was` or `were`.
const TOPICS: &[(&str, &str)] = &[
    ("film", "was"),
    ("book", "was"),
    ("song", "was"),
    ("soup", "was"),
    ("pizza", "was"),
    ("cake", "was"),
    ("coffee", "was"),
    ("bread", "was"),
    ("dinner", "was"),
    ("lunch", "was"),
    ("hotel", "was"),
    ("room", "was"),
    ("bed", "was"),
    ("beach", "was"),
    ("park", "was"),
    ("trip", "was"),
    ("train", "was"),
    ("bus", "was"),
    ("flight", "was"),
    ("weather", "was"),
    ("game", "was"),
    ("party", "was"),
    ("show", "was"),
    ("music", "was"),
    ("story", "was"),
    ("phone", "was"),
    ("car", "was"),
    ("bike", "was"),
    ("house", "was"),
    ("garden", "was"),
    ("school", "was"),
    ("teacher", "was"),
    ("doctor", "was"),
    ("waiter", "was"),
    ("shop", "was"),
    ("service", "was"),
    ("day", "was"),
    ("night", "was"),
    ("morning", "was"),
    ("dress", "was"),
    ("movie", "was"),
    ("food", "was"),
    ("shoes", "were"),
    ("people", "were"),
    ("seats", "were"),
    ("actors", "were"),
    ("pictures", "were"),
    ("toys", "were"),
    ("flowers", "were"),
];

const GOOD: &[&str] = &[
    "good",
    "great",
    "wonderful",
    "lovely",
    "excellent",
    "fantastic",
    "amazing",
    "nice",
    "beautiful",
    "brilliant",
    "perfect",
    "delightful",
    "pleasant",
    "superb",
    "charming",
    "fun",
    "awesome",
    "splendid",
    "marvellous",
    "enjoyable",
    "impressive",
    "magical",
];

const BAD: &[&str] = &[
    "bad",
    "terrible",
    "awful",
    "horrible",
    "boring",
    "ugly",
    "poor",
    "dreadful",
    "nasty",
    "disappointing",
    "dull",
    "dirty",
    "broken",
    "annoying",
    "sad",
    "unpleasant",
    "useless",
    "disgusting",
    "miserable",
    "worthless",
    "painful",
    "rude",
];

/// Patterns that say what `{adj}` says.
const PLAIN: &[&str] = &[
    "[The|This|That|My|Our] {topic} {was} [|very |really |so |simply |truly |quite ]{adj}",
    "[The|This|That|Our] {topic} {was} {adj} and {adj2}",
    "[What|Such] {an_adj} {single}",
    "[I think|I thought|We thought|Everyone said|She says] the {topic} {was} {adj}",
    "It was [|such ]{an_adj} {single}",
    "[We|They|I] had {an_adj} {single}",
    "The {topic} [yesterday|today|last week|last night] {was} {adj}",
];

/// Patterns that turn `{adj}` around.
const NEGATED: &[&str] = &[
    "[The|This|That|My|Our] {topic} {was} not {adj}",
    "[The|This|That|My|Our] {topic} {was} not {adj} at all",
    "The {topic} {was} never {adj}",
    "[I|We] do not think the {topic} {was} {adj}",
];

const PRAISE: &[&str] = &[
    "I [love|loved|like|liked|enjoyed|adore] [the|this|that|my] {topic}",
    "I [really|truly|just] [love|loved|like|liked|enjoyed] [the|this] {topic}",
    "[We|They] [loved|enjoyed|liked] the {topic}",
    "The {topic} made me [happy|smile|laugh|glad]",
    "I want [more|another day] like this, the {topic} {was} that good",
    "I am [very |so |]happy [with|about] the {topic}",
    "Thank you for the {topic}, it made my day",
    "The {topic} {was} the best [ever|of all|I know]",
];

const COMPLAINT: &[&str] = &[
    "I [hate|hated|dislike|disliked|regret] [the|this|that|my] {topic}",
    "I [really|truly|just] [hate|hated|dislike|disliked] [the|this] {topic}",
    "[We|They] [hated|disliked] the {topic}",
    "I [do|did] not [like|enjoy|love] [the|this|that] {topic}",
    "The {topic} made me [sad|cry|angry|sick]",
    "I never want to see the {topic} again",
    "I am [very |so |]unhappy [with|about] the {topic}",
    "I want my money back, the {topic} {was} that bad",
    "The {topic} {was} the worst [ever|of all|I know]",
];

/// Ways to ask; `X` is the sentence.
const PHRASINGS: &[&str] = &[
    "Is this sentence positive or negative? X",
    "Is this positive or negative? X",
    "Positive or negative? X",
    "What is the sentiment of this sentence? X",
    "Sentiment of this sentence: X",
    "Tell me the sentiment: X",
    "Classify the sentiment: X",
    "Is the following positive or negative? X",
    "X Is that positive or negative?",
    "X Positive or negative?",
];

/// A random sentence in a random phrasing.
pub(crate) fn draw(random: &mut Random) -> Instance {
    let positive = random.chance(50);
    let sentence = sentence(positive, random);
    let phrasing = random.pick(PHRASINGS);
    instance(&sentence, positive, phrasing)
}

fn instance(sentence: &str, positive: bool, phrasing: &str) -> Instance {
    Instance {
        task: Task::Sentiment,
        key: sentence.to_lowercase().trim_end_matches(['.', '!']).to_owned(),
        prompt: phrasing.replace('X', sentence),
        answer: label(positive).to_owned(),
    }
}

/// Whether training never sees `sentence`, in whatever case and punctuation.
pub(crate) fn is_held_out(sentence: &str) -> bool {
    instance(sentence, true, "X").is_held_out()
}

/// The answer.
pub(crate) fn label(positive: bool) -> &'static str {
    if positive { "positive" } else { "negative" }
}

/// A random sentence, positive or negative.
pub(crate) fn sentence(positive: bool, random: &mut Random) -> String {
    let (kind, turned) = (random.below(10), random.chance(20));
    let (pattern, words) = match kind {
        0..4 if positive => (random.pick(PRAISE), GOOD),
        0..4 => (random.pick(COMPLAINT), BAD),
        // A negated word of the other side.
        _ if turned => (random.pick(NEGATED), if positive { BAD } else { GOOD }),
        _ => (random.pick(PLAIN), if positive { GOOD } else { BAD }),
    };
    let (topic, was) = random.pick(TOPICS);
    // `What a lovely ...` needs something that can be counted.
    let single = random.pick(&[
        "day", "film", "book", "song", "dinner", "trip", "game", "party", "show", "story",
        "morning", "night", "room", "garden", "movie", "place", "meal", "time",
    ]);
    let adjective = random.pick(words);
    let values = [
        ("topic", topic),
        ("was", was),
        ("single", single),
        ("adj", adjective),
        ("an_adj", &with_article(adjective)),
        ("adj2", random.pick(words)),
    ];
    let mut text = expand(pattern, &values, random);
    match random.below(20) {
        0 => {}
        1 => text = text.to_lowercase(),
        2..5 => text.push('!'),
        _ => text.push('.'),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_expands() {
        let mut random = Random::new(3, 0);
        for _ in 0..3000 {
            let instance = draw(&mut random);
            assert!(instance.prompt.is_ascii());
            assert!(!instance.prompt.contains(['{', '}', '[', ']', '|']), "{}", instance.prompt);
        }
    }
}
