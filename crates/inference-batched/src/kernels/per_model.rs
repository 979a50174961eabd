//! One model after the other: registers hold outputs, and each weight is
//! multiplied with an input that all lanes share.

use super::activations::apply;
use super::rows::Rows;
use super::scratch::Scratch;
use super::simd::{Element, Simd};
use super::stop::Stop;
use crate::layout::{PANEL, PackedLayer, PackedLayout};

/// Rows whose activations stay in the first-level cache between layers.
const MOST_ROWS: usize = 32;

/// Floats of activations between layers, per buffer, above which fewer rows go
/// together.
const BETWEEN: usize = 4096;

/// Rows that go through all layers together: a function of the layout alone.
pub(crate) fn rows_together(layout: &PackedLayout) -> usize {
    (BETWEEN / row_floats(layout)).clamp(4, MOST_ROWS)
}

/// Floats of one row between layers, with room for whole registers.
pub(crate) fn row_floats(layout: &PackedLayout) -> usize {
    layout.widest_between.next_multiple_of(16) + 16
}

/// All layers for all rows of one model.
///
/// # Safety
///
/// The CPU has the instruction set of `S`; `weights` are those of a model in
/// `layout`, with 16 more readable numbers behind; the rows of `x` and `y` are
/// those of the model, `x` of `layout.inputs` and `y` of `layout.outputs`
/// numbers, and `y` is written by nobody else; `scratch` is for this layout.
#[inline(always)]
pub(crate) unsafe fn forward<S: Simd, E: Element>(
    layout: &PackedLayout,
    weights: *const E::Stored,
    rows: Rows,
    scratch: &mut Scratch,
    stop: &Stop<'_>,
) {
    let together = rows_together(layout);
    let pitch = row_floats(layout);
    let between = scratch.buffers();
    let last = layout.layers.len() - 1;
    let mut first = 0;
    while first < rows.count {
        let count = together.min(rows.count - first);
        let mut x = rows.x.wrapping_add(first * layout.inputs);
        let mut x_pitch = layout.inputs;
        for (index, layer) in layout.layers.iter().enumerate() {
            if stop.between_layers() {
                return;
            }
            let out = if index == last {
                let y = rows.y.wrapping_add(first * layout.outputs);
                Out { y, pitch: layout.outputs, exact: true }
            } else {
                Out { y: between[index % 2], pitch, exact: false }
            };
            // SAFETY: weights and rows as the caller promises; a buffer has
            // room for `together` rows, and is not the one that is read.
            unsafe {
                product::<S, E>(layer, weights, x, x_pitch, out, count);
                for row in 0..count {
                    let y = out.y.wrapping_add(row * out.pitch);
                    apply::<S>(layer.activation, y, layer.outputs);
                }
            }
            (x, x_pitch) = (out.y.cast_const(), out.pitch);
        }
        first += count;
    }
}

/// Where rows of a layer's outputs go.
#[derive(Clone, Copy)]
struct Out {
    y: *mut f32,
    /// From row to row.
    pitch: usize,
    /// Whether there is no room behind the last output of a row.
    exact: bool,
}

/// One layer for `count` rows.
#[inline(always)]
unsafe fn product<S: Simd, E: Element>(
    layer: &PackedLayer,
    weights: *const E::Stored,
    x: *const f32,
    x_pitch: usize,
    out: Out,
    count: usize,
) {
    let mut first = 0;
    while first < layer.outputs {
        let width = PANEL.min(layer.outputs - first);
        let panel = Panel::<E> {
            weight: weights.wrapping_add(layer.weight + first * layer.inputs),
            width,
            bias: layer.bias.map(|bias| weights.wrapping_add(bias + first)),
            inputs: layer.inputs,
        };
        let out = Out { y: out.y.wrapping_add(first), ..out };
        // The number of sums that an output is added up in depends on the
        // layer alone. More of them where outputs are few keep the multipliers
        // busy.
        // SAFETY: as the caller promises.
        unsafe {
            match layer.outputs {
                ..32 => panel_rows::<S, E, 4>(&panel, x, x_pitch, out, count),
                32..64 => panel_rows::<S, E, 2>(&panel, x, x_pitch, out, count),
                64.. => panel_rows::<S, E, 1>(&panel, x, x_pitch, out, count),
            }
        }
        first += width;
    }
}

/// A panel of outputs.
struct Panel<E: Element> {
    weight: *const E::Stored,
    width: usize,
    bias: Option<*const E::Stored>,
    inputs: usize,
}

