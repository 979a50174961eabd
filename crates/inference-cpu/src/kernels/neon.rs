//! aarch64 with NEON: four registers of four lanes.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::kernel_table;
use super::part::{GROUP, Part};

#[derive(Clone, Copy)]
struct Neon(float32x4_t);

impl Part for Neon {
    const WIDTH: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(vdupq_n_f32(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(vld1q_f32(from))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(widen_f16(vld1_u16(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let stored: uint16x4_t = vld1_u16(from.cast());
        Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(stored))))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let four = from.cast::<u32>().read_unaligned();
        let wide = vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(u64::from(four)))));
        Self(vcvtq_f32_s32(wide))
    }

    #[inline(always)]
    unsafe fn splat_f16(value: f16) -> Self {
        Self(widen_f16(vdup_n_u16(value.to_bits())))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self.0);
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        vst1_u16(to.cast(), narrow_f16(self.0));
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(vaddq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(vsubq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(vmulq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(vdivq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(vfmaq_f32(addend.0, self.0, factor.0))
    }

    #[inline(always)]
    unsafe fn less_of(self, other: Self) -> Self {
        Self(vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0))
    }

    #[inline(always)]
    unsafe fn greater_of(self, other: Self) -> Self {
        Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(vrndnq_f32(self.0))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        let biased = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
        Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
    }

    #[inline(always)]
    unsafe fn select_less(a: Self, b: Self, then: Self, otherwise: Self) -> Self {
        Self(vbslq_f32(vcltq_f32(a.0, b.0), then.0, otherwise.0))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let two = vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0));
        vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        let (low, high) = (vget_low_f32(self.0), vget_high_f32(self.0));
        let two = vbsl_f32(vcgt_f32(low, high), low, high);
        let (a, b) = (vget_lane_f32::<0>(two), vget_lane_f32::<1>(two));
        if a > b { a } else { b }
    }

    #[inline(always)]
    unsafe fn group_dots(weights: *const i8, activations: *const i8) -> Self {
        let mut groups = [vdupq_n_s32(0); 4];
        for (group, sums) in groups.iter_mut().enumerate() {
            let w = vld1q_s8(weights.add(group * GROUP));
            let x = vld1q_s8(activations.add(group * GROUP));
            // A product is at most 128 * 127, so it fits 16 bits.
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let high = vmull_s8(vget_high_s8(w), vget_high_s8(x));
            *sums = vpadalq_s16(vpaddlq_s16(low), high);
        }
        let [a, b, c, d] = groups;
        Self(vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d))))
    }
}

/// Four f16, widened.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn widen_f16(stored: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // The intrinsic for this instruction is not stable yet; the
    // instruction itself is part of the base architecture.
    asm!(
        "fcvtl {wide:v}.4s, {stored:v}.4h",
        wide = lateout(vreg) wide,
        stored = in(vreg) stored,
        options(pure, nomem, nostack, preserves_flags),
    );
    wide
}

/// Four f32 as f16, nearest, ties to even.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
unsafe fn narrow_f16(wide: float32x4_t) -> uint16x4_t {
    let stored: uint16x4_t;
    // As above. Rounding is that of the control register, to nearest.
    asm!(
        "fcvtn {stored:v}.4h, {wide:v}.4s",
        stored = lateout(vreg) stored,
        wide = in(vreg) wide,
        options(pure, nomem, nostack, preserves_flags),
    );
    stored
}

kernel_table!(super::Tier::Neon, Neon, parts: 4, tile: 6 x 1,
    lanes: super::packed::neon_lanes::NeonLanes<false, false>, packed_rows: 4, "neon");
