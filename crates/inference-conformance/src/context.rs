//! What a check works with: one backend, one model, and the moves that checks
//! share.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use inference_core::{
    Backend, Completion, ErrorKind, GenerateOptions, LoadOptions, Prompt, Result, TextModel, Token,
    TokenId, TokenStream,
};

use crate::model_under_test::ModelUnderTest;
use crate::outcome::{Stop, ensure, explained, fail, not_applicable};

/// Tokens that a check generates where nothing special is asked for.
pub(crate) const SOME: usize = 12;

/// Tokens of a request that has to outlast others, within the context.
pub(crate) const MANY: usize = 240;

/// Texts that prompts are made of where none are given: unequal lengths, and
/// what tokenizers find hard.
pub(crate) const TEXTS: [&str; 8] = [
    "Once upon a time",
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.",
    "7 + 5 =",
    "日本語のテキストと中文文本，한국어도.",
    "👩\u{200d}👩\u{200d}👧\u{200d}👦 and 🏳️\u{200d}🌈 and 👍🏽!",
    "e\u{301}le\u{300}ve, n\u{303}, Z\u{351}a\u{334}l\u{321}go\u{489}",
    "नमस्ते दुनिया, שָׁלוֹם, مرحبا",
    "\tfn main() {\n    println!(\"{}\", 1 << 20);\n}\n",
];

/// One backend and one model.
pub(crate) struct Context {
    backend: Arc<dyn Backend>,
    data: ModelUnderTest,
    /// Half of what the check may take in all.
    patience: Duration,
    model: OnceLock<Arc<dyn TextModel>>,
}

/// A request read to its end.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) tokens: Vec<Token>,
    pub(crate) completion: Completion,
}

impl Output {
    pub(crate) fn ids(&self) -> Vec<TokenId> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    pub(crate) fn text(&self) -> String {
        self.tokens.iter().map(|token| token.text.as_str()).collect()
    }
}

impl Context {
    pub(crate) fn new(backend: Arc<dyn Backend>, data: ModelUnderTest, limit: Duration) -> Self {
        Self { backend, data, patience: limit / 2, model: OnceLock::new() }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(crate) fn shared_backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    pub(crate) fn data(&self) -> &ModelUnderTest {
        &self.data
    }

    /// The model, loaded as its data say; the same one in every call.
    pub(crate) fn model(&self) -> Result<Arc<dyn TextModel>, Stop> {
        if let Some(model) = self.model.get() {
            return Ok(Arc::clone(model));
        }
        let model = self.backend.load_model(&self.data.source, &self.data.load)?;
        Ok(Arc::clone(self.model.get_or_init(|| model)))
    }

    /// A further load with options of the check's own; one that is refused by
    /// name makes the check unsupported.
    pub(crate) fn load_with(
        &self,
        change: impl FnOnce(LoadOptions) -> LoadOptions,
    ) -> Result<Arc<dyn TextModel>, Stop> {
        let options = change(self.data.load.clone());
        honoured(self.backend.load_model(&self.data.source, &options))
    }

    /// Prompts of unequal lengths, at least three.
    pub(crate) fn prompts(&self) -> Result<Vec<Vec<TokenId>>, Stop> {
        let model = self.model()?;
        let room = model.info().context_len.saturating_sub(2 * SOME).max(1);
        let mut prompts = self.data.prompts.clone();
        prompts.extend(self.data.references.iter().map(|reference| reference.prompt.clone()));
        if prompts.len() < 3 && model.info().has_tokenizer {
            for text in TEXTS {
                prompts.push(model.encode(text, true)?);
            }
        }
        for seed in (prompts.len() as u64)..3 {
            prompts.push(self.invented(3 + 5 * seed as usize, seed)?);
        }
        for prompt in &mut prompts {
            prompt.truncate(room);
        }
        prompts.retain(|prompt| !prompt.is_empty());
        prompts.truncate(8);
        ensure!(prompts.len() >= 3, "the model under test has no three prompts that fit");
        Ok(prompts)
    }

    /// Ids that mean nothing, the same for the same seed.
    fn invented(&self, len: usize, seed: u64) -> Result<Vec<TokenId>, Stop> {
        let vocab = self.model()?.info().vocab_size as u64;
        ensure!(vocab > 0, "`info().vocab_size` is 0");
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let mut next = || {
            // Knuth, The Art of Computer Programming, vol. 2, 3.3.4 (MMIX).
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab) as TokenId
        };
        Ok((0..len).map(|_| next()).collect())
    }

    /// A prompt of so many tokens, different for different `salt`s from its
    /// first token on where the model's prompts are.
    pub(crate) fn long_prompt(&self, len: usize, salt: usize) -> Result<Vec<TokenId>, Stop> {
        let ids: Vec<TokenId> = self.prompts()?.concat();
        Ok(ids.iter().copied().cycle().skip(salt % ids.len()).take(len).collect())
    }

