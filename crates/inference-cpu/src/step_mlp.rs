//! The MLP half of a layer, on slices.

use inference_candle::{Mlp, MlpBlock, Ops};
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
    pub(crate) fn mlp_half(&self, block: &MlpBlock, rows: usize, arena: &mut Arena) -> Result<()> {
        let mlp = match &block.mlp {
            Mlp::Gated(mlp) => mlp,
            Mlp::Moe(moe) => {
                let hidden = moe.router.in_features();
                let x = sized(&mut arena.x, rows * hidden);
                let result = self.mlp_block(block, &tensor(x.to_vec(), (rows, hidden))?)?;
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
        let Arena { x, input, branch, gate, up, .. } = arena;
        let x = sized(x, rows * hidden);
        // Slices of about the same size.
        let slice = rows.div_ceil(rows.div_ceil(ROWS).max(1)).max(1);
        for x in x.chunks_mut((slice * hidden).max(1)) {
            let rows = x.len() / hidden;
            let gate = sized(gate, rows * mlp.gate.out_features());
            let up = sized(up, rows * mlp.up.out_features());
            {
                let input = self.maybe_norm(block.input_norm.as_ref(), x, input)?;
                let input = Activations::new(input, hidden);
                self.gated_maps(mlp, &input, gate, up)?;
            }
            let output = sized(branch, rows * hidden);
            let gated = Activations::new(gate, mlp.gate.out_features());
            self.maps([(&*mlp.down, &gated, &mut *output)])?;
            let output = self.maybe_norm(block.output_norm.as_ref(), output, input)?;
            self.add(x, output, block.residual_scale);
        }
        Ok(())
    }
}
