//! A stack that is deep enough.
//!
//! minijinja compiles expressions, and prints, compares and drops values,
//! recursively. How deep a template can make that is bounded (by the rewriting
//! of its source and by the bounds of a rendering), but deeper than the stack
//! of an ordinary thread allows.

use std::thread::Builder;

/// Bytes of stack: what 50,000 nested values take in an unoptimised build,
/// with a margin. It is reserved, and used only as far as it is needed.
const STACK: usize = if cfg!(target_pointer_width = "64") { 256 << 20 } else { 64 << 20 };

/// Runs `f` on a thread of its own.
pub(super) fn run<T: Send>(f: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = Builder::new()
            .name("chat template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, f)
            .map_err(|error| format!("no thread to render on: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("the template engine panicked".to_owned()))
    })
}
