//! A call on the CPU: pieces of work, and who does them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLockReadGuard};

use inference_core::{Error, FinishReason, Result};

use super::rows::{LaneRows, Rows};
use super::scratch::{Scratch, ScratchPool};
use super::stop::Stop;
use super::workers::Workers;
use super::{InstructionSet, Kernels, interleaved, per_model};
use crate::layout::{GROUP, PackedLayout};
use crate::packed_models::{PackedModels, Slab};
use crate::request::{Request, not_loaded};
use crate::{BatchedOptions, WeightLayout};

/// Rows of a model that are one piece of work at most: a model with more of
/// them may have several threads, each of which reads its weights.
const UNIT_ROWS: usize = 256;

/// Multiply-adds below which a piece of work costs more to hand out than it is
/// worth.
const UNIT_WORK: usize = 1 << 14;

/// Multiply-adds of a call below which one thread does it.
const SERIAL_WORK: usize = 1 << 16;

/// Pieces per thread, to even out what threads get done.
const UNITS_PER_THREAD: usize = 8;

/// What computes calls on the CPU.
#[derive(Debug)]
pub(crate) struct Executor {
    workers: Workers,
    kernels: Kernels,
    scratch: ScratchPool,
    /// Where rows begin, of calls with counts; kept for the next call.
    offsets: Mutex<Vec<Vec<usize>>>,
}

/// Where all rows of a call are.
struct Base {
    x: *const f32,
    y: *mut f32,
}

// SAFETY: threads read inputs, and write the outputs of different rows.
unsafe impl Sync for Base {}

/// A call in pieces.
struct Call<'a> {
    models: &'a PackedModels,
    request: &'a Request<'a>,
    /// First row of each position; empty: the position itself.
    offsets: &'a [usize],
    base: Base,
    stop: Stop<'a>,
    kernels: Kernels,
}

impl Executor {
    pub(crate) fn new(
        layout: &PackedLayout,
        set: InstructionSet,
        options: &BatchedOptions,
    ) -> Result<Self> {
        let workers = match (&options.workers, options.threads) {
            (Some(_), Some(threads)) => {
                let expected = "nothing, as `workers` is set";
                return Err(Error::invalid_option("threads", threads, expected));
            }
            (Some(workers), None) => workers.clone(),
            (None, threads) => Workers::new(threads)?,
        };
        let floats = match layout.kind {
            WeightLayout::PerModel => {
                per_model::rows_together(layout) * per_model::row_floats(layout)
            }
            WeightLayout::Interleaved => interleaved::group_floats(layout),
        };
        Ok(Self {
            kernels: set.kernels(options.dtype),
            scratch: ScratchPool::new(floats, workers.threads()),
            offsets: Mutex::default(),
            workers,
        })
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.threads()
    }

    /// The name of the instruction set that kernels are for.
    pub(crate) fn instruction_set(&self) -> &'static str {
        self.kernels.name
    }

    /// Evaluates a request that was checked; `outputs` is as long as its rows
    /// make it.
    pub(crate) fn run(
        &self,
        models: &PackedModels,
        num_models: usize,
        request: &Request<'_>,
        outputs: &mut [f32],
    ) -> Result<()> {
        let kept = || self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offsets = match request.rows {
            Some(_) => kept().pop().unwrap_or_default(),
            None => Vec::new(),
        };
        offsets.clear();
        let mut longest = 1;
        let mut all_rows = request.positions(num_models);
        if let Some(rows) = request.rows {
            longest = rows.iter().copied().max().unwrap_or(0);
            all_rows = 0;
            offsets.extend(rows.iter().map(|rows| {
                let first = all_rows;
                all_rows += rows;
                first
            }));
        }
        let base = Base { x: request.inputs.as_ptr(), y: outputs.as_mut_ptr() };
        let stop = Stop::new(request.cancel);
        let call = Call { models, request, offsets: &offsets, base, stop, kernels: self.kernels };
        let ran = self.share(&call, request.positions(num_models), all_rows, longest);
        let (missing, cancelled) = (call.stop.missing(), call.stop.was_cancelled());
        if request.rows.is_some() {
            kept().push(offsets);
        }
        ran?;
        if cancelled {
            return Err(Error::Cancelled { reason: FinishReason::Cancelled });
        }
        if missing < usize::MAX {
            return Err(not_loaded(missing));
        }
        Ok(())
    }

    /// Cuts a call into pieces, which threads take one by one.
    fn share(&self, call: &Call<'_>, positions: usize, rows: usize, longest: usize) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let threads = self.workers.threads();
        let model_work = call.models.layout().stride / call.models.layout().group;
        let work = model_work.saturating_mul(rows);
        let serial = threads == 1 || work < SERIAL_WORK;
        let pieces = if serial {
            1
        } else {
            (threads * UNITS_PER_THREAD).min(work / UNIT_WORK).clamp(1, positions)
        };
        // Whole groups; a run of one that is cut is moved to the piece before.
        let group = call.models.layout().group;
        let per_piece = positions.div_ceil(pieces).next_multiple_of(group);
        let pieces = positions.div_ceil(per_piece);
        let blocks = longest.div_ceil(UNIT_ROWS);
        let next = AtomicUsize::new(0);
        let task = || {
            self.scratch.with(|scratch| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= pieces * blocks || call.stop.between_layers() {
                        return;
                    }
                    let (block, piece) = (index / pieces, index % pieces);
                    let positions = piece * per_piece..((piece + 1) * per_piece).min(positions);
                    let rows = block * UNIT_ROWS..(block + 1) * UNIT_ROWS;
                    call.piece(positions, rows, scratch);
                }
            });
        };
        if serial {
            task();
            return Ok(());
        }
        self.workers.run(&task)
    }
}

