//! Portable [`Quads`].

use super::quads::Quads;

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct ScalarQuads([u32; 16]);

impl ScalarQuads {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(u32, u32) -> u32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn map(self, f: impl Fn(u32) -> u32) -> Self {
        Self(self.0.map(f))
    }

    #[inline(always)]
    fn bytes(self, f: impl Fn(u8) -> u8) -> Self {
        self.map(|lane| u32::from_le_bytes(lane.to_le_bytes().map(&f)))
    }
}

fn halves(lane: u32) -> [u16; 2] {
    [lane as u16, (lane >> 16) as u16]
}

fn joined([low, high]: [u16; 2]) -> u32 {
    u32::from(low) | (u32::from(high) << 16)
}

impl Quads for ScalarQuads {
    type Floats = [f32; 16];
    const WIDE: bool = true;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Self(from.cast::<[u32; 16]>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        to.cast::<[u32; 16]>().write_unaligned(self.0);
    }

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        Self([word; 16])
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    #[inline(always)]
    unsafe fn widen(from: *const u8) -> Self {
        Self(from.cast::<[u16; 16]>().read_unaligned().map(u32::from))
    }

    #[inline(always)]
    unsafe fn shl_lanes<const N: i32>(self) -> Self {
        self.map(|lane| lane << N)
    }

    #[inline(always)]
    unsafe fn shl<const N: i32>(self) -> Self {
        self.map(|lane| joined(halves(lane).map(|half| half << N)))
    }

    #[inline(always)]
    unsafe fn shr<const N: i32>(self) -> Self {
        self.map(|lane| joined(halves(lane).map(|half| half >> N)))
    }

    #[inline(always)]
    unsafe fn look_up(self, table: &[i8; 16]) -> Self {
        self.bytes(|index| table[usize::from(index & 15)].cast_unsigned())
    }

    #[inline(always)]
    unsafe fn sub_bytes(self, other: Self) -> Self {
        self.zip(other, |a, b| {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            u32::from_le_bytes(std::array::from_fn(|i| a[i].wrapping_sub(b[i])))
        })
    }

    #[inline(always)]
    unsafe fn dot(sums: Self, codes: Self, activations: Self) -> Self {
        let products = codes.zip(activations, |codes, activations| {
            let pairs = codes.to_le_bytes().into_iter().zip(activations.to_le_bytes());
            let products = pairs.map(|(code, x)| i32::from(code) * i32::from(x.cast_signed()));
            products.sum::<i32>().cast_unsigned()
        });
        sums.zip(products, u32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn dot_signed(sums: Self, codes: Self, activations: Self) -> Self {
        let products = codes.zip(activations, |codes, activations| {
            let pairs = codes.to_le_bytes().into_iter().zip(activations.to_le_bytes());
            let products =
                pairs.map(|(code, x)| i32::from(code.cast_signed()) * i32::from(x.cast_signed()));
            products.sum::<i32>().cast_unsigned()
        });
        sums.zip(products, u32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn scale_of_unsigned<const N: usize>(self) -> Self {
        self.map(|lane| u32::from(lane.to_le_bytes()[N]))
    }

    #[inline(always)]
    unsafe fn scale_of_signed<const N: usize>(self) -> Self {
        self.map(|lane| i32::from(lane.to_le_bytes()[N].cast_signed()).cast_unsigned())
    }

    #[inline(always)]
    unsafe fn scaled(total: Self, sums: Self, scale: Self) -> Self {
        total.zip(sums.zip(scale, u32::wrapping_mul), u32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn pair_of_unsigned<const N: usize>(self) -> Self {
        self.map(|lane| {
            let bytes = lane.to_le_bytes();
            joined([bytes[2 * N], bytes[2 * N + 1]].map(u16::from))
        })
    }

    #[inline(always)]
    unsafe fn pair_of_signed<const N: usize>(self) -> Self {
        self.map(|lane| {
            let bytes = lane.to_le_bytes();
            let widened = [bytes[2 * N], bytes[2 * N + 1]].map(|b| i16::from(b.cast_signed()));
            joined(widened.map(i16::cast_unsigned))
        })
    }

    #[inline(always)]
    unsafe fn dot_pairs(total: Self, a: Self, b: Self) -> Self {
        let products = a.zip(b, |a, b| {
            let pairs = halves(a).into_iter().zip(halves(b));
            let products =
                pairs.map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed()));
            products.sum::<i32>().cast_unsigned()
        });
        total.zip(products, u32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn sub_shifted<const N: i32>(self, other: Self) -> Self {
        self.zip(other, |a, b| a.wrapping_sub(b << N))
    }

    #[inline(always)]
    unsafe fn floats(self) -> [f32; 16] {
        self.0.map(|lane| lane.cast_signed() as f32)
    }
}