/// All rows of a panel, with `C` sums per output.
#[inline(always)]
unsafe fn panel_rows<S: Simd, E: Element, const C: usize>(
    panel: &Panel<E>,
    x: *const f32,
    x_pitch: usize,
    out: Out,
    count: usize,
) {
    let mut row = 0;
    // SAFETY: as the caller promises, row by row.
    unsafe {
        if S::MANY && C <= 2 {
            while row + 4 <= count {
                let x = std::array::from_fn(|r| x.wrapping_add((row + r) * x_pitch));
                let out = Out { y: out.y.wrapping_add(row * out.pitch), ..out };
                if C == 1 {
                    tiles::<S, E, 4, 2, C>(panel, x, out, 0);
                } else {
                    tiles::<S, E, 4, 1, C>(panel, x, out, 0);
                }
                row += 4;
            }
        }
        if S::MANY && C == 4 {
            while row + 2 <= count {
                let x = std::array::from_fn(|r| x.wrapping_add((row + r) * x_pitch));
                let out = Out { y: out.y.wrapping_add(row * out.pitch), ..out };
                tiles::<S, E, 2, 1, C>(panel, x, out, 0);
                row += 2;
            }
        }
        while row < count {
            let x = [x.wrapping_add(row * x_pitch)];
            let out = Out { y: out.y.wrapping_add(row * out.pitch), ..out };
            let mut first = 0;
            if S::MANY && C == 1 {
                first = tiles_while::<S, E, 1, 8, C>(panel, x, out, first);
            }
            if S::MANY && C <= 2 {
                first = tiles_while::<S, E, 1, 4, C>(panel, x, out, first);
            }
            if S::MANY {
                first = tiles_while::<S, E, 1, 2, C>(panel, x, out, first);
            }
            tiles::<S, E, 1, 1, C>(panel, x, out, first);
            row += 1;
        }
    }
}

/// Tiles of `V` registers as long as they are full; the first output after.
#[inline(always)]
unsafe fn tiles_while<S: Simd, E: Element, const R: usize, const V: usize, const C: usize>(
    panel: &Panel<E>,
    x: [*const f32; R],
    out: Out,
    mut first: usize,
) -> usize {
    while first + V * S::LANES <= panel.width {
        // SAFETY: as the caller promises.
        unsafe { tile::<S, E, R, V, C>(panel, x, out, first) };
        first += V * S::LANES;
    }
    first
}

/// All outputs from `first`, in tiles of `V` registers, then of one.
#[inline(always)]
unsafe fn tiles<S: Simd, E: Element, const R: usize, const V: usize, const C: usize>(
    panel: &Panel<E>,
    x: [*const f32; R],
    out: Out,
    first: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut first = tiles_while::<S, E, R, V, C>(panel, x, out, first);
        while first < panel.width {
            tile::<S, E, R, 1, C>(panel, x, out, first);
            first += S::LANES;
        }
    }
}

/// `R` rows and `V` registers of outputs. Input `k` goes to sum `k % C`; the
/// sums, the first of which begins with the bias, are added up in pairs.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "two places of one array at once")]
unsafe fn tile<S: Simd, E: Element, const R: usize, const V: usize, const C: usize>(
    panel: &Panel<E>,
    x: [*const f32; R],
    out: Out,
    first: usize,
) {
    // SAFETY: `inputs` numbers of each row and `width` of each input's weights
    // are readable, and a register more behind the last.
    unsafe {
        let mut sums = [[[S::splat(0.0); V]; R]; C];
        if let Some(bias) = panel.bias {
            for v in 0..V {
                let bias = E::load::<S>(bias.wrapping_add(first + v * S::LANES));
                for sum in &mut sums[0] {
                    sum[v] = bias;
                }
            }
        }
        let mut weight = panel.weight.wrapping_add(first);
        let mut k = 0;
        while k + C <= panel.inputs {
            for (c, sums) in sums.iter_mut().enumerate() {
                step::<S, E, R, V>(weight, x, k + c, sums);
                weight = weight.wrapping_add(panel.width);
            }
            k += C;
        }
        for (c, sums) in sums.iter_mut().enumerate() {
            if k + c < panel.inputs {
                step::<S, E, R, V>(weight, x, k + c, sums);
                weight = weight.wrapping_add(panel.width);
            }
        }
        let mut step = 1;
        while step < C {
            let mut c = 0;
            while c + step < C {
                for r in 0..R {
                    for v in 0..V {
                        sums[c][r][v] = S::add(sums[c][r][v], sums[c + step][r][v]);
                    }
                }
                c += 2 * step;
            }
            step *= 2;
        }
        for (r, sums) in sums[0].iter().enumerate() {
            for (v, result) in sums.iter().copied().enumerate() {
                let at = first + v * S::LANES;
                let y = out.y.wrapping_add(r * out.pitch + at);
                let room = panel.width - at.min(panel.width);
                if out.exact && room < S::LANES {
                    let mut all = [0.0f32; 16];
                    S::store(result, all.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(all.as_ptr(), y, room);
                } else {
                    S::store(result, y);
                }
            }
        }
    }
}

/// Input `k` of each row times its weights, added to `sums`.
#[inline(always)]
unsafe fn step<S: Simd, E: Element, const R: usize, const V: usize>(
    weight: *const E::Stored,
    x: [*const f32; R],
    k: usize,
    sums: &mut [[S::V; V]; R],
) {
    // SAFETY: as in `tile`.
    unsafe {
        let w: [S::V; V] = std::array::from_fn(|v| E::load::<S>(weight.wrapping_add(v * S::LANES)));
        for (x, sums) in x.iter().zip(sums) {
            let x = S::splat(*x.wrapping_add(k));
            for (w, sum) in w.iter().zip(sums) {
                *sum = S::fma(x, *w, *sum);
            }
        }
    }
}
