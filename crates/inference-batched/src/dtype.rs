//! How weights are stored.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use inference_core::{Error, Result};

/// How weights are stored. Inputs, sums and outputs are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightDtype {
    /// As they are.
    #[default]
    F32,
    /// Rounded to half floats: half the memory to read, 11 significant bits,
    /// at most 65504 in size.
    F16,
    /// Rounded to the upper half of f32: half the memory to read, 8
    /// significant bits, the range of f32.
    Bf16,
}

impl WeightDtype {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Whether `value` becomes an infinity that it was not.
    pub(crate) fn overflows(self, value: f32) -> bool {
        value.is_finite()
            && match self {
                Self::F32 => false,
                Self::F16 => f16::from_f32(value).is_infinite(),
                Self::Bf16 => bf16::from_f32(value).is_infinite(),
            }
    }

    /// Writes `value` to number `at` of `bytes`, which is there.
    pub(crate) fn write(self, bytes: &mut [u8], at: usize, value: f32) {
        let size = self.bytes();
        let Some(bytes) = bytes.get_mut(at * size..(at + 1) * size) else { return };
        match self {
            Self::F32 => bytes.copy_from_slice(&value.to_ne_bytes()),
            Self::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_ne_bytes()),
            Self::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_ne_bytes()),
        }
    }

    /// Number `at` of `bytes`, which is there.
    pub(crate) fn read(self, bytes: &[u8], at: usize) -> f32 {
        match self {
            Self::F32 => f32::from_ne_bytes(number(bytes, at)),
            Self::F16 => f16::from_ne_bytes(number(bytes, at)).to_f32(),
            Self::Bf16 => bf16::from_ne_bytes(number(bytes, at)).to_f32(),
        }
    }
}

/// The `N` bytes of number `at`; zeros where there are none.
fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at * N..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WeightDtype {
    type Err = Error;

    /// # Errors
    ///
    /// `InvalidOption` that lists the names.
    fn from_str(text: &str) -> Result<Self> {
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|dtype| dtype.as_str() == text)
            .ok_or_else(|| Error::invalid_option("dtype", text, "f32, f16 or bf16"))
    }
}
