//! Sixteen models woven together: registers hold the same output of several
//! models, and every model has its own input.

use super::activations::apply;
use super::rows::LaneRows;
use super::scratch::Scratch;
use super::simd::{Element, Simd};
use super::stop::Stop;
use crate::layout::{GROUP, GROUP_PANEL, PackedLayer, PackedLayout};

/// Floats of activations of a group between layers.
pub(crate) fn group_floats(layout: &PackedLayout) -> usize {
    layout.widest * GROUP
}

/// All layers of a group, for the rows that its lanes have: row `r` of every
/// lane, then row `r + 1`.
///
/// # Safety
///
/// The CPU has the instruction set of `S`; `weights` are those of a group in
/// `layout`; the rows of each lane are as in
/// [`per_model::forward`](super::per_model::forward); `scratch` is for this
/// layout.
#[inline(always)]
pub(crate) unsafe fn forward<S: Simd, E: Element>(
    layout: &PackedLayout,
    weights: *const E::Stored,
    lanes: &LaneRows,
    scratch: &mut Scratch,
    stop: &Stop<'_>,
) {
    let [mut x, mut y] = scratch.buffers();
    for row in 0..lanes.longest() {
        // SAFETY: buffers have room for the widest row of a group.
        unsafe { gather(layout, lanes, row, x) };
        for layer in &layout.layers {
            if stop.between_layers() {
                return;
            }
            // SAFETY: as the caller promises; `x` and `y` are two buffers.
            unsafe {
                product::<S, E>(layer, weights, x.cast_const(), y);
                apply::<S>(layer.activation, y, layer.outputs * GROUP);
            }
            (x, y) = (y, x);
        }
        // SAFETY: as above; the lanes' outputs are this call's to write.
        unsafe { scatter(layout, lanes, row, x.cast_const()) };
    }
}

/// Inputs `[lane][input]` to `[input][lane]`; zeros for lanes without a row.
#[inline(always)]
unsafe fn gather(layout: &PackedLayout, lanes: &LaneRows, row: usize, x: *mut f32) {
    for (lane, rows) in lanes.0.iter().enumerate() {
        if row < rows.count {
            let from = rows.x.wrapping_add(row * layout.inputs);
            for k in 0..layout.inputs {
                // SAFETY: the lane has this row; `x` has room for the widest.
                unsafe { *x.wrapping_add(k * GROUP + lane) = *from.wrapping_add(k) };
            }
        } else {
            for k in 0..layout.inputs {
                // SAFETY: as above.
                unsafe { *x.wrapping_add(k * GROUP + lane) = 0.0 };
            }
        }
    }
}

/// Outputs `[output][lane]` to `[lane][output]`.
#[inline(always)]
unsafe fn scatter(layout: &PackedLayout, lanes: &LaneRows, row: usize, y: *const f32) {
    for (lane, rows) in lanes.0.iter().enumerate() {
        if row < rows.count {
            let to = rows.y.wrapping_add(row * layout.outputs);
            for o in 0..layout.outputs {
                // SAFETY: the lane has this row, of `outputs` numbers.
                unsafe { *to.wrapping_add(o) = *y.wrapping_add(o * GROUP + lane) };
            }
        }
    }
}

/// One layer of a group, for a row of each lane.
#[inline(always)]
unsafe fn product<S: Simd, E: Element>(
    layer: &PackedLayer,
    weights: *const E::Stored,
    x: *const f32,
    y: *mut f32,
) {
    let mut first = 0;
    while first < layer.outputs {
        let width = GROUP_PANEL.min(layer.outputs - first);
        let weight = weights.wrapping_add(layer.weight + first * layer.inputs * GROUP);
        let bias = layer.bias.map(|bias| weights.wrapping_add(bias + first * GROUP));
        let y = y.wrapping_add(first * GROUP);
        // SAFETY: as the caller promises.
        unsafe {
            match width {
                1 => panel::<S, E, 1>(layer, weight, bias, x, y),
                2 => panel::<S, E, 2>(layer, weight, bias, x, y),
                3 => panel::<S, E, 3>(layer, weight, bias, x, y),
                _ => panel::<S, E, GROUP_PANEL>(layer, weight, bias, x, y),
            }
        }
        first += width;
    }
}

/// `W` outputs of all lanes; inputs are added up in their order.
#[inline(always)]
unsafe fn panel<S: Simd, E: Element, const W: usize>(
    layer: &PackedLayer,
    weight: *const E::Stored,
    bias: Option<*const E::Stored>,
    x: *const f32,
    y: *mut f32,
) {
    /// Registers at a time: with [`GROUP_PANEL`] outputs, eight sums.
    const V: usize = 2;
    let step = (V * S::LANES).min(GROUP);
    let mut lane = 0;
    while lane < GROUP {
        // SAFETY: a group has 16 lanes for every number.
        unsafe {
            if S::LANES == GROUP {
                half_panel::<S, E, W, 1>(layer, weight, bias, x, y, lane);
            } else {
                half_panel::<S, E, W, V>(layer, weight, bias, x, y, lane);
            }
        }
        lane += step;
    }
}

/// [`panel`] for `V` registers of lanes.
#[inline(always)]
unsafe fn half_panel<S: Simd, E: Element, const W: usize, const V: usize>(
    layer: &PackedLayer,
    weight: *const E::Stored,
    bias: Option<*const E::Stored>,
    x: *const f32,
    y: *mut f32,
    lane: usize,
) {
    // SAFETY: `lane + V * LANES` is at most 16; weights and activations have 16
    // lanes for each number.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; W];
        if let Some(bias) = bias {
            for (o, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = E::load::<S>(bias.wrapping_add(o * GROUP + lane + v * S::LANES));
                }
            }
        }
        let mut weight = weight.wrapping_add(lane);
        let mut x = x.wrapping_add(lane);
        for _ in 0..layer.inputs {
            let inputs: [S::V; V] = std::array::from_fn(|v| S::load(x.wrapping_add(v * S::LANES)));
            for (o, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let w = E::load::<S>(weight.wrapping_add(o * GROUP + v * S::LANES));
                    *sum = S::fma(inputs[v], w, *sum);
                }
            }
            weight = weight.wrapping_add(W * GROUP);
            x = x.wrapping_add(GROUP);
        }
        for (o, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                S::store(*sum, y.wrapping_add(o * GROUP + lane + v * S::LANES));
            }
        }
    }
}
