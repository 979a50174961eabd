//! What the contract promises, tested from outside as other crates use it.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod batch;
mod capability;
mod echo;
mod error;
mod options;
mod probe;
mod registry;
#[cfg(feature = "serde")]
mod serialized;
mod stream;
mod support;
mod telemetry;
mod values;
