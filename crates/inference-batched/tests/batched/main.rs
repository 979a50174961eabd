//! Groups of models against a loop over models, and what they refuse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod by_hand;
mod cancelling;
mod concurrency;
mod errors;
mod files;
mod groups;
mod importing;
mod naive;
mod properties;
