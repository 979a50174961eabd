//! Runs the `inference` command and looks at what it prints, and how it ends.

mod backends;
mod chat;
mod classify;
mod failures;
mod generate;
mod help;
mod logits;
mod run;
mod signals;
mod template;
mod tokenize;
