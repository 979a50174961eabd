//! Work that is cut into parts.

use std::sync::{Mutex, OnceLock, PoisonError};

use inference_core::Result;

use crate::Ops;

/// Rows of a part.
pub(super) const ROWS: usize = 16;

/// Elements of a part of what has no rows.
pub(super) const ELEMENTS: usize = 1 << 14;

/// Calls `task` with each of `parts`, on the threads of `ops`. What is computed
/// depends on the parts, which do not depend on the threads.
///
/// # Errors
///
/// One of those of the tasks.
pub(super) fn share<T: Send>(
    ops: &dyn Ops,
    parts: impl Iterator<Item = T>,
    work: usize,
    task: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let parts: Vec<Mutex<Option<T>>> = parts.map(|part| Mutex::new(Some(part))).collect();
    let failed = OnceLock::new();
    ops.for_each(parts.len(), work, &|index| {
        let take =
            |part: &Mutex<Option<T>>| part.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = parts.get(index).and_then(take).map(&task) {
            // Of several errors, any will do.
            let _ = failed.set(error);
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}
