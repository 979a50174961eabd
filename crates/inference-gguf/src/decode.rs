//! Blocks to the values that they stand for.

use half::{bf16, f16};
use inference_core::{Error, Quantization, Result};

use crate::BlockType;

impl BlockType {
    /// Writes the values of whole blocks over all of `out`.
    ///
    /// # Errors
    ///
    /// [`Engine`](inference_core::ErrorKind::Engine) where `bytes` are not the
    /// blocks of as many values,
    /// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for
    /// integers and 64-bit floats.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        if self.row_bytes(out.len()) != Some(bytes.len()) {
            let (bytes, values) = (bytes.len(), out.len());
            return Err(Error::engine_message(format!("{bytes} bytes of {self} for {values}")));
        }
        match self {
            Self::F32 => widen(bytes, out, f32::from_le_bytes),
            Self::F16 => widen(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => widen(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            other => {
                return Err(Error::unsupported_model("weights", "type", other.as_str(), "F32"));
            }
        }
        Ok(())
    }

    /// Bits per value and values per scale; `None` for dense types.
    #[must_use]
    pub fn quantization(self) -> Option<Quantization> {
        None
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (out, bytes) in out.iter_mut().zip(elements) {
        *out = element(*bytes);
    }
}
