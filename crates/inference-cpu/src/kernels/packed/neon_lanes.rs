//! aarch64 with NEON: four registers of four lanes. Dot products of bytes by
//! `sdot` where the CPU has it, by widening multiplications otherwise; those of
//! two rows at once by `smmla`, where it has that.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::neon::widen_f16;
use super::quads_neon::{NeonQuads, dot, each};
use super::{Codes, Lanes};

/// With `SDOT` the CPU has dot products of bytes, with `SMMLA` products of
/// matrices of bytes as well.
#[derive(Clone, Copy)]
pub(crate) struct NeonLanes<const SDOT: bool, const SMMLA: bool>;

/// `sums` plus the product of two rows of eight bytes each by two columns of
/// eight: `[a0 b0, a0 b1, a1 b0, a1 b1]`. All bytes have signs.
///
/// # Safety
///
/// The CPU has products of matrices of bytes.
#[inline(always)]
unsafe fn matrix_product(mut sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // The intrinsic for this instruction is not stable yet.
    asm!(
        ".arch_extension i8mm",
        "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
        sums = inout(vreg) sums,
        a = in(vreg) a,
        b = in(vreg) b,
        options(pure, nomem, nostack, preserves_flags),
    );
    sums
}

/// Four activations, and those four that are 16 further on.
///
/// # Safety
///
/// 20 bytes are readable at `q`.
#[inline(always)]
unsafe fn eight(q: *const i8) -> uint8x8_t {
    let (near, far) = (q.cast::<u32>().read_unaligned(), q.add(16).cast::<u32>().read_unaligned());
    vcreate_u8(u64::from(near) | u64::from(far) << 32)
}

