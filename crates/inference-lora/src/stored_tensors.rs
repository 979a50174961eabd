//! The tensors of a safetensors file, checked as they are read.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use inference_core::{Error, Result};
use inference_gguf::map_file;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

/// A tensor as a file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// The type of its elements, as the format calls it.
    pub kind: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorEntry {
    pub(crate) fn new(name: &str, kind: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.to_owned(), kind: kind.into(), shape: shape.to_vec() }
    }
}

/// Lists the tensors of a file, sorted by name.
pub(crate) fn list(path: &Path) -> Result<Vec<TensorEntry>> {
    with_file(path, |_, file| {
        let entry = |(name, view): &(String, TensorView<'_>)| {
            TensorEntry::new(name, format!("{:?}", view.dtype()), view.shape())
        };
        Ok(sorted(file).iter().map(entry).collect())
    })
}

/// Gives each tensor of a file to `take`, by name in order.
pub(crate) fn read_each(
    path: &Path,
    mut take: impl FnMut(&str, &StoredTensor<'_>) -> Result<()>,
) -> Result<()> {
    with_file(path, |file, tensors| {
        for (name, view) in sorted(tensors) {
            take(&name, &StoredTensor { file, name: &name, view })?;
        }
        Ok(())
    })
}

fn with_file<T>(path: &Path, read: impl FnOnce(&str, &SafeTensors<'_>) -> Result<T>) -> Result<T> {
    let bytes = map_file(path)?;
    let file = path.display().to_string();
    let parsed = SafeTensors::deserialize((*bytes).as_ref());
    read(&file, &parsed.map_err(|error| malformed(&file, &error))?)
}

fn sorted<'a>(file: &'a SafeTensors<'a>) -> Vec<(String, TensorView<'a>)> {
    let mut tensors = file.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    tensors
}

fn malformed(file: &str, error: &SafeTensorError) -> Error {
    Error::invalid_model(file, "the header", "that of a safetensors file", error.to_string())
}

/// One tensor of a file; its values are not read yet.
pub(crate) struct StoredTensor<'a> {
    file: &'a str,
    name: &'a str,
    view: TensorView<'a>,
}

impl StoredTensor<'_> {
    /// The values as stored.
    ///
    /// # Errors
    ///
    /// For another type than f32, f16 and bf16, and values that are not finite.
    pub(crate) fn read(&self) -> Result<Tensor> {
        let dtype = match self.view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let what = format!("type of tensor `{}`", self.name);
                let found = format!("{other:?}");
                return Err(Error::unsupported_model(self.file, what, found, "F32, F16, BF16"));
            }
        };
        check_finite(self.file, self.name, dtype, self.view.data())?;
        Tensor::from_raw_buffer(self.view.data(), dtype, self.view.shape(), &Device::Cpu)
            .map_err(|error| Error::engine(format!("reading tensor `{}`", self.name), error))
    }
}

/// Checks that no element of little-endian `data` is infinite or not a number:
/// that no exponent has all bits set.
pub(crate) fn check_finite(file: &str, name: &str, dtype: DType, data: &[u8]) -> Result<()> {
    let bad = match dtype {
        DType::F16 => first(data.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        DType::BF16 => first(data.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        _ => first(data.as_chunks().0, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
    };
    match bad {
        None => Ok(()),
        Some(at) => {
            let found = format!("NaN or an infinity at element {at}");
            Err(Error::invalid_model(file, format!("tensor `{name}`"), "finite values", found))
        }
    }
}

/// The first element that is bad. Whole blocks are looked at before any element
/// is asked for: without an end in between they are compared many at once.
fn first<const N: usize>(elements: &[[u8; N]], is_bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 1024;
    let has_bad = |block: &[[u8; N]]| block.iter().fold(false, |bad, b| bad | is_bad(*b));
    let block = elements.chunks(BLOCK).position(has_bad)? * BLOCK;
    let within = elements.get(block..)?.iter().position(|bytes| is_bad(*bytes))?;
    Some(block + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_element_is_named() {
        for count in [1, 1023, 1024, 1025, 5000] {
            let mut values = vec![f32::MAX; count];
            let bytes = |values: &[f32]| -> Vec<u8> {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            };
            assert!(check_finite("f", "t", DType::F32, &bytes(&values)).is_ok());
            values[count - 1] = f32::NEG_INFINITY;
            let named = |values: &[f32], at: usize| {
                let error = check_finite("f", "t", DType::F32, &bytes(values)).unwrap_err();
                assert!(error.to_string().ends_with(&format!("element {at}")), "{error}");
            };
            named(&values, count - 1);
            values[count / 2] = f32::NAN;
            named(&values, count / 2);
        }
        let half = |bits: u16, dtype| check_finite("f", "t", dtype, &bits.to_le_bytes());
        assert!(half(0x7bff, DType::F16).is_ok() && half(0x7c00, DType::F16).is_err());
        assert!(half(0xfe00, DType::F16).is_err() && half(0x7f7f, DType::BF16).is_ok());
        assert!(half(0xff80, DType::BF16).is_err() && half(0x7c00, DType::BF16).is_ok());
    }
}
