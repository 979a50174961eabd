//! What came of a whole suite: a table for people, JSON for machines.

use std::fmt::{self, Write as _};

use crate::outcome::Outcome;

/// What came of a suite.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// One for each backend and model, in the order in which they ran.
    pub columns: Vec<Column>,
    /// Backends that cannot run here: name and reason.
    pub unavailable: Vec<(String, String)>,
    /// Backends that were asked for by name and are not registered: name and
    /// message.
    pub missing: Vec<(String, String)>,
}

/// One backend with one model.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Column {
    /// The backend's name.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// Behaviour id and outcome, in the order of the suite.
    pub outcomes: Vec<(String, Outcome)>,
}

impl Column {
    /// A column without outcomes.
    #[must_use]
    pub fn new(backend: &str, model: &str) -> Self {
        Self { backend: backend.to_owned(), model: model.to_owned(), outcomes: Vec::new() }
    }

    /// How many outcomes bear this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| outcome.name() == name).count()
    }

    /// The largest absolute difference of logits to the reference, where
    /// logits were compared.
    #[must_use]
    pub fn worst_logit_difference(&self) -> Option<f32> {
        let differences = self.outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Pass { worst_logit_difference } => *worst_logit_difference,
            _ => None,
        });
        differences.reduce(f32::max)
    }

    fn outcome(&self, id: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|(other, _)| other == id).map(|(_, outcome)| outcome)
    }
}

impl Report {
    /// Whether a backend misbehaves, or one that was asked for is missing.
    #[must_use]
    pub fn failed(&self) -> bool {
        let failing = |column: &Column| column.outcomes.iter().any(|(_, o)| o.is_failure());
        !self.missing.is_empty() || self.columns.iter().any(failing)
    }

    /// Adds what came of a further suite; a backend that could not run is
    /// named once.
    pub fn merge(&mut self, other: Self) {
        self.columns.extend(other.columns);
        for entry in other.unavailable {
            if !self.unavailable.contains(&entry) {
                self.unavailable.push(entry);
            }
        }
        for entry in other.missing {
            if !self.missing.contains(&entry) {
                self.missing.push(entry);
            }
        }
    }

    /// Every failure: column, behaviour id and message.
    pub fn failures(&self) -> impl Iterator<Item = (&Column, &str, &str)> {
        self.columns.iter().flat_map(|column| {
            let failing = column.outcomes.iter().filter(|(_, outcome)| outcome.is_failure());
            failing.map(move |(id, outcome)| (column, id.as_str(), outcome.message()))
        })
    }

    /// The report as JSON: `columns` (each `backend`, `model`,
    /// `worst_logit_difference` and `outcomes`: `behaviour`, `outcome`,
    /// `message`, `worst_logit_difference`), `unavailable` and `missing` (each
    /// `backend`, `reason`).
    #[must_use]
    pub fn to_json(&self) -> String {
        let outcome = |(id, outcome): &(String, Outcome)| {
            let worst = match outcome {
                Outcome::Pass { worst_logit_difference } => *worst_logit_difference,
                _ => None,
            };
            object(&[
                ("behaviour", string(id)),
                ("outcome", string(outcome.name())),
                ("message", string(outcome.message())),
                ("worst_logit_difference", number(worst)),
            ])
        };
        let column = |column: &Column| {
            object(&[
                ("backend", string(&column.backend)),
                ("model", string(&column.model)),
                ("worst_logit_difference", number(column.worst_logit_difference())),
                ("outcomes", array(column.outcomes.iter().map(outcome))),
            ])
        };
        let reason = |(backend, reason): &(String, String)| {
            object(&[("backend", string(backend)), ("reason", string(reason))])
        };
        object(&[
            ("columns", array(self.columns.iter().map(column))),
            ("unavailable", array(self.unavailable.iter().map(reason))),
            ("missing", array(self.missing.iter().map(reason))),
        ])
    }
}

/// A table: behaviours as rows, backends as columns, one table per model;
/// below it every failure with its message.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut models: Vec<&str> = Vec::new();
        for column in &self.columns {
            if !models.contains(&column.model.as_str()) {
                models.push(&column.model);
            }
        }
        for model in models {
            self.table(f, model)?;
        }
        for (backend, reason) in &self.unavailable {
            writeln!(f, "{backend}: not run: {reason}")?;
        }
        for (backend, reason) in &self.missing {
            writeln!(f, "{backend}: MISSING: {reason}")?;
        }
        for (column, id, message) in self.failures() {
            writeln!(f, "\nFAIL {} {} {id}\n  {message}", column.backend, column.model)?;
        }
        Ok(())
    }
}

impl Report {
    fn table(&self, f: &mut fmt::Formatter<'_>, model: &str) -> fmt::Result {
        let columns: Vec<_> = self.columns.iter().filter(|c| c.model == model).collect();
        let mut ids: Vec<&str> = Vec::new();
        for (id, _) in columns.iter().flat_map(|column| &column.outcomes) {
            if !ids.contains(&id.as_str()) {
                ids.push(id);
            }
        }
        let first = ids.iter().map(|id| id.len()).chain([model.len()]).max().unwrap_or(0);
        let width = |column: &&Column| column.backend.len().max("unsupported".len());
        write!(f, "{model:first$}")?;
        for column in &columns {
            write!(f, "  {:width$}", column.backend, width = width(column))?;
        }
        writeln!(f)?;
        for id in ids {
            write!(f, "{id:first$}")?;
            for column in &columns {
                let cell = match column.outcome(id) {
                    Some(Outcome::Pass { worst_logit_difference: Some(worst) }) => {
                        format!("pass {worst:.0e}")
                    }
                    Some(outcome @ Outcome::Fail(_)) => outcome.name().to_uppercase(),
                    Some(outcome) => outcome.name().to_owned(),
                    None => String::new(),
                };
                write!(f, "  {cell:width$}", width = width(column))?;
            }
            writeln!(f)?;
        }
        for column in &columns {
            write!(f, "{}: ", column.backend)?;
            for name in ["pass", "fail", "unsupported", "n/a"] {
                write!(f, "{} {name}, ", column.count(name))?;
            }
            match column.worst_logit_difference() {
                Some(worst) => writeln!(f, "worst logit difference {worst:.1e}")?,
                None => writeln!(f, "no logits compared")?,
            }
        }
        writeln!(f)
    }
}

fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Writing to a string does not fail.
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// JSON has no infinities; what is no number is `null`.
fn number(value: Option<f32>) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| "null".to_owned(), |v| v.to_string())
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| format!("{}:{value}", string(name))).collect();
    format!("{{{}}}", fields.join(","))
}
