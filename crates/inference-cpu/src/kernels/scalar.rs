//! Portable arithmetic: the twin that the vector instruction sets are tested
//! against, and what runs where there is none of them.
//!
//! `f32::mul_add` is correctly rounded everywhere, by a library call where the
//! CPU has no such instruction; that is slow but gives the same results.

use half::{bf16, f16};

use super::kernel_table;
use super::part::{GROUP, LANES, Part};

#[derive(Clone, Copy)]
pub(in crate::kernels) struct Scalar([f32; LANES]);

impl Scalar {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn fold(mut self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                self.0[lane] = f(self.0[lane], self.0[lane + half]);
            }
            half /= 2;
        }
        self.0[0]
    }
}

impl Part for Scalar {
    const WIDTH: usize = LANES;
    const REGISTERS: usize = 0;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(from.cast::<[f32; LANES]>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(from.cast::<[f16; LANES]>().read_unaligned().map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(from.cast::<[bf16; LANES]>().read_unaligned().map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(from.cast::<[i8; LANES]>().read_unaligned().map(f32::from))
    }

    #[inline(always)]
    unsafe fn splat_f16(value: f16) -> Self {
        Self([value.to_f32(); LANES])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        to.cast::<[f32; LANES]>().write_unaligned(self.0);
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        to.cast::<[f16; LANES]>().write_unaligned(self.0.map(f16::from_f32));
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane].mul_add(factor.0[lane], addend.0[lane])))
    }

    #[inline(always)]
    unsafe fn less_of(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn greater_of(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        // The exponent's bits; saturating, so that no input overflows.
        Self(self.0.map(|n| f32::from_bits((n as i32).saturating_add(127).cast_unsigned() << 23)))
    }

    #[inline(always)]
    unsafe fn select_less(a: Self, b: Self, then: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            if a.0[lane] < b.0[lane] { then.0[lane] } else { otherwise.0[lane] }
        }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        self.fold(|a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn group_dots(weights: *const i8, activations: *const i8) -> Self {
        let mut dots = [0i32; LANES];
        for (lane, dot) in dots.iter_mut().enumerate() {
            for i in lane * GROUP..(lane + 1) * GROUP {
                *dot += i32::from(*weights.add(i)) * i32::from(*activations.add(i));
            }
        }
        Self(dots.map(|dot| dot as f32))
    }
}

kernel_table!(super::Tier::Scalar, Scalar, parts: 1, tile: 2 x 1, lanes: Scalar, packed_rows: 4);
