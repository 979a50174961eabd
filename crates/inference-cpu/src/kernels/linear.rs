//! Dot products of rows with rows, as attention takes them.
//!
//! Each pair has accumulators of its own, and sums over k in the order of
//! [`part`](super::part), whatever tile it is computed in.

use super::part::{LANES, Part, sum_parts};
use super::stored::Stored;

/// Adds the products of `steps * LANES` elements to a tile's accumulators.
///
/// # Safety
///
/// As [`Part`]; every row has `steps * LANES` elements.
#[inline(always)]
pub(super) unsafe fn accumulate<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    x: &[*const f32; ROWS],
    w: &[*const T; WEIGHTS],
    steps: usize,
    sums: &mut [[[P; PARTS]; WEIGHTS]; ROWS],
) {
    for step in 0..steps {
        for part in 0..PARTS {
            let at = step * LANES + part * P::WIDTH;
            let mut weights = [P::splat(0.0); WEIGHTS];
            for j in 0..WEIGHTS {
                weights[j] = T::load_at::<P>(w[j], at);
            }
            for r in 0..ROWS {
                let activations = P::load(x[r].add(at));
                for j in 0..WEIGHTS {
                    sums[r][j][part] = activations.fma(weights[j], sums[r][j][part]);
                }
            }
        }
    }
}

/// The dot products of a tile over `k` elements, tail included.
///
/// # Safety
///
/// As [`Part`]; every row has `k` elements.
#[inline(always)]
pub(super) unsafe fn dot_tile<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    x: &[*const f32; ROWS],
    w: &[*const T; WEIGHTS],
    k: usize,
) -> [[f32; WEIGHTS]; ROWS] {
    let mut sums = [[[P::splat(0.0); PARTS]; WEIGHTS]; ROWS];
    let steps = k / LANES;
    accumulate::<P, T, PARTS, ROWS, WEIGHTS>(x, w, steps, &mut sums);
    let (done, rest) = (steps * LANES, k % LANES);
    if rest > 0 {
        // The missing lanes add zeros.
        let mut x_tail = [[0.0f32; LANES]; ROWS];
        let mut w_tail = [[0.0f32; LANES]; WEIGHTS];
        for i in 0..rest {
            for r in 0..ROWS {
                x_tail[r][i] = *x[r].add(done + i);
            }
            for j in 0..WEIGHTS {
                w_tail[j][i] = T::value_at(w[j], done + i);
            }
        }
        let x_tail: [*const f32; ROWS] = std::array::from_fn(|r| x_tail[r].as_ptr());
        let w_tail: [*const f32; WEIGHTS] = std::array::from_fn(|j| w_tail[j].as_ptr());
        accumulate::<P, f32, PARTS, ROWS, WEIGHTS>(&x_tail, &w_tail, 1, &mut sums);
    }
    let mut dots = [[0.0; WEIGHTS]; ROWS];
    for r in 0..ROWS {
        for j in 0..WEIGHTS {
            dots[r][j] = sum_parts::<P, PARTS>(sums[r][j]);
        }
    }
    dots
}
