//! What a benchmark prints.

use inference::DeviceInfo;
use serde::Serialize;

use super::measure::Spread;
use crate::table;

/// The result for one batch size.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) model: String,
    pub(super) architecture: &'a str,
    pub(super) backend: &'a str,
    pub(super) weight_dtype: &'a str,
    pub(super) parameters: u64,
    /// `null`: the backend's choice.
    pub(super) threads: Option<usize>,
    pub(super) batch: usize,
    pub(super) prompt_tokens: usize,
    pub(super) gen_tokens: usize,
    pub(super) depth: usize,
    pub(super) repeat: usize,
    pub(super) prefill_tokens_per_sec: Spread,
    pub(super) decode_tokens_per_sec: Spread,
    pub(super) load_ms: f64,
    pub(super) first_token_ms: f64,
    pub(super) peak_rss_bytes: Option<u64>,
    pub(super) machine: Option<DeviceInfo>,
}

/// For people: what is common in lines, then a row per batch size.
pub(super) fn table(reports: &[Report<'_>]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let rss = reports.iter().filter_map(|report| report.peak_rss_bytes).max();
    let machine = first.machine.as_ref().map_or_else(String::new, |device| {
        let units = device.compute_units.map(|units| format!(", {units} compute units"));
        format!("{}{}", device.name, units.unwrap_or_default())
    });
    let facts = [
        vec!["model".to_owned(), first.model.clone()],
        vec![
            "weights".to_owned(),
            format!(
                "{}, {:.1} M parameters, {}",
                first.architecture,
                first.parameters as f64 / 1e6,
                first.weight_dtype
            ),
        ],
        vec!["backend".to_owned(), format!("{} on {machine}", first.backend)],
        vec!["load".to_owned(), format!("{:.0} ms", first.load_ms)],
        vec!["first token".to_owned(), format!("{:.1} ms", first.first_token_ms)],
        vec!["peak memory".to_owned(), rss.map_or_else(|| "unknown".to_owned(), table::bytes)],
    ];
    let header = [
        "batch".to_owned(),
        "depth".to_owned(),
        format!("prefill of {}, tokens/s", first.prompt_tokens),
        format!("decode of {}, tokens/s", first.gen_tokens),
    ];
    let mut rows = vec![header.to_vec()];
    for report in reports {
        rows.push(vec![
            report.batch.to_string(),
            report.depth.to_string(),
            spread(report.prefill_tokens_per_sec),
            spread(report.decode_tokens_per_sec),
        ]);
    }
    let width = table::terminal_width();
    format!("{}\n{}", table::render(&facts, width), table::render(&rows, width))
}

fn spread(spread: Spread) -> String {
    format!("{:.1} [{:.1} … {:.1}]", spread.median, spread.min, spread.max)
}
