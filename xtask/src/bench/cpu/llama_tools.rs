//! llama.cpp and ik_llama.cpp through the benchmarks that they come with.

use std::path::{Path, PathBuf};
use std::process::Command;

use inference::KvDtype;
use serde_json::Value;

use super::failure::reason;
use super::row::Row;
use crate::Result;

/// How often a program is started that does not report all it was asked for.
const ATTEMPTS: usize = 3;

/// Tokens per second of a row, or why there are none.
pub(super) type Outcome = std::result::Result<f64, String>;

/// Whose programs they are; options differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fork {
    LlamaCpp,
    /// ik_llama.cpp, which can interleave the rows of weights as it loads.
    Ik {
        repack: bool,
    },
}

/// The benchmark programs of a build.
#[derive(Debug)]
pub(super) struct LlamaTools {
    fork: Fork,
    folder: PathBuf,
    kv_dtype: KvDtype,
}

impl LlamaTools {
    /// The programs of a folder, all of which have to be there; how they are to
    /// store keys and values.
    pub(super) fn find(folder: &Path, fork: Fork, kv_dtype: KvDtype) -> Result<Self> {
        let programs = match fork {
            Fork::LlamaCpp => ["llama-bench", "llama-batched-bench"],
            Fork::Ik { .. } => ["llama-sweep-bench", "llama-batched-bench"],
        };
        for program in programs {
            let path = folder.join(program);
            if !path.is_file() {
                return Err(format!("{}: no such program", path.display()).into());
            }
        }
        Ok(Self { fork, folder: folder.canonicalize()?, kv_dtype })
    }

    /// The name in tables.
    pub(super) fn name(&self) -> &'static str {
        match self.fork {
            Fork::LlamaCpp => "llama.cpp",
            Fork::Ik { repack: false } => "ik_llama.cpp",
            Fork::Ik { repack: true } => "ik_llama.cpp -rtr",
        }
    }

    /// Every row once: a program that fails takes the rows with it that it was
    /// started for, and no others.
    pub(super) fn measure(&self, task: Task<'_>, rows: &[Row]) -> Vec<(Row, Outcome)> {
        let run = Run { tools: self, task };
        outcomes(run.groups(rows), |rows| run.measure(rows))
    }
}

/// What became of each row of some groups, each measured as a whole.
fn outcomes(
    groups: Vec<Vec<Row>>,
    measure: impl Fn(&[Row]) -> Result<Vec<(Row, f64)>>,
) -> Vec<(Row, Outcome)> {
    let mut outcomes = Vec::new();
    for rows in groups {
        let found = measure(&rows);
        outcomes.extend(rows.into_iter().map(|row| {
            let outcome = match &found {
                Ok(found) => found
                    .iter()
                    .find_map(|(known, rate)| (*known == row).then_some(*rate))
                    .ok_or_else(|| "not in what it reported".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            (row, outcome)
        }));
    }
    outcomes
}

/// What all programs are started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task<'a> {
    pub(super) model: &'a Path,
    pub(super) threads: usize,
    /// Tokens of the measured prefill.
    pub(super) prefill: usize,
    /// Tokens that each sequence generates.
    pub(super) generate: usize,
}

struct Run<'a> {
    tools: &'a LlamaTools,
    task: Task<'a>,
}

/// A line of a table: tokens per second after a prompt.
#[derive(Debug, PartialEq)]
struct Entry {
    prompt: usize,
    batch: usize,
    prefill: f64,
    decode: f64,
}

