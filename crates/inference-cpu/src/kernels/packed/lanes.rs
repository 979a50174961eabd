//! The registers that packed kernels are written for.

use super::quads::Quads;

/// 8-bit codes of 32 values of a panel, as a kernel reads them.
pub(crate) trait Codes {
    /// Bits of a code that is not negative, from which [`OFFSET`](Self::OFFSET)
    /// is subtracted. 0: codes are signed bytes, none with an offset.
    const BITS: u32;
    /// What a stored code is too large by.
    const OFFSET: i32;

    /// Quads `pair` and `pair + 4` of the block's 8.
    ///
    /// # Safety
    ///
    /// As [`Lanes`]; the block is readable.
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2];
}

/// 16 lanes, one per output feature of a panel, in as many registers as it
/// takes.
///
/// # Safety
///
/// Every method requires that the CPU has the instruction set that the
/// implementation is for, and that what pointers point to is as long as the
/// lanes are: 16 floats (64 bytes), 16 half floats (32), 64 codes (64). No
/// pointer need be aligned.
pub(crate) trait Lanes {
    /// 16 f32.
    type Floats: Copy;
    /// 16 i32.
    type Ints: Copy;
    /// A quad of codes of each lane: byte `4 * lane + i`.
    type Codes: Copy;
    /// The arithmetic of types with sub-scales.
    type Quads: Quads<Floats = Self::Floats>;

    unsafe fn splat(value: f32) -> Self::Floats;
    unsafe fn load(from: *const f32) -> Self::Floats;
    /// Loads and widens half floats, exactly.
    unsafe fn load_f16(from: *const u8) -> Self::Floats;
    /// `2^(e - 128)` of 16 bytes: half of the scales that they stand for.
    unsafe fn load_exponents(from: *const u8) -> Self::Floats;
    unsafe fn store(floats: Self::Floats, to: *mut f32);
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// To the nearest f32.
    unsafe fn floats(ints: Self::Ints) -> Self::Floats;

    unsafe fn load_codes(from: *const u8) -> Self::Codes;
    unsafe fn store_codes(codes: Self::Codes, to: *mut u8);
    /// The low four bits of each byte.
    unsafe fn low(bytes: Self::Codes) -> Self::Codes;
    /// The high four bits of each byte.
    unsafe fn high(bytes: Self::Codes) -> Self::Codes;
    /// 4-bit codes with bit `bit` of `bits`' bytes as their fifth.
    unsafe fn with_fifth(codes: Self::Codes, bits: Self::Codes, bit: usize) -> Self::Codes;
    /// Entries of a table by codes below 16.
    unsafe fn look_up(table: &[i8; 16], codes: Self::Codes) -> Self::Codes;

    /// The exact dot products of 32 values of each feature with `R` rows of
    /// activations (`q`, 32 each, none -128, which add up to `sums`).
    unsafe fn dots<C: Codes, const R: usize>(
        block: *const u8,
        q: [*const i8; R],
        sums: [*const i32; R],
    ) -> [Self::Ints; R];

    /// The greatest of 16 activations' bits without their signs. As integers,
    /// magnitudes are in order, and NaN is the largest.
    unsafe fn greatest(x: *const f32) -> u32;

    /// Writes 16 activations divided by `scale` (which makes them at most 127)
    /// and rounded to the nearest integer, ties to even; returns their sum.
    unsafe fn quantize(x: *const f32, scale: f32, q: *mut i8) -> i32;

    /// Asks for a cache line ahead of its use. Any address will do.
    unsafe fn prefetch(from: *const u8);
}
