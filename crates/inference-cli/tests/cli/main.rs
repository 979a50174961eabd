//! Runs the `inference` command and looks at what it prints, and how it ends.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod backends;
mod batched;
mod bench;
mod chat;
mod classify;
mod embedded;
mod failures;
mod generate;
mod help;
mod hub;
mod inspect;
mod logits;
mod lora;
mod lora_kill;
mod models;
mod quantize;
mod run;
mod signals;
mod template;
mod tokenize;