impl Run<'_> {
    fn start(&self, program: &str, options: &[(&str, String)]) -> Result<String> {
        let path = self.tools.folder.join(program);
        let mut command = Command::new(&path);
        // Some leave a log where they run.
        command.current_dir(std::env::temp_dir());
        command.arg("-m").arg(self.task.model.canonicalize()?);
        command.args(["-t", &self.task.threads.to_string()]);
        let kv_dtype = self.tools.kv_dtype.as_str();
        command.args(["-ctk", kv_dtype, "-ctv", kv_dtype]);
        for (option, value) in options {
            command.args([*option, value]);
        }
        match self.tools.fork {
            Fork::LlamaCpp => command.args(["-fa", "1"]),
            Fork::Ik { repack: true } => command.arg("-rtr"),
            Fork::Ik { repack: false } => &mut command,
        };
        let output = command.output().map_err(|error| format!("{}: {error}", path.display()))?;
        // Some print their table to one, some to the other; errors go to the second.
        let both = |first: &[u8], second: &[u8]| {
            String::from_utf8_lossy(&[first, b"\n", second].concat()).into_owned()
        };
        if !output.status.success() {
            let reason = reason(output.status, &both(&output.stderr, &output.stdout));
            return Err(format!("{program}: {reason}").into());
        }
        Ok(both(&output.stdout, &output.stderr))
    }

    fn measure(&self, rows: &[Row]) -> Result<Vec<(Row, f64)>> {
        match (rows.first(), self.tools.fork) {
            (None, _) => Ok(Vec::new()),
            (Some(Row::Decode { depth, batch: Some(_) }), _) => self.batches(*depth, rows),
            (Some(row), Fork::LlamaCpp) => self.llama_bench(row.depth(), rows),
            (Some(row), Fork::Ik { .. }) if self.is_swept(*row) => self.sweep(row.depth()),
            (Some(_), Fork::Ik { .. }) => self.prompts(rows),
        }
    }

    /// The rows, in groups that a program measures at once.
    fn groups(&self, rows: &[Row]) -> Vec<Vec<Row>> {
        let mut groups: Vec<(Option<usize>, Vec<Row>)> = Vec::new();
        for row in rows {
            let group = match (row, self.tools.fork) {
                (Row::Decode { batch: Some(_), .. }, _) => None,
                // Separate prompts, which one program reads one after the other.
                (row, Fork::Ik { .. }) if !self.is_swept(*row) => Some(0),
                (Row::Prefill { depth, .. } | Row::Decode { depth, .. }, _) => Some(*depth),
            };
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, rows)) => rows.push(*row),
                None => groups.push((group, vec![*row])),
            }
        }
        groups.into_iter().map(|(_, rows)| rows).collect()
    }

    /// Whether ik_llama.cpp goes to a row's depth in steps of the measured prefill.
    fn is_swept(&self, row: Row) -> bool {
        row.depth() >= self.task.prefill
    }

    /// llama.cpp: prefill and decode at a depth, where they are asked for.
    fn llama_bench(&self, depth: usize, rows: &[Row]) -> Result<Vec<(Row, f64)>> {
        let Task { prefill: tokens, generate, .. } = self.task;
        let prefill = Row::Prefill { tokens, depth };
        let decode = Row::Decode { depth, batch: None };
        let asked = |row: Row| if rows.contains(&row) { 1 } else { 0 };
        let text = self.start(
            "llama-bench",
            &[
                ("-p", (tokens * asked(prefill)).to_string()),
                ("-n", (generate * asked(decode)).to_string()),
                ("-d", depth.to_string()),
                ("-r", "1".to_owned()),
                ("-o", "json".to_owned()),
            ],
        )?;
        let rate = |entry: &Value| {
            let rate = entry["avg_ts"].as_f64().ok_or("llama-bench: no avg_ts")?;
            Ok((if entry["n_prompt"].as_u64() == Some(0) { decode } else { prefill }, rate))
        };
        json_entries(&text)?.iter().map(rate).collect()
    }

    /// ik_llama.cpp: shallow rows, from separate prompts.
    fn prompts(&self, rows: &[Row]) -> Result<Vec<(Row, f64)>> {
        let tokens = self.task.prefill;
        let mut prompts: Vec<usize> = rows
            .iter()
            .map(|row| match row {
                Row::Prefill { tokens, .. } => *tokens,
                Row::Decode { depth, .. } => *depth,
            })
            .collect();
        prompts.sort_unstable();
        prompts.dedup();
        let mut found = Vec::new();
        for entry in self.batched_bench(&prompts, &[1])? {
            if entry.prompt == tokens {
                found.push((Row::Prefill { tokens, depth: 0 }, entry.prefill));
            }
            found.push((Row::Decode { depth: entry.prompt, batch: None }, entry.decode));
        }
        Ok(found)
    }

    /// ik_llama.cpp: the rows of a depth that it reaches in steps.
    fn sweep(&self, depth: usize) -> Result<Vec<(Row, f64)>> {
        let Task { prefill: tokens, generate, .. } = self.task;
        if !depth.is_multiple_of(tokens) {
            return Err(format!("{depth} is no multiple of {tokens}").into());
        }
        let text = self.start(
            "llama-sweep-bench",
            &[
                ("-c", (depth + tokens).to_string()),
                ("-ub", tokens.to_string()),
                ("-n", generate.to_string()),
                ("--sweep-stride", (depth / tokens).to_string()),
            ],
        )?;
        let table = Table::parse(&text)?;
        let mut found = Vec::new();
        for line in 0..table.lines.len() {
            if table.count(line, "N_KV")? == depth {
                let prefill = Row::Prefill { tokens, depth };
                found.push((prefill, table.number(line, "S_PP t/s")?));
                let decode = Row::Decode { depth, batch: None };
                found.push((decode, table.number(line, "S_TG t/s")?));
            }
        }
        Ok(found)
    }

    /// Several sequences at once, each after a prompt of its own.
    fn batches(&self, depth: usize, rows: &[Row]) -> Result<Vec<(Row, f64)>> {
        let batch = |row: &Row| match row {
            Row::Decode { batch, .. } => *batch,
            Row::Prefill { .. } => None,
        };
        let batches: Vec<usize> = rows.iter().filter_map(batch).collect();
        let row = |entry: Entry| {
            (Row::Decode { depth: entry.prompt, batch: Some(entry.batch) }, entry.decode)
        };
        Ok(self.batched_bench(&[depth], &batches)?.into_iter().map(row).collect())
    }

    fn batched_bench(&self, prompts: &[usize], batches: &[usize]) -> Result<Vec<Entry>> {
        let join = |numbers: &[usize]| {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let most = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(1);
        let context = most(batches) * (most(prompts) + self.task.generate);
        let options = [
            ("-c", context.to_string()),
            ("-npp", join(prompts)),
            ("-ntg", self.task.generate.to_string()),
            ("-npl", join(batches)),
        ];
        let mut entries = Vec::new();
        // llama.cpp's ends now and then before its last line is written, in success.
        for _ in 0..ATTEMPTS {
            entries = entries_of(&self.start("llama-batched-bench", &options)?)?;
            if entries.len() >= prompts.len() * batches.len() {
                break;
            }
        }
        Ok(entries)
    }
}

