//! Figures with their goals, as lines and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::machine::Machine;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Goal {
    fn bound(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound,
        }
    }

    /// `value` against the bound, unless that is 0.
    fn ratio(self, value: f64) -> Option<f64> {
        (self.bound() != 0.0).then(|| value / self.bound())
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// One measured quantity: the median of its samples, and their range.
#[derive(Debug)]
pub(super) struct Figure {
    name: String,
    unit: &'static str,
    /// Ascending, at least one.
    samples: Vec<f64>,
    goal: Option<Goal>,
}

impl Figure {
    /// A figure of samples; without any its value is NaN.
    pub(super) fn new(name: impl Into<String>, unit: &'static str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self { name: name.into(), unit, samples, goal: None }
    }

    /// A figure of one value.
    pub(super) fn single(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self::new(name, unit, vec![value])
    }

    /// Sets what it should be.
    pub(super) fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// The median.
    pub(super) fn value(&self) -> f64 {
        let at = |index: usize| self.samples.get(index).copied().unwrap_or(f64::NAN);
        (at(self.samples.len().saturating_sub(1) / 2) + at(self.samples.len() / 2)) / 2.0
    }

    /// The least and the largest sample.
    pub(super) fn range(&self) -> (f64, f64) {
        let end = |sample: Option<&f64>| sample.copied().unwrap_or(f64::NAN);
        (end(self.samples.first()), end(self.samples.last()))
    }

    fn to_json(&self) -> Value {
        let (min, max) = self.range();
        let goal = self.goal.map(|goal| {
            let kind = match goal {
                Goal::AtMost(_) => "at_most",
                Goal::AtLeast(_) => "at_least",
            };
            let (ratio, met) = (goal.ratio(self.value()), goal.is_met(self.value()));
            json!({ "kind": kind, "bound": goal.bound(), "ratio": ratio, "met": met })
        });
        json!({
            "name": self.name, "unit": self.unit, "median": self.value(),
            "min": min, "max": max, "samples": self.samples.len(), "goal": goal,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = self.range();
        let name = format!("{}:", self.name);
        write!(f, "{name:<64} {} {}", short(self.value()), self.unit)?;
        if self.samples.len() > 1 {
            write!(f, " ({} to {})", short(min), short(max))?;
        }
        if let Some(goal) = self.goal {
            let words = match goal {
                Goal::AtMost(_) => "at most",
                Goal::AtLeast(_) => "at least",
            };
            let met = if goal.is_met(self.value()) { "met" } else { "MISSED" };
            write!(f, "; goal {words} {}: {met}", short(goal.bound()))?;
            if let Some(ratio) = goal.ratio(self.value()) {
                write!(f, ", {ratio:.2} of it")?;
            }
        }
        Ok(())
    }
}

/// Three to four significant digits.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 1000.0 => format!("{value:.0}"),
        magnitude if magnitude >= 100.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// All figures of a run.
#[derive(Debug)]
pub(super) struct Report {
    machine: Machine,
    rounds: u32,
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn new(machine: Machine, rounds: u32) -> Self {
        Self { machine, rounds, figures: Vec::new() }
    }

    pub(super) fn heading(&self) -> String {
        format!("{}; medians of {} rounds", self.machine, self.rounds)
    }

    pub(super) fn extend(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    pub(super) fn to_json(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(Figure::to_json).collect();
        json!({ "machine": self.machine.to_json(), "rounds": self.rounds, "figures": figures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_samples() {
        assert_eq!(Figure::new("odd", "s", vec![9.0, 1.0, 2.0]).value(), 2.0);
        assert_eq!(Figure::new("even", "s", vec![4.0, 1.0, 2.0, 9.0]).value(), 3.0);
        assert!(Figure::new("none", "s", vec![]).value().is_nan());
    }

    #[test]
    fn a_goal_is_missed_on_its_wrong_side_only() {
        assert!(Goal::AtMost(50.0).is_met(50.0) && !Goal::AtMost(50.0).is_met(50.1));
        assert!(Goal::AtLeast(4.0).is_met(4.0) && !Goal::AtLeast(4.0).is_met(3.9));
        // What was not measured does not count as met.
        assert!(!Goal::AtMost(1.0).is_met(f64::NAN) && !Goal::AtLeast(1.0).is_met(f64::NAN));
        let json = Figure::single("x", "x", 2.0).with_goal(Goal::AtLeast(4.0)).to_json();
        assert_eq!((&json["goal"]["met"], &json["goal"]["ratio"]), (&json!(false), &json!(0.5)));
    }
}
