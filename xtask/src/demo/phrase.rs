//! Sentences with choices and gaps.

use super::random::Random;

/// Writes `template` out: of `[a|b|c]` one part is chosen (parts may be empty
/// and do not nest), `{name}` becomes the value of `name` in `values`, and
/// `{Name}` the same with a capital letter.
///
/// # Panics
///
/// Panics on an unbalanced template and on a name without a value: templates
/// are part of this program, and a test expands them all.
pub(crate) fn expand(template: &str, values: &[(&str, &str)], random: &mut Random) -> String {
    let mut chosen = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('[') {
        let (parts, tail) = split(after, ']', template);
        let parts: Vec<&str> = parts.split('|').collect();
        chosen.push_str(before);
        chosen.push_str(random.pick(&parts));
        rest = tail;
    }
    chosen.push_str(rest);

    let mut text = String::new();
    let mut rest = chosen.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = split(after, '}', template);
        text.push_str(before);
        let lower = name.to_lowercase();
        let value = values.iter().find(|(key, _)| *key == lower).map(|(_, value)| *value);
        #[expect(clippy::panic, reason = "documented: templates are part of the program")]
        let value = value.unwrap_or_else(|| panic!("no value for `{name}` in `{template}`"));
        if name == lower {
            text.push_str(value);
        } else {
            text.push_str(&capitalized(value));
        }
        rest = tail;
    }
    text.push_str(rest);
    text
}

fn split<'a>(text: &'a str, close: char, template: &str) -> (&'a str, &'a str) {
    #[expect(clippy::panic, reason = "documented: templates are part of the program")]
    text.split_once(close).unwrap_or_else(|| panic!("`{close}` is missing in `{template}`"))
}

/// `text` with its first letter as a capital.
pub(crate) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `noun` with its indefinite article.
pub(crate) fn with_article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']) && !noun.starts_with("use");
    let article = if vowel { "an" } else { "a" };
    format!("{article} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_and_gaps() {
        let mut random = Random::new(0, 0);
        let values = [("name", "tom")];
        for _ in 0..20 {
            let text = expand("[Hi|Hello], {Name}[!|.] I am {name}.", &values, &mut random);
            assert!(text.starts_with("Hi, Tom") || text.starts_with("Hello, Tom"), "{text}");
            assert!(text.ends_with(" I am tom."), "{text}");
        }
        assert_eq!(with_article("owl"), "an owl");
        assert_eq!(with_article("red owl"), "a red owl");
    }
}
