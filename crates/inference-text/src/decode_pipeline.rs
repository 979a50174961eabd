//! A tokenizer's decoder as a chain of stages that work token by token.
//!
//! The `tokenizers` decoders map a whole list of tokens to a list of strings
//! and concatenate them. All that are in use either treat each token alone,
//! look only at the first, the last or the previous token, or join the tokens
//! and then work at the ends of the text. Each of these can run on a stream
//! with a small state, and that is what a [`Pipeline`] does.

use std::sync::Arc;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::{Decoder, Result};

use crate::byte_level::{self, LossyUtf8};

/// A stage on tokens, before they are joined.
#[derive(Clone, Debug)]
enum TokenStage {
    /// Each token alone.
    Each(Arc<DecoderWrapper>),
    /// The first token differs from the others.
    FirstDiffers { decoder: Arc<DecoderWrapper>, first: bool },
    /// The last token differs, so one is held back.
    LastDiffers { decoder: Arc<DecoderWrapper>, held: Option<String> },
    /// Equal neighbours count once.
    Dedup { decoder: Arc<DecoderWrapper>, previous: Option<String> },
    /// Tokens `<0xNN>` are bytes; a run of them is text if it is UTF-8 as a
    /// whole, otherwise one U+FFFD for each byte.
    ByteFallback { run: Vec<u8>, eager: bool },
    /// No decoder: tokens are separated by a space.
    Spaced { first: bool },
}

/// How tokens become one text.
#[derive(Clone, Debug)]
enum Join {
    Concat,
    ByteLevel(LossyUtf8),
}

/// Strips the ends of the joined text.
#[derive(Clone, Debug)]
struct StripText {
    content: char,
    /// How many more may go at the start.
    start: usize,
    /// How many may go at the end.
    stop: usize,
    /// Trailing `content` that may yet have to go, at most `stop`.
    held: usize,
}

/// The chain, with its state.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    tokens: Vec<TokenStage>,
    join: Join,
    text: Vec<StripText>,
}

impl Pipeline {
    /// The chain that does what `decoder` does; `None` where there is none.
    pub(crate) fn new(decoder: Option<&DecoderWrapper>) -> Option<Self> {
        let Some(decoder) = decoder else {
            let tokens = vec![TokenStage::Spaced { first: true }];
            return Some(Self { tokens, join: Join::Concat, text: Vec::new() });
        };
        let mut flat = Vec::new();
        flatten(decoder, &mut flat);

        let mut stages = flat.into_iter();
        let mut tokens = Vec::new();
        let mut join = Join::Concat;
        for decoder in stages.by_ref() {
            let own = || Arc::new(decoder.clone());
            tokens.push(match decoder {
                DecoderWrapper::Fuse(_) => break,
                DecoderWrapper::ByteLevel(_) => {
                    join = Join::ByteLevel(LossyUtf8::default());
                    break;
                }
                DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) => TokenStage::Each(own()),
                DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_) => {
                    TokenStage::FirstDiffers { decoder: own(), first: true }
                }
                DecoderWrapper::BPE(_) => TokenStage::LastDiffers { decoder: own(), held: None },
                DecoderWrapper::CTC(_) => TokenStage::Dedup { decoder: own(), previous: None },
                DecoderWrapper::ByteFallback(_) => {
                    TokenStage::ByteFallback { run: Vec::new(), eager: false }
                }
                DecoderWrapper::Sequence(_) => return None,
            });
        }
        let mut text = Vec::new();
        for decoder in stages {
            match decoder {
                DecoderWrapper::Fuse(_) => {}
                DecoderWrapper::Strip(strip) => text.push(StripText {
                    content: strip.content,
                    start: strip.start,
                    stop: strip.stop,
                    held: 0,
                }),
                _ => return None,
            }
        }
        Some(Self { tokens, join, text })
    }

    /// Whether complete characters of a run of byte tokens come out at once.
    pub(crate) fn set_eager(&mut self, value: bool) {
        for stage in &mut self.tokens {
            if let TokenStage::ByteFallback { eager, .. } = stage {
                *eager = value;
            }
        }
    }

    /// The text that is certain after `token`.
    pub(crate) fn push(&mut self, token: String) -> Result<String> {
        let mut tokens = vec![token];
        for stage in &mut self.tokens {
            tokens = stage.push(tokens)?;
        }
        let text = self.join(&tokens);
        Ok(self.strip(text))
    }

    /// The rest of the text.
    pub(crate) fn finish(&mut self) -> Result<String> {
        let mut tokens = Vec::new();
        for stage in &mut self.tokens {
            tokens = stage.push(tokens)?;
            tokens.extend(stage.finish()?);
        }
        let mut text = self.join(&tokens);
        if let Join::ByteLevel(utf8) = &mut self.join {
            text.push_str(&utf8.finish());
        }
        // What a stage still holds back goes, unless a later stage would have
        // seen it; stages do not see what an earlier one strips.
        Ok(self.strip(text))
    }

    /// The bytes that `token` contributes inside a text.
    pub(crate) fn bytes_of(&self, token: String) -> Result<Vec<u8>> {
        let mut token = token;
        for stage in &self.tokens {
            let out = match stage {
                TokenStage::ByteFallback { .. } => match fallback_byte(&token) {
                    Some(byte) => return Ok(vec![byte]),
                    None => vec![token],
                },
                TokenStage::Each(decoder) | TokenStage::Dedup { decoder, .. } => {
                    decoder.decode_chain(vec![token])?
                }
                TokenStage::FirstDiffers { decoder, .. } => after_another(decoder, token)?,
                TokenStage::LastDiffers { decoder, .. } => before_another(decoder, token)?,
                TokenStage::Spaced { .. } => vec![token],
            };
            token = out.concat();
        }
        Ok(match self.join {
            Join::Concat => token.into_bytes(),
            Join::ByteLevel(_) => byte_level::token_bytes(&token),
        })
    }

    fn join(&mut self, tokens: &[String]) -> String {
        match &mut self.join {
            Join::Concat => tokens.concat(),
            Join::ByteLevel(utf8) => {
                tokens.iter().map(|token| utf8.push(&byte_level::token_bytes(token))).collect()
            }
        }
    }

    fn strip(&mut self, text: String) -> String {
        self.text.iter_mut().fold(text, |text, stage| stage.push(&text))
    }
}

