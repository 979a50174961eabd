//! The integer arithmetic of types with sub-scales.
//!
//! A lane of 32 bits per output feature holds four codes of consecutive k (a
//! quad), two 16-bit integers or one of 32. Activations are broadcast, four at
//! a time. What instruction sets differ in is how products of bytes are
//! summed: in 16 bits, which overflow and are widened by the multiplication
//! with a sub-scale, or in 32. All sums are exact, so their order is free.

/// 16 lanes, in as many registers as it takes.
///
/// # Safety
///
/// Every method requires that the CPU has the instruction set that the
/// implementation is for; those that take a pointer, that 64 bytes can be read
/// (or written) there. Pointers need no alignment.
pub(crate) trait Quads: Copy {
    /// 16 f32.
    type Floats: Copy;

    /// Whether sums of dots have 32 bits. If not, 16: as many quads may be
    /// added as the codes' largest magnitude allows.
    const WIDE: bool;

    /// Whether [`dot_signed`](Self::dot_signed) costs as much as
    /// [`dot`](Self::dot), or at least less than correcting for an offset.
    const SIGNED: bool;

    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    /// Every lane the same.
    unsafe fn splat(word: u32) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    /// 16 unsigned integers of 16 bits (32 bytes), widened to lanes.
    unsafe fn widen(from: *const u8) -> Self;
    /// 32-bit integers, shifted to the left by 1 to 31 bits.
    unsafe fn shl_lanes<const N: i32>(self) -> Self;
    /// 16-bit integers, shifted to the left by 1 to 15 bits.
    unsafe fn shl<const N: i32>(self) -> Self;
    /// 16-bit integers, shifted to the right by 1 to 15 bits, zeros following.
    unsafe fn shr<const N: i32>(self) -> Self;
    /// Every byte the entry of a table of 16 that it is the index of; indices
    /// are below 16.
    unsafe fn look_up(self, table: &[i8; 16]) -> Self;
    /// Differences of bytes.
    unsafe fn sub_bytes(self, other: Self) -> Self;

    /// `sums` plus the dot products of unsigned codes with activations of -127
    /// to 127. If not `WIDE`, codes are below 128.
    unsafe fn dot(sums: Self, codes: Self, activations: Self) -> Self;
    /// The same with codes of -127 to 127.
    unsafe fn dot_signed(sums: Self, codes: Self, activations: Self) -> Self;
    /// Sub-scales of byte `N` of every lane for [`scaled`](Self::scaled).
    unsafe fn scale_of_unsigned<const N: usize>(self) -> Self;
    /// The same of signed bytes.
    unsafe fn scale_of_signed<const N: usize>(self) -> Self;
    /// `total + sums * scale` in 32 bits.
    unsafe fn scaled(total: Self, sums: Self, scale: Self) -> Self;

    /// Bytes `2 * N` and `2 * N + 1` of every lane, widened to 16 bits.
    unsafe fn pair_of_unsigned<const N: usize>(self) -> Self;
    /// The same of signed bytes.
    unsafe fn pair_of_signed<const N: usize>(self) -> Self;
    /// `total` plus the dot products of pairs of 16-bit integers, in 32 bits.
    unsafe fn dot_pairs(total: Self, a: Self, b: Self) -> Self;

    /// The same, where the compiler may not look through it: left alone, it
    /// computes sums of many rows at a time until registers run out.
    #[inline(always)]
    unsafe fn pinned(self) -> Self {
        self
    }

    /// `self - other * 2^N`, 32-bit integers.
    unsafe fn sub_shifted<const N: i32>(self, other: Self) -> Self;
    /// 32-bit integers as floats, rounded to nearest.
    unsafe fn floats(self) -> Self::Floats;
}

/// What shuffles bytes within each lane of 16 bytes: byte `i` of a lane becomes
/// its byte `bytes[i]`, or 0 where that is [`NONE`].
pub(super) const fn within_lanes(bytes: [u8; 4]) -> [u8; 16] {
    let mut control = [NONE; 16];
    let mut i = 0;
    while i < 16 {
        if bytes[i % 4] != NONE {
            control[i] = (i / 4 * 4) as u8 + bytes[i % 4];
        }
        i += 1;
    }
    control
}

/// No byte: zero.
pub(super) const NONE: u8 = 0x80;

/// The shuffles that [`Quads`] needs, by what they take: sub-scales of 16 bits
/// in both halves or of 32, and pairs. Signed ones come to the upper ends, from
/// where an arithmetic shift widens them.
pub(super) struct Shuffles;

#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "sums of 16 bits are those of x86-64 alone")
)]
impl Shuffles {
    pub(super) const TWICE_UNSIGNED: [[u8; 16]; 4] = [
        within_lanes([0, NONE, 0, NONE]),
        within_lanes([1, NONE, 1, NONE]),
        within_lanes([2, NONE, 2, NONE]),
        within_lanes([3, NONE, 3, NONE]),
    ];
    pub(super) const TWICE_SIGNED: [[u8; 16]; 4] = [
        within_lanes([NONE, 0, NONE, 0]),
        within_lanes([NONE, 1, NONE, 1]),
        within_lanes([NONE, 2, NONE, 2]),
        within_lanes([NONE, 3, NONE, 3]),
    ];
    pub(super) const ONCE_UNSIGNED: [[u8; 16]; 4] = [
        within_lanes([0, NONE, NONE, NONE]),
        within_lanes([1, NONE, NONE, NONE]),
        within_lanes([2, NONE, NONE, NONE]),
        within_lanes([3, NONE, NONE, NONE]),
    ];
    pub(super) const ONCE_SIGNED: [[u8; 16]; 4] = [
        within_lanes([NONE, NONE, NONE, 0]),
        within_lanes([NONE, NONE, NONE, 1]),
        within_lanes([NONE, NONE, NONE, 2]),
        within_lanes([NONE, NONE, NONE, 3]),
    ];
    pub(super) const PAIR_UNSIGNED: [[u8; 16]; 2] =
        [within_lanes([0, NONE, 1, NONE]), within_lanes([2, NONE, 3, NONE])];
    pub(super) const PAIR_SIGNED: [[u8; 16]; 2] =
        [within_lanes([NONE, 0, NONE, 1]), within_lanes([NONE, 2, NONE, 3])];
}
