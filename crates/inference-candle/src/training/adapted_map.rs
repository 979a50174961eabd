//! A frozen map and what the adapter adds to it, forward and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use inference_core::{Error, Result};
use inference_lora::Draws;

use super::factors::{Factors, MapPart};
use super::shared_work::{ROWS, share};
use crate::{Linear, MatrixView, Ops};

/// Columns of a part of a factor's gradient.
const COLUMNS: usize = 128;

/// Gradients of factors, by their index.
pub(super) type Gradients = BTreeMap<usize, Vec<f32>>;

/// What the maps of a pass are computed with.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub(super) ops: &'a dyn Ops,
    pub(super) factors: &'a Factors,
    /// Where dropout draws from; `None`: no dropout.
    pub(super) dropout: Option<Draws>,
}

/// What a map computed.
pub(super) struct Mapped {
    /// `[tokens, out]`.
    pub(super) y: Vec<f32>,
    pub(super) low: Low,
}

/// `scaling · dropout(x) · Aᵀ`, `[tokens, rank]`; empty of a map that is not
/// adapted.
#[derive(Default)]
pub(super) struct Low(Vec<f32>);

/// The factors of a map.
struct Pair<'a> {
    /// `[rank, in]`.
    a: MatrixView<'a>,
    /// `[out, rank]`.
    b: MatrixView<'a>,
    part: MapPart,
    /// Indices of both, and the rows of all of `B`.
    indices: (usize, usize),
    b_rows: usize,
}

