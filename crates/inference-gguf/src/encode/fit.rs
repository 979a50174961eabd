//! Least squares with integers: the scale (and minimum) under which rounded
//! values come nearest to the given ones, each error counted with a weight.

/// What is taken for zero: below it a reciprocal would overflow.
const TINY: f32 = 1e-15;

/// Rounds to the nearest integer between two others, ties to even; 0 for NaN.
pub(super) fn nearest(value: f32, low: i32, high: i32) -> i32 {
    // Adding and subtracting 1.5 * 2^23 rounds; the bounds are far below that.
    const SHIFT: f32 = 12_582_912.0;
    ((value.clamp(low as f32, high as f32) + SHIFT) - SHIFT) as i32
}

pub(super) fn sum_of_squares(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum()
}

/// The value of largest magnitude; the first of equals.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |best: f32, x| if x.abs() > best.abs() { *x } else { best })
}

/// `sum(w x l)` and `sum(w l l)`: the best scale is their quotient.
#[derive(Clone, Copy, Default)]
struct Moments {
    xl: f32,
    ll: f32,
}

impl Moments {
    fn add(&mut self, x: f32, w: f32, l: i32) {
        let l = l as f32;
        self.xl += w * x * l;
        self.ll += w * l * l;
    }

    fn scale(self) -> f32 {
        if self.ll > 0.0 { self.xl / self.ll } else { 0.0 }
    }

    /// Whether the best scale leaves less error than that of the other.
    fn beats(self, other: Self) -> bool {
        self.ll > 0.0 && self.xl * self.xl * other.ll > other.xl * other.xl * self.ll
    }
}

/// Fits `x ≈ scale * l` with `l` from `-half` to `half - 1`. `levels` become
/// `l + half`. Scales that put the largest value on a bit less or more than
/// `-half` are tried.
pub(super) fn symmetric(x: &[f32], weights: &[f32], half: i32, levels: &mut [u8]) -> f32 {
    let max = largest(x);
    if max.abs() < TINY {
        levels.fill(0);
        return 0.0;
    }
    let round = |inverse: f32, x: f32| nearest(inverse * x, -half, half - 1);
    let moments = |inverse: f32| {
        let mut moments = Moments::default();
        for (x, w) in x.iter().zip(weights) {
            moments.add(*x, *w, round(inverse, *x));
        }
        moments
    };
    let mut chosen = -(half as f32) / max;
    let mut best = moments(chosen);
    for step in (-9..=9).filter(|step| *step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / max;
        let trial = moments(inverse);
        // As `beats`, in the form whose rounding decides near ties.
        if trial.ll > 0.0 && trial.xl * trial.xl > best.scale() * best.xl * trial.ll {
            (chosen, best) = (inverse, trial);
        }
    }
    for (x, level) in x.iter().zip(levels) {
        *level = (round(chosen, *x) + half) as u8;
    }
    best.scale()
}

/// As [`symmetric`] with squares as weights, moving single levels as long as
/// that helps instead of trying scales.
pub(super) fn symmetric_by_moves(x: &[f32], half: i32, levels: &mut [u8]) -> f32 {
    let max = largest(x);
    if max.abs() < TINY {
        levels.fill(0);
        return 0.0;
    }
    let inverse = -(half as f32) / max;
    let mut best = Moments::default();
    for (x, level) in x.iter().zip(&mut *levels) {
        let l = nearest(inverse * x, -half, half - 1);
        best.add(*x, x * x, l);
        *level = (l + half) as u8;
    }
    for _ in 0..5 {
        let mut moved = false;
        for (x, level) in x.iter().zip(&mut *levels) {
            let (w, l) = (x * x, i32::from(*level) - half);
            let mut trial = best;
            trial.add(*x, -w, l);
            if trial.xl <= 0.0 {
                continue;
            }
            let new = nearest(x * trial.ll / trial.xl, -half, half - 1);
            trial.add(*x, w, new);
            if new != l && trial.beats(best) {
                *level = (new + half) as u8;
                (best, moved) = (trial, true);
            }
        }
        if !moved {
            break;
        }
    }
    best.scale()
}

