//! Short stories: a beginning, a problem, an ending.
//!
//! A story is drawn from a grammar: a hero, a friend, a place, a thing and a
//! plot of [`super::story_plots`], told in sentences with choices.

use super::instance::is_held_out;
use super::phrase::{capitalized, expand, with_article};
use super::random::Random;
use super::story_plots::{ENDINGS, OPENINGS, PLOTS, Plot};

const GIRLS: &[&str] = &["Lily", "Mia", "Anna", "Sue", "Emma", "Zoe", "Rosa", "Nina", "Amy"];
const BOYS: &[&str] = &["Tom", "Ben", "Max", "Sam", "Leo", "Tim", "Jack", "Finn", "Omar"];
const ANIMALS: &[&str] = &[
    "cat", "dog", "fox", "bear", "rabbit", "mouse", "owl", "frog", "duck", "hedgehog", "squirrel",
];
const TRAITS: &[&str] = &["little", "small", "young", "brave", "shy", "clever", "kind", "curious"];
const PLACES: &[(&str, &str)] = &[
    ("in", "the park"),
    ("in", "the garden"),
    ("in", "the forest"),
    ("at", "the beach"),
    ("by", "the river"),
    ("by", "the lake"),
    ("on", "the farm"),
    ("on", "the hill"),
    ("in", "the village"),
    ("in", "the meadow"),
];
const THINGS: &[&str] =
    &["ball", "kite", "hat", "book", "boat", "drum", "bell", "cup", "doll", "lamp", "bike", "box"];
const COLOURS: &[&str] = &["red", "blue", "green", "yellow", "white", "pink", "brown", "orange"];
const FOODS: &[&str] = &["cake", "apple", "soup", "pie", "bread", "honey", "berry", "cookie"];

const PRONOUNS: &[&str] = &["he", "she", "his", "her", "him"];

/// Whether `word` stands for somebody of a story.
pub(crate) fn is_pronoun(word: &str) -> bool {
    PRONOUNS.contains(&word.to_lowercase().as_str())
}

/// Whether `word` names somebody or something of a story. Once it has been
/// said, a story has to keep to it.
pub(crate) fn is_name(word: &str) -> bool {
    let lists = [GIRLS, BOYS, ANIMALS, THINGS, COLOURS, FOODS, &["girl", "boy"]];
    lists.iter().any(|list| list.contains(&word))
}

/// A story with what it is about.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) text: String,
    /// The hero's name.
    pub(crate) hero: String,
    /// What the hero is: `girl`, `fox`.
    pub(crate) kind: String,
    /// A thing (or food) that the story turns on.
    pub(crate) thing: String,
    /// Who, what, where: stories with one key tell the same with other words.
    key: String,
}

impl Story {
    /// Whether training never sees a story of these choices: one in ten.
    pub(crate) fn is_held_out(&self) -> bool {
        is_held_out(&format!("story\n{}", self.key))
    }
}

/// Somebody in a story.
struct Somebody {
    name: &'static str,
    kind: &'static str,
    girl: bool,
}

fn somebody(random: &mut Random) -> Somebody {
    let girl = random.chance(50);
    let name = random.pick(if girl { GIRLS } else { BOYS });
    let kind = match random.below(2) {
        0 => random.pick(ANIMALS),
        _ if girl => "girl",
        _ => "boy",
    };
    Somebody { name, kind, girl }
}

/// A random story.
pub(crate) fn draw(random: &mut Random) -> Story {
    let hero = somebody(random);
    let friend = loop {
        let friend = somebody(random);
        if friend.name != hero.name {
            break friend;
        }
    };
    let plot_index = random.below(PLOTS.len());
    let plot = &PLOTS[plot_index];
    let (at, place) = random.pick(PLACES);
    let here = format!("{at} {place}");
    let colour = random.pick(COLOURS);
    let food = random.pick(FOODS);
    let thing = random.pick(THINGS);
    let (he, his, him) = pronouns(hero.girl);
    let (fhe, fhis, fhim) = pronouns(friend.girl);
    let values = [
        ("hero", hero.name),
        ("kind", hero.kind),
        ("a_kind", &with_article(hero.kind)),
        ("trait", random.pick(TRAITS)),
        ("he", he),
        ("his", his),
        ("him", him),
        ("friend", friend.name),
        ("fkind", friend.kind),
        ("a_fkind", &with_article(friend.kind)),
        ("fhe", fhe),
        ("fhis", fhis),
        ("fhim", fhim),
        ("here", &here),
        ("place", place),
        ("colour", colour),
        ("a_colour", &with_article(colour)),
        ("thing", thing),
        ("food", food),
        ("a_food", &with_article(food)),
    ];
    let mut sentences = vec![expand(random.pick(OPENINGS), &values, random)];
    sentences.extend(plot.sentences.iter().map(|sentence| expand(sentence, &values, random)));
    sentences.push(expand(random.pick(ENDINGS), &values, random));
    let about = about(plot, thing, food);
    Story {
        text: sentences.join(" "),
        hero: hero.name.to_owned(),
        kind: hero.kind.to_owned(),
        thing: about.to_owned(),
        key: format!("{plot_index} {} {} {} {place} {about}", hero.name, hero.kind, friend.name),
    }
}

fn about(plot: &Plot, thing: &'static str, food: &'static str) -> &'static str {
    plot.about.unwrap_or(if plot.food { food } else { thing })
}

fn pronouns(girl: bool) -> (&'static str, &'static str, &'static str) {
    if girl { ("she", "her", "her") } else { ("he", "his", "him") }
}

/// A random wish for a story that `story` fulfils.
pub(crate) fn request(story: &Story, random: &mut Random) -> String {
    let kind = with_article(&story.kind);
    let thing = with_article(&story.thing);
    let values = [("hero", capitalized(&story.hero)), ("kind", kind), ("thing", thing)];
    let values: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
    expand(
        random.pick(&[
            "Tell me a [|short ]story.",
            "Tell me a [|short ]story about {kind}.",
            "Tell me a [|short ]story about {hero}.",
            "Write a [|short ]story about {thing}.",
            "Write a [|short ]story about {kind}.",
            "Write a [|short ]story about {kind} and {thing}.",
            "[Please tell|Can you tell] me a story about {hero} and {thing}[.|?]",
        ]),
        &values,
        random,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn stories_are_many_short_and_whole() {
        let mut random = Random::new(1, 0);
        let mut seen = HashSet::new();
        for _ in 0..3000 {
            let story = draw(&mut random);
            assert!(!story.text.contains(['{', '}', '[', ']', '|']), "{}", story.text);
            assert!(story.text.ends_with(['.', '!', '"']), "{}", story.text);
            let words = story.text.split_whitespace().count();
            assert!((40..=120).contains(&words), "{words} words: {}", story.text);
            seen.insert(story.text);
        }
        assert!(seen.len() > 2990, "{} different stories of 3000", seen.len());
    }
}