    /// Greedy options for so many tokens that go on past the end of the text
    /// where the backend can.
    pub(crate) fn greedy(&self, tokens: usize) -> Result<GenerateOptions, Stop> {
        let plain = GenerateOptions::new().with_max_tokens(tokens).with_temperature(0.0);
        let past_the_end = plain.clone().with_ignore_eos(true);
        // Nothing is computed unless the stream is read.
        let probe = self.prompts()?.swap_remove(0);
        match self.model()?.generate(probe.into(), past_the_end.clone()) {
            Ok(_) => Ok(past_the_end),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(plain),
            Err(error) => Err(error.into()),
        }
    }

    /// A prompt and options that generate exactly so many tokens (or as many
    /// as the context holds), and how many those are.
    pub(crate) fn long_request(
        &self,
        tokens: usize,
    ) -> Result<(Vec<TokenId>, GenerateOptions, usize), Stop> {
        let model = self.model()?;
        let context = model.info().context_len;
        let short = self.prompts()?.swap_remove(0);
        let tokens = tokens.min(context.saturating_sub(short.len() + 1));
        let options = self.greedy(tokens)?;
        if options.ignore_eos == Some(true) {
            return Ok((short, options, tokens));
        }
        // Without that option a longer prompt may give a longer text.
        let tokens = tokens.min(context / 2);
        let (options, prompt) = (self.greedy(tokens)?, self.long_prompt(tokens, 0)?);
        let found = self.run(&*model, prompt.clone(), options.clone())?;
        if found.tokens.len() < tokens {
            return not_applicable(format!(
                "`ignore_eos` is refused and no prompt generates {tokens} tokens"
            ));
        }
        Ok((prompt, options, tokens))
    }

    /// Generates and reads to the end.
    pub(crate) fn run(
        &self,
        model: &dyn TextModel,
        prompt: impl Into<Prompt>,
        options: GenerateOptions,
    ) -> Result<Output, Stop> {
        read(model.generate(prompt.into(), options)?)
    }

    /// [`run`](Self::run), where options that are refused by name make the
    /// check unsupported.
    pub(crate) fn run_honoured(
        &self,
        model: &dyn TextModel,
        prompt: impl Into<Prompt>,
        options: GenerateOptions,
    ) -> Result<Output, Stop> {
        read(honoured(model.generate(prompt.into(), options))?)
    }

    /// Waits for what has to come true soon; a guard against hangs, not a
    /// measurement.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), Stop> {
        let deadline = Instant::now() + self.patience;
        while !condition() {
            if Instant::now() >= deadline {
                let waited = self.patience.as_secs_f32();
                return fail(format!("{what}: not so after {waited} s"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until nothing runs and nothing is queued.
    pub(crate) fn wait_idle(&self, model: &dyn TextModel) -> Result<(), Stop> {
        self.wait_until("every request has left the scheduler", || {
            let metrics = model.metrics();
            metrics.running == 0 && metrics.queued == 0
        })
    }
}

/// Reads a stream to its end.
pub(crate) fn read(mut stream: TokenStream) -> Result<Output, Stop> {
    let mut tokens = Vec::new();
    for token in stream.by_ref() {
        tokens.push(token?);
    }
    Ok(Output { tokens, completion: stream.finish()? })
}

/// What is refused by name is no failure: the check is unsupported.
pub(crate) fn honoured<T>(result: Result<T>) -> Result<T, Stop> {
    result.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Stop::Unsupported(explained(&error)),
        _ => error.into(),
    })
}

/// Fails unless the call was refused with this kind.
pub(crate) fn ensure_kind<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<(), Stop> {
    match result {
        Ok(_) => fail(format!("{what}: expected an error of kind `{}`, found none", kind.as_str())),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => fail(format!(
            "{what}: expected an error of kind `{}`, found `{}` ({})",
            kind.as_str(),
            error.kind().as_str(),
            explained(&error)
        )),
    }
}

/// The largest absolute difference; infinite where lengths differ or a value
/// is not a number.
pub(crate) fn worst_difference(left: &[f32], right: &[f32]) -> f32 {
    if left.len() != right.len() {
        return f32::INFINITY;
    }
    let difference = |(a, b): (&f32, &f32)| {
        let d = if a == b { 0.0 } else { (a - b).abs() };
        if d.is_nan() { f32::INFINITY } else { d }
    };
    left.iter().zip(right).map(difference).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_differs_most() {
        assert_eq!(worst_difference(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
        assert_eq!(worst_difference(&[1.0], &[f32::NAN]), f32::INFINITY);
        assert_eq!(worst_difference(&[f32::NEG_INFINITY], &[f32::NEG_INFINITY]), 0.0);
        assert_eq!(worst_difference(&[1.0], &[1.0, 2.0]), f32::INFINITY);
    }
}
