//! Tensors of a quantized module, checked.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use inference_core::{Error, Result};

use crate::weights::{ElementType, RawTensor, missing};
use crate::{SafetensorsFiles, WeightBytes};

/// The tensor that a quantized module cannot do without.
pub(super) fn required(files: &SafetensorsFiles, name: &str) -> Result<RawTensor> {
    files.raw(name).ok_or_else(|| missing(files.file(), name))
}

/// The error that a tensor is not what its module needs.
pub(super) fn misfit(tensor: &RawTensor, name: &str, expected: impl Into<String>) -> Error {
    let found = format!("{} {:?}", tensor.kind.name(), tensor.shape);
    Error::invalid_model(&*tensor.file, format!("tensor `{name}`"), expected, found)
}

/// The rows and columns of a matrix of one of the types, neither of them 0.
pub(super) fn matrix(tensor: &RawTensor, name: &str, kinds: &[ElementType]) -> Result<[usize; 2]> {
    match tensor.shape.as_slice() {
        &[rows, columns] if kinds.contains(&tensor.kind) && rows > 0 && columns > 0 => {
            Ok([rows, columns])
        }
        _ => {
            let kinds: Vec<&str> = kinds.iter().map(ElementType::name).collect();
            Err(misfit(tensor, name, format!("a matrix of {}", kinds.join(" or "))))
        }
    }
}

/// Checks the shape.
pub(super) fn shaped(tensor: &RawTensor, name: &str, shape: &[usize]) -> Result<()> {
    if tensor.shape == shape {
        return Ok(());
    }
    Err(misfit(tensor, name, format!("shape {shape:?}")))
}

/// Bytes of a file, or bytes that were rearranged at load.
#[derive(Clone)]
pub(super) struct Bytes {
    bytes: WeightBytes,
    range: Range<usize>,
}

impl Bytes {
    pub(super) fn of(tensor: &RawTensor) -> Self {
        Self { bytes: Arc::clone(tensor.bytes.shared()), range: tensor.range.clone() }
    }

    pub(super) fn owned(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { bytes: Arc::new(bytes), range }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn get(&self) -> &[u8] {
        (*self.bytes).as_ref().get(self.range.clone()).unwrap_or_default()
    }

    /// The bytes of row `row`, where each has `len`.
    pub(super) fn row(&self, row: usize, len: usize) -> &[u8] {
        self.get().get(row * len..(row + 1) * len).unwrap_or_default()
    }
}

/// A type that scales are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// The type of a tensor of scales.
    pub(super) fn of(tensor: &RawTensor, name: &str) -> Result<Self> {
        match tensor.kind {
            ElementType::F32 => Ok(Self::F32),
            ElementType::F16 => Ok(Self::F16),
            ElementType::Bf16 => Ok(Self::Bf16),
            _ => Err(misfit(tensor, name, "F32, F16 or BF16")),
        }
    }

    pub(super) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Calls `each` with every value of little-endian `bytes`.
    pub(super) fn for_each(self, bytes: &[u8], mut each: impl FnMut(usize, f32)) {
        match self {
            Self::F32 => {
                let (values, _) = bytes.as_chunks::<4>();
                values.iter().enumerate().for_each(|(i, b)| each(i, f32::from_le_bytes(*b)));
            }
            Self::F16 => {
                let (values, _) = bytes.as_chunks::<2>();
                let widen = |b: &[u8; 2]| f16::from_le_bytes(*b).to_f32();
                values.iter().enumerate().for_each(|(i, b)| each(i, widen(b)));
            }
            Self::Bf16 => {
                let (values, _) = bytes.as_chunks::<2>();
                let widen = |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f32();
                values.iter().enumerate().for_each(|(i, b)| each(i, widen(b)));
            }
        }
    }

    /// Widens little-endian `bytes` into `out`.
    pub(super) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        self.for_each(bytes, |i, value| {
            if let Some(out) = out.get_mut(i) {
                *out = value;
            }
        });
    }
}
