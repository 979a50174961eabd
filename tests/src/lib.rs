//! End-to-end tests across the crates; see `tests/`.

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The guides' examples compile, and run where they need no file.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../docs/guides/batched.md")]
    pub struct Batched;
    #[doc = include_str!("../../docs/guides/lora.md")]
    pub struct Lora;
}
