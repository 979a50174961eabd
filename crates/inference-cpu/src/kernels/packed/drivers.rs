//! The loops around blocks.

use std::mem::MaybeUninit;

use super::{CHUNK, FEATURES, Lanes, Packed, PackedArgs};

/// Most chunks along k that are unpacked at once: with a few rows of activations
/// they stay in the first-level cache.
const TILE_CHUNKS: usize = 3;

/// Bytes for so many chunks of any type.
const TILE_BYTES: usize = TILE_CHUNKS * CHUNK * 24;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for `bytes` of weights from `at` on, which are used later: as much later
/// as memory takes. Called for a few lines at a time, because a core waits where
/// it has more requests than it can have under way.
///
/// # Safety
///
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn prefetch<L: Lanes>(at: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        L::prefetch(at.wrapping_add(line * LINE));
    }
}

#[repr(align(64))]
struct Tile(MaybeUninit<[u8; TILE_BYTES]>);

/// Calls a function for all rows: `$rows` at a time, then as many as are left.
macro_rules! for_rows {
    ($function:ident::<$lanes:ty, $packed:ty, $rows:ident>($count:expr, |$row:ident| $args:tt)) => {
        let mut $row = 0;
        while $row + $rows <= $count {
            $function::<$lanes, $packed, $rows> $args;
            $row += $rows;
        }
        while $rows > 4 && $row + 4 <= $count {
            $function::<$lanes, $packed, 4> $args;
            $row += 4;
        }
        match $count - $row {
            1 => $function::<$lanes, $packed, 1> $args,
            2 => $function::<$lanes, $packed, 2> $args,
            3 => $function::<$lanes, $packed, 3> $args,
            _ => {}
        }
    };
}

/// Straight from the blocks, `ROWS` rows at a time, which is at least 4.
///
/// # Safety
///
/// As [`Lanes`]; the pointers of `args` are valid for the extents documented
/// there, and nothing else writes that part of `out`.
#[inline(always)]
pub(crate) unsafe fn few<L: Lanes, P: Packed, const ROWS: usize>(args: &PackedArgs) {
    for panel in 0..args.panels {
        for_rows!(few_rows::<L, P, ROWS>(args.rows, |row| (args, panel, row)));
    }
}

/// `R` rows from `row` on times a panel.
///
/// # Safety
///
/// As [`few`]; they are there.
#[inline(always)]
unsafe fn few_rows<L: Lanes, P: Packed, const R: usize>(
    args: &PackedArgs,
    panel: usize,
    row: usize,
) {
    let mut weights = args.w.add(panel * args.blocks * P::BYTES);
    let mut sums = [L::splat(0.0); R];
    let per_chunk = CHUNK / P::VALUES;
    for chunk in 0..args.blocks.div_ceil(per_chunk) {
        let x = chunks::<P, R>(args, row, chunk);
        for index in 0..per_chunk.min(args.blocks - chunk * per_chunk) {
            P::add::<L, R, false>(weights, x, index, &mut sums);
            weights = weights.add(P::BYTES);
        }
    }
    let first = panel * FEATURES;
    let lanes = FEATURES.min(args.features - first);
    for r in 0..R {
        finish::<L>(args, row + r, first, lanes, sums[r]);
    }
}

/// By way of unpacked tiles, `ROWS` rows at a time, which is at least 4.
///
/// # Safety
///
/// As [`few`].
#[inline(always)]
pub(crate) unsafe fn many<L: Lanes, P: Packed, const ROWS: usize>(args: &PackedArgs) {
    const { assert!(TILE_CHUNKS * CHUNK / P::VALUES * P::TILE_BYTES <= TILE_BYTES) };
    let mut tile = Tile(MaybeUninit::uninit());
    let tile = tile.0.as_mut_ptr().cast::<u8>();
    // Parts of nearly one size: chains are read and written around each.
    let per_chunk = CHUNK / P::VALUES;
    let chunks = args.blocks.div_ceil(per_chunk);
    let per_tile = chunks.div_ceil(chunks.div_ceil(TILE_CHUNKS).max(1)).max(1) * per_chunk;
    for first in (0..args.blocks).step_by(per_tile) {
        let blocks = per_tile.min(args.blocks - first);
        for panel in 0..args.panels {
            let weights = args.w.add((panel * args.blocks + first) * P::BYTES);
            for block in 0..blocks {
                P::unpack::<L>(weights.add(block * P::BYTES), tile.add(block * P::TILE_BYTES));
            }
            let part = Part { tile, first, blocks, panel };
            for_rows!(many_rows::<L, P, ROWS>(args.rows, |row| (args, &part, row)));
        }
    }
}

