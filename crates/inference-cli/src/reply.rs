//! Printing a stream of tokens as it comes.

use inference::{CancelToken, Completion, FinishReason, Result as ModelResult, TokenStream};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::json::{SummaryLine, TokenLine};
use crate::output::Output;

/// What was printed.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) completion: Completion,
}

impl Reply {
    pub(crate) fn was_cancelled(&self) -> bool {
        self.completion.finish_reason == FinishReason::Cancelled
    }

    /// The reply as the end of a command, where being cut short is a failure.
    pub(crate) fn into_end(self) -> Result<()> {
        match self.completion.finish_reason {
            FinishReason::Cancelled => Err(Failure::Interrupted),
            FinishReason::Lagging => Err(Failure::Lagging),
            _ => Ok(()),
        }
    }
}

/// Starts a request that Ctrl-C cancels, and prints its tokens as they come:
/// text, or with `--json` a line per token and a summary.
pub(crate) fn print(
    context: &Context,
    output: &mut Output,
    request: impl FnOnce(CancelToken) -> ModelResult<TokenStream>,
) -> Result<Reply> {
    context.interrupts.while_cancellable(|cancel| {
        let stream = request(cancel).map_err(Failure::Request)?;
        read(stream, context.json, output)
    })
}

fn read(mut stream: TokenStream, json: bool, output: &mut Output) -> Result<Reply> {
    let mut text = String::new();
    for token in stream.by_ref() {
        let token = match token {
            Ok(token) => token,
            Err(error) => {
                // The error is told on a line of its own.
                output.end_text()?;
                return Err(Failure::Request(error));
            }
        };
        text.push_str(&token.text);
        if json {
            output.json(&TokenLine::new(&token))?;
        } else {
            output.text(&token.text)?;
        }
    }
    let completion = stream.finish().map_err(Failure::Request)?;
    if json {
        output.json(&SummaryLine::new(&completion, &text))?;
    }
    Ok(Reply { text, completion })
}

/// One line about what a reply cost, for a person.
pub(crate) fn cost(completion: &Completion) -> String {
    let metrics = &completion.metrics;
    let mut parts = vec![
        completion.finish_reason.to_string(),
        format!("{} + {} tokens", metrics.prompt_tokens, metrics.generated_tokens),
    ];
    if metrics.cached_prompt_tokens > 0 {
        parts.push(format!("{} cached", metrics.cached_prompt_tokens));
    }
    if let Some(ttft) = metrics.ttft {
        parts.push(format!("first after {:.1} ms", ttft.as_secs_f64() * 1e3));
    }
    let rate = metrics.decode_tokens_per_sec();
    if rate > 0.0 {
        parts.push(format!("{rate:.0} tokens/s"));
    }
    if metrics.draft_tokens > 0 {
        let (accepted, drafted) = (metrics.accepted_draft_tokens, metrics.draft_tokens);
        parts.push(format!("{accepted} of {drafted} drafts"));
    }
    format!("[{}]", parts.join(" · "))
}
