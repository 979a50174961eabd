//! Several maps of one input, as one piece of shared work.

use inference_candle::{GatedMlp, Linear};
use inference_core::Result;

use crate::CpuOps;
use crate::activations::Activations;
use crate::kernels::packed::FEATURES;
use crate::linear::{SharedOut, compute_all, product};
use crate::packed_product::{PackedProduct, SharedIn};
use crate::step::TASK;
use crate::view::{Contiguous, shapes, tensor};

/// Elements that are activated at a time.
const SPAN: usize = 512;

/// A map's share of the work: `tasks` times `panels` of its panels.
struct Part<'a> {
    product: &'a PackedProduct,
    x: SharedIn,
    out: SharedOut,
    panels: usize,
    tasks: usize,
}

impl<'a> Part<'a> {
    fn new(
        product: &'a PackedProduct,
        x: &Activations<'_>,
        out: &mut [f32],
        panels: usize,
    ) -> Self {
        let tasks = product.panels().div_ceil(panels);
        Self { product, x: product.quantized(x), out: SharedOut(out.as_mut_ptr()), panels, tasks }
    }

    /// # Safety
    ///
    /// `x` has `rows` rows of the product's width, the output as many of its
    /// features; no other call has this task.
    unsafe fn compute(&self, task: usize, rows: usize) {
        let first = task * self.panels;
        let panels = first..(first + self.panels).min(self.product.panels());
        // SAFETY: as above; tasks have panels of their own.
        unsafe { self.product.compute(panels, self.x.get(), rows, self.out) };
    }
}

/// The packed product behind a map, where it is one of ours.
fn packed(map: &dyn Linear) -> Option<&PackedProduct> {
    product(map)?.as_packed()
}

/// Whether `x` and `out` are what the map takes and gives.
fn check(map: &dyn Linear, x: &Activations<'_>, out: &[f32]) -> Result<()> {
    let (rows, width, features) = (x.rows(), map.in_features(), map.out_features());
    if width == 0 || x.values().len() != rows * width || out.len() != rows * features {
        let found = [x.values().len(), out.len()];
        return Err(shapes("linear", &[&found, &[rows, features, width]]));
    }
    Ok(())
}

impl CpuOps {
    /// Affine maps, each of its input over all of its output: ours as one piece
    /// of shared work.
    pub(crate) fn maps<'a>(
        &self,
        maps: impl IntoIterator<Item = (&'a dyn Linear, &'a Activations<'a>, &'a mut [f32])>,
    ) -> Result<()> {
        let mut ours = Vec::new();
        for (map, x, out) in maps {
            match product(map) {
                Some(product) => ours.push(product.pieces(x, out)?),
                // Somebody else's.
                None => {
                    let input = tensor(x.values().to_vec(), (x.rows(), map.in_features()))?;
                    let result = Contiguous::new(&map.forward(&input)?, "linear")?;
                    let result = result.elements()?;
                    let result = result.f32()?;
                    if result.len() != out.len() {
                        return Err(shapes("linear", &[&[result.len()], &[out.len()]]));
                    }
                    out.copy_from_slice(result);
                }
            }
        }
        compute_all(&self.workers, &ours)
    }

    /// `gate = activation(gate(x)) * up(x)`: where both are packed, the few
    /// features of a task are activated while they are in its cache.
    pub(crate) fn gated_maps(
        &self,
        mlp: &GatedMlp,
        x: &Activations<'_>,
        gate: &mut [f32],
        up: &mut [f32],
    ) -> Result<()> {
        check(&*mlp.gate, x, gate)?;
        check(&*mlp.up, x, up)?;
        if gate.len() != up.len() {
            return Err(shapes("gated_activation", &[&[gate.len()], &[up.len()]]));
        }
        let (Some(gate_product), Some(up_product)) = (packed(&*mlp.gate), packed(&*mlp.up)) else {
            self.maps([(&*mlp.gate, x, &mut *gate), (&*mlp.up, x, &mut *up)])?;
            self.activate(mlp, gate, up);
            return Ok(());
        };
        let (rows, n, width) = (x.rows(), mlp.gate.out_features(), mlp.gate.in_features());
        // A task has twice as many: of the gate and of `up`.
        let panels = gate_product.panels_per_task(rows);
        let gate = Part::new(gate_product, x, gate, panels);
        let up = Part::new(up_product, x, up, panels);
        self.workers.for_each(gate.tasks, 2 * rows * n * width, |task| {
            // SAFETY: the sizes were checked; both have the same features, so
            // the same tasks, and each is computed once.
            unsafe {
                gate.compute(task, rows);
                up.compute(task, rows);
            }
            let first = task * panels * FEATURES;
            let len = (panels * FEATURES).min(n - first);
            for row in 0..rows {
                let at = row * n + first;
                // SAFETY: within `[rows, n]`, and these features are this
                // task's alone.
                let (gate, up) = unsafe {
                    let gate = std::slice::from_raw_parts_mut(gate.out.at(at), len);
                    (gate, std::slice::from_raw_parts(up.out.at(at), len))
                };
                self.activate_span(mlp, gate, up);
            }
        });
        Ok(())
    }

    /// `gate = activation(gate) * up`.
    pub(crate) fn activate(&self, mlp: &GatedMlp, gate: &mut [f32], up: &[f32]) {
        // An exponential costs some ten times a load.
        let work = gate.len() * 8;
        let task = if gate.len() > 16 * TASK { TASK } else { SPAN };
        self.workers.for_each_chunk(gate, task, work, |chunk, gate| {
            let up = up.get(chunk * task..).unwrap_or_default();
            self.activate_span(mlp, gate, up);
        });
    }

    /// The same of a run of elements; `up` is at least as long.
    fn activate_span(&self, mlp: &GatedMlp, gate: &mut [f32], up: &[f32]) {
        // SAFETY: the table is for this CPU, checked where it was chosen.
        unsafe { (self.kernels.gated)(gate, up, mlp.activation) };
    }
}
