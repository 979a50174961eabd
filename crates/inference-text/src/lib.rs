//! Text to token ids and back: tokenizers, chat templates and a streaming
//! decoder that never emits broken UTF-8.
#![forbid(unsafe_code)]

mod byte_level;
mod chat_json;
mod decode_pipeline;
mod decode_window;
mod panic_boundary;
mod special_tokens;
mod stop_matcher;
mod stream_decoder;
mod template;
mod text_parts;
mod tokenizer;

pub use chat_json::chat_prompt_from_json;
pub use special_tokens::SpecialTokens;
pub use stop_matcher::{StopMatch, StopMatcher};
pub use stream_decoder::StreamDecoder;
pub use template::{ChatTemplate, LocalTime, TemplateRequest};
pub use text_parts::TextParts;
pub use tokenizer::Tokenizer;
