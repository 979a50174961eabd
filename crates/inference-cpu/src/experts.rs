//! Mixtures of experts: the products of all experts of a layer together.

use std::ops::Range;

use inference_candle::{ExpertRows, GatedMlp, Moe};
use inference_core::Result;

use crate::CpuOps;
use crate::activations::Activations;
use crate::view::{Contiguous, shapes, tensor};

/// An expert that tokens go to, and where its rows lie among all that were
/// gathered.
struct Active<'a> {
    mlp: &'a GatedMlp,
    rows: &'a ExpertRows,
    at: Range<usize>,
}

impl CpuOps {
    /// The mixture's output for `x`, `[tokens, hidden]`, over all of `out`:
    /// bit for bit what its experts give one after the other. Gates and
    /// up-projections of all experts are one piece of shared work, and so are
    /// the down-projections.
    ///
    /// # Errors
    ///
    /// Where shapes do not fit or a map fails.
    pub(crate) fn mixture(&self, moe: &Moe, x: &[f32], out: &mut [f32]) -> Result<()> {
        let hidden = moe.router.in_features();
        let tokens = x.len().checked_div(hidden).unwrap_or(0);
        if x.len() != tokens * hidden || out.len() != x.len() {
            return Err(shapes("mixture of experts", &[&[x.len()], &[hidden], &[out.len()]]));
        }
        out.fill(0.0);
        if tokens == 0 {
            return Ok(());
        }
        let routing = moe.route(&tensor(x.to_vec(), (tokens, hidden))?)?;
        let weights = Contiguous::new(&routing.weights, "weights of experts")?;
        let weights = weights.elements()?;
        let weights = weights.f32()?;
        let mut end = 0;
        let experts = moe.experts.iter().zip(&routing.rows);
        let active: Vec<Active<'_>> = experts
            .filter(|(_, rows)| !rows.tokens.is_empty())
            .map(|(mlp, rows)| {
                let start = end;
                end += rows.tokens.len();
                Active { mlp, rows, at: start..end }
            })
            .collect();

        let mut gathered = Vec::with_capacity(end * hidden);
        for token in active.iter().flat_map(|expert| &expert.rows.tokens) {
            let from = *token as usize * hidden;
            gathered.extend_from_slice(x.get(from..from + hidden).unwrap_or_default());
        }
        let inputs: Vec<_> = parts(&gathered, &active, |_| hidden)
            .into_iter()
            .map(|rows| Activations::new(rows, hidden))
            .collect();

        let gate_width = |mlp: &GatedMlp| mlp.gate.out_features();
        let len: usize = active.iter().map(|e| e.at.len() * gate_width(e.mlp)).sum();
        let (mut gate, mut up) = (vec![0.0f32; len], vec![0.0f32; len]);
        {
            let gates = parts_mut(&mut gate, &active, gate_width);
            let ups = parts_mut(&mut up, &active, gate_width);
            let mut maps = Vec::with_capacity(active.len() * 2);
            for (((expert, x), gate), up) in active.iter().zip(&inputs).zip(gates).zip(ups) {
                maps.push((&*expert.mlp.gate, x, gate));
                maps.push((&*expert.mlp.up, x, up));
            }
            self.maps(maps)?;
        }
        let gates = parts_mut(&mut gate, &active, gate_width);
        let ups = parts(&up, &active, gate_width);
        for ((expert, gate), up) in active.iter().zip(gates).zip(ups) {
            self.activate(expert.mlp, gate, up);
        }

        let inputs: Vec<_> = parts(&gate, &active, gate_width)
            .into_iter()
            .zip(&active)
            .map(|(rows, expert)| Activations::new(rows, gate_width(expert.mlp)))
            .collect();
        let mut outputs = vec![0.0f32; end * hidden];
        {
            let outputs = parts_mut(&mut outputs, &active, |_| hidden);
            let maps = active.iter().zip(&inputs).zip(outputs);
            self.maps(maps.map(|((e, x), out)| (&*e.mlp.down, x, out)))?;
        }
        // In the order of experts, so that a token's sum has one order.
        for expert in &active {
            let rows = outputs.chunks_exact(hidden).skip(expert.at.start);
            let chosen = expert.rows.tokens.iter().zip(&expert.rows.choices);
            for (row, (token, choice)) in rows.zip(chosen) {
                let weight = weights.get(*choice as usize).copied().unwrap_or_default();
                let sums = out.iter_mut().skip(*token as usize * hidden);
                sums.zip(row).for_each(|(sum, value)| *sum += value * weight);
            }
        }
        Ok(())
    }
}

/// The rows of each expert, as wide as `width` says.
fn parts<'a>(
    mut all: &'a [f32],
    active: &[Active<'_>],
    width: impl Fn(&GatedMlp) -> usize,
) -> Vec<&'a [f32]> {
    let part = |expert: &Active<'_>| {
        let (part, rest) = all.split_at((expert.at.len() * width(expert.mlp)).min(all.len()));
        all = rest;
        part
    };
    active.iter().map(part).collect()
}

/// As [`parts`].
fn parts_mut<'a>(
    mut all: &'a mut [f32],
    active: &[Active<'_>],
    width: impl Fn(&GatedMlp) -> usize,
) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(active.len());
    for expert in active {
        let len = (expert.at.len() * width(expert.mlp)).min(all.len());
        let (part, rest) = all.split_at_mut(len);
        parts.push(part);
        all = rest;
    }
    parts
}
