//! `inference backends`: what can run a model on this machine.

use inference::{Availability, Backend, Capabilities, DeviceInfo, Registry};
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
        let describe = |backend: &std::sync::Arc<dyn Backend>| Json {
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
        for backend in &backends {
            output.line(&format!("\n{}", backend.name()))?;
            output.text(&table::render(&abilities(&backend.capabilities()), width))?;
        }
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
    parts.extend(device.facts.iter().map(|(name, value)| format!("{name} {value}")));
    parts.join(" · ")
}

fn abilities(capabilities: &Capabilities) -> Vec<Vec<String>> {
    let mut group = "";
    let mut rows = Vec::new();
    for ability in capabilities {
        let heading = if ability.group == group { "" } else { ability.group };
        group = ability.group;
        rows.push(vec![
            format!("  {heading}"),
            ability.id.to_string(),
            ability.status.to_string(),
            ability.detail.clone(),
        ]);
    }
    rows
}