impl<'a> Maps<'a> {
    fn pair(&self, map: &Arc<dyn Linear>) -> Result<Option<Pair<'a>>> {
        let Some(part) = self.factors.part(map) else { return Ok(None) };
        let Some((module, a, b)) = self.factors.of(part.module) else { return Ok(None) };
        let ([rank, inputs], [b_rows, _]) = (a.shape, b.shape);
        let rows = b.computed.get(part.first * rank..).unwrap_or_default();
        Ok(Some(Pair {
            a: MatrixView::new(&a.computed, rank, inputs, inputs)?,
            b: MatrixView::new(rows, part.rows, rank, rank)?,
            part,
            indices: (module.a, module.b),
            b_rows,
        }))
    }

    fn scaling(&self) -> f32 {
        self.factors.config.scaling()
    }

    /// Factors on a module's input, where there is dropout: the same whenever
    /// the pass is computed, so that it can be computed again.
    fn mask(&self, module: usize, count: usize) -> Result<Option<Vec<f32>>> {
        let p = self.factors.config.dropout;
        let Some(draws) = self.dropout.filter(|_| p > 0.0) else { return Ok(None) };
        let draws = draws.stream(module as u64);
        let keep = 1.0 / (1.0 - p);
        let mut mask = vec![0.0; count];
        let parts = mask.chunks_mut(1 << 12).zip((0..).step_by(1 << 12));
        share(self.ops, parts, 16 * count, |(mask, first)| {
            for (factor, index) in mask.iter_mut().zip(first..) {
                *factor = if draws.uniform(index) < p { 0.0 } else { keep };
            }
            Ok(())
        })?;
        Ok(Some(mask))
    }

    /// `x`, or what dropout leaves of it.
    fn dropped(&self, x: &[f32], mask: Option<&[f32]>) -> Option<Vec<f32>> {
        Some(x.iter().zip(mask?).map(|(x, factor)| x * factor).collect())
    }

    /// `map` of `x`, `[tokens, in]`, exactly: activations are not rounded.
    pub(super) fn forward(&self, map: &Arc<dyn Linear>, x: &[f32]) -> Result<Mapped> {
        let (inputs, outputs) = (map.in_features(), map.out_features());
        let tokens = x.len().checked_div(inputs).unwrap_or(0);
        let mut y = vec![0.0; tokens * outputs];
        map.forward_exact(x, &mut y)?;
        let Some(pair) = self.pair(map)? else { return Ok(Mapped { y, low: Low::default() }) };
        let mask = self.mask(pair.part.module, x.len())?;
        let dropped = self.dropped(x, mask.as_deref());
        let x = dropped.as_deref().unwrap_or(x);
        let rank = pair.a.rows();
        let mut low = vec![0.0; tokens * rank];
        let parts = low
            .chunks_mut(ROWS * rank)
            .zip(y.chunks_mut(ROWS * outputs))
            .zip(x.chunks(ROWS * inputs));
        let work = tokens * rank * (inputs + outputs);
        share(self.ops, parts, work, |((low, y), x)| {
            let rows = low.len() / rank;
            let x = MatrixView::new(x, rows, inputs, inputs)?;
            self.ops.multiply(&x, &pair.a.t(), low, false)?;
            low.iter_mut().for_each(|value| *value *= self.scaling());
            self.ops.multiply(&MatrixView::new(low, rows, rank, rank)?, &pair.b.t(), y, true)
        })?;
        Ok(Mapped { y, low: Low(low) })
    }

    /// The gradient of `x` from that of the result, unless nobody wants it
    /// (then it is empty); those of the factors are added to `gradients`.
    pub(super) fn backward(
        &self,
        map: &Arc<dyn Linear>,
        x: &[f32],
        low: &Low,
        gradient: &[f32],
        wanted: bool,
        gradients: &mut Gradients,
    ) -> Result<Vec<f32>> {
        let (inputs, outputs) = (map.in_features(), map.out_features());
        let tokens = x.len().checked_div(inputs).unwrap_or(0);
        let mut of_x = vec![0.0; if wanted { x.len() } else { 0 }];
        if wanted {
            map.input_gradient(gradient, &mut of_x)?;
        }
        let Some(pair) = self.pair(map)? else { return Ok(of_x) };
        let rank = pair.a.rows();
        if low.0.len() != tokens * rank {
            return Err(Error::engine_message("a map was not computed before its gradient"));
        }
        let mask = self.mask(pair.part.module, x.len())?;
        let mut of_low = vec![0.0; tokens * rank];
        let rows = gradient.chunks(ROWS * outputs).zip(of_low.chunks_mut(ROWS * rank));
        let work = tokens * rank * (inputs + outputs);
        let mut of_rows = of_x.chunks_mut(ROWS * inputs);
        let mut mask_rows = mask.as_deref().unwrap_or_default().chunks(ROWS * inputs);
        let parts = rows.map(|(gradient, of_low)| {
            (gradient, of_low, of_rows.next().unwrap_or_default(), mask_rows.next())
        });
        share(self.ops, parts, work, |(gradient, of_low, of_x, mask)| {
            let rows = of_low.len() / rank;
            let gradient = MatrixView::new(gradient, rows, outputs, outputs)?;
            self.ops.multiply(&gradient, &pair.b, of_low, false)?;
            of_low.iter_mut().for_each(|value| *value *= self.scaling());
            let of_low = MatrixView::new(of_low, rows, rank, rank)?;
            match mask {
                _ if !wanted => Ok(()),
                None => self.ops.multiply(&of_low, &pair.a, of_x, true),
                Some(mask) => {
                    let mut added = vec![0.0; of_x.len()];
                    self.ops.multiply(&of_low, &pair.a, &mut added, false)?;
                    let added = added.iter().zip(mask).map(|(added, factor)| added * factor);
                    of_x.iter_mut().zip(added).for_each(|(x, added)| *x += added);
                    Ok(())
                }
            }
        })?;
        let dropped = self.dropped(x, mask.as_deref());
        let x = dropped.as_deref().unwrap_or(x);
        let of_low = MatrixView::new(&of_low, tokens, rank, rank)?;
        let low = MatrixView::new(&low.0, tokens, rank, rank)?;
        self.factor_gradients(&pair, [(of_low, x, inputs), (low, gradient, outputs)], gradients)
            .map(|()| of_x)
    }

    /// `lowᵀ · x` of both: the gradient of `A`, `[rank, in]`, and the transpose
    /// of that of `B`.
    fn factor_gradients(
        &self,
        pair: &Pair<'_>,
        products: [(MatrixView<'_>, &[f32], usize); 2],
        gradients: &mut Gradients,
    ) -> Result<()> {
        let rank = pair.a.rows();
        let mut parts = Vec::new();
        let mut work = 0;
        for (index, (low, x, width)) in products.iter().enumerate() {
            work += low.rows() * rank * width;
            for first in (0..*width).step_by(COLUMNS) {
                let columns = COLUMNS.min(width - first);
                let x = x.get(first..).unwrap_or_default();
                let x = MatrixView::new(x, low.rows(), columns, *width)?;
                parts.push((index, first, low.t(), x, vec![0.0; rank * columns]));
            }
        }
        share(self.ops, parts.iter_mut(), work, |(_, _, low, x, out)| {
            self.ops.multiply(low, x, out, false)
        })?;
        let (a, b) = pair.indices;
        let inputs = pair.a.columns();
        let of_a = gradients.entry(a).or_insert_with(|| vec![0.0; rank * inputs]);
        for (_, first, _, x, out) in parts.iter().filter(|part| part.0 == 0) {
            let rows = of_a.chunks_exact_mut(inputs).zip(out.chunks_exact(x.columns()));
            for (row, out) in rows {
                row.iter_mut().skip(*first).zip(out).for_each(|(sum, value)| *sum += value);
            }
        }
        let of_b = gradients.entry(b).or_insert_with(|| vec![0.0; pair.b_rows * rank]);
        for (_, first, _, x, out) in parts.iter().filter(|part| part.0 == 1) {
            let rows = of_b.chunks_exact_mut(rank).skip(pair.part.first + first);
            for (column, row) in rows.take(x.columns()).enumerate() {
                let values = out.iter().skip(column).step_by(x.columns());
                row.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
        Ok(())
    }
}
