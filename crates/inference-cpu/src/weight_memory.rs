//! Memory for weights: many tensors in a few large mappings, in huge pages
//! where the operating system has them; and mappings like them for keys and
//! values.
//!
//! Decoding streams all weights and keys past the cores. With pages of 4 KiB it spends
//! much of its time on address translation, in virtual machines most of it;
//! and tensors of their own would be too small for pages of 2 MiB.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use inference_core::{Error, Result};
use memmap2::MmapMut;

/// Bytes of the first mapping and of the largest; each is twice the one before.
/// What of it is not written is not resident.
const REGIONS: [usize; 2] = [1 << 23, 1 << 28];

/// Bytes of a huge page.
const HUGE: usize = 1 << 21;

/// Bytes from which on huge pages are worth what is left over in the last one.
const WORTH_HUGE: usize = 8 * HUGE;

/// Bytes of a cache line, which allocations are aligned to.
const LINE: usize = 64;

/// Hands out memory that lives as long as what was handed out.
#[derive(Clone, Debug, Default)]
pub(crate) struct WeightMemory {
    last: Arc<Mutex<Option<Region>>>,
}

/// A mapping, and how much of it is taken.
#[derive(Debug)]
struct Region {
    mapping: Arc<Mapping>,
    taken: usize,
}

struct Mapping {
    /// Of the whole mapping, which is written through here alone.
    start: *mut u8,
    len: usize,
    /// Unmaps it.
    _map: MmapMut,
}

// SAFETY: the pointer is to memory that belongs to the mapping, and every part
// of it is accessed by the one `Allocation` that it was handed out in.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Bytes of its own, aligned to a cache line, zeros at first.
#[derive(Debug)]
pub(crate) struct Allocation {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl WeightMemory {
    /// Memory for allocations of these bytes, in one mapping: so much and,
    /// where it is small, not in huge pages. It is freed with the last of them.
    ///
    /// # Errors
    ///
    /// `Exhausted`, naming `purpose`, where there is no memory.
    pub(crate) fn of(sizes: impl IntoIterator<Item = usize>, purpose: &str) -> Result<Self> {
        let mut each = sizes.into_iter().map(|size| size.checked_next_multiple_of(LINE));
        let total = each.try_fold(0_usize, |sum, size| sum.checked_add(size?));
        let region = total.and_then(|total| Region::map(total, total >= WORTH_HUGE));
        let needed = total.map_or(u64::MAX, |total| total as u64);
        let exhausted = || Error::exhausted(format!("memory for {purpose}, in bytes"), needed, 0);
        Ok(Self { last: Arc::new(Mutex::new(Some(region.ok_or_else(exhausted)?))) })
    }

    /// `len` zeros.
    ///
    /// # Errors
    ///
    /// `Exhausted`, naming the tensor, where there is no memory.
    pub(crate) fn allocate(&self, len: usize, tensor: &str) -> Result<Allocation> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = &mut *last
            && let Some(allocation) = region.take(len)
        {
            return Ok(allocation);
        }
        let exhausted = || {
            let resource = format!("memory for tensor `{tensor}`, in bytes");
            Error::exhausted(resource, len as u64, 0)
        };
        let [first, largest] = REGIONS;
        let least = last.as_ref().map_or(first, |last| (2 * last.mapping.len).min(largest));
        let mut region = Region::map(len.max(least), true).ok_or_else(exhausted)?;
        let allocation = region.take(len).ok_or_else(exhausted)?;
        *last = Some(region);
        Ok(allocation)
    }
}

impl Region {
    /// A mapping for at least `len` bytes, in `huge` pages or not.
    fn map(len: usize, huge: bool) -> Option<Self> {
        if !huge {
            let mut map = MmapMut::map_anon(len.max(LINE)).ok()?;
            let (start, len) = (map.as_mut_ptr(), map.len());
            return Some(Self { mapping: Arc::new(Mapping { start, len, _map: map }), taken: 0 });
        }
        let len = len.checked_next_multiple_of(HUGE)?.checked_add(HUGE)?;
        let mut map = MmapMut::map_anon(len).ok()?;
        #[cfg(all(target_os = "linux", not(miri)))]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for weights");
        }
        let start = map.as_mut_ptr();
        // Huge pages begin at their own multiples.
        let taken = start.align_offset(HUGE).min(HUGE);
        Some(Self { mapping: Arc::new(Mapping { start, len, _map: map }), taken })
    }

    /// The next `len` bytes, where there are as many.
    fn take(&mut self, len: usize) -> Option<Allocation> {
        let start = self.taken;
        let end = start.checked_add(len)?.checked_next_multiple_of(LINE)?;
        if end > self.mapping.len {
            return None;
        }
        self.taken = end;
        Some(Allocation { mapping: Arc::clone(&self.mapping), start, len })
    }
}

impl Allocation {
    /// `len` zeros in a mapping of their own, where there is memory; in huge
    /// pages, unless they are few.
    pub(crate) fn zeros(len: usize) -> Option<Self> {
        let lines = len.checked_next_multiple_of(LINE)?;
        Region::map(lines, lines >= WORTH_HUGE)?.take(len)
    }

    /// The first byte.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.mapping.start.wrapping_add(self.start)
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// All bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: in the mapping, which lives as long as `self`, and handed
        // out once; any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast_mut(), self.len) }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use inference_core::ErrorKind;

    use super::*;

    #[test]
    fn allocations_are_aligned_zeroed_and_their_own() {
        let memory = WeightMemory::default();
        let mut all: Vec<_> = [1, 64, 1000, 0, REGIONS[0], 77, REGIONS[0] * 3, 9]
            .into_iter()
            .map(|len| memory.allocate(len, "t").unwrap())
            .collect();
        for (i, allocation) in all.iter_mut().enumerate() {
            assert_eq!(allocation.as_ptr().align_offset(LINE), 0);
            let bytes = allocation.bytes_mut();
            assert!(bytes.iter().take(5000).all(|byte| *byte == 0));
            bytes.iter_mut().take(5000).for_each(|byte| *byte = i as u8 + 1);
        }
        for (i, allocation) in all.iter_mut().enumerate() {
            assert!(allocation.bytes_mut().iter().take(5000).all(|byte| *byte == i as u8 + 1));
        }
    }

    #[test]
    fn one_mapping_holds_what_it_was_made_for() {
        for scale in [1, 1 << 16] {
            let sizes = [1, 64, 100 * scale, 0, 65];
            let memory = WeightMemory::of(sizes, "a test").unwrap();
            let all = sizes.map(|len| memory.allocate(len, "t").unwrap());
            let mapping = &all[0].mapping;
            assert!(all.iter().all(|allocation| Arc::ptr_eq(&allocation.mapping, mapping)));
            let weak = Arc::downgrade(mapping);
            drop((memory, all));
            assert!(weak.upgrade().is_none(), "freed with the last of them");
        }
    }

    #[test]
    fn zeros_of_any_length_have_a_mapping() {
        for len in [0, 1, 63, 64, 33_660, WORTH_HUGE - 1, WORTH_HUGE + 1] {
            let zeros = Allocation::zeros(len).unwrap();
            assert_eq!(zeros.bytes().len(), len);
            assert!(zeros.bytes().iter().all(|byte| *byte == 0));
        }
        assert!(Allocation::zeros(usize::MAX).is_none());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for len in [usize::MAX, usize::MAX / 4] {
            let error = WeightMemory::default().allocate(len, "blk.0").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted);
            assert!(error.to_string().contains("blk.0"), "{error}");
        }
    }
}