impl<const SDOT: bool, const SMMLA: bool> Lanes for NeonLanes<SDOT, SMMLA> {
    type Floats = [float32x4_t; 4];
    type Ints = [int32x4_t; 4];
    type Codes = [uint8x16_t; 4];
    type Quads = NeonQuads<SDOT>;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [vdupq_n_f32(value); 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        each!(I => vld1q_f32(from.add(4 * I)))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self::Floats {
        each!(I => widen_f16(vreinterpret_u16_u8(vld1_u8(from.add(8 * I)))))
    }

    #[inline(always)]
    unsafe fn load_exponents(from: *const u8) -> Self::Floats {
        let bytes = vld1q_u8(from);
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes)));
        let exponents = [
            vmovl_u16(vget_low_u16(low)),
            vmovl_u16(vget_high_u16(low)),
            vmovl_u16(vget_low_u16(high)),
            vmovl_u16(vget_high_u16(high)),
        ];
        let one = vdupq_n_u32(1);
        each!(I => {
            let normal = vshlq_n_u32::<23>(vsubq_u32(exponents[I], one));
            // The smallest two are subnormal.
            let shift = vreinterpretq_s32_u32(exponents[I]);
            let subnormal = vshlq_u32(vdupq_n_u32(0x20_0000), shift);
            let is_normal = vcgtq_u32(exponents[I], one);
            vreinterpretq_f32_u32(vbslq_u32(is_normal, normal, subnormal))
        })
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        let _ = each!(I => vst1q_f32(to.add(4 * I), floats[I]));
    }

    #[inline(always)]
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each!(I => vaddq_f32(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each!(I => vmulq_f32(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        each!(I => vfmaq_f32(c[I], a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn floats(ints: Self::Ints) -> Self::Floats {
        each!(I => vcvtq_f32_s32(ints[I]))
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const u8) -> Self::Codes {
        each!(I => vld1q_u8(from.add(16 * I)))
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Self::Codes, to: *mut u8) {
        let _ = each!(I => vst1q_u8(to.add(16 * I), codes[I]));
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Codes) -> Self::Codes {
        each!(I => vandq_u8(bytes[I], vdupq_n_u8(15)))
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Codes) -> Self::Codes {
        each!(I => vshrq_n_u8::<4>(bytes[I]))
    }

    #[inline(always)]
    unsafe fn with_fifth(codes: Self::Codes, bits: Self::Codes, bit: usize) -> Self::Codes {
        // To the left, or to the right where that is negative.
        let shift = vdupq_n_s8(4 - bit as i8);
        each!(I => {
            let there = vandq_u8(vshlq_u8(bits[I], shift), vdupq_n_u8(16));
            vorrq_u8(codes[I], there)
        })
    }

    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], codes: Self::Codes) -> Self::Codes {
        let table = vld1q_u8(table.as_ptr().cast());
        each!(I => vqtbl1q_u8(table, codes[I]))
    }

    #[inline(always)]
    unsafe fn dots<C: Codes, const R: usize>(
        block: *const u8,
        q: [*const i8; R],
        sums: [*const i32; R],
    ) -> [Self::Ints; R] {
        // Two rows are multiplied with pairs of features: until the end, the first
        // holds both rows' sums of two features, the second those of two others.
        let by_two = if SMMLA { R / 2 * 2 } else { 0 };
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        for pair in 0..4 {
            let codes = C::pair::<Self>(block, pair);
            if by_two > 0 {
                let words = |quad: usize, i: usize| vreinterpretq_u32_u8(codes[quad][i]);
                let first = each!(I => vzip1q_u32(words(0, I), words(1, I)));
                let last = each!(I => vzip2q_u32(words(0, I), words(1, I)));
                for r in (0..by_two).step_by(2) {
                    let x = vcombine_u8(eight(q[r].add(4 * pair)), eight(q[r + 1].add(4 * pair)));
                    dots[r] = each!(I => {
                        matrix_product(dots[r][I], vreinterpretq_u8_u32(first[I]), x)
                    });
                    dots[r + 1] = each!(I => {
                        matrix_product(dots[r + 1][I], vreinterpretq_u8_u32(last[I]), x)
                    });
                }
            }
            for high in 0..2 {
                let codes = codes[high];
                for r in by_two..R {
                    let x = q[r].add(4 * pair + 16 * high).cast::<u32>().read_unaligned();
                    let x = vreinterpretq_u8_u32(vdupq_n_u32(x));
                    // Codes without a sign are below 128.
                    dots[r] = each!(I => dot::<SDOT>(dots[r][I], codes[I], x));
                }
            }
        }
        for r in (0..by_two).step_by(2) {
            let (first, last) = (dots[r], dots[r + 1]);
            dots[r] = each!(I => vuzp1q_s32(first[I], last[I]));
            dots[r + 1] = each!(I => vuzp2q_s32(first[I], last[I]));
        }
        if C::OFFSET != 0 {
            for r in 0..R {
                let offset = vdupq_n_s32(*sums[r] * C::OFFSET);
                dots[r] = each!(I => vsubq_s32(dots[r][I], offset));
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn greatest(x: *const f32) -> u32 {
        let mask = vdupq_n_u32(0x7FFF_FFFF);
        let [a, b, c, d] = each!(I => vandq_u32(vld1q_u32(x.cast::<u32>().add(4 * I)), mask));
        vmaxvq_u32(vmaxq_u32(vmaxq_u32(a, b), vmaxq_u32(c, d)))
    }

    #[inline(always)]
    unsafe fn quantize(x: *const f32, scale: f32, q: *mut i8) -> i32 {
        let scale = vdupq_n_f32(scale);
        // Rounds to the nearest, ties to even.
        let ints = each!(I => vcvtnq_s32_f32(vdivq_f32(vld1q_f32(x.add(4 * I)), scale)));
        let low = vcombine_s16(vmovn_s32(ints[0]), vmovn_s32(ints[1]));
        let high = vcombine_s16(vmovn_s32(ints[2]), vmovn_s32(ints[3]));
        vst1q_s8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        i32::from(vaddvq_s16(vaddq_s16(low, high)))
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // The intrinsic is not stable yet; any address will do.
        asm!(
            "prfm pldl1keep, [{from}]",
            from = in(reg) from,
            options(readonly, nostack, preserves_flags),
        );
    }
}
