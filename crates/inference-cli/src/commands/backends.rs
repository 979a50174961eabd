//! `inference backends`: what can run a model on this machine.

use std::sync::Arc;

use inference::{Availability, Backend, Capabilities, CapabilityId, DeviceInfo, Registry};
use serde::Serialize;

use crate::commands::Context;
use crate::failure::Result;
use crate::output::Output;
use crate::table;

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference backends
  inference backends --verbose
  inference backends --json | jq -r '.[] | select(.availability.ready) | .name'";

/// List backends, whether they can run here, and on what
///
/// In the order of automatic choice: without --backend the first that is ready runs a model.
/// With --verbose also what each can do. With --json: an array of objects with name, availability
/// and capabilities.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Json {
    name: String,
    availability: Availability,
    capabilities: Capabilities,
}

pub(crate) fn run(_: &Args, context: &Context) -> Result<()> {
    let backends = Registry::global().all();
    let mut output = Output::new();
    if context.json {
        let describe = |backend: &Arc<dyn Backend>| Json {
            name: backend.name().to_owned(),
            availability: backend.availability(),
            capabilities: backend.capabilities(),
        };
        return output.json(&backends.iter().map(describe).collect::<Vec<_>>());
    }
    let width = table::terminal_width();
    let rows: Vec<_> = backends.iter().flat_map(|backend| summary(&**backend)).collect();
    output.text(&table::render(&rows, width))?;
    if context.verbose > 0 {
        let (abilities, notes) = abilities(&backends);
        output.text("\n")?;
        // Statuses are not to be broken: the matrix is as wide as it is.
        output.text(&table::render(&abilities, usize::MAX))?;
        output.text("\n")?;
        output.text(&table::render(&notes, width))?;
    }
    Ok(())
}

/// A row per device, or one with the reason.
fn summary(backend: &dyn Backend) -> Vec<Vec<String>> {
    let row = |name: &str, state: &str, detail: String| vec![name.into(), state.into(), detail];
    match backend.availability() {
        Availability::Ready { devices } => {
            let mut rows: Vec<_> =
                devices.iter().map(|device| row("", "", describe(device))).collect();
            if rows.is_empty() {
                rows.push(row("", "", String::new()));
            }
            if let Some(first) = rows.first_mut() {
                *first = row(backend.name(), "ready", first.pop().unwrap_or_default());
            }
            rows
        }
        Availability::Unavailable { reason } => vec![row(backend.name(), "unavailable", reason)],
        _ => vec![row(backend.name(), "unknown", String::new())],
    }
}

fn describe(device: &DeviceInfo) -> String {
    let mut parts = vec![device.name.clone()];
    parts.extend(device.compute_units.map(|units| format!("{units} compute units")));
    parts.extend(device.memory_bytes.map(table::bytes));
    let fact = |(name, value): &(String, String)| format!("{} {value}", name.replace('_', " "));
    parts.extend(device.facts.iter().map(fact));
    parts.join(", ")
}

/// A row per ability, a column per backend; and the details as footnotes.
fn abilities(backends: &[Arc<dyn Backend>]) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let declared: Vec<Capabilities> =
        backends.iter().map(|backend| backend.capabilities()).collect();
    let names = backends.iter().map(|backend| backend.name().to_owned());
    let mut rows = vec![[String::new(), String::new()].into_iter().chain(names).collect()];
    let mut details: Vec<String> = Vec::new();
    let mut group = "";
    for id in CapabilityId::ALL {
        let heading = if id.group() == group { "" } else { id.group() };
        group = id.group();
        let mut row = vec![heading.to_owned(), id.to_string()];
        for capabilities in &declared {
            let mut cell = capabilities.status(*id).to_string();
            let detail = capabilities.get(*id).map_or("", |ability| &ability.detail);
            if !detail.is_empty() {
                let known = details.iter().position(|known| known == detail);
                let number = known.unwrap_or_else(|| {
                    details.push(detail.to_owned());
                    details.len() - 1
                });
                cell.push_str(&superscript(number + 1));
            }
            row.push(cell);
        }
        rows.push(row);
    }
    let notes = details.into_iter().enumerate();
    (rows, notes.map(|(index, detail)| vec![superscript(index + 1), detail]).collect())
}

fn superscript(number: usize) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let digit = |c: char| c.to_digit(10).and_then(|digit| DIGITS.get(digit as usize)).copied();
    number.to_string().chars().filter_map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footnotes_are_numbered_in_superscript() {
        assert_eq!(superscript(1), "¹");
        assert_eq!(superscript(20), "²⁰");
    }
}
