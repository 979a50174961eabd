//! `inference generate`: continue a text.

use inference::Prompt;

use crate::args::{Ids, LoadArgs, SamplingArgs};
use crate::commands::Context;
use crate::failure::Result;
use crate::output::Output;
use crate::{input, load, reply};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference generate \"Once upon a time\"
  inference generate --temperature 0.8 --top-p 0.95 --seed 7 -n 64 \"The dog\"
  inference generate --model ./my-model --json --ids 1,403,407 | jq .token.id
  cat prompt.txt | inference generate --stop \"The end\"";

/// Continue a text
///
/// The text streams to standard output, exactly as the model wrote it; a newline is added on a
/// terminal only. With --json: one {"token":{…}} line per token, then a {"summary":{…}} line.
/// Ctrl-C ends the text; the summary is still printed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Text to continue; `-`, or none with piped input, reads standard input without its last
    /// newline
    #[arg(conflicts_with = "ids")]
    prompt: Option<String>,

    /// Token ids in place of a prompt, used as they are: 1,2,3
    #[arg(long, value_name = "IDS")]
    ids: Option<Ids>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    load: LoadArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let prompt: Prompt = match &args.ids {
        Some(Ids(ids)) => ids.clone().into(),
        None => input::prompt_or_stdin(args.prompt.as_deref(), "PROMPT")?.into(),
    };
    // Bad options are told before a model is loaded for them.
    args.sampling.options(context.json)?.validate().map_err(crate::failure::Failure::Request)?;
    let model = load::load(&args.load, Some(1), context)?;
    let options = args.sampling.options(context.json)?;
    let mut output = Output::new();
    let reply = reply::print(context, &mut output, |cancel| {
        model.generate(prompt, options.with_cancel(cancel))
    })?;
    if !context.json {
        output.end_text()?;
        context.notes.aside(&reply::cost(&reply.completion));
    }
    reply.into_end()
}
