//! `inference tokenize`: text to token ids, or back.

use inference::TokenId;
use inference::text::Tokenizer;
use serde::Serialize;

use crate::args::{Ids, SourceArgs};
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{input, table, text_parts};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference tokenize \"Once upon a time\"
  inference tokenize --pieces --model ./my-model \"Grüße!\"
  inference tokenize --decode 403,407,261,378
  inference tokenize --json - < story.txt | jq '.ids | length'";

/// Turn text into token ids, or back
///
/// Prints the ids on one line, as --ids takes them. With --json: {"ids":[…]}, and with --decode
/// {"text":…}. The model folder needs a tokenizer only, no weights.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Text, or with --decode token ids; `-`, or none with piped input, is all of standard input,
    /// unchanged
    text: Option<String>,

    /// Turn ids into text
    #[arg(short, long)]
    decode: bool,

    /// Without the special tokens (such as BOS) that surround a text
    #[arg(long)]
    no_special: bool,

    /// A line per token: its id and its own text
    #[arg(long, conflicts_with = "json")]
    pieces: bool,

    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Serialize)]
struct IdsJson<'a> {
    ids: &'a [TokenId],
}

#[derive(Serialize)]
struct TextJson<'a> {
    text: &'a str,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let given =
        input::text_or_stdin(args.text.as_deref(), if args.decode { "IDS" } else { "TEXT" })?;
    let given_ids = match args.decode {
        true => Some(given.parse::<Ids>().map_err(Failure::Usage)?.0),
        false => None,
    };
    let tokenizer = text_parts::tokenizer(&args.source.source()?)?;
    let mut output = Output::new();
    let ids = match given_ids {
        Some(ids) if !args.pieces => {
            let text = tokenizer.decode(&ids, args.no_special).map_err(Failure::Request)?;
            return if context.json {
                output.json(&TextJson { text: &text })
            } else {
                output.text(&text)?;
                output.end_text()
            };
        }
        Some(ids) => ids,
        None => tokenizer.encode(&given, !args.no_special).map_err(Failure::Request)?,
    };
    if context.json {
        output.json(&IdsJson { ids: &ids })
    } else if args.pieces {
        output.text(&pieces(&tokenizer, &ids))
    } else {
        let list: Vec<_> = ids.iter().map(ToString::to_string).collect();
        output.line(&list.join(","))
    }
}

fn pieces(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let row = |id: &TokenId| vec![id.to_string(), format!("{:?}", tokenizer.token_text(*id))];
    table::render(&ids.iter().map(row).collect::<Vec<_>>(), usize::MAX)
}
