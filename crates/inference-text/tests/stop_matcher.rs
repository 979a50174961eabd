//! Stop strings against a naive search of the whole text.

use inference_text::StopMatcher;
use proptest::prelude::*;

/// The text before the match that ends first (the longest of those), and it.
fn naive(text: &str, stops: &[String]) -> (String, Option<String>) {
    for end in 1..=text.len() {
        let longest = stops
            .iter()
            .filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()))
            .max_by_key(|stop| stop.len());
        if let Some(stop) = longest {
            return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

/// Splits `text` at the characters that `cuts` chooses.
fn split<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a str> {
    let boundaries: Vec<usize> =
        text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut at: Vec<usize> =
        cuts.iter().map(|cut| boundaries[cut.index(boundaries.len())]).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_split_gives_what_a_search_of_the_whole_gives(
        text in "[abé日]{0,24}",
        stops in prop::collection::vec("[abé日]{0,4}", 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (expected, expected_match) = naive(&text, &stops);
        let mut matcher = StopMatcher::new(stops.clone());
        let (mut emitted, mut matched, mut seen) = (String::new(), None, 0);
        for piece in split(&text, &cuts) {
            seen += piece.len();
            let step = matcher.push(piece);
            emitted.push_str(&step.text);
            matched = step.matched;
            if matched.is_none() {
                // Only what may become a stop string is held back.
                let held = &text[emitted.len()..seen];
                let possible = held.is_empty() || stops.iter().any(|stop| stop.starts_with(held));
                prop_assert!(possible, "held {held:?} for {stops:?}");
            }
        }
        if matched.is_none() {
            emitted.push_str(&matcher.flush());
        }
        prop_assert_eq!(emitted, expected);
        prop_assert_eq!(matched, expected_match);
    }
}

#[test]
fn the_stop_that_ends_first_wins_and_of_those_the_longest() {
    let stop = |stops: &[&str], text: &str| {
        let step =
            StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect()).push(text);
        (step.text, step.matched)
    };
    assert_eq!(stop(&["abz", "b"], "xabz"), ("xa".to_owned(), Some("b".to_owned())));
    assert_eq!(stop(&["b", "ab"], "xab"), ("x".to_owned(), Some("ab".to_owned())));
    assert_eq!(stop(&[], "xab"), ("xab".to_owned(), None));
    assert_eq!(stop(&["abc"], "xab"), ("x".to_owned(), None));
}

#[test]
fn nothing_follows_a_match_until_the_flush() {
    let mut matcher = StopMatcher::new(vec!["END".to_owned()]);
    assert_eq!(matcher.push("a EN").text, "a ");
    assert_eq!(matcher.push("D tail").matched.as_deref(), Some("END"));
    let after = matcher.push("more");
    assert_eq!((after.text.as_str(), after.matched.as_deref()), ("", Some("END")));
    assert_eq!(matcher.flush(), "");
    assert_eq!(matcher.push("E").text, "");
    assert_eq!(matcher.flush(), "E", "the matcher starts over");
}
