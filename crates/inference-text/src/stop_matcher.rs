//! Stop strings over streamed text.

/// Finds the first stop string in text that comes in pieces.
///
/// The stop string that *ends* first wins, so that generation stops as early
/// as it can; of several that end at the same place, the longest wins, so
/// that no part of a stop string is emitted. What is emitted, and what is
/// matched, does not depend on how the text is split: it is the text before
/// the match. Text that may be the start of a stop string is held back until
/// it is decided.
///
/// Cost: time in proportion to the text times the number of stop strings.
///
/// ```
/// use inference_text::StopMatcher;
///
/// let mut stop = StopMatcher::new(vec!["\nUser:".to_owned()]);
/// let step = stop.push("Hello.\nUs");
/// assert_eq!((step.text.as_str(), step.matched), ("Hello.", None));
/// let step = stop.push("er: and more");
/// assert_eq!((step.text.as_str(), step.matched.as_deref()), ("", Some("\nUser:")));
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that may be the start of a stop string.
    held: String,
    matched: Option<String>,
}

/// What [`StopMatcher::push`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopMatch {
    /// The text that is safe to emit now.
    pub text: String,
    /// The stop string, once it is complete; its text is never emitted.
    pub matched: Option<String>,
}

/// One stop string with the state of its Knuth–Morris–Pratt search.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// For each prefix length minus one, the length of its longest proper
    /// border (a prefix that is also a suffix).
    borders: Vec<usize>,
    /// How many bytes of the pattern the text so far ends with.
    reached: usize,
}

impl StopMatcher {
    /// A matcher for these strings. An empty string never matches.
    #[must_use]
    pub fn new(strings: Vec<String>) -> Self {
        let patterns = strings.into_iter().filter(|text| !text.is_empty()).map(Pattern::new);
        Self { patterns: patterns.collect(), held: String::new(), matched: None }
    }

    /// Takes more text. After a match, all further text is dropped and the
    /// same match is reported.
    pub fn push(&mut self, text: &str) -> StopMatch {
        if self.matched.is_some() {
            return StopMatch { text: String::new(), matched: self.matched.clone() };
        }
        if self.patterns.is_empty() {
            return StopMatch { text: text.to_owned(), matched: None };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            let mut longest: Option<&Pattern> = None;
            for pattern in &mut self.patterns {
                if pattern.step(byte)
                    && longest.is_none_or(|best| best.text.len() < pattern.text.len())
                {
                    longest = Some(pattern);
                }
            }
            if let Some(pattern) = longest {
                let end = before + index + 1;
                let matched = pattern.text.clone();
                let mut text = std::mem::take(&mut self.held);
                text.truncate(end.saturating_sub(matched.len()));
                self.matched = Some(matched.clone());
                return StopMatch { text, matched: Some(matched) };
            }
        }
        // A prefix of a stop string starts with a whole character, so this
        // never cuts one.
        let keep = self.patterns.iter().map(|pattern| pattern.reached).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len().saturating_sub(keep));
        StopMatch { text: std::mem::replace(&mut self.held, held), matched: None }
    }

    /// Ends the text: what was held back, since no stop string can complete
    /// any more. The matcher is then ready for another text.
    pub fn flush(&mut self) -> String {
        self.matched = None;
        for pattern in &mut self.patterns {
            pattern.reached = 0;
        }
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = Vec::with_capacity(bytes.len());
        let mut border = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            if index > 0 {
                border = extend(bytes, &borders, border, byte);
            }
            borders.push(border);
        }
        Self { text, borders, reached: 0 }
    }

    /// Takes one byte; true where the pattern is complete with it.
    fn step(&mut self, byte: u8) -> bool {
        self.reached = extend(self.text.as_bytes(), &self.borders, self.reached, byte);
        self.reached == self.text.len()
    }
}

/// The longest prefix of `pattern` that ends with `byte` after a text that
/// ended with the prefix of length `reached`.
fn extend(pattern: &[u8], borders: &[usize], mut reached: usize, byte: u8) -> usize {
    loop {
        if pattern.get(reached) == Some(&byte) {
            return reached + 1;
        }
        match reached.checked_sub(1).and_then(|last| borders.get(last)) {
            Some(&shorter) => reached = shorter,
            None => return 0,
        }
    }
}
