//! The service as its consumers see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod actions;
mod budget;
mod cancelling;
mod concurrency;
mod loading;
mod naive;
#[cfg(feature = "serde")]
mod serialized;
mod support;
mod unloading;
