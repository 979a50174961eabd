//! Blocks to the values that they stand for.

use half::{bf16, f16};
use inference_core::{Error, Quantization, Result};

use crate::BlockType;
use crate::blocks::{UNPACKED_VALUES, Unpacked};

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
            Self::I8 | Self::I16 | Self::I32 | Self::I64 | Self::F64 => {
                let supported = "floats of at most 32 bits and quantized types";
                return Err(Error::unsupported_model("weights", "type", self.as_str(), supported));
            }
            blocks => {
                let mut unpacked = Unpacked::new();
                let step = UNPACKED_VALUES / blocks.block_values() * blocks.block_bytes();
                for (bytes, out) in bytes.chunks(step).zip(out.chunks_mut(UNPACKED_VALUES)) {
                    blocks.unpack(bytes, out.len(), &mut unpacked)?;
                    unpacked.write(out);
                }
            }
        }
        Ok(())
    }

    /// Bits per value and values per scale; `None` for dense types. The bits
    /// of codebook indices and signs are rounded down.
    #[must_use]
    pub fn quantization(self) -> Option<Quantization> {
        let (bits, group) = match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::F64 => return None,
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => return None,
            Self::Q4_0 | Self::Q4_1 | Self::Iq4Nl | Self::Mxfp4 => (4, 32),
            Self::Q4K | Self::Iq4Xs => (4, 32),
            Self::Nvfp4 => (4, 16),
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => (5, 32),
            Self::Q8_0 => (8, 32),
            Self::Q2K | Self::Iq2Xs | Self::Iq2S => (2, 16),
            Self::Q3K => (3, 16),
            Self::Q6K => (6, 16),
            Self::Q8K => (8, 256),
            Self::Iq2Xxs => (2, 32),
            Self::Iq3Xxs | Self::Iq3S => (3, 32),
            Self::Iq1S => (1, 32),
            Self::Iq1M => (1, 16),
            Self::Tq1_0 => (1, 256),
            Self::Tq2_0 => (2, 256),
        };
        Some(Quantization::new(bits, group))
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (out, bytes) in out.iter_mut().zip(elements) {
        *out = element(*bytes);
    }
}
