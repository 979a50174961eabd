//! References taken from a model whose answers are trusted.

use inference_core::{Error, GenerateOptions, LogitRows, Result, TextModel, TokenId};

use crate::model_under_test::{ModelUnderTest, Reference};

impl ModelUnderTest {
    /// Adds what `trusted` makes of these prompts: the logits after each, and
    /// `tokens` greedy ids with their margins. `trusted` is the same model,
    /// loaded by a backend that is slower and simpler.
    ///
    /// # Errors
    ///
    /// Those of `trusted`; [`Unsupported`](inference_core::ErrorKind::Unsupported)
    /// where it does not report logits.
    pub fn with_references_of(
        mut self,
        trusted: &dyn TextModel,
        prompts: &[Vec<TokenId>],
        tokens: usize,
    ) -> Result<Self> {
        let missing = || Error::unsupported("the trusted model", "logits");
        let scorer = trusted.as_scorer().ok_or_else(missing)?;
        for prompt in prompts {
            let last = scorer.prompt_logits(prompt.clone().into(), LogitRows::Last)?;
            let options = GenerateOptions::new()
                .with_max_tokens(tokens)
                .with_temperature(0.0)
                .with_repeat_penalty(1.0)
                .with_ignore_eos(true)
                .with_logits(true);
            let (mut greedy, mut margins) = (Vec::new(), Vec::new());
            for token in trusted.generate(prompt.clone().into(), options)? {
                let token = token?;
                greedy.push(token.id);
                margins.push(margin(&token.logits.ok_or_else(missing)?));
            }
            self.references.push(
                Reference::new(prompt.clone(), greedy)
                    .with_margins(margins)
                    .with_last_logits(last.values),
            );
        }
        Ok(self)
    }
}

/// By how much the largest value exceeds the second largest.
fn margin(logits: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for value in logits {
        if *value > first {
            (first, second) = (*value, first);
        } else if *value > second {
            second = *value;
        }
    }
    first - second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_maxima_have_no_margin() {
        assert_eq!(margin(&[1.0, 3.0, 2.5]), 0.5);
        assert_eq!(margin(&[3.0, 3.0, 1.0]), 0.0);
    }
}