/// The lines of llama-batched-bench.
fn entries_of(text: &str) -> Result<Vec<Entry>> {
    let table = Table::parse(text)?;
    (0..table.lines.len())
        .map(|line| {
            Ok(Entry {
                prompt: table.count(line, "PP")?,
                batch: table.count(line, "B")?,
                prefill: table.number(line, "S_PP t/s")?,
                decode: table.number(line, "S_TG t/s")?,
            })
        })
        .collect()
}

/// The list in an output that may have other lines around it.
fn json_entries(text: &str) -> Result<Vec<Value>> {
    let begin = text.find("[\n").ok_or("llama-bench: no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&text[begin..]).into_iter::<Vec<Value>>();
    Ok(values.next().ok_or("llama-bench: no JSON")??)
}

/// A Markdown table in a program's output.
#[derive(Debug)]
struct Table {
    heading: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Table {
    fn parse(text: &str) -> Result<Self> {
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let mut lines = text.lines().map(str::trim).filter(|line| line.starts_with('|'));
        let heading = cells(lines.next().ok_or("no table in the output")?);
        // The line below the heading has no numbers.
        let lines = lines.map(cells).filter(|line| line.iter().all(|cell| !cell.contains("--")));
        Ok(Self { heading, lines: lines.collect() })
    }

    fn number(&self, line: usize, column: &str) -> Result<f64> {
        let index = self.heading.iter().position(|name| name == column);
        let cell = index.and_then(|index| self.lines.get(line)?.get(index));
        let cell = cell.ok_or_else(|| format!("the table has no column `{column}`"))?;
        Ok(cell.parse().map_err(|_| format!("`{column}` is `{cell}`, expected a number"))?)
    }

    fn count(&self, line: usize, column: &str) -> Result<usize> {
        Ok(self.number(line, column)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_by_their_headings() {
        let text = "main: n_kv_max = 640\n\n\
            |    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |\n\
            |-------|--------|------|--------|----------|----------|----------|----------|\n\
            |   128 |     32 |    8 |   1280 |    0.500 |  2048.00 |    1.000 |   256.00 |\n";
        let table = Table::parse(text).unwrap();
        assert_eq!(table.lines.len(), 1);
        assert_eq!(table.count(0, "B").unwrap(), 8);
        assert_eq!(table.number(0, "S_TG t/s").unwrap(), 256.0);
        assert!(table.number(0, "X").is_err() && table.number(1, "B").is_err());
        assert!(Table::parse("no table").is_err());
    }

    #[test]
    fn json_is_found_between_other_lines() {
        let text = "load_backend: [x]\n[\n  { \"n_prompt\": 0, \"avg_ts\": 2.5 }\n]\nbye\n";
        assert_eq!(json_entries(text).unwrap()[0]["avg_ts"], 2.5);
        assert!(json_entries("failed").is_err());
    }

    #[test]
    fn a_program_measures_what_it_can_at_once() {
        let prefill = |depth| Row::Prefill { tokens: 64, depth };
        let lone = |depth| Row::Decode { depth, batch: None };
        let batch = |batch| Row::Decode { depth: 128, batch: Some(batch) };
        let rows = [prefill(0), prefill(128), lone(16), lone(128), batch(1), batch(8)];
        let groups = |fork| {
            let tools = LlamaTools { fork, folder: PathBuf::new(), kv_dtype: KvDtype::F16 };
            let task = Task { model: Path::new(""), threads: 1, prefill: 64, generate: 8 };
            Run { tools: &tools, task }.groups(&rows)
        };
        let (deep, batches) = (vec![prefill(128), lone(128)], vec![batch(1), batch(8)]);
        assert_eq!(
            groups(Fork::LlamaCpp),
            [vec![prefill(0)], deep.clone(), vec![lone(16)], batches.clone()]
        );
        let shallow = vec![prefill(0), lone(16)];
        assert_eq!(groups(Fork::Ik { repack: false }), [shallow, deep, batches]);
    }

    #[test]
    fn a_program_that_fails_takes_only_its_own_rows_with_it() {
        let row = |depth| Row::Decode { depth, batch: None };
        let groups = vec![vec![row(1), row(2)], vec![row(3), row(4)]];
        let outcomes = outcomes(groups, |rows| match rows.contains(&row(1)) {
            true => Err("it crashed".into()),
            false => Ok(vec![(row(1), 1.0), (row(4), 4.0)]),
        });
        let crashed = || Err("it crashed".to_owned());
        assert_eq!(
            outcomes,
            [
                (row(1), crashed()),
                (row(2), crashed()),
                (row(3), Err("not in what it reported".to_owned())),
                (row(4), Ok(4.0)),
            ]
        );
    }
}
