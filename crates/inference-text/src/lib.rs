//! Text to token ids and back: tokenizers, chat templates and a streaming
//! decoder that never emits broken UTF-8.
//!
//! | to | use |
//! |---|---|
//! | read all of a model's text files, or a GGUF file's metadata | [`TextParts`] |
//! | encode and decode | [`Tokenizer`] |
//! | decode tokens as they come | [`StreamDecoder`] |
//! | end a text at a string | [`StopMatcher`] |
//! | render a conversation | [`ChatTemplate`], [`TemplateRequest`] |
//! | read a conversation from JSON | [`chat_prompt_from_json`] |
//!
//! # Tokens
//!
//! ```
//! use inference_text::Tokenizer;
//!
//! // The tokenizer.json of a byte-level BPE with six tokens.
//! let json = r#"{
//!     "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
//!     "added_tokens": [{"id": 5, "content": "</s>", "single_word": false, "lstrip": false,
//!                       "rstrip": false, "normalized": false, "special": true}],
//!     "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
//!                       "use_regex": true},
//!     "post_processor": null,
//!     "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
//!                 "use_regex": true},
//!     "model": {"type": "BPE", "dropout": null, "unk_token": null,
//!               "continuing_subword_prefix": null, "end_of_word_suffix": null,
//!               "fuse_unk": false, "byte_fallback": false,
//!               "vocab": {"h": 0, "i": 1, "hi": 2, "Ã": 3, "©": 4}, "merges": ["h i"]}
//! }"#;
//! let tokenizer = Tokenizer::from_json(json.as_bytes(), "tokenizer.json")?;
//! let ids = tokenizer.encode("hié</s>", false)?;
//! assert_eq!(ids, [2, 3, 4, 5]);
//! assert_eq!(tokenizer.decode(&ids, true)?, "hié");
//!
//! // é is two tokens: it comes out with the second.
//! let mut decoder = tokenizer.stream_decoder(true);
//! let pieces = ids.iter().map(|&id| decoder.push(id)).collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(pieces, ["hi", "", "é", ""]);
//! assert_eq!(decoder.push(3)?, "");
//! assert_eq!(decoder.finish(), "\u{fffd}");
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! What holds:
//!
//! - Ids and text are those of the `tokenizers` crate, with truncation,
//!   padding and dropout switched off. Settings that transformers applies
//!   outside of `tokenizer.json` are not applied.
//! - The pieces of a [`StreamDecoder`] are valid UTF-8, and concatenated they
//!   are [`Tokenizer::decode`] of all ids, for any ids (for decoders of no
//!   known kind see there).
//! - An id that is not in the vocabulary is an error, not skipped.
//!
//! From GGUF metadata ([`TextParts::from_gguf`]) the ids are llama.cpp's, with
//! its ways: text is not normalized to NFC where a model's `tokenizer.json`
//! would (Qwen), a text such as `</s>` is an end wherever a vocabulary holds it,
//! and where all scores are equal the leftmost pair merges first. One thing
//! differs: patterns with upper and lower case letters are those of the models'
//! own tokenizers, which llama.cpp approximates. The tokenizers `bert`, `t5`,
//! `rwkv`, `plamo2` and `gemma4` are refused by name.
//!
//! # Chat templates
//!
//! [`ChatTemplate`] renders through minijinja, with Jinja2's and Python's
//! behaviour where that differs and transformers' additions. Known
//! differences that remain, none of which matters to the templates of the
//! tests:
//!
//! - `text % values` is an error; `text | format(values)` and
//!   `text.format(values)` work.
//! - `a < b` between a number and a text compares instead of raising.
//! - A float inside a list, or joined with `~`, prints without an exponent.
//! - Methods of numbers and bytes, and a method printed without a call.
//! - A JSON number beyond 64 bits is a float.
//! - A message's fields come in the order role, content, then by name.
//!
//! Templates come with downloaded models, so they are bounded: the steps and
//! the output of a rendering, what a single call or assignment may allocate,
//! and how deep expressions and values nest. Not bounded is text that doubles
//! where it is neither printed, assigned nor passed to a macro by itself, such
//! as a text inside a list.
//!
//! # Errors
//!
//! All errors are [`inference_core::Error`]: `InvalidModel` for files,
//! `UnsupportedModel` for tokenizers of another kind,
//! `InvalidInput` for what a request holds, `Template` (kind `InvalidInput`)
//! for a template that raises or fails, `Engine` where the `tokenizers` crate
//! fails or panics on a definition that it accepted.
#![forbid(unsafe_code)]

mod byte_level;
mod chat_json;
mod decode_pipeline;
mod decode_window;
mod gguf;
mod merge_model;
mod model;
mod panic_boundary;
mod special_tokens;
mod stop_matcher;
mod stream_decoder;
mod template;
mod text_parts;
mod tokenizer;
mod vocabulary;

pub use chat_json::chat_prompt_from_json;
pub use gguf::sampling_defaults;
pub use special_tokens::SpecialTokens;
pub use stop_matcher::{StopMatch, StopMatcher};
pub use stream_decoder::StreamDecoder;
pub use template::{ChatTemplate, LocalTime, TemplateRequest};
pub use text_parts::TextParts;
pub use tokenizer::Tokenizer;

/// The example of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