impl Call<'_> {
    /// Rows `block` of the models at `positions`.
    fn piece(&self, positions: Range<usize>, block: Range<usize>, scratch: &mut Scratch) {
        match self.models.layout().kind {
            WeightLayout::PerModel => self.one_by_one(positions, &block, scratch),
            WeightLayout::Interleaved => self.in_groups(positions, &block, scratch),
        }
    }

    fn one_by_one(&self, positions: Range<usize>, block: &Range<usize>, scratch: &mut Scratch) {
        let mut held = Held::new(self.models);
        for position in positions {
            let rows = self.rows(position, block);
            if rows.count == 0 {
                continue;
            }
            let model = self.request.model(position);
            let place = self.models.place(model);
            let slab = held.slab(place.slab);
            if !slab.has(place) {
                self.stop.miss(model);
            } else if !self.stop.missed() {
                let weights = self.models.weights(slab, place);
                // SAFETY: the CPU was asked for the kernels' instruction set;
                // the weights are locked, and the slab's memory may be read
                // further than its end; rows are in the bounds of the call's,
                // and those of one position belong to one piece.
                unsafe {
                    (self.kernels.per_model)(
                        self.models.layout(),
                        weights,
                        rows,
                        scratch,
                        &self.stop,
                    );
                }
            }
        }
    }

    /// Neighbours of one group are evaluated together: each run of positions
    /// whose lanes ascend.
    fn in_groups(&self, positions: Range<usize>, block: &Range<usize>, scratch: &mut Scratch) {
        let mut held = Held::new(self.models);
        let all = self.request.models.map_or(usize::MAX, <[_]>::len);
        let mut position = positions.start;
        // A run that began before belongs to the piece before.
        while position > 0 && position < positions.end && self.continues(position) {
            position += 1;
        }
        while position < positions.end {
            let first = self.models.place(self.request.model(position));
            let slab = held.slab(first.slab);
            let mut lanes = LaneRows([Rows::NONE; GROUP]);
            loop {
                let model = self.request.model(position);
                let place = first.neighbour(model % GROUP);
                let rows = self.rows(position, block);
                if rows.count > 0 {
                    if slab.has(place) {
                        lanes.0[model % GROUP] = rows;
                    } else {
                        self.stop.miss(model);
                    }
                }
                position += 1;
                let over = match self.request.models {
                    None => position >= positions.end,
                    Some(_) => position >= all,
                };
                if over || !self.continues(position) {
                    break;
                }
            }
            if !self.stop.missed() {
                let weights = self.models.weights(slab, first);
                // SAFETY: as in `one_by_one`; a run belongs to one piece.
                unsafe {
                    (self.kernels.interleaved)(
                        self.models.layout(),
                        weights,
                        &lanes,
                        scratch,
                        &self.stop,
                    );
                }
            }
        }
    }

    /// Whether a position, not the first, goes on with the run of the one
    /// before.
    fn continues(&self, position: usize) -> bool {
        let model = self.request.model(position);
        let before = self.request.model(position - 1);
        before < model && before / GROUP == model / GROUP
    }

    /// The rows of a position that are in `block`.
    fn rows(&self, position: usize, block: &Range<usize>) -> Rows {
        let layout = self.models.layout();
        let count = self.request.count(position);
        let first = block.start.min(count);
        let count = block.end.min(count) - first;
        let row = self.offsets.get(position).copied().unwrap_or(position) + first;
        Rows {
            x: self.base.x.wrapping_add(row * layout.inputs),
            y: self.base.y.wrapping_add(row * layout.outputs),
            count,
        }
    }
}

/// The slab that was read last, still locked.
struct Held<'a> {
    models: &'a PackedModels,
    slab: Option<(usize, RwLockReadGuard<'a, Slab>)>,
}

impl<'a> Held<'a> {
    fn new(models: &'a PackedModels) -> Self {
        Self { models, slab: None }
    }

    fn slab(&mut self, index: usize) -> &Slab {
        if self.slab.as_ref().is_none_or(|(held, _)| *held != index) {
            // First let go: a writer may wait for this one.
            self.slab = None;
        }
        let models = self.models;
        &self.slab.get_or_insert_with(|| (index, models.read(index))).1
    }
}
