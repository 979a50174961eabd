//! The registers that kernels are written for.

/// A few f32 in a register.
///
/// # Safety
///
/// Every method requires that the CPU has the instruction set that the
/// implementation is for, and that what pointers point to is readable or
/// writable for [`LANES`](Self::LANES) elements. No pointer need be aligned.
pub(crate) trait Simd: 'static {
    /// Numbers per register; divides 16.
    const LANES: usize;
    /// Whether kernels for many registers at once are worth their code.
    const MANY: bool = true;
    /// A register.
    type V: Copy;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Half floats, widened exactly.
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// Upper halves of f32, widened exactly.
    unsafe fn load_bf16(from: *const u16) -> Self::V;
    unsafe fn store(v: Self::V, to: *mut f32);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`: rounded once, where the instruction set has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `yes` in the lanes where `a < b`, which no NaN is, else `no`.
    unsafe fn if_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Without sign.
    unsafe fn abs(a: Self::V) -> Self::V;
    /// The nearest integers, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^a` of integers from -126 to 127; of others, anything.
    unsafe fn power_of_two(a: Self::V) -> Self::V;
}

/// How weights are stored.
///
/// # Safety
///
/// As [`Simd`].
pub(crate) trait Element: 'static {
    /// A stored number.
    type Stored: Copy;

    /// [`Simd::LANES`] of them, widened.
    unsafe fn load<S: Simd>(from: *const Self::Stored) -> S::V;
}

/// Stored as they are.
pub(crate) enum F32 {}
/// Stored as half floats.
pub(crate) enum F16 {}
/// Stored as the upper halves of f32, rounded.
pub(crate) enum Bf16 {}

impl Element for F32 {
    type Stored = f32;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { S::load(from) }
    }
}

impl Element for F16 {
    type Stored = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { S::load_f16(from) }
    }
}

impl Element for Bf16 {
    type Stored = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { S::load_bf16(from) }
    }
}
