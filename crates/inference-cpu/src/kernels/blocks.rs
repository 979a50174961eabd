//! Affine maps over blocks of quantized weights and quantized activations.
//!
//! A group of 16 consecutive weights shares a scale. A group's product is the
//! exact integer dot product times both scales.
//! Lane `l` of [`LANES`] adds the groups `l`, `l + 16`, … with fused
//! multiply-adds, and the lanes are added as a tree: the order of
//! [`part`](super::part) with groups as terms, so the result is the same bits
//! on every instruction set and in any company.

use inference_gguf::blocks::Unpacked;

use super::activations::padded;
use super::format::Format;
use super::part::{GROUP, LANES, Part, sum_parts};

/// Rows that go over a span of unpacked weights: with it, their part of the
/// activations stays in the first-level cache.
const ROWS: usize = 32;

/// Values of a span: [`LANES`] groups, what is unpacked at once.
const SPAN: usize = LANES * GROUP;

/// A block of an affine map: `rows` rows of activations by `features` rows of
/// weights. Rows of activations are those of
/// [`QuantizedRow`](super::QuantizedRow), one after the other.
#[derive(Debug)]
pub(crate) struct BlockArgs {
    /// `[rows, padded(k)]`.
    pub(crate) x: *const i8,
    /// `[rows, padded(k) / GROUP]`.
    pub(crate) x_scales: *const f32,
    pub(crate) rows: usize,
    /// `[features, k]` in blocks.
    pub(crate) w: *const u8,
    /// Values of a row: whole blocks.
    pub(crate) k: usize,
    pub(crate) features: usize,
    /// `[features]`, or null.
    pub(crate) bias: *const f32,
    /// `[rows, out_stride]`, of which `features` columns are written.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// Computes a block.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there, and nothing else writes that part of `out`.
#[inline(always)]
pub(super) unsafe fn affine<P: Part, F: Format, const PARTS: usize>(args: &BlockArgs) {
    if args.rows == 1 {
        affine_rows::<P, F, PARTS, 1>(args, 0, 1);
    } else {
        for first in (0..args.rows).step_by(ROWS) {
            affine_rows::<P, F, PARTS, ROWS>(args, first, ROWS.min(args.rows - first));
        }
    }
}

/// Computes `rows` rows from `first` on, at most `MOST`.
///
/// # Safety
///
/// As [`affine`]; the rows lie in the block.
#[inline(always)]
unsafe fn affine_rows<P: Part, F: Format, const PARTS: usize, const MOST: usize>(
    args: &BlockArgs,
    first: usize,
    rows: usize,
) {
    let spans = padded(args.k) / SPAN;
    let row_bytes = args.k / F::VALUES * F::BYTES;
    let span_bytes = SPAN / F::VALUES * F::BYTES;
    let mut span = Unpacked::new();
    for feature in 0..args.features {
        let w = args.w.add(feature * row_bytes);
        let mut sums = [[P::splat(0.0); PARTS]; MOST];
        for s in 0..spans {
            let from = w.add(s * span_bytes);
            if (s + 1) * SPAN <= args.k {
                F::unpack::<P>(std::slice::from_raw_parts(from, span_bytes), &mut span);
            } else {
                let bytes = row_bytes - s * span_bytes;
                F::unpack::<P>(std::slice::from_raw_parts(from, bytes), &mut span);
                // Activations beyond the end are zeros; so must scales be.
                for group in (args.k - s * SPAN) / GROUP..LANES {
                    span.scale[group] = 0.0;
                }
            }
            for r in 0..rows {
                let group = ((first + r) * spans + s) * LANES;
                let x = args.x.add(group * GROUP);
                for part in 0..PARTS {
                    let lane = part * P::WIDTH;
                    let at = lane * GROUP;
                    let dots = P::group_dots(span.q.as_ptr().add(at), x.add(at));
                    let scales = P::load(span.scale.as_ptr().add(lane))
                        .mul(P::load(args.x_scales.add(group + lane)));
                    sums[r][part] = dots.fma(scales, sums[r][part]);
                }
            }
        }
        let bias = if args.bias.is_null() { 0.0 } else { *args.bias.add(feature) };
        for r in 0..rows {
            let dot = sum_parts::<P, PARTS>(sums[r]);
            *args.out.add((first + r) * args.out_stride + feature) = dot + bias;
        }
    }
}