/// The decoders of nested sequences, in order.
fn flatten<'a>(decoder: &'a DecoderWrapper, flat: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            for decoder in sequence.get_decoders() {
                flatten(decoder, flat);
            }
        }
        other => flat.push(other),
    }
}

/// What `decoder` makes of `token` when it is not the first.
fn after_another(decoder: &DecoderWrapper, token: String) -> Result<Vec<String>> {
    let mut tokens = decoder.decode_chain(vec![String::new(), token])?;
    Ok(tokens.pop().into_iter().collect())
}

/// What `decoder` makes of `token` when it is not the last.
fn before_another(decoder: &DecoderWrapper, token: String) -> Result<Vec<String>> {
    let mut tokens = decoder.decode_chain(vec![token, String::new()])?;
    tokens.truncate(1);
    Ok(tokens)
}

/// The byte that a token `<0xNN>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

impl TokenStage {
    fn push(&mut self, tokens: Vec<String>) -> Result<Vec<String>> {
        let mut out = Vec::with_capacity(tokens.len());
        for token in tokens {
            match self {
                Self::Each(decoder) => out.extend(decoder.decode_chain(vec![token])?),
                Self::FirstDiffers { decoder, first } => {
                    if std::mem::take(first) {
                        out.extend(decoder.decode_chain(vec![token])?);
                    } else {
                        out.extend(after_another(decoder, token)?);
                    }
                }
                Self::LastDiffers { decoder, held } => {
                    if let Some(token) = held.replace(token) {
                        out.extend(before_another(decoder, token)?);
                    }
                }
                Self::Dedup { decoder, previous } => {
                    if previous.as_ref() != Some(&token) {
                        out.extend(decoder.decode_chain(vec![token.clone()])?);
                        *previous = Some(token);
                    }
                }
                Self::ByteFallback { run, eager } => match fallback_byte(&token) {
                    Some(byte) => {
                        run.push(byte);
                        if *eager && let Ok(text) = std::str::from_utf8(run) {
                            out.push(text.to_owned());
                            run.clear();
                        }
                    }
                    None => {
                        out.extend(end_of_run(run));
                        out.push(token);
                    }
                },
                Self::Spaced { first } => {
                    out.push(if std::mem::take(first) { token } else { format!(" {token}") });
                }
            }
        }
        Ok(out)
    }

    fn finish(&mut self) -> Result<Vec<String>> {
        Ok(match self {
            Self::LastDiffers { decoder, held } => match held.take() {
                Some(token) => decoder.decode_chain(vec![token])?,
                None => Vec::new(),
            },
            Self::ByteFallback { run, .. } => end_of_run(run).into_iter().collect(),
            _ => Vec::new(),
        })
    }
}

/// The text of a finished run of byte tokens.
fn end_of_run(run: &mut Vec<u8>) -> Option<String> {
    if run.is_empty() {
        return None;
    }
    let bytes = std::mem::take(run);
    Some(String::from_utf8(bytes).unwrap_or_else(|error| {
        let count = error.as_bytes().len();
        std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count).collect()
    }))
}

impl StripText {
    /// What is certain to stay. What is held when the text ends goes.
    fn push(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c != self.content {
                self.start = 0;
                out.extend(std::iter::repeat_n(self.content, std::mem::take(&mut self.held)));
                out.push(c);
            } else if self.start > 0 {
                self.start -= 1;
            } else if self.held < self.stop {
                self.held += 1;
            } else {
                out.push(c);
            }
        }
        out
    }
}
