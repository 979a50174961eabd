//! `inference template`: render messages with a model's chat template.

use std::path::PathBuf;

use inference::text::LocalTime;

use crate::args::{SourceArgs, TemplateArgs};
use crate::commands::Context;
use crate::failure::{self, Failure};
use crate::output::Output;
use crate::{input, text_parts};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference template messages.json
  inference template --model ./my-model messages.json --set enable_thinking=false
  echo '[{\"role\":\"user\",\"content\":\"Hello!\"}]' | inference template -";

/// Render messages with a model's chat template
///
/// Prints the text exactly as the model would read it, without an added newline; with --json
/// {"text":…}. The model folder needs a tokenizer only, no weights.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A JSON array of messages, each with role and content; `-` is standard input
    #[arg(value_name = "MESSAGES.json")]
    messages: PathBuf,

    /// Do not open the assistant's turn at the end
    #[arg(long)]
    no_generation_prompt: bool,

    /// Time that the template sees, such as 2025-01-31T09:30:00 [default: now]
    #[arg(long, value_name = "TIME", value_parser = local_time)]
    now: Option<LocalTime>,

    #[command(flatten)]
    template: TemplateArgs,

    #[command(flatten)]
    source: SourceArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> failure::Result<()> {
    let json = input::file_or_stdin(&args.messages)?;
    let chat = inference::text::chat_prompt_from_json(&json).map_err(Failure::Request)?;
    let chat = args.template.apply(chat)?.with_generation_prompt(!args.no_generation_prompt);
    let mut template = text_parts::chat_template(&args.source.source()?)?;
    if let Some(now) = args.now {
        template = template.with_clock(now);
    }
    let text = template.render(&chat).map_err(Failure::Request)?;
    let mut output = Output::new();
    if context.json {
        output.json(&serde_json::json!({ "text": text }))
    } else {
        output.text(&text)
    }
}

/// `2025-01-31T09:30:00`, a local time.
fn local_time(text: &str) -> Result<LocalTime, String> {
    let expected = || format!("expected a time such as 2025-01-31T09:30:00, found `{text}`");
    let parts: Vec<&str> = text.split(['-', 'T', ':']).collect();
    let [year, month, day, hour, minute, second] = parts[..] else { return Err(expected()) };
    let small = |part: &str| part.parse::<i8>().map_err(|_| expected());
    let year = year.parse().map_err(|_| expected())?;
    LocalTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_of_the_calendar() {
        let time = local_time("2025-01-31T09:30:00").unwrap();
        assert_eq!(time.strftime("%d %b %Y %H:%M:%S").unwrap(), "31 Jan 2025 09:30:00");
        for bad in ["2025-02-31T00:00:00", "2025-01-31", "yesterday", "2025-01-31T09:30:61"] {
            assert!(local_time(bad).is_err(), "{bad}");
        }
    }
}
