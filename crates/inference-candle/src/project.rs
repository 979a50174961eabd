//! Affine maps of a decoder with the adapters of a step.

use std::sync::Arc;

use candle_core::Tensor;
use inference_core::{Error, Result};

use crate::decoder_adapter::{AdaptedMap, DecoderAdapter, MapDelta};
use crate::{Linear, Ops};

/// The rows of a step that an adapter changes.
#[derive(Clone, Debug)]
pub struct AdapterRows<'a> {
    /// The adapter.
    pub adapter: &'a DecoderAdapter,
    /// Factor on top of its own scaling.
    pub scale: f32,
    /// Indices of the tokens in the step, ascending, at least one. No row is of
    /// two adapters.
    pub rows: Vec<u32>,
}

impl<'a> AdapterRows<'a> {
    /// The groups of a step of which only the rows `kept` are left, ascending:
    /// as they are counted then. Groups without a row left are gone.
    #[must_use]
    pub fn select(groups: &[Self], kept: &[usize]) -> Vec<AdapterRows<'a>> {
        let of = |group: &AdapterRows<'a>| {
            let has = |row: usize| group.rows.binary_search(&(row as u32)).is_ok();
            let left = kept.iter().zip(0..).filter(|(row, _)| has(**row));
            let rows = left.map(|(_, at)| at).collect();
            AdapterRows { adapter: group.adapter, scale: group.scale, rows }
        };
        groups.iter().map(of).filter(|group| !group.rows.is_empty()).collect()
    }
}

/// `map` of `x`, `[rows, in] -> [rows, out]`, with what each group's adapter
/// changes of it: `y += scaling * up(down(x))` for the group's rows.
///
/// This is the one place where the reference applies adapters. What a row gets
/// does not depend on the other rows, as far as [`Ops::apply`] does not.
///
/// # Errors
///
/// As [`Linear::forward`].
pub fn project<O: Ops + ?Sized>(
    ops: &O,
    map: &Arc<dyn Linear>,
    at: AdaptedMap,
    x: &Tensor,
    groups: &[AdapterRows<'_>],
) -> Result<Tensor> {
    let mut y = ops.apply(map, x)?;
    for group in groups {
        if let Some(delta) = group.adapter.delta(at) {
            y = changed(ops, delta, group, x, y)?;
        }
    }
    Ok(y)
}

fn changed<O: Ops + ?Sized>(
    ops: &O,
    delta: &MapDelta,
    group: &AdapterRows<'_>,
    x: &Tensor,
    y: Tensor,
) -> Result<Tensor> {
    let error = |e| Error::engine("an adapter's map", e);
    let count = y.dim(0).map_err(error)?;
    let all = group.rows.len() == count;
    let rows = Tensor::new(group.rows.as_slice(), x.device()).map_err(error)?;
    let of = |all_rows: &Tensor| match all {
        true => Ok(all_rows.clone()),
        false => all_rows.index_select(&rows, 0).map_err(error),
    };
    let input = of(x)?;
    let mut own = match &delta.replacement {
        Some(replacement) => ops.apply(replacement, &input)?,
        None => of(&y)?,
    };
    if let Some(factors) = &delta.factors {
        let low = ops.apply(&factors.down, &input)?;
        own =
            ops.add_scaled(&own, &ops.apply(&factors.up, &low)?, factors.scaling * group.scale)?;
    }
    if let Some(offset) = &delta.offset {
        own = own.broadcast_add(offset).map_err(error)?;
    }
    if all {
        return Ok(own);
    }
    // Rows are exchanged, not added to, so that none is rounded twice.
    let mut from: Vec<u32> = (0..count as u32).collect();
    for (row, place) in group.rows.iter().zip(count as u32..) {
        if let Some(from) = from.get_mut(*row as usize) {
            *from = place;
        }
    }
    let exchange = || Tensor::cat(&[&y, &own], 0)?.index_select(&Tensor::new(from, x.device())?, 0);
    exchange().map_err(error)
}
