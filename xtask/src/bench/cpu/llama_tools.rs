//! llama.cpp and ik_llama.cpp through the benchmarks that they come with.

use std::path::{Path, PathBuf};
use std::process::Command;

use inference::KvDtype;
use serde_json::Value;

use super::row::Row;
use crate::Result;

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

    /// Every row once.
    pub(super) fn measure(
        &self,
        model: &Path,
        threads: usize,
        generate: usize,
        rows: &[Row],
    ) -> Result<Vec<(Row, f64)>> {
        let model = &model.canonicalize()?;
        let run = Run { tools: self, model, threads, generate };
        let mut lone: Vec<Row> = Vec::new();
        let mut batches = Vec::new();
        for row in rows {
            match row {
                Row::Decode { depth, batch: Some(batch) } => batches.push((*depth, *batch)),
                _ => lone.push(*row),
            }
        }
        let mut found = match self.fork {
            Fork::LlamaCpp => run.llama_bench(&lone)?,
            Fork::Ik { .. } => run.sweeps(&lone)?,
        };
        if let Some((depth, _)) = batches.first() {
            let sizes: Vec<usize> = batches.iter().map(|(_, batch)| *batch).collect();
            for entry in run.batched_bench(&[*depth], &sizes)? {
                let row = Row::Decode { depth: entry.prompt, batch: Some(entry.batch) };
                found.push((row, entry.decode));
            }
        }
        match rows.iter().find(|row| found.iter().all(|(known, _)| known != *row)) {
            Some(row) => Err(format!("{} did not report {row}", self.name()).into()),
            None => Ok(rows
                .iter()
                .filter_map(|row| found.iter().find(|(r, _)| r == row))
                .copied()
                .collect()),
        }
    }
}

/// What all programs are started with.
struct Run<'a> {
    tools: &'a LlamaTools,
    model: &'a Path,
    threads: usize,
    generate: usize,
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
        command.arg("-m").arg(self.model).args(["-t", &self.threads.to_string()]);
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
        let both = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&both).into_owned();
        if !output.status.success() {
            let last: Vec<&str> = text.lines().rev().take(5).collect();
            return Err(format!("{} failed: {}", path.display(), last.join(" / ")).into());
        }
        Ok(text)
    }

    /// llama.cpp: every depth with prefill and decode.
    fn llama_bench(&self, rows: &[Row]) -> Result<Vec<(Row, f64)>> {
        let mut found = Vec::new();
        let Some(tokens) = prefill_of(rows) else { return Ok(found) };
        for depth in depths(rows) {
            let asked = |row: Row| if rows.contains(&row) { 1 } else { 0 };
            let prefill = Row::Prefill { tokens, depth };
            let decode = Row::Decode { depth, batch: None };
            let text = self.start(
                "llama-bench",
                &[
                    ("-p", (tokens * asked(prefill)).to_string()),
                    ("-n", (self.generate * asked(decode)).to_string()),
                    ("-d", depth.to_string()),
                    ("-r", "1".to_owned()),
                    ("-o", "json".to_owned()),
                ],
            )?;
            for entry in json_entries(&text)? {
                let rate = entry["avg_ts"].as_f64().ok_or("llama-bench: no avg_ts")?;
                let is_prefill = entry["n_prompt"].as_u64() != Some(0);
                found.push((if is_prefill { prefill } else { decode }, rate));
            }
        }
        Ok(found)
    }

    /// ik_llama.cpp: shallow rows from separate prompts, deep ones from a
    /// sweep that goes by the measured prefill.
    fn sweeps(&self, rows: &[Row]) -> Result<Vec<(Row, f64)>> {
        let mut found = Vec::new();
        let Some(tokens) = prefill_of(rows) else { return Ok(found) };
        let (deep, shallow): (Vec<usize>, Vec<usize>) =
            depths(rows).into_iter().partition(|depth| *depth >= tokens);
        let mut prompts: Vec<usize> = shallow.into_iter().filter(|depth| *depth > 0).collect();
        prompts.push(tokens);
        for entry in self.batched_bench(&prompts, &[1])? {
            if entry.prompt == tokens {
                found.push((Row::Prefill { tokens, depth: 0 }, entry.prefill));
            }
            found.push((Row::Decode { depth: entry.prompt, batch: None }, entry.decode));
        }
        for depth in deep {
            if depth % tokens != 0 {
                let name = self.tools.name();
                return Err(format!("{name}: {depth} is no multiple of {tokens}").into());
            }
            let text = self.start(
                "llama-sweep-bench",
                &[
                    ("-c", (depth + tokens).to_string()),
                    ("-ub", tokens.to_string()),
                    ("-n", self.generate.to_string()),
                    ("--sweep-stride", (depth / tokens).to_string()),
                ],
            )?;
            let table = Table::parse(&text)?;
            for line in 0..table.lines.len() {
                if table.count(line, "N_KV")? == depth {
                    let prefill = Row::Prefill { tokens, depth };
                    found.push((prefill, table.number(line, "S_PP t/s")?));
                    let decode = Row::Decode { depth, batch: None };
                    found.push((decode, table.number(line, "S_TG t/s")?));
                }
            }
        }
        Ok(found)
    }

    fn batched_bench(&self, prompts: &[usize], batches: &[usize]) -> Result<Vec<Entry>> {
        let join = |numbers: &[usize]| {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let most = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(1);
        let context = most(batches) * (most(prompts) + self.generate);
        let text = self.start(
            "llama-batched-bench",
            &[
                ("-c", context.to_string()),
                ("-npp", join(prompts)),
                ("-ntg", self.generate.to_string()),
                ("-npl", join(batches)),
            ],
        )?;
        let table = Table::parse(&text)?;
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
}

fn prefill_of(rows: &[Row]) -> Option<usize> {
    rows.iter().find_map(|row| match row {
        Row::Prefill { tokens, .. } => Some(*tokens),
        Row::Decode { .. } => None,
    })
}

/// Each depth once.
fn depths(rows: &[Row]) -> Vec<usize> {
    let mut depths: Vec<usize> = rows
        .iter()
        .map(|row| match row {
            Row::Prefill { depth, .. } | Row::Decode { depth, .. } => *depth,
        })
        .collect();
    depths.sort_unstable();
    depths.dedup();
    depths
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
    fn a_depth_is_asked_for_once() {
        let rows = [
            Row::Prefill { tokens: 512, depth: 4096 },
            Row::Decode { depth: 64, batch: None },
            Row::Decode { depth: 4096, batch: None },
        ];
        assert_eq!(depths(&rows), [64, 4096]);
        assert_eq!(prefill_of(&rows), Some(512));
    }
}
