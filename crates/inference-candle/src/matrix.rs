//! Matrices that lie somewhere in a slice.

use inference_core::{Error, Result};

/// A matrix of f32 whose element `(i, j)` is `values[i * row_stride + j *
/// column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// `[rows, columns]` whose rows begin `stride` elements apart.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where `values`
    /// are too few.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Result<Self> {
        let last = rows.saturating_sub(1).checked_mul(stride);
        let end = last.and_then(|last| last.checked_add(columns));
        if rows > 0 && columns > 0 && end.is_none_or(|end| end > values.len()) {
            let found = values.len();
            return Err(Error::engine_message(format!(
                "a matrix [{rows}, {columns}], rows {stride} apart, of {found} values"
            )));
        }
        Ok(Self { values, rows, columns, row_stride: stride, column_stride: 1 })
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements between `(i, j)` and `(i + 1, j)`.
    #[must_use]
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Elements between `(i, j)` and `(i, j + 1)`.
    #[must_use]
    pub fn column_stride(&self) -> usize {
        self.column_stride
    }

    /// The elements, from `(0, 0)` on.
    #[must_use]
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Whether `self · b` can be written over `c`, `[rows, columns of b]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where not.
    pub fn check_product(&self, b: &MatrixView<'_>, c: &[f32]) -> Result<()> {
        if self.columns != b.rows || c.len() != self.rows * b.columns {
            return Err(Error::engine_message(format!(
                "a product [{}, {}] · [{}, {}] into {} values",
                self.rows,
                self.columns,
                b.rows,
                b.columns,
                c.len()
            )));
        }
        Ok(())
    }
}
