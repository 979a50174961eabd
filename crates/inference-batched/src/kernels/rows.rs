//! The rows that a kernel reads and writes.

use crate::layout::GROUP;

/// Rows of one model, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// The first row of inputs.
    pub(crate) x: *const f32,
    /// The first row of outputs.
    pub(crate) y: *mut f32,
    /// How many.
    pub(crate) count: usize,
}

impl Rows {
    /// Of a model that has none.
    pub(crate) const NONE: Self = Self { x: std::ptr::null(), y: std::ptr::null_mut(), count: 0 };
}

/// Rows of each model of a group.
#[derive(Debug)]
pub(crate) struct LaneRows(pub(crate) [Rows; GROUP]);

impl LaneRows {
    pub(crate) fn longest(&self) -> usize {
        self.0.iter().map(|rows| rows.count).max().unwrap_or(0)
    }
}
