//! A low-rank change added to the matrix that it changes.

use candle_core::{DType, Tensor};
use inference_core::{Error, Result};

use crate::ModuleDelta;

/// A change in f32, ready to be added to rows of its matrix.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use inference_lora::{MergeDelta, ModuleDelta};
///
/// let a = Tensor::new(&[[1_f32, 2.0, 3.0]], &Device::Cpu)?;
/// let b = Tensor::new(&[[10_f32], [20.0]], &Device::Cpu)?;
/// let change = MergeDelta::new(&ModuleDelta::new(a, b, 0.5), 1.0)?;
/// let mut second_row = [1.0, 1.0, 1.0];
/// change.apply(1, &mut second_row);
/// assert_eq!(second_row, [11.0, 21.0, 31.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct MergeDelta {
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[out, rank]`.
    b: Vec<f32>,
    rank: usize,
    columns: usize,
    scaling: f32,
    magnitude: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl MergeDelta {
    /// The change times `scale`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where tensors
    /// cannot be read or are no factors of one matrix.
    pub fn new(delta: &ModuleDelta, scale: f32) -> Result<Self> {
        let (&[rank, columns], &[_, inner]) = (delta.a.dims(), delta.b.dims()) else {
            return Err(Error::engine_message("factors that are no matrices"));
        };
        if rank != inner || rank == 0 || columns == 0 {
            let shapes = format!("factors of shapes {:?} and {:?}", delta.a.dims(), delta.b.dims());
            return Err(Error::engine_message(shapes));
        }
        Ok(Self {
            a: values(&delta.a)?,
            b: values(&delta.b)?,
            rank,
            columns,
            scaling: delta.scaling * scale,
            magnitude: delta.magnitude.as_ref().map(values).transpose()?,
            bias: delta.bias.as_ref().map(values).transpose()?,
        })
    }

    /// Columns of the matrix.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Changes whole rows of the matrix, of which the first is `first`.
    pub fn apply(&self, first: usize, rows: &mut [f32]) {
        let mut change = vec![0.0; self.columns];
        let factors = self.b.chunks_exact(self.rank).enumerate().skip(first);
        for (row, (index, b)) in rows.chunks_exact_mut(self.columns).zip(factors) {
            change.fill(0.0);
            for (b, a) in b.iter().zip(self.a.chunks_exact(self.columns)) {
                change.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            row.iter_mut().zip(&change).for_each(|(w, change)| *w += self.scaling * change);
            if let Some(magnitude) = self.magnitude.as_ref().and_then(|all| all.get(index)) {
                let squares: f64 = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
                let factor = *magnitude / squares.sqrt() as f32;
                row.iter_mut().for_each(|w| *w *= factor);
            }
        }
    }

    /// What the map's bias gets in addition, `[out]`.
    #[must_use]
    pub fn bias(&self) -> Option<Vec<f32>> {
        let bias = self.bias.as_ref()?;
        Some(bias.iter().map(|bias| self.scaling * bias).collect())
    }
}

/// A tensor's values in f32, row-major.
fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor
        .to_dtype(DType::F32)
        .and_then(|tensor| tensor.flatten_all()?.to_vec1())
        .map_err(|error| Error::engine("reading a factor", error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Rows in any pieces are those of the products by Candle.
        #[test]
        fn rows_are_those_of_the_matrix(
            (rank, out, columns) in (1_usize..5, 1_usize..9, 1_usize..9),
            seed in 0_u32..1000,
            dora: bool,
            first in 0_usize..9,
        ) {
            let first = first.min(out - 1);
            let numbers = |count: usize, salt: u32| -> Vec<f32> {
                let value = |i: usize| ((i as u32 * 37 + seed * 11 + salt) % 23) as f32 / 7.0 - 1.6;
                (0..count).map(value).collect()
            };
            let device = &Device::Cpu;
            let a = Tensor::from_vec(numbers(rank * columns, 1), (rank, columns), device).unwrap();
            let b = Tensor::from_vec(numbers(out * rank, 2), (out, rank), device).unwrap();
            let w = Tensor::from_vec(numbers(out * columns, 3), (out, columns), device).unwrap();
            let m = Tensor::from_vec(numbers(out, 4), out, device).unwrap();
            let mut delta = ModuleDelta::new(a.clone(), b.clone(), 0.75);
            let mut wanted = (&w + (b.matmul(&a).unwrap() * (0.75 * 2.0)).unwrap()).unwrap();
            if dora {
                delta = delta.with_magnitude(m.clone());
                let norms = wanted.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
                let m = m.reshape((out, 1)).unwrap();
                wanted = wanted.broadcast_mul(&m.broadcast_div(&norms).unwrap()).unwrap();
            }
            let change = MergeDelta::new(&delta, 2.0).unwrap();
            let mut rows = w.narrow(0, first, out - first).unwrap().flatten_all().unwrap()
                .to_vec1::<f32>().unwrap();
            change.apply(first, &mut rows);
            let wanted = wanted.narrow(0, first, out - first).unwrap().flatten_all().unwrap()
                .to_vec1::<f32>().unwrap();
            for (found, wanted) in rows.iter().zip(&wanted) {
                // A row of zeros has no direction in either.
                let same = (found - wanted).abs() <= 1e-4 * wanted.abs().max(1.0);
                prop_assert!(same || !wanted.is_finite() || wanted.abs() > 1e3, "{found} {wanted}");
            }
        }
    }
}
