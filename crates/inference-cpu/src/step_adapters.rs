//! What adapters change of the maps of one input, on slices.

use std::ops::Range;

use inference_candle::{AdaptedMap, AdapterRows, Linear, MapDelta};
use inference_core::Result;

use crate::CpuOps;
use crate::activations::Activations;
use crate::arena::{AdapterBuffers, sized};
use crate::step::TASK;
use crate::view::{Contiguous, Elements, shapes};

/// The rows of an adapter among those that are computed, and what it changes.
struct Group<'a, const N: usize> {
    /// Counted from the first row that is computed, ascending.
    rows: Vec<usize>,
    scale: f32,
    deltas: [Option<&'a MapDelta>; N],
}

/// Where a change of a map lies: of which target, and from which row on, in
/// buffers of each target's own width.
struct Part<'a> {
    target: usize,
    group: usize,
    delta: &'a MapDelta,
    low: Range<usize>,
    high: Range<usize>,
    replaced: Range<usize>,
}

impl CpuOps {
    /// Changes the outputs `[rows, out]` of maps whose input is `x`,
    /// `[rows, in]`, where `rows` of a step are computed: bit for bit as
    /// [`inference_candle::project`].
    ///
    /// Whatever the number of adapters, all products with `A` are one piece of
    /// shared work, and so are those with `B`.
    ///
    /// # Errors
    ///
    /// Where shapes do not fit or a map fails.
    pub(crate) fn adapt<const N: usize>(
        &self,
        groups: &[AdapterRows<'_>],
        rows: Range<usize>,
        x: &[f32],
        mut targets: [(AdaptedMap, &mut [f32]); N],
        buffers: &mut AdapterBuffers,
    ) -> Result<()> {
        if groups.is_empty() || rows.is_empty() {
            return Ok(());
        }
        let places: [AdaptedMap; N] = std::array::from_fn(|target| targets[target].0);
        let groups: Vec<Group<'_, N>> =
            groups.iter().filter_map(|group| Group::new(group, &rows, &places)).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let count = rows.len();
        let width = x.len() / count;
        let widths: [usize; N] = std::array::from_fn(|target| targets[target].1.len() / count);
        let AdapterBuffers { gathered, low, high, replaced } = buffers;
        let inputs = inputs(&groups, x, width, gathered);
        let (parts, [low_len, high_len, replaced_len]) = layout(&groups, &widths)?;

        let low = sized(low, low_len);
        let replaced = sized(replaced, replaced_len);
        {
            let (mut low, mut replaced) = (Rest::new(low), Rest::new(replaced));
            let mut maps: Vec<(&dyn Linear, _, _)> = Vec::with_capacity(parts.len());
            for part in &parts {
                let Some(input) = inputs.get(part.group) else { continue };
                if let (Some(factors), Some(out)) = (&part.delta.factors, low.take(&part.low)) {
                    maps.push((&*factors.down, input, out));
                }
                if let (Some(map), Some(out)) =
                    (&part.delta.replacement, replaced.take(&part.replaced))
                {
                    maps.push((&**map, input, out));
                }
            }
            self.maps(maps)?;
        }
        let lows: Vec<_> = parts
            .iter()
            .map(|part| {
                let rank = part.delta.factors.as_ref().map_or(1, |f| f.down.out_features());
                Activations::new(low.get(part.low.clone()).unwrap_or_default(), rank)
            })
            .collect();
        let high = sized(high, high_len);
        {
            let mut high = Rest::new(high);
            let mut maps: Vec<(&dyn Linear, _, _)> = Vec::with_capacity(parts.len());
            for (part, low) in parts.iter().zip(&lows) {
                if let (Some(factors), Some(out)) = (&part.delta.factors, high.take(&part.high)) {
                    maps.push((&*factors.up, low, out));
                }
            }
            self.maps(maps)?;
        }
        for (target, (_, out)) in targets.iter_mut().enumerate() {
            let parts: Vec<&Part<'_>> = parts.iter().filter(|p| p.target == target).collect();
            let width = widths[target];
            self.exchange(&groups, &parts, high, replaced, width, out)?;
        }
        Ok(())
    }

    /// Puts what was computed for a target's rows into its output.
    fn exchange<const N: usize>(
        &self,
        groups: &[Group<'_, N>],
        parts: &[&Part<'_>],
        high: &[f32],
        replaced: &[f32],
        width: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let offsets = parts
            .iter()
            .map(|part| {
                let offset = part.delta.offset.as_ref();
                offset.map(|offset| Contiguous::new(offset, "an adapter's bias")).transpose()
            })
            .collect::<Result<Vec<_>>>()?;
        let offsets = offsets
            .iter()
            .map(|offset| offset.as_ref().map(Contiguous::elements).transpose())
            .collect::<Result<Vec<_>>>()?;
        let offsets = offsets
            .iter()
            .map(|offset| offset.as_ref().map(Elements::f32).transpose())
            .collect::<Result<Vec<_>>>()?;
        // The row, the part that changes it, and which of the part's it is.
        let mut sources: Vec<(usize, usize, usize)> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let rows = groups.get(part.group).map(|group| group.rows.as_slice());
            let rows = rows.unwrap_or_default().iter().enumerate();
            sources.extend(rows.map(|(place, row)| (*row, index, place)));
        }
        sources.sort_unstable();
        let (width, per_task) = (width.max(1), (TASK / width.max(1)).max(1));
        self.workers.for_each_chunk(out, per_task * width, sources.len() * width, |chunk, out| {
            let first = chunk * per_task;
            let begin = sources.partition_point(|(row, ..)| *row < first);
            for (row, part, place) in sources.iter().skip(begin) {
                let at = (row - first) * width;
                let Some(out) = out.get_mut(at..at + width) else { break };
                let Some(index) = parts.get(*part) else { continue };
                let own = |all: &'_ [f32], range: &Range<usize>| {
                    let start = (range.start + place * width).min(all.len());
                    start..(start + width).min(all.len())
                };
                if index.delta.replacement.is_some() {
                    let from = replaced.get(own(replaced, &index.replaced)).unwrap_or_default();
                    out.iter_mut().zip(from).for_each(|(out, from)| *out = *from);
                }
                if let Some(factors) = &index.delta.factors {
                    let scale = groups.get(index.group).map_or(1.0, |group| group.scale);
                    let scale = factors.scaling * scale;
                    let change = high.get(own(high, &index.high)).unwrap_or_default();
                    out.iter_mut().zip(change).for_each(|(out, change)| *out += change * scale);
                }
                if let Some(Some(offset)) = offsets.get(*part) {
                    out.iter_mut().zip(*offset).for_each(|(out, offset)| *out += offset);
                }
            }
        });
        Ok(())
    }
}

impl<'a, const N: usize> Group<'a, N> {
    /// The rows of a group that are computed, if the adapter changes one of the
    /// maps.
    fn new(group: &AdapterRows<'a>, rows: &Range<usize>, places: &[AdaptedMap; N]) -> Option<Self> {
        let deltas = places.map(|place| group.adapter.delta(place));
        if deltas.iter().all(Option::is_none) {
            return None;
        }
        let before = group.rows.partition_point(|row| (*row as usize) < rows.start);
        let own = group.rows.iter().skip(before).map(|row| *row as usize);
        let own: Vec<usize> =
            own.take_while(|row| *row < rows.end).map(|row| row - rows.start).collect();
        let scale = group.scale;
        (!own.is_empty()).then_some(Self { rows: own, scale, deltas })
    }