/// Fits `x ≈ scale * l` of values that are not negative, with `l` from 0 to
/// `top`: scales and minima of a superblock's groups.
pub(super) fn unsigned(x: &[f32], weights: &[f32], top: i32, levels: &mut [u8]) -> f32 {
    let max = x.iter().copied().fold(0.0, f32::max);
    if max < TINY {
        levels.fill(0);
        return 0.0;
    }
    let error = |inverse: f32| -> f32 {
        let scale = 1.0 / inverse;
        let squares = x.iter().zip(weights).map(|(x, w)| {
            let difference = x - scale * nearest(inverse * x, 0, top) as f32;
            w * difference * difference
        });
        squares.sum()
    };
    let mut chosen = top as f32 / max;
    let mut least = error(chosen);
    for step in (-4..=4).filter(|step| *step != 0) {
        let inverse = (0.1 * step as f32 + top as f32) / max;
        let error = error(inverse);
        if error < least {
            (chosen, least) = (inverse, error);
        }
    }
    let mut best = Moments::default();
    for ((x, w), level) in x.iter().zip(weights).zip(&mut *levels) {
        let l = nearest(chosen * x, 0, top);
        best.add(*x, *w, l);
        *level = l as u8;
    }
    for _ in 0..5 {
        let mut moved = false;
        for ((x, w), level) in x.iter().zip(weights).zip(&mut *levels) {
            let l = i32::from(*level);
            let mut trial = best;
            trial.add(*x, -w, l);
            if trial.xl <= 0.0 || trial.ll <= 0.0 {
                continue;
            }
            let new = nearest(x * trial.ll / trial.xl, 0, top);
            trial.add(*x, *w, new);
            if new != l && trial.beats(best) {
                *level = new as u8;
                (best, moved) = (trial, true);
            }
        }
        if !moved {
            break;
        }
    }
    best.scale()
}

/// Which scales [`affine`] tries: those that spread the range of the values
/// over `top + first + i * step` levels, for `i` up to `count`.
pub(super) struct Search {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) count: usize,
    /// Sums absolute errors instead of squares.
    pub(super) absolute: bool,
}

/// Fits `x ≈ scale * l - minimum` with `l` from 0 to `top` and a minimum that
/// is not negative; answers both. At most 32 values.
pub(super) fn affine(
    x: &[f32],
    weights: &[f32],
    top: i32,
    search: &Search,
    levels: &mut [u8],
) -> (f32, f32) {
    let mut low = x.iter().copied().fold(f32::INFINITY, f32::min).min(0.0);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        levels.fill(0);
        return (0.0, -low);
    }
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for (x, w) in x.iter().zip(weights) {
        sum_w += w;
        sum_x += w * x;
    }
    let error = |scale: f32, low: f32, levels: &[u8]| -> f32 {
        let terms = x.iter().zip(weights).zip(levels).map(|((x, w), l)| {
            let difference = scale * f32::from(*l) + low - x;
            w * if search.absolute { difference.abs() } else { difference * difference }
        });
        terms.sum()
    };
    let range = high - low;
    let inverse = top as f32 / range;
    let mut scale = 1.0 / inverse;
    for (x, level) in x.iter().zip(&mut *levels) {
        *level = nearest(inverse * (x - low), 0, top) as u8;
    }
    let mut least = error(scale, low, levels);
    let mut trial = [0; 32];
    let trial = &mut trial[..x.len()];
    for step in 0..=search.count {
        // The spread is that of the best minimum so far.
        let inverse = (search.first + search.step * step as f32 + top as f32) / (high - low);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((x, w), level) in x.iter().zip(weights).zip(&mut *trial) {
            *level = nearest(inverse * (x - low), 0, top) as u8;
            let l = f32::from(*level);
            sum_l += w * l;
            sum_ll += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut new_low = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        if new_low > 0.0 {
            (new_scale, new_low) = (sum_xl / sum_ll, 0.0);
        }
        let error = error(new_scale, new_low, trial);
        if error < least {
            levels.copy_from_slice(trial);
            (least, scale, low) = (error, new_scale, new_low);
        }
    }
    (scale, -low)
}
