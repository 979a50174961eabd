//! `inference chat`: talk with a model.

mod session;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use inference::{ChatPrompt, Message};

use self::session::Session;
use crate::args::{LoadArgs, SamplingArgs, TemplateArgs};
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{input, load};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference chat
  inference chat \"What is 2 plus 3?\"
  inference chat --model ./my-model --system \"Be brief.\" \"Why is the sky blue?\"
  inference chat --messages conversation.json --json";

/// What a line is asked for with.
pub(crate) const PROMPT: &str = "> ";

/// Talk with a model
///
/// On a terminal: a line is a message, /reset forgets the conversation, /exit (or Ctrl-D) ends it,
/// Ctrl-C cuts the reply short. With a MESSAGE, piped input or --messages: the reply to that, and
/// no more. The reply streams to standard output, exactly as the model wrote it. With --json: one
/// {"token":{…}} line per token, then a {"summary":{…}} line, for each reply.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Messages, each answered in turn; `-`, or none with piped input, is all of standard input
    #[arg(value_name = "MESSAGE", conflicts_with = "messages")]
    message: Vec<String>,

    /// A message; the same as MESSAGE. Repeatable
    #[arg(long = "message", value_name = "TEXT", conflicts_with_all = ["messages", "message"])]
    message_option: Vec<String>,

    /// System message that opens the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Conversation to answer, a JSON array of messages in a file; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    messages: Option<PathBuf>,

    /// Read a message per line, even where standard input is not a terminal
    #[arg(short, long, conflicts_with_all = ["message", "message_option", "messages"])]
    interactive: bool,

    #[command(flatten)]
    template: TemplateArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    load: LoadArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    // Bad options and input are told before a model is loaded for them.
    args.sampling.options(context.json)?.validate().map_err(Failure::Request)?;
    let start = match (&args.messages, &args.system) {
        (Some(path), _) => {
            let json = input::file_or_stdin(path)?;
            inference::text::chat_prompt_from_json(&json).map_err(Failure::Request)?
        }
        (None, Some(system)) => ChatPrompt::new(vec![Message::system(system)]),
        (None, None) => ChatPrompt::new(Vec::new()),
    };
    let start = args.template.apply(start)?;
    let turns = args.turns()?;

    let model = load::load(&args.load, Some(1), context)?;
    let mut session = Session::new(&*model, start, &args.sampling, context, Output::new());
    if args.messages.is_some() {
        return session.answer_now();
    }
    match turns {
        Some(turns) => session.answer_each(turns),
        None => session.converse(io::stdin().lock()),
    }
}

impl Args {
    /// The messages to answer; `None` where they are typed.
    fn turns(&self) -> Result<Option<Vec<String>>> {
        let given = [&self.message[..], &self.message_option[..]].concat();
        match given.as_slice() {
            _ if self.messages.is_some() || self.interactive => Ok(None),
            [] if io::stdin().is_terminal() => Ok(None),
            [] => Ok(Some(vec![piped()?])),
            [one] if one == input::STDIN => Ok(Some(vec![piped()?])),
            messages => Ok(Some(messages.to_vec())),
        }
    }
}

/// The message on standard input.
fn piped() -> Result<String> {
    let message = input::prompt_or_stdin(Some(input::STDIN), "MESSAGE")?;
    if message.is_empty() {
        return Err(Failure::Usage("standard input holds no message".to_owned()));
    }
    Ok(message)
}
