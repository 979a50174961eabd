//! The elements of CPU tensors.

use candle_core::{CpuStorage, Device, Shape, Storage, StorageRef, Tensor};
use half::{bf16, f16};
use inference_core::{Error, Result};

/// A contiguous tensor on the CPU whose elements can be looked at.
pub(crate) struct Contiguous {
    tensor: Tensor,
    what: &'static str,
}

impl Contiguous {
    /// The tensor itself where it is contiguous, otherwise a copy.
    pub(crate) fn new(tensor: &Tensor, what: &'static str) -> Result<Self> {
        let tensor = tensor.contiguous().map_err(|error| Error::engine(what, error))?;
        Ok(Self { tensor, what })
    }

    /// Its elements.
    pub(crate) fn elements(&self) -> Result<Elements<'_>> {
        let (storage, layout) = self.tensor.storage_and_layout();
        let range = layout.contiguous_offsets();
        Ok(Elements { storage, range: range.unwrap_or((0, 0)), what: self.what })
    }
}

/// The locked storage of a tensor.
pub(crate) struct Elements<'a> {
    storage: StorageRef<'a>,
    range: (usize, usize),
    what: &'static str,
}

/// Elements of one of the types that kernels take.
pub(crate) enum AnyFloats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl Elements<'_> {
    /// The elements, of whatever type they are.
    pub(crate) fn any(&self) -> Result<AnyFloats<'_>> {
        let range = self.range.0..self.range.1;
        let floats = match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => all.get(range).map(AnyFloats::F32),
            Storage::Cpu(CpuStorage::F16(all)) => all.get(range).map(AnyFloats::F16),
            Storage::Cpu(CpuStorage::BF16(all)) => all.get(range).map(AnyFloats::Bf16),
            _ => None,
        };
        floats.ok_or_else(|| {
            Error::engine_message(format!("{}: expected floats on the CPU", self.what))
        })
    }

    /// The elements as f32.
    pub(crate) fn f32(&self) -> Result<&[f32]> {
        match self.any()? {
            AnyFloats::F32(floats) => Ok(floats),
            _ => Err(Error::engine_message(format!("{}: expected f32 activations", self.what))),
        }
    }
}

/// A tensor of computed elements.
pub(crate) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &Device::Cpu)
        .map_err(|error| Error::engine("making a tensor", error))
}

/// An error for operands that do not fit together.
pub(crate) fn shapes(what: &str, found: &[&[usize]]) -> Error {
    Error::engine_message(format!("{what}: the shapes {found:?} do not fit together"))
}
