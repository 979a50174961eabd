//! Every way to end has its reason, and what ends a text is not part of it.

use inference_core::{CapabilityId, FinishReason};

use crate::behaviour::Behaviour;
use crate::context::{Context, Output, SOME};
use crate::outcome::{Check, Outcome, ensure_eq};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[Behaviour {
    id: "endings/length",
    demand: "`max_tokens` tokens end a text as `Length`",
    requires: REQUIRES,
    check: length,
}];

fn length(context: &Context) -> Check {
    let model = context.model()?;
    for tokens in [1, 2, SOME] {
        let (prompt, options, tokens) = context.long_request(tokens)?;
        let output = context.run(&*model, prompt, options)?;
        ensure_eq!(output.tokens.len(), tokens, "tokens of `max_tokens` = {tokens}");
        let Output { completion, .. } = output;
        ensure_eq!(completion.finish_reason, FinishReason::Length, "the reason");
        ensure_eq!(completion.metrics.generated_tokens, tokens, "`generated_tokens`");
    }
    Ok(Outcome::PASS)
}
