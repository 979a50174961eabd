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

/// Checks that no element of little-endian `data` is infinite or not a number.
pub(crate) fn check_finite(file: &str, name: &str, dtype: DType, data: &[u8]) -> Result<()> {
    let half = |exponent: u16| {
        data.as_chunks::<2>()
            .0
            .iter()
            .position(|bytes| u16::from_le_bytes(*bytes) & exponent == exponent)
    };
    let bad = match dtype {
        DType::F16 => half(0x7c00),
        DType::BF16 => half(0x7f80),
        _ => {
            let values = data.as_chunks::<4>().0.iter();
            values.map(|bytes| f32::from_le_bytes(*bytes)).position(|value| !value.is_finite())
        }
    };
    match bad {
        None => Ok(()),
        Some(at) => {
            let found = format!("NaN or an infinity at element {at}");
            Err(Error::invalid_model(file, format!("tensor `{name}`"), "finite values", found))
        }
    }
}
