//! Activations between layers.

use std::sync::{Mutex, PoisonError};

/// Two buffers that layers take turns in.
#[derive(Debug)]
pub(crate) struct Scratch {
    floats: Vec<f32>,
}

impl Scratch {
    fn new(floats: usize) -> Self {
        Self { floats: vec![0.0; 2 * floats] }
    }

    /// The starts of both, each of half the floats.
    pub(crate) fn buffers(&mut self) -> [*mut f32; 2] {
        let half = self.floats.len() / 2;
        let start = self.floats.as_mut_ptr();
        [start, start.wrapping_add(half)]
    }
}

/// Buffers for as many threads as ever computed at once.
#[derive(Debug)]
pub(crate) struct ScratchPool {
    /// Floats of one buffer.
    floats: usize,
    free: Mutex<Vec<Scratch>>,
}

impl ScratchPool {
    /// Buffers of `floats` numbers for `threads` threads; more are made when
    /// more callers than that compute at once.
    pub(crate) fn new(floats: usize, threads: usize) -> Self {
        // A cache line apart.
        let floats = floats.next_multiple_of(16) + 16;
        let mut free = Vec::with_capacity(4 * threads);
        free.extend((0..threads).map(|_| Scratch::new(floats)));
        Self { floats, free: Mutex::new(free) }
    }

    /// Calls `task` with buffers of its own.
    pub(crate) fn with<R>(&self, task: impl FnOnce(&mut Scratch) -> R) -> R {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = free().pop();
        let mut scratch = scratch.unwrap_or_else(|| Scratch::new(self.floats));
        let result = task(&mut scratch);
        free().push(scratch);
        result
    }
}
