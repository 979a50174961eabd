//! What came out of one file, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::llama_tools::Outcome;
use super::model_file::ModelFile;
use super::row::Row;
use super::worker_process::Start;
use crate::bench::report::{Figure, short};

/// Whether more or less of something is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// A line of the table: samples in the order of rounds, by engine.
#[derive(Debug)]
struct Line {
    name: String,
    unit: &'static str,
    better: Better,
    samples: Vec<Vec<f64>>,
}

/// The samples of one file; the first engine is ours.
#[derive(Debug)]
pub(super) struct Results {
    model: String,
    bytes: u64,
    bytes_per_token: u64,
    engines: Vec<String>,
    rows: Vec<Row>,
    /// By engine, then by row, then by round.
    rates: Vec<Vec<Vec<f64>>>,
    /// By engine, then by round.
    starts: Vec<Vec<Start>>,
    bandwidth: Vec<f64>,
    /// Rows that an engine cannot have, with the reason.
    refused: Vec<(usize, Row, String)>,
}

impl Results {
    pub(super) fn new(file: &ModelFile, engines: Vec<String>, rows: Vec<Row>) -> Self {
        Self {
            model: file.name(),
            bytes: file.bytes(),
            bytes_per_token: file.bytes_per_token(),
            rates: vec![vec![Vec::new(); rows.len()]; engines.len()],
            starts: vec![Vec::new(); engines.len()],
            engines,
            rows,
            bandwidth: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn engines(&self) -> &[String] {
        &self.engines
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The median; `None` where nothing was measured.
    pub(super) fn median(&self, engine: usize, row: Row) -> Option<f64> {
        let samples = &self.rates[engine][self.index(row)?];
        (!samples.is_empty()).then(|| median(samples.clone()))
    }

    fn index(&self, row: Row) -> Option<usize> {
        self.rows.iter().position(|known| *known == row)
    }

    /// Adds the sample of a round, or leaves the row out from now on.
    pub(super) fn add(&mut self, engine: usize, row: Row, outcome: Outcome) {
        match (outcome, self.index(row)) {
            (Ok(rate), Some(index)) => self.rates[engine][index].push(rate),
            (Err(reason), _) => self.refuse(engine, row, &reason),
            (Ok(_), None) => {}
        }
    }

    /// Adds the start of a round, or leaves the engine out from now on.
    pub(super) fn add_start(&mut self, engine: usize, start: std::result::Result<Start, String>) {
        match start {
            Ok(start) => self.starts[engine].push(start),
            Err(reason) => {
                self.starts[engine].clear();
                for row in self.rows.clone() {
                    self.refuse(engine, row, &reason);
                }
            }
        }
    }

    pub(super) fn add_bandwidth(&mut self, bytes_per_sec: f64) {
        self.bandwidth.push(bytes_per_sec);
    }

    /// Leaves a row of an engine out, for a reason: what other rounds had of it
    /// too, since ratios are of rounds that all engines have.
    pub(super) fn refuse(&mut self, engine: usize, row: Row, reason: &str) {
        if !self.is_refused(engine, row) {
            self.refused.push((engine, row, reason.to_owned()));
        }
        if let Some(index) = self.index(row) {
            self.rates[engine][index].clear();
        }
    }

    pub(super) fn is_refused(&self, engine: usize, row: Row) -> bool {
        self.refused.iter().any(|(e, r, _)| (*e, *r) == (engine, row))
    }

    /// Whether an engine lacks a row.
    pub(super) fn has_refused(&self, engine: usize) -> bool {
        self.refused.iter().any(|(e, _, _)| *e == engine)
    }

    /// Whether an engine has nothing to measure.
    pub(super) fn is_out(&self, engine: usize) -> bool {
        self.rows.iter().all(|row| self.is_refused(engine, *row))
    }

    /// What an engine lacks and why, rows of one reason together.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<(usize, &str, Vec<String>)> = Vec::new();
        for (engine, row, reason) in &self.refused {
            let note = notes.iter_mut().find(|(e, r, _)| (*e, *r) == (*engine, reason.as_str()));
            match note {
                Some((_, _, rows)) => rows.push(row.to_string()),
                None => notes.push((*engine, reason, vec![row.to_string()])),
            }
        }
        let note = |(engine, reason, rows): (usize, &str, Vec<String>)| {
            let rows = match rows.len() == self.rows.len() {
                true => "every row".to_owned(),
                false => rows.join("; "),
            };
            format!("– {}, {rows}: {reason}", self.engines[engine])
        };
        notes.into_iter().map(note).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut start = |name: &str, unit, of: &dyn Fn(&Start) -> Option<f64>| {
            let samples = self.starts.iter().map(|starts| starts.iter().filter_map(of).collect());
            let samples = samples.collect();
            lines.push(Line { name: name.to_owned(), unit, better: Better::Less, samples });
        };
        start("load", "s", &|start| Some(start.load_seconds));
        start("first token after the load", "ms", &|start| Some(start.first_token_seconds * 1e3));
        start("later first tokens", "ms", &|start| Some(start.later_token_seconds * 1e3));
        let file = self.bytes as f64;
        start("resident, of the file", "x", &|start| Some(start.resident_bytes? as f64 / file));
        start("of it anonymous", "x", &|start| Some(start.anonymous_bytes? as f64 / file));
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(Line {
                name: row.to_string(),
                unit: "tokens/s",
                better: Better::More,
                samples: self.rates.iter().map(|rows| rows[index].clone()).collect(),
            });
        }
        // Where the weights are most of what a token reads.
        let lone = |row: &Row| matches!(row, Row::Decode { batch: None, .. });
        if let Some(index) = self.rows.iter().position(lone) {
            let share = |rows: &Vec<Vec<f64>>| {
                let rounds = rows[index].iter().zip(&self.bandwidth);
                rounds.map(|(rate, limit)| rate * self.bytes_per_token as f64 / limit).collect()
            };
            lines.push(Line {
                name: format!("{}, weights read, of the bandwidth", self.rows[index]),
                unit: "x",
                better: Better::More,
                samples: self.rates.iter().map(share).collect(),
            });
        }
        lines
    }

    pub(super) fn to_json(&self) -> Value {
        let lines: Vec<Value> = self.lines().iter().map(|line| self.line_to_json(line)).collect();
        let refused = self.refused.iter().map(|(engine, row, reason)| {
            json!({ "engine": self.engines[*engine], "row": row.to_string(), "reason": reason })
        });
        json!({
            "model": self.model, "file_bytes": self.bytes,
            "weight_bytes_per_token": self.bytes_per_token,
            "read_bytes_per_sec": {
                "median": median(self.bandwidth.clone()), "rounds": self.bandwidth,
            },
            "rows": lines, "left_out": refused.collect::<Vec<_>>(),
        })
    }

    fn line_to_json(&self, line: &Line) -> Value {
        let engines = self.engines.iter().zip(&line.samples).enumerate();
        let engines = engines.filter(|(_, (_, samples))| !samples.is_empty());
        let engines = engines.map(|(index, (name, samples))| {
            let figure = Figure::new("", line.unit, samples.clone());
            let (min, max) = figure.range();
            json!({
                "engine": name, "median": figure.value(), "min": min, "max": max,
                "rounds": samples, "ours_against_it": (index > 0).then(|| line.ratio(index)),
            })
        });
        json!({ "row": line.name, "unit": line.unit, "engines": engines.collect::<Vec<_>>() })
    }
}

impl Line {
    /// How much better ours is than another engine: the median over rounds.
    fn ratio(&self, engine: usize) -> Option<f64> {
        let ours = self.samples.first()?.iter();
        let ratios: Vec<f64> = ours
            .zip(self.samples.get(engine)?)
            .map(|(ours, theirs)| match self.better {
                Better::More => ours / theirs,
                Better::Less => theirs / ours,
            })
            .collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

impl fmt::Display for Results {
    /// As Markdown. Ratios above 1 mean that ours is the better one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
        writeln!(
            f,
            "### {}\n\nFile {}, weights of a token {}, read bandwidth {}/s.\n",
            self.model,
            gigabytes(self.bytes as f64),
            gigabytes(self.bytes_per_token as f64),
            gigabytes(median(self.bandwidth.clone())),
        )?;
        write!(f, "| |")?;
        for (index, engine) in self.engines.iter().enumerate() {
            write!(f, " {engine} |{}", if index > 0 { " ratio |" } else { "" })?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(self.engines.len() * 2 - 1))?;
        for line in self.lines().iter().filter(|line| line.samples.iter().any(|s| !s.is_empty())) {
            write!(f, "| {}, {} |", line.name, line.unit)?;
            for (index, samples) in line.samples.iter().enumerate() {
                if samples.is_empty() {
                    write!(f, " – |")?;
                } else {
                    let figure = Figure::new("", line.unit, samples.clone());
                    let (min, max) = figure.range();
                    let value = short(figure.value());
                    write!(f, " {value} ({} to {}) |", short(min), short(max))?;
                }
                if index > 0 {
                    match line.ratio(index) {
                        Some(ratio) => write!(f, " **{ratio:.2}** |")?,
                        None => write!(f, " – |")?,
                    }
                }
            }
            writeln!(f)?;
        }
        for note in self.notes() {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

fn median(samples: Vec<f64>) -> f64 {
    Figure::new("", "", samples).value()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let rows = vec![Row::Decode { depth: 64, batch: None }];
        Results {
            model: "m".to_owned(),
            bytes: 100,
            bytes_per_token: 50,
            engines: vec!["ours".to_owned(), "peer".to_owned(), "other".to_owned()],
            rates: vec![vec![Vec::new()]; 3],
            rows,
            starts: vec![Vec::new(); 3],
            bandwidth: vec![1000.0, 1000.0, 1000.0],
            refused: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut results = results();
        let row = results.rows[0];
        // Both drift: medians would say 1.5, every round says 2.
        for (ours, peer) in [(2.0, 1.0), (20.0, 10.0), (6.0, 3.0)] {
            results.add(0, row, Ok(ours));
            results.add(1, row, Ok(peer));
        }
        results.add(2, row, Err("too deep".to_owned()));
        results.add(2, row, Err("again".to_owned()));
        assert_eq!(results.median(0, row), Some(6.0));
        assert_eq!(results.median(2, row), None);
        let json = results.to_json();
        let line = json["rows"].as_array().unwrap().iter().find(|line| line["unit"] == "tokens/s");
        let engines = line.unwrap()["engines"].as_array().unwrap();
        assert_eq!(engines.len(), 2);
        assert_eq!(engines[1]["ours_against_it"], 2.0);
        assert_eq!(engines[1]["rounds"], json!([1.0, 10.0, 3.0]));
        assert_eq!(json["left_out"].as_array().unwrap().len(), 1);
        let text = results.to_string();
        assert!(
            text.contains("| 6.00 (2.00 to 20.00) | 3.00 (1.00 to 10.00) | **2.00** | – | – |"),
            "{text}"
        );
        // 6 tokens of 50 bytes are 0.3 of 1,000 bytes.
        assert!(text.contains("| 0.3000 ("), "{text}");
    }

    #[test]
    fn what_fails_is_left_out_and_told_below_the_table() {
        let mut results = results();
        let row = |batch| Row::Decode { depth: 128, batch: Some(batch) };
        results.rows.extend([row(1), row(8)]);
        results.rates = vec![vec![Vec::new(); 3]; 3];
        for rate in [1.0, 2.0] {
            for engine in 0..3 {
                results.rows.clone().into_iter().for_each(|row| results.add(engine, row, Ok(rate)));
            }
        }
        let start = Start {
            load_seconds: 1.0,
            first_token_seconds: 1.0,
            later_token_seconds: 1.0,
            resident_bytes: None,
            anonymous_bytes: None,
        };
        results.add_start(2, Ok(start));
        // After rounds that it was measured in.
        results.add(1, row(1), Err("exit status: 3: it crashed".to_owned()));
        results.add(1, row(8), Err("exit status: 3: it crashed".to_owned()));
        results.add_start(2, Err("no such model".to_owned()));
        assert!(results.is_out(2) && !results.is_out(1) && results.is_refused(1, row(8)));
        let text = results.to_string();
        let line =
            "| decode at depth 128, 8 at once, tokens/s | 1.50 (1.00 to 2.00) | – | – | – | – |";
        assert!(text.contains(line), "{text}");
        let notes = "\n– peer, decode at depth 128, 1 at once; decode at depth 128, 8 at once: \
                     exit status: 3: it crashed\n\n– other, every row: no such model\n";
        assert!(text.ends_with(notes) && !text.contains("load"), "{text}");
        let left_out = results.to_json()["left_out"].clone();
        assert_eq!(left_out.as_array().unwrap().len(), 5);
        assert_eq!(
            left_out[1],
            json!({
                "engine": "peer", "row": "decode at depth 128, 8 at once",
                "reason": "exit status: 3: it crashed",
            })
        );
    }

    #[test]
    fn less_time_is_better() {
        let line = Line {
            name: String::new(),
            unit: "s",
            better: Better::Less,
            samples: vec![vec![1.0], vec![3.0], vec![]],
        };
        assert_eq!((line.ratio(1), line.ratio(2)), (Some(3.0), None));
    }
}
