//! Which modules a configuration means: names, suffixes and regular
//! expressions, as PEFT matches them.

use fancy_regex::Regex;
use inference_core::{Error, Result};

/// Modules by name or by one expression.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ModulePattern {
    /// Modules of one of these names, or whose names end in `.` and one.
    Names(Vec<String>),
    /// Modules whose whole name the regular expression matches.
    Expression(ModuleExpression),
}

impl ModulePattern {
    /// Modules whose names are one of these or end in `.` and one.
    pub fn names<I: IntoIterator<Item: Into<String>>>(names: I) -> Self {
        Self::Names(names.into_iter().map(Into::into).collect())
    }

    /// Modules whose whole path an expression matches; `file` and `field` name
    /// it in errors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// an expression that cannot be compiled.
    pub fn expression(file: &str, field: &str, expression: &str) -> Result<Self> {
        let whole = format!("^(?:{expression})$");
        ModuleExpression::new(file, field, expression, &whole).map(Self::Expression)
    }

    /// Whether the pattern means the module at `path`, its full name in the
    /// model's class (`model.layers.0.self_attn.q_proj`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// an expression that takes too long.
    pub fn matches(&self, path: &str) -> Result<bool> {
        match self {
            Self::Names(names) => Ok(names.iter().any(|name| ends_with_name(path, name))),
            Self::Expression(expression) => expression.matches(path),
        }
    }
}

/// Whether the path is `name` or ends in `.` and `name`.
pub(crate) fn ends_with_name(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A regular expression of a configuration: Python's syntax, within a bounded
/// number of steps.
#[derive(Clone, Debug)]
pub struct ModuleExpression {
    file: String,
    field: String,
    /// As the configuration has it.
    text: String,
    compiled: Regex,
}

impl ModuleExpression {
    fn new(file: &str, field: &str, text: &str, compiled: &str) -> Result<Self> {
        let compiled = Regex::new(compiled).map_err(|error| {
            let what = format!("{field}: `{text}`");
            Error::invalid_model(file, what, "a regular expression", error.to_string())
        })?;
        let (file, field, text) = (file.to_owned(), field.to_owned(), text.to_owned());
        Ok(Self { file, field, text, compiled })
    }

    /// As the configuration has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, path: &str) -> Result<bool> {
        self.compiled.is_match(path).map_err(|error| self.failed(&error))
    }

    /// What the group `idx` matched.
    fn number<'a>(&self, path: &'a str) -> Result<Option<&'a str>> {
        let groups = self.compiled.captures(path).map_err(|error| self.failed(&error))?;
        Ok(groups.and_then(|groups| groups.name("idx")).map(|group| group.as_str()))
    }

    fn failed(&self, error: &fancy_regex::Error) -> Error {
        let what = format!("{}: `{}`", self.field, self.text);
        let expected = "an expression that matches in few steps";
        Error::invalid_model(&*self.file, what, expected, error.to_string())
    }
}

/// Values for modules whose names expressions match the end of: the first that
/// matches counts (`rank_pattern`, `alpha_pattern`).
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueByModule {
    values: Vec<(ModuleExpression, f64)>,
}

