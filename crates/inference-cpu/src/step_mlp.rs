//! The MLP half of a layer, on slices.

use inference_candle::{AdaptedMap, LayerMap, Mlp, MlpBlock, Ops, StepContext};
use inference_core::Result;

use crate::CpuOps;
use crate::activations::Activations;
use crate::arena::{Arena, sized};
use crate::view::{Contiguous, shapes, tensor};

/// Most rows that go through an MLP together: enough for a panel of weights to
/// pay, few enough that what is between the maps stays in the last cache.
const ROWS: usize = 256;

impl CpuOps {
    /// Adds the block's output to the residual stream, which is
    /// [`reference::mlp_block`](inference_candle::reference::mlp_block).
    pub(crate) fn mlp_half(
        &self,
        block: &MlpBlock,
        step: &StepContext<'_>,
        arena: &mut Arena,
    ) -> Result<()> {
        let rows = step.batch.positions.len();
        let mlp = match &block.mlp {
            Mlp::Gated(mlp) => mlp,
            Mlp::Moe(moe) => {
                let hidden = moe.router.in_features();
                let x = sized(&mut arena.x, rows * hidden);
                let x_before = tensor(x.to_vec(), (rows, hidden))?;
                let result = self.mlp_block(block, &x_before, step)?;
                let result = Contiguous::new(&result, "mixture of experts")?;
                let result = result.elements()?;
                let result = result.f32()?;
                if result.len() != x.len() {
                    return Err(shapes("mixture of experts", &[&[result.len()], &[rows, hidden]]));
                }
                x.copy_from_slice(result);
                return Ok(());
            }
        };
        let hidden = mlp.gate.in_features();
        let Arena { x, input, branch, gate, up, adapters, .. } = arena;
        let groups = step.batch.adapters;
        let place = |map: LayerMap| AdaptedMap::Layer(block.layer, map);
        let changes = |map| groups.iter().any(|group| group.adapter.delta(place(map)).is_some());
        // Of these, the deltas come before the activation.
        let gate_changes = changes(LayerMap::Gate) || changes(LayerMap::Up);
        let x = sized(x, rows * hidden);
        // Slices of about the same size.
        let slice = rows.div_ceil(rows.div_ceil(ROWS).max(1)).max(1);
        for (chunk, x) in x.chunks_mut((slice * hidden).max(1)).enumerate() {
            let rows = x.len() / hidden;
            let slice = chunk * slice..chunk * slice + rows;
            let gate = sized(gate, rows * mlp.gate.out_features());
            let up = sized(up, rows * mlp.up.out_features());
            {
                let input = self.maybe_norm(block.input_norm.as_ref(), x, input)?;
                let input = Activations::new(input, hidden);
                if gate_changes {
                    self.maps([(&*mlp.gate, &input, &mut *gate), (&*mlp.up, &input, &mut *up)])?;
                    let targets =
                        [(place(LayerMap::Gate), &mut *gate), (place(LayerMap::Up), &mut *up)];
                    self.adapt(groups, slice.clone(), input.values(), targets, adapters)?;
                    self.activate(mlp, gate, up);
                } else {
                    self.gated_maps(mlp, &input, gate, up)?;
                }
            }
            let output = sized(branch, rows * hidden);
            let gated = Activations::new(gate, mlp.gate.out_features());
            self.maps([(&*mlp.down, &gated, &mut *output)])?;
            let targets = [(place(LayerMap::Down), &mut *output)];
            self.adapt(groups, slice, gate, targets, adapters)?;
            let output = self.maybe_norm(block.output_norm.as_ref(), output, input)?;
            self.add(x, output, block.residual_scale);
        }
        Ok(())
    }
}
