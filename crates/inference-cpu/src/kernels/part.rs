//! The vector type that every kernel is written for.
//!
//! A reduction runs over [`LANES`] lanes: lane `l` sums the terms `l`,
//! `l + 16`, `l + 32`, … with one fused multiply-add each, and the lanes are
//! added as a tree (`l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`). An instruction
//! set holds the 16 lanes in `PARTS` registers of `16 / PARTS` lanes, so its
//! arithmetic is the same, operation for operation, and so are its results.

use half::{bf16, f16};
pub(crate) use inference_gguf::blocks::GROUP;

/// Lanes of a reduction.
pub(crate) const LANES: usize = 16;

/// One register of f32 lanes.
///
/// # Safety
///
/// Every method requires that the CPU has the instruction set that the
/// implementation is for; those that take a pointer, that `WIDTH` elements can
/// be read (or written) there. Pointers need no alignment beyond their type's.
pub(crate) trait Part: Copy {
    /// Lanes of the register.
    const WIDTH: usize;
    /// Registers that the instruction set has; what tiles are sized by.
    const REGISTERS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Loads and widens, exactly.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// Loads and widens, exactly.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Loads and widens, exactly.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Every lane the same value, widened, exactly.
    unsafe fn splat_f16(value: f16) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Stores the nearest values, ties to even.
    unsafe fn store_f16(self, to: *mut f16);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// `if self < other { self } else { other }`: NaN where `other` is.
    unsafe fn less_of(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`: NaN where `other` is.
    unsafe fn greater_of(self, other: Self) -> Self;
    /// To the nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for integers from -126 to 127.
    unsafe fn exp2_integer(self) -> Self;
    /// `if a < b { then } else { otherwise }`.
    unsafe fn select_less(a: Self, b: Self, then: Self, otherwise: Self) -> Self;
    /// The sum of the lanes, halves first.
    unsafe fn sum(self) -> f32;
    /// The greatest lane, halves first.
    unsafe fn greatest(self) -> f32;
    /// One dot product per lane: lane `l` is that of the [`GROUP`] weights from
    /// `l * GROUP` on with as many activations, exactly. No activation is -128.
    ///
    /// `WIDTH * GROUP` values are readable at both pointers.
    unsafe fn group_dots(weights: *const i8, activations: *const i8) -> Self;
}

/// The sum of all lanes, in the order of the module's description.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn sum_parts<P: Part, const PARTS: usize>(mut parts: [P; PARTS]) -> f32 {
    let mut half = PARTS / 2;
    while half > 0 {
        for i in 0..half {
            parts[i] = parts[i].add(parts[i + half]);
        }
        half /= 2;
    }
    parts[0].sum()
}

/// The greatest of all lanes.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn greatest_of_parts<P: Part, const PARTS: usize>(mut parts: [P; PARTS]) -> f32 {
    let mut half = PARTS / 2;
    while half > 0 {
        for i in 0..half {
            parts[i] = parts[i].greater_of(parts[i + half]);
        }
        half /= 2;
    }
    parts[0].greatest()
}

/// A stored element: what weights, keys and values consist of.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// Loads one register, widened.
    ///
    /// # Safety
    ///
    /// As [`Part`].
    unsafe fn load<P: Part>(from: *const Self) -> P;

    /// Stores one register as the nearest values, ties to even.
    ///
    /// # Safety
    ///
    /// As [`Part`].
    unsafe fn store<P: Part>(part: P, to: *mut Self);

    /// The value as f32, exactly.
    fn widen(self) -> f32;

    /// The kernels for this element.
    fn kernels(table: &super::Kernels) -> &super::ElementKernels<Self>;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<P: Part>(from: *const Self) -> P {
        P::load(from)
    }

    #[inline(always)]
    unsafe fn store<P: Part>(part: P, to: *mut Self) {
        part.store(to);
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    fn kernels(table: &super::Kernels) -> &super::ElementKernels<Self> {
        &table.f32
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<P: Part>(from: *const Self) -> P {
        P::load_f16(from)
    }

    #[inline(always)]
    unsafe fn store<P: Part>(part: P, to: *mut Self) {
        part.store_f16(to);
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn kernels(table: &super::Kernels) -> &super::ElementKernels<Self> {
        &table.f16
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<P: Part>(from: *const Self) -> P {
        P::load_bf16(from)
    }

    #[inline(always)]
    unsafe fn store<P: Part>(part: P, to: *mut Self) {
        let mut values = [0.0f32; LANES];
        part.store(values.as_mut_ptr());
        for (lane, value) in values.into_iter().take(P::WIDTH).enumerate() {
            *to.add(lane) = bf16::from_f32(value);
        }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn kernels(table: &super::Kernels) -> &super::ElementKernels<Self> {
        &table.bf16
    }
}
