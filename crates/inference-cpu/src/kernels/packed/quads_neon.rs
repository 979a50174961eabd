//! [`Quads`] of NEON: four registers of four lanes, sums in 32 bits; with
//! `sdot`, or without.

use std::arch::aarch64::*;
use std::arch::asm;

use super::quads::{Quads, Shuffles};

#[derive(Clone, Copy)]
pub(crate) struct NeonQuads<const SDOT: bool>([uint8x16_t; 4]);

/// An expression for each register, whose number is a constant in it.
macro_rules! each {
    ($register:ident => $value:expr) => {
        [
            {
                const $register: usize = 0;
                $value
            },
            {
                const $register: usize = 1;
                $value
            },
            {
                const $register: usize = 2;
                $value
            },
            {
                const $register: usize = 3;
                $value
            },
        ]
    };
}
pub(super) use each;

/// `sums` plus the dot products of four bytes each, which have signs.
///
/// # Safety
///
/// The CPU has NEON and, with `SDOT`, its dot products.
#[inline(always)]
pub(super) unsafe fn dot<const SDOT: bool>(
    mut sums: int32x4_t,
    a: uint8x16_t,
    b: uint8x16_t,
) -> int32x4_t {
    if SDOT {
        // The intrinsic for this instruction is not stable yet.
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
        return sums;
    }
    let (a, b) = (vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b));
    // A product is at most 127 * 127 or so, and fits 16 bits; the sum of two
    // may not.
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    let high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
    vaddq_s32(sums, vpaddq_s32(low, high))
}

impl<const SDOT: bool> NeonQuads<SDOT> {
    #[inline(always)]
    unsafe fn shuffled(self, control: &'static [u8; 16]) -> Self {
        // Indices of no byte give zeros.
        let control = vld1q_u8(control.as_ptr());
        Self(each!(I => vqtbl1q_u8(self.0[I], control)))
    }
}

#[inline(always)]
unsafe fn ints(register: uint8x16_t) -> int32x4_t {
    vreinterpretq_s32_u8(register)
}

#[inline(always)]
unsafe fn of_ints(register: int32x4_t) -> uint8x16_t {
    vreinterpretq_u8_s32(register)
}

impl<const SDOT: bool> Quads for NeonQuads<SDOT> {
    type Floats = [float32x4_t; 4];
    const WIDE: bool = true;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Self(each!(I => vld1q_u8(from.add(16 * I))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        let _ = each!(I => vst1q_u8(to.add(16 * I), self.0[I]));
    }

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        Self([vreinterpretq_u8_u32(vdupq_n_u32(word)); 4])
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        Self(each!(I => vandq_u8(self.0[I], other.0[I])))
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Self(each!(I => vorrq_u8(self.0[I], other.0[I])))
    }

    #[inline(always)]
    unsafe fn widen(from: *const u8) -> Self {
        Self(each!(I => {
            let halves = vreinterpret_u16_u8(vld1_u8(from.add(8 * I)));
            vreinterpretq_u8_u32(vmovl_u16(halves))
        }))
    }

    #[inline(always)]
    unsafe fn shl_lanes<const N: i32>(self) -> Self {
        Self(each!(I => of_ints(vshlq_n_s32::<N>(ints(self.0[I])))))
    }

    #[inline(always)]
    unsafe fn shl<const N: i32>(self) -> Self {
        Self(each!(I => {
            vreinterpretq_u8_u16(vshlq_n_u16::<N>(vreinterpretq_u16_u8(self.0[I])))
        }))
    }

    #[inline(always)]
    unsafe fn shr<const N: i32>(self) -> Self {
        Self(each!(I => {
            vreinterpretq_u8_u16(vshrq_n_u16::<N>(vreinterpretq_u16_u8(self.0[I])))
        }))
    }

    #[inline(always)]
    unsafe fn look_up(self, table: &[i8; 16]) -> Self {
        let table = vld1q_u8(table.as_ptr().cast());
        Self(each!(I => vqtbl1q_u8(table, self.0[I])))
    }

    #[inline(always)]
    unsafe fn sub_bytes(self, other: Self) -> Self {
        Self(each!(I => vsubq_u8(self.0[I], other.0[I])))
    }

    #[inline(always)]
    unsafe fn dot(sums: Self, codes: Self, activations: Self) -> Self {
        // Codes without a sign are below 128 here.
        let x = activations.0[0];
        Self(each!(I => of_ints(dot::<SDOT>(ints(sums.0[I]), codes.0[I], x))))
    }

    #[inline(always)]
    unsafe fn dot_signed(sums: Self, codes: Self, activations: Self) -> Self {
        Self::dot(sums, codes, activations)
    }

    #[inline(always)]
    unsafe fn scale_of_unsigned<const N: usize>(self) -> Self {
        self.shuffled(const { &Shuffles::ONCE_UNSIGNED[N] })
    }

    #[inline(always)]
    unsafe fn scale_of_signed<const N: usize>(self) -> Self {
        let upper = self.shuffled(const { &Shuffles::ONCE_SIGNED[N] });
        Self(each!(I => of_ints(vshrq_n_s32::<24>(ints(upper.0[I])))))
    }

    #[inline(always)]
    unsafe fn scaled(total: Self, sums: Self, scale: Self) -> Self {
        Self(each!(I => {
            of_ints(vmlaq_s32(ints(total.0[I]), ints(sums.0[I]), ints(scale.0[I])))
        }))
    }

    #[inline(always)]
    unsafe fn pair_of_unsigned<const N: usize>(self) -> Self {
        self.shuffled(const { &Shuffles::PAIR_UNSIGNED[N] })
    }

    #[inline(always)]
    unsafe fn pair_of_signed<const N: usize>(self) -> Self {
        let upper = self.shuffled(const { &Shuffles::PAIR_SIGNED[N] });
        Self(each!(I => {
            vreinterpretq_u8_s16(vshrq_n_s16::<8>(vreinterpretq_s16_u8(upper.0[I])))
        }))
    }

    #[inline(always)]
    unsafe fn dot_pairs(total: Self, a: Self, b: Self) -> Self {
        Self(each!(I => {
            let (a, b) = (vreinterpretq_s16_u8(a.0[I]), vreinterpretq_s16_u8(b.0[I]));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            let high = vmull_s16(vget_high_s16(a), vget_high_s16(b));
            of_ints(vaddq_s32(ints(total.0[I]), vpaddq_s32(low, high)))
        }))
    }

    #[inline(always)]
    unsafe fn sub_shifted<const N: i32>(self, other: Self) -> Self {
        Self(each!(I => of_ints(vsubq_s32(ints(self.0[I]), vshlq_n_s32::<N>(ints(other.0[I]))))))
    }

    #[inline(always)]
    unsafe fn floats(self) -> [float32x4_t; 4] {
        each!(I => vcvtq_f32_s32(ints(self.0[I])))
    }
}
