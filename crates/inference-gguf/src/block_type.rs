//! The element and block types of tensors.

use std::fmt;

macro_rules! block_types {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal, $text:literal, $values:literal, $bytes:literal;)*) => {
        /// A type of tensor data: blocks of `values` elements in `bytes` bytes.
        /// Names, numbers and sizes are those of ggml (`ggml/include/ggml.h`,
        /// `ggml/src/ggml-common.h`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum BlockType {
            $($(#[doc = $doc])* $name,)*
        }

        impl BlockType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number in files.
            #[must_use]
            pub fn id(self) -> u32 {
                match self { $(Self::$name => $id,)* }
            }

            /// The name, for example `Q4_K`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Elements per block.
            #[must_use]
            pub fn block_values(self) -> usize {
                match self { $(Self::$name => $values,)* }
            }

            /// Bytes per block.
            #[must_use]
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }
        }
    };
}

block_types! {
    /// 32-bit floats.
    F32 = 0, "F32", 1, 4;
    /// 16-bit IEEE floats.
    F16 = 1, "F16", 1, 2;
    /// 4 bits and a scale.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4 bits, a scale and a minimum.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5 bits and a scale.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5 bits, a scale and a minimum.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8 bits and a scale.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// 2 bits, 16 groups with scale and minimum.
    Q2K = 10, "Q2_K", 256, 84;
    /// 3 bits, 16 groups with scale.
    Q3K = 11, "Q3_K", 256, 110;
    /// 4 bits, 8 groups with scale and minimum.
    Q4K = 12, "Q4_K", 256, 144;
    /// 5 bits, 8 groups with scale and minimum.
    Q5K = 13, "Q5_K", 256, 176;
    /// 6 bits, 16 groups with scale.
    Q6K = 14, "Q6_K", 256, 210;
    /// 8 bits, one 32-bit scale, sums of 16.
    Q8K = 15, "Q8_K", 256, 292;
    /// 2.06 bits, vectors of a codebook.
    Iq2Xxs = 16, "IQ2_XXS", 256, 66;
    /// 2.31 bits, vectors of a codebook.
    Iq2Xs = 17, "IQ2_XS", 256, 74;
    /// 3.06 bits, vectors of a codebook.
    Iq3Xxs = 18, "IQ3_XXS", 256, 98;
    /// 1.56 bits, vectors of a codebook.
    Iq1S = 19, "IQ1_S", 256, 50;
    /// 4 bits, values of a table.
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    /// 3.44 bits, vectors of a codebook.
    Iq3S = 21, "IQ3_S", 256, 110;
    /// 2.5 bits, vectors of a codebook.
    Iq2S = 22, "IQ2_S", 256, 82;
    /// 4.25 bits, values of a table.
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    /// 8-bit integers.
    I8 = 24, "I8", 1, 1;
    /// 16-bit integers.
    I16 = 25, "I16", 1, 2;
    /// 32-bit integers.
    I32 = 26, "I32", 1, 4;
    /// 64-bit integers.
    I64 = 27, "I64", 1, 8;
    /// 64-bit floats.
    F64 = 28, "F64", 1, 8;
    /// 1.75 bits, vectors of a codebook.
    Iq1M = 29, "IQ1_M", 256, 56;
    /// 16-bit brain floats.
    Bf16 = 30, "BF16", 1, 2;
    /// Ternary, 1.69 bits.
    Tq1_0 = 34, "TQ1_0", 256, 54;
    /// Ternary, 2.06 bits.
    Tq2_0 = 35, "TQ2_0", 256, 66;
    /// 4-bit floats with a power of two as scale (OCP microscaling).
    Mxfp4 = 39, "MXFP4", 32, 17;
    /// 4-bit floats with an 8-bit float as scale per 16.
    Nvfp4 = 40, "NVFP4", 64, 36;
}

impl BlockType {
    /// The type of a number in a file.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.id() == id)
    }

    /// Bytes of a row of `values` elements; `None` where they are not whole
    /// blocks or overflow.
    #[must_use]
    pub fn row_bytes(self, values: usize) -> Option<usize> {
        let blocks = values / self.block_values();
        values
            .is_multiple_of(self.block_values())
            .then(|| blocks.checked_mul(self.block_bytes()))
            .flatten()
    }

    /// Whether elements are stored one by one, as floats or integers.
    #[must_use]
    pub fn is_dense(self) -> bool {
        self.block_values() == 1
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of a tensor as its file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// A type that is known here.
    Known(BlockType),
    /// A number that is not; the tensor can be listed but not read.
    Unknown(u32),
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(kind) => kind.fmt(f),
            Self::Unknown(id) => write!(f, "type {id}"),
        }
    }
}
