//! Memory for weights, in huge pages where the operating system has them.

use std::fmt;

use inference_core::{Error, Result};
use memmap2::MmapMut;

/// Bytes of a huge page.
const HUGE: usize = 1 << 21;

/// Bytes of zeros at first, aligned to a cache line, with readable bytes behind.
pub(crate) struct Memory {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Memory {
    /// Readable bytes behind the last: more than a register.
    const BEHIND: usize = 64;

    /// `len` bytes.
    ///
    /// # Errors
    ///
    /// `Exhausted` where there is no memory.
    pub(crate) fn allocate(len: usize) -> Result<Self> {
        let huge = len >= HUGE;
        let align = if huge { HUGE } else { 0 };
        let map = len
            .checked_add(Self::BEHIND + align)
            .and_then(|bytes| MmapMut::map_anon(bytes).ok())
            .ok_or_else(|| Error::exhausted("memory for weights (bytes)", len as u64, 0))?;
        let mut start = 0;
        if huge {
            #[cfg(target_os = "linux")]
            if let Err(error) = map.advise(memmap2::Advice::HugePage) {
                tracing::debug!(%error, "no huge pages for weights");
            }
            // Huge pages begin at their own multiples.
            start = map.as_ptr().align_offset(HUGE).min(HUGE);
        }
        Ok(Self { map, start, len })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }

    /// The byte at `at`, from where all bytes to the end and 64 more may be
    /// read.
    pub(crate) fn pointer(&self, at: usize) -> *const u8 {
        debug_assert!(at <= self.len);
        self.map.as_ptr().wrapping_add(self.start + at)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use inference_core::ErrorKind;

    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_of_the_length_asked_for() {
        for len in [0, 1, 100, HUGE - 1, HUGE, 3 * HUGE + 5] {
            let mut memory = Memory::allocate(len).unwrap();
            assert_eq!(memory.bytes().len(), len);
            assert!(memory.bytes_mut().iter().all(|byte| *byte == 0));
            assert_eq!(memory.pointer(0).align_offset(64), 0);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for len in [usize::MAX, usize::MAX / 4] {
            assert_eq!(Memory::allocate(len).unwrap_err().kind(), ErrorKind::Exhausted);
        }
    }
}