impl ValueByModule {
    pub(crate) fn new(file: &str, field: &str, values: Vec<(String, f64)>) -> Result<Self> {
        let values = values.into_iter().map(|(text, value)| {
            let end = format!(r"^(?:.*\.)?(?:{text})$");
            Ok((ModuleExpression::new(file, field, &text, &end)?, value))
        });
        Ok(Self { values: values.collect::<Result<_>>()? })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Option<f64>> {
        for (expression, value) in &self.values {
            if expression.matches(path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }

    /// The expressions with their values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(expression, value)| (expression.as_str(), *value))
    }
}

/// Which layers a configuration means.
#[derive(Clone, Debug)]
pub(crate) struct LayerChoice {
    pub(crate) layers: Vec<usize>,
    /// What comes before a layer's number; none: the first number of a path.
    patterns: Vec<ModuleExpression>,
}

impl LayerChoice {
    pub(crate) fn new(file: &str, layers: Vec<usize>, patterns: &[String]) -> Result<Self> {
        let patterns = patterns.iter().map(|text| {
            let numbered = format!(r"^(?:|.*?\.)(?:{text})\.(?P<idx>[0-9]+)\.");
            ModuleExpression::new(file, "layers_pattern", text, &numbered)
        });
        Ok(Self { layers, patterns: patterns.collect::<Result<_>>()? })
    }

    /// The patterns as the configuration has them.
    pub(crate) fn patterns(&self) -> Vec<&str> {
        self.patterns.iter().map(ModuleExpression::as_str).collect()
    }

    pub(crate) fn contains(&self, path: &str) -> Result<bool> {
        let mut number = None;
        if self.patterns.is_empty() {
            let parts: Vec<&str> = path.split('.').collect();
            // Neither the first part nor the last is a layer's number.
            let inner = parts.get(2..parts.len().saturating_sub(1)).unwrap_or_default();
            number = inner.iter().find_map(|part| part.parse::<usize>().ok());
        }
        for pattern in &self.patterns {
            if let Some(digits) = pattern.number(path)? {
                number = digits.parse().ok();
                break;
            }
        }
        Ok(number.is_some_and(|number| self.layers.contains(&number)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    const Q: &str = "model.layers.10.self_attn.q_proj";

    #[test]
    fn names_match_whole_parts_at_the_end() {
        let pattern = ModulePattern::names(["q_proj", "self_attn.o_proj"]);
        assert!(pattern.matches(Q).unwrap());
        assert!(pattern.matches("model.layers.1.self_attn.o_proj").unwrap());
        assert!(!pattern.matches("model.layers.1.self_attn.xq_proj").unwrap());
        assert!(!pattern.matches("model.layers.1.q_proj.x").unwrap());
        assert!(pattern.matches("q_proj").unwrap());
    }

    #[test]
    fn expressions_match_the_whole_path() {
        let pattern = |text: &str| ModulePattern::expression("f", "target_modules", text).unwrap();
        assert!(pattern(r".*\.1\d\..*q_proj").matches(Q).unwrap());
        assert!(!pattern("q_proj").matches(Q).unwrap());
        assert!(pattern(r"a|.*(?<!x)q_proj").matches(Q).unwrap());
        let error = ModulePattern::expression("f", "target_modules", "(").unwrap_err().to_string();
        assert!(error.contains("target_modules") && error.contains("regular"), "{error}");
    }

    #[test]
    fn the_first_pattern_that_matches_the_end_counts() {
        let values = [("down_proj", 1.0), (r"layers\.10\..*", 2.0), ("q_proj", 3.0)];
        let values = values.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let values = ValueByModule::new("f", "rank_pattern", values).unwrap();
        assert_eq!(values.get(Q).unwrap(), Some(2.0));
        assert_eq!(values.get("model.layers.1.self_attn.q_proj").unwrap(), Some(3.0));
        assert_eq!(values.get("model.layers.1.self_attn.xq_proj").unwrap(), None);
    }

    #[test]
    fn layers_are_numbered_by_the_first_number_or_the_pattern() {
        let choice = |patterns: &[String]| LayerChoice::new("f", vec![1, 10], patterns).unwrap();
        assert!(choice(&[]).contains(Q).unwrap());
        assert!(!choice(&[]).contains("model.layers.2.mlp.experts.1.up_proj").unwrap());
        assert!(!choice(&[]).contains("lm_head").unwrap());
        assert!(choice(&["layers".to_owned()]).contains(Q).unwrap());
        assert!(!choice(&["h".to_owned()]).contains(Q).unwrap());
        let experts = choice(&["experts".to_owned()]);
        assert!(experts.contains("model.layers.2.mlp.experts.1.up_proj").unwrap());
    }

    #[test]
    fn an_expression_that_never_ends_is_an_error() {
        let text = r"(?=(.+)+x)(.*.*)*\1y";
        let pattern = ModulePattern::expression("f", "target_modules", text).unwrap();
        let path = "x.".repeat(400);
        if let Err(error) = pattern.matches(&path) {
            assert!(error.to_string().contains("target_modules"), "{error}");
        }
    }
}
