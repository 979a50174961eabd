//! Where packed weights lie.

use bytemuck::Pod;
use inference_core::{Error, Result};
use memmap2::MmapMut;

/// Elements in pages of their own, which the operating system commits when they
/// are first written; large ones in huge pages where it has them, as streaming
/// through small ones costs a tenth of the bandwidth.
pub(crate) struct PanelMemory {
    map: MmapMut,
    bytes: usize,
}

/// Bytes from which on huge pages are asked for.
const HUGE: usize = 4 << 20;

impl PanelMemory {
    /// `len` elements whose bytes are zeros.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exhausted`](inference_core::ErrorKind::Exhausted) where the operating system refuses.
    pub(crate) fn zeroed<T: Pod>(len: usize) -> Result<Self> {
        let refused =
            |bytes: usize| Error::exhausted("memory for packed weights, in bytes", bytes as u64, 0);
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| refused(usize::MAX))?;
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|_| refused(bytes))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // Advice: kernels without huge pages refuse it, and nothing is lost.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, bytes })
    }

    /// The elements, as the type that they were made for.
    pub(crate) fn elements<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.map.get(..self.bytes).unwrap_or_default())
    }

    /// The elements, to be written.
    pub(crate) fn elements_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.map.get_mut(..self.bytes).unwrap_or_default())
    }
}