/// Writes what `count` blocks of a panel stand for, `[values, FEATURES]`.
///
/// # Safety
///
/// As [`Lanes`]; the blocks are readable, `out` is as long.
#[inline(always)]
pub(crate) unsafe fn decode<L: Lanes, P: Packed>(blocks: *const u8, count: usize, out: *mut f32) {
    let mut tile = Tile(MaybeUninit::uninit());
    let tile = tile.0.as_mut_ptr().cast::<u8>();
    for block in 0..count {
        P::unpack::<L>(blocks.add(block * P::BYTES), tile);
        P::decode::<L>(tile, out.add(block * P::VALUES * FEATURES));
    }
}

/// Part of a panel.
struct Part {
    /// Unpacked.
    tile: *const u8,
    first: usize,
    blocks: usize,
    panel: usize,
}

/// `R` rows from `row` on times part of a panel, added to what is in the
/// output.
///
/// # Safety
///
/// As [`few`]; they are there.
#[inline(always)]
unsafe fn many_rows<L: Lanes, P: Packed, const R: usize>(
    args: &PackedArgs,
    part: &Part,
    row: usize,
) {
    let feature = part.panel * FEATURES;
    let lanes = FEATURES.min(args.features - feature);
    let mut sums = [L::splat(0.0); R];
    if part.first > 0 {
        for r in 0..R {
            sums[r] = load::<L>(out(args, row + r, feature), lanes);
        }
    }
    let per_chunk = CHUNK / P::VALUES;
    let first_chunk = part.first / per_chunk;
    let mut weights = part.tile;
    for chunk in 0..part.blocks.div_ceil(per_chunk) {
        let x = chunks::<P, R>(args, row, first_chunk + chunk);
        for index in 0..per_chunk.min(part.blocks - chunk * per_chunk) {
            P::add::<L, R, true>(weights, x, index, &mut sums);
            weights = weights.add(P::TILE_BYTES);
        }
    }
    for r in 0..R {
        if part.first + part.blocks == args.blocks {
            finish::<L>(args, row + r, feature, lanes, sums[r]);
        } else {
            store::<L>(sums[r], out(args, row + r, feature), lanes);
        }
    }
}

/// Chunk `index` of `R` rows from `row` on.
///
/// # Safety
///
/// They are there.
#[inline(always)]
unsafe fn chunks<P: Packed, const R: usize>(
    args: &PackedArgs,
    row: usize,
    index: usize,
) -> [*const P::Chunk; R] {
    let first = args.x.cast::<P::Chunk>().add(index * args.x_rows + row);
    let mut chunks = [first; R];
    for r in 0..R {
        chunks[r] = first.add(r);
    }
    chunks
}

/// The address of an element of the output.
///
/// # Safety
///
/// It is there.
#[inline(always)]
unsafe fn out(args: &PackedArgs, row: usize, feature: usize) -> *mut f32 {
    args.out.add(row * args.out_stride + feature)
}

/// Writes the ends of chains, plus the bias.
///
/// # Safety
///
/// As [`few`]; the row and the features from `first` on are there.
#[inline(always)]
unsafe fn finish<L: Lanes>(
    args: &PackedArgs,
    row: usize,
    first: usize,
    lanes: usize,
    mut sums: L::Floats,
) {
    if !args.bias.is_null() {
        sums = L::add(sums, load::<L>(args.bias.add(first), lanes));
    }
    store::<L>(sums, out(args, row, first), lanes);
}

/// Loads the first `lanes` lanes.
///
/// # Safety
///
/// As [`Lanes`], for so many.
#[inline(always)]
unsafe fn load<L: Lanes>(from: *const f32, lanes: usize) -> L::Floats {
    if lanes == FEATURES {
        return L::load(from);
    }
    let mut all = [0.0; FEATURES];
    from.copy_to_nonoverlapping(all.as_mut_ptr(), lanes);
    L::load(all.as_ptr())
}

/// Stores the first `lanes` lanes.
///
/// # Safety
///
/// As [`Lanes`], for so many.
#[inline(always)]
unsafe fn store<L: Lanes>(floats: L::Floats, to: *mut f32, lanes: usize) {
    if lanes == FEATURES {
        return L::store(floats, to);
    }
    let mut all = [0.0; FEATURES];
    L::store(floats, all.as_mut_ptr());
    all.as_ptr().copy_to_nonoverlapping(to, lanes);
}
