//! Text to token ids and back: tokenizers, chat templates and a streaming decoder that never emits broken UTF-8