    /// Its rows, where they lie together.
    fn range(&self) -> Option<Range<usize>> {
        let (first, last) = (*self.rows.first()?, *self.rows.last()?);
        (last + 1 - first == self.rows.len()).then_some(first..last + 1)
    }
}

/// The input of each group: where its rows lie together, in place.
fn inputs<'a, const N: usize>(
    groups: &[Group<'_, N>],
    x: &'a [f32],
    width: usize,
    gathered: &'a mut Vec<f32>,
) -> Vec<Activations<'a>> {
    let apart = || groups.iter().filter(|group| group.range().is_none());
    let len = apart().map(|group| group.rows.len() * width).sum();
    let gathered = sized(gathered, len);
    let rows = apart().flat_map(|group| &group.rows);
    for (row, to) in rows.zip(gathered.chunks_exact_mut(width.max(1))) {
        if let Some(from) = x.get(row * width..(row + 1) * width) {
            to.copy_from_slice(from);
        }
    }
    let mut rest: &'a [f32] = gathered;
    let input = |group: &Group<'_, N>| match group.range() {
        Some(range) => x.get(range.start * width..range.end * width).unwrap_or_default(),
        None => {
            let (own, others) = rest.split_at((group.rows.len() * width).min(rest.len()));
            rest = others;
            own
        }
    };
    groups.iter().map(input).map(|rows| Activations::new(rows, width)).collect()
}

/// Where every change lies, and the lengths of the buffers.
fn layout<'a, const N: usize>(
    groups: &[Group<'a, N>],
    widths: &[usize; N],
) -> Result<(Vec<Part<'a>>, [usize; 3])> {
    let mut parts: Vec<Part<'a>> = Vec::with_capacity(groups.len() * N);
    let mut ends = [0; 3];
    for (index, group) in groups.iter().enumerate() {
        for (target, (delta, width)) in group.deltas.iter().zip(widths).enumerate() {
            let Some(delta) = *delta else { continue };
            let count = group.rows.len();
            let wide = |has: bool| if has { count * width } else { 0 };
            let rank = delta.factors.as_ref().map_or(0, |factors| factors.down.out_features());
            let lens =
                [count * rank, wide(delta.factors.is_some()), wide(delta.replacement.is_some())];
            let maps = delta.factors.iter().map(|factors| &factors.up);
            for map in maps.chain(&delta.replacement) {
                if map.out_features() != *width {
                    return Err(shapes("adapter", &[&[map.out_features()], &[*width]]));
                }
            }
            let starts = ends;
            for (end, len) in ends.iter_mut().zip(lens) {
                *end += len;
            }
            let [low, high, replaced] = std::array::from_fn(|kind| starts[kind]..ends[kind]);
            parts.push(Part { target, group: index, delta, low, high, replaced });
        }
    }
    Ok((parts, ends))
}

/// The part of a buffer that is not handed out yet.
struct Rest<'a>(&'a mut [f32]);

impl<'a> Rest<'a> {
    fn new(all: &'a mut [f32]) -> Self {
        Self(all)
    }

    /// The next elements, as many as `range` has; `None` where there are not
    /// as many, or none is asked for.
    fn take(&mut self, range: &Range<usize>) -> Option<&'a mut [f32]> {
        if range.is_empty() || range.len() > self.0.len() {
            return None;
        }
        let (own, rest) = std::mem::take(&mut self.0).split_at_mut(range.len());
        self.0 = rest;
        Some(own)
    }
}
