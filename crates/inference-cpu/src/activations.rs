//! The input of affine maps.

/// Rows of activations that several maps may share.
#[derive(Debug)]
pub(crate) struct Activations<'a> {
    /// `[rows, width]`.
    values: &'a [f32],
    width: usize,
}

impl<'a> Activations<'a> {
    /// Whole rows of `width` values.
    pub(crate) fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, width }
    }

    /// `[rows, width]`.
    pub(crate) fn values(&self) -> &'a [f32] {
        self.values
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }
}
