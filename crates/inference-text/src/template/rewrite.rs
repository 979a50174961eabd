//! What transformers' Jinja environment knows and minijinja does not, put in
//! terms of what minijinja knows.

/// The filter that refuses to iterate over none, as Python does.
pub(super) const ITERABLE: &str = "__iterable";
/// The filter that refuses texts beyond the bound of a rendering.
pub(super) const BOUNDED: &str = "__bounded";
/// The filter that counts long texts that are passed to macros.
pub(super) const ARGUMENT: &str = "__argument";

/// Most characters of one tag, strings and blanks left out. Expressions are
/// compiled recursively, so a long one is a deep one.
const MAX_TAG: usize = 16 << 10;
/// Most `{% elif %}` of one template; they nest when compiled.
const MAX_ELIF: usize = 1 << 10;

/// Rewrites a template's source; lines stay where they are. The error says
/// what is too large.
///
/// - Line ends are `\n`.
/// - `{% generation %}` … `{% endgeneration %}` marks the assistant's text for
///   training. It renders its body in a scope of its own: `{% with %}`.
/// - `{% for x in e %}` becomes `{% for x in (e)|__iterable %}`: minijinja
///   takes none as an empty list, where Python raises.
/// - `{% set x = e %}` becomes `{% set x = (e)|__bounded(n) %}`, so that a value
///   cannot double or nest itself forever; `n` is how many levels of lists and
///   dicts `e` may put around what it is made of.
/// - After `{% macro m(x) %}` and `{% call(x) … %}` comes `{% set x =
///   (x)|__argument %}`, for a macro that calls itself with ever longer texts.
pub(super) fn rewrite(source: &str) -> Result<String, String> {
    let mut elifs = 0_usize;
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map(|end| end + 2),
            Some(b'{') => tag_end(tag, "}}"),
            Some(b'%') => tag_end(tag, "%}"),
            _ => Some(1),
        };
        // An unfinished tag is the parser's to report.
        let Some(len) = len else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(len);
        rest = after;
        if tag.len() > MAX_TAG && !tag.starts_with("{#") && weight(tag) > MAX_TAG {
            return Err(format!("a tag of more than {MAX_TAG} characters"));
        }
        if !tag.starts_with("{%") {
            out.push_str(tag);
            continue;
        }
        let block = Block::new(tag);
        match block.keyword() {
            "generation" if block.body == "generation" => block.write("with", &mut out),
            "endgeneration" if block.body == "endgeneration" => block.write("endwith", &mut out),
            "for" => match checked_for(block.body) {
                Some(body) => block.write(&body, &mut out),
                None => out.push_str(tag),
            },
            "set" => match checked_set(block.body) {
                Some(body) => block.write(&body, &mut out),
                None => out.push_str(tag),
            },
            "macro" | "call" => {
                out.push_str(tag);
                for name in parameters(block.body) {
                    // It trims what follows as the tag itself does.
                    let body = format!("set {name} = ({name})|{ARGUMENT}");
                    let mut end = block.after.trim_start();
                    if end.is_empty() {
                        end = "%}";
                    }
                    out.push_str(&format!("{{% {body} {end}"));
                }
            }
            "elif" => {
                elifs += 1;
                if elifs > MAX_ELIF {
                    return Err(format!("more than {MAX_ELIF} elif blocks"));
                }
                out.push_str(tag);
            }
            "raw" => {
                out.push_str(tag);
                let end = end_of_raw(rest).unwrap_or(rest.len());
                let (raw, after) = rest.split_at(end);
                out.push_str(raw);
                rest = after;
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// How many characters of a tag are neither blank nor in a string.
fn weight(tag: &str) -> usize {
    let mut scan = Scan::new(tag, 0);
    let mut count = 0;
    while let Some((_, c)) = scan.next_outside_strings() {
        count += usize::from(!c.is_whitespace());
    }
    count
}

/// How many levels of values an expression may put around what it is made of:
/// its brackets (a call may wrap its arguments) and filters.
fn levels(expression: &str) -> usize {
    let mut scan = Scan::new(expression, 0);
    let mut count = 0;
    while let Some((_, c)) = scan.next_outside_strings() {
        count += usize::from(matches!(c, '[' | '{' | '(' | '|'));
    }
    count
}

/// A block tag in parts: `{%-`, blanks, the body, blanks, `-%}`.
struct Block<'a> {
    before: &'a str,
    body: &'a str,
    after: &'a str,
}

impl<'a> Block<'a> {
    fn new(tag: &'a str) -> Self {
        let inner = tag.strip_prefix("{%").unwrap_or(tag);
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
        let (before, _) = tag.split_at(tag.len() - inner.len());
        let body = inner.strip_suffix("%}").unwrap_or(inner);
        let body = body.strip_suffix(['-', '+']).unwrap_or(body).trim_end();
        let after = inner.get(body.len()..).unwrap_or_default();
        Self { before, body, after }
    }

    fn keyword(&self) -> &'a str {
        let end = self.body.find(|c: char| !is_word(c)).unwrap_or(self.body.len());
        self.body.split_at(end).0
    }

    fn write(&self, body: &str, out: &mut String) {
        out.push_str(self.before);
        out.push_str(body);
        out.push_str(self.after);
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the tag at the start of `text`, its `close` included.
fn tag_end(text: &str, close: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut scan = Scan::new(text, 2);
    while let Some((at, c)) = scan.next_outside_strings() {
        if depth == 0 && text.get(at..).is_some_and(|text| text.starts_with(close)) {
            return Some(at + close.len());
        }
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Where the `{% endraw %}` that ends a raw block starts.
fn end_of_raw(text: &str) -> Option<usize> {
    text.match_indices("{%").map(|(at, _)| at).find(|&at| {
        let tag = text.get(at + 2..).unwrap_or_default();
        tag.trim_start_matches(['-', '+']).trim_start().starts_with("endraw")
    })
}

/// `for T in E if C recursive` with a check around `E`.
fn checked_for(body: &str) -> Option<String> {
    let start = word_at_top(body, 0, &["in"])? + "in".len();
    let end = word_at_top(body, start, &["if", "recursive"]).unwrap_or(body.len());
    let (head, iterable, tail) = (body.get(..start)?, body.get(start..end)?, body.get(end..)?);
    if iterable.trim().is_empty() {
        return None;
    }
    let blank = if tail.is_empty() { "" } else { " " };
    Some(format!("{head} ({})|{ITERABLE}{blank}{tail}", iterable.trim()))
}

/// `set T = E` with a check around `E`; `None` for a block without `=`.
fn checked_set(body: &str) -> Option<String> {
    let mut depth = 0_usize;
    let mut scan = Scan::new(body, 0);
    while let Some((at, c)) = scan.next_outside_strings() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '=' if depth == 0 => {
                let (head, value) = (body.get(..at)?, body.get(at + 1..)?.trim());
                let blank = value.is_empty() || value.starts_with('=');
                let levels = levels(value);
                return (!blank).then(|| format!("{head}= ({value})|{BOUNDED}({levels})"));
            }
            _ => {}
        }
    }
    None
}

/// The parameters of `macro m(x, y=1)` and `call(x, y) m()`.
fn parameters(body: &str) -> Vec<&str> {
    let inner = match body.strip_prefix("call") {
        Some(rest) => rest.trim_start().strip_prefix('('),
        None => body.split_once('(').map(|(_, inner)| inner),
    };
    let Some(inner) = inner else { return Vec::new() };
    let name_at = |at: usize| {
        let rest = inner.get(at..).unwrap_or_default().trim_start();
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        rest.split_at(end).0
    };
    let mut names = vec![name_at(0)];
    let mut depth = 0_usize;
    let mut scan = Scan::new(inner, 0);
    while let Some((at, c)) = scan.next_outside_strings() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => names.push(name_at(at + 1)),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Where one of `words` stands, outside of strings and brackets.
fn word_at_top(text: &str, from: usize, words: &[&str]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut previous = ' ';
    let mut scan = Scan::new(text, from);
    while let Some((at, c)) = scan.next_outside_strings() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 && !is_word(previous) && previous != '.' => {
                let rest = text.get(at..).unwrap_or_default();
                let found = words.iter().any(|word| {
                    rest.strip_prefix(word).is_some_and(|after| !after.starts_with(is_word))
                });
                if found {
                    return Some(at);
                }
            }
            _ => {}
        }
        previous = c;
    }
    None
}

/// Characters with their places, string literals left out.
struct Scan<'a> {
    chars: std::iter::Peekable<std::str::CharIndices<'a>>,
    from: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str, from: usize) -> Self {
        Self { chars: text.char_indices().peekable(), from }
    }

    fn next_outside_strings(&mut self) -> Option<(usize, char)> {
        loop {
            let (at, c) = self.chars.next()?;
            if at < self.from {
                continue;
            }
            if c != '"' && c != '\'' {
                return Some((at, c));
            }
            while let Some((_, inner)) = self.chars.next() {
                if inner == '\\' {
                    self.chars.next();
                } else if inner == c {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_become_scopes() {
        let source = "{%- generation -%}a{% endgeneration %}{{ '{% generation %}' }}{# {% generation %} #}\
                      {% raw %}{% generation %}{% endraw %}{%generation+%}";
        let expected = "{%- with -%}a{% endwith %}{{ '{% generation %}' }}{# {% generation %} #}\
                        {% raw %}{% generation %}{% endraw %}{%with+%}";
        assert_eq!(rewrite(source).unwrap(), expected);
    }

    #[test]
    fn loops_and_assignments_check_their_values() {
        let cases = [
            ("{% for x in xs %}", "{% for x in (xs)|__iterable %}"),
            (
                "{%- for a, b in d.items() if a in 'if' recursive -%}",
                "{%- for a, b in (d.items())|__iterable if a in 'if' recursive -%}",
            ),
            (
                "{% for x in [y if z else w] + inner.if_ %}",
                "{% for x in ([y if z else w] + inner.if_)|__iterable %}",
            ),
            ("{% for x in '%}' %}", "{% for x in ('%}')|__iterable %}"),
            ("{% form in x %}", "{% form in x %}"),
            ("{% for x in %}", "{% for x in %}"),
            ("{%- set a.b = c == 1 -%}", "{%- set a.b = (c == 1)|__bounded(0) -%}"),
            ("{% set a, b = f(x=1), '=' %}", "{% set a, b = (f(x=1), '=')|__bounded(1) %}"),
            ("{% set a = [[b], '['] | f %}", "{% set a = ([[b], '['] | f)|__bounded(3) %}"),
            ("{% set a | f(x=1) %}", "{% set a | f(x=1) %}"),
            ("{% set a = %}", "{% set a = %}"),
            (
                "{%- macro m(a, b=f(1, '),c'), c=[2]) -%} x",
                "{%- macro m(a, b=f(1, '),c'), c=[2]) -%}{% set a = (a)|__argument -%}\
                 {% set b = (b)|__argument -%}{% set c = (c)|__argument -%} x",
            ),
            ("{% macro m() %}", "{% macro m() %}"),
            ("{% call(x) m(y) %}", "{% call(x) m(y) %}{% set x = (x)|__argument %}"),
            ("{% call m(y) %}", "{% call m(y) %}"),
        ];
        for (source, expected) in cases {
            assert_eq!(rewrite(source).unwrap(), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_keeps_lines(source in "(\\{|%|\\}|#|'|\"|-|for|in|if| |x|\\n|é|raw|endraw|generation){0,40}") {
            let lines = |text: &str| text.matches('\n').count();
            proptest::prop_assert!(lines(&rewrite(&source).unwrap()) <= lines(&source));
        }
    }
}
