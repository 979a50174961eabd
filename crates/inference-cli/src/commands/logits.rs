//! `inference logits`: the logits of a prompt's positions.

use inference::{CapabilityId, Error, LogitRows, Prompt, TokenId};
use serde::Serialize;

use crate::args::{Ids, LoadArgs};
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{input, load, table, text_parts};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference logits \"Once upon a\"
  inference logits --model ./my-model --ids 1,403,407 --all --json > logits.json";

/// Print the logits of a prompt's positions
///
/// Prints the likeliest next tokens after the last (or every) position. With --json:
/// {"logits":[[…],…]}, a row of the whole vocabulary per position, each number the shortest that
/// reads back as the same 32-bit float.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Text; `-`, or none with piped input, reads standard input without its last newline
    #[arg(conflicts_with = "ids")]
    prompt: Option<String>,

    /// Token ids in place of a prompt, used as they are: 1,2,3
    #[arg(long, value_name = "IDS")]
    ids: Option<Ids>,

    /// Every position, not just the last
    #[arg(long)]
    all: bool,

    /// How many tokens to show per position
    #[arg(long, value_name = "N", default_value_t = 5, conflicts_with = "json")]
    top: usize,

    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Serialize)]
struct Json<'a> {
    logits: Vec<&'a [f32]>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let text = match &args.ids {
        Some(_) => None,
        None => Some(input::prompt_or_stdin(args.prompt.as_deref(), "PROMPT")?),
    };
    let model = load::load(&args.load, Some(1), context)?;
    let ids = match (&args.ids, text) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, text) => model.encode(&text.unwrap_or_default(), true).map_err(Failure::Request)?,
    };
    let scorer = model.as_scorer().ok_or_else(|| {
        let info = model.info();
        let subject = format!("{} on backend `{}`", info.architecture, info.backend);
        Failure::Request(Error::unsupported(subject, CapabilityId::Logits.as_str()))
    })?;
    let rows = if args.all { LogitRows::All } else { LogitRows::Last };
    let count = ids.len();
    let logits =
        scorer.prompt_logits(Prompt::Tokens(ids.clone()), rows).map_err(Failure::Request)?;
    let mut output = Output::new();
    if context.json {
        return output.json(&Json { logits: logits.rows().collect() });
    }
    // A model without a tokenizer still has logits.
    let tokenizer = match model.info().has_tokenizer {
        true => Some(text_parts::tokenizer(&args.load.source.source()?)?),
        false => None,
    };
    let piece = |id: TokenId| {
        tokenizer.as_ref().map_or(String::new(), |all| format!("{:?}", all.token_text(id)))
    };
    let first = count.saturating_sub(logits.rows().len());
    let mut cells = vec![header()];
    for (offset, row) in logits.rows().enumerate() {
        let position = first + offset;
        let read = ids.get(position).map_or(String::new(), |id| piece(*id));
        for (rank, (id, logit, probability)) in top(row, args.top).into_iter().enumerate() {
            let (position, read) =
                if rank == 0 { (position.to_string(), read.clone()) } else { Default::default() };
            cells.push(vec![
                position,
                read,
                format!("{:5.1}%", probability * 100.0),
                format!("{logit:9.4}"),
                id.to_string(),
                piece(id),
            ]);
        }
    }
    output.text(&table::render(&cells, table::terminal_width()))
}

fn header() -> Vec<String> {
    ["pos", "after", "  prob", "    logit", "id", "next"].map(str::to_owned).to_vec()
}

/// The `count` largest logits of a row: id, logit and probability.
fn top(row: &[f32], count: usize) -> Vec<(TokenId, f32, f64)> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let mut ranked: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    // Equal logits stay in the order of their ids.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(count);
    let share = |(id, logit): (u32, f32)| (id, logit, f64::from(logit - max).exp() / sum);
    ranked.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logits_come_first_with_their_softmax() {
        let ranked = top(&[0.0, 3.0_f32.ln(), 0.0], 2);
        let ids: Vec<_> = ranked.iter().map(|(id, ..)| *id).collect();
        assert_eq!(ids, [1, 0]);
        assert!((ranked[0].2 - 0.6).abs() < 1e-6);
        assert!((ranked[1].2 - 0.2).abs() < 1e-6);
    }
}
