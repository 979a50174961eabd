//! Memory of what lives as long as a map: rearranged or quantized activations.
//!
//! An allocation of megabytes for each map would be cleared by one thread while
//! the others wait, or come from the operating system page by page.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

/// Most allocations that a thread keeps: about as many as live at a time.
const MOST: usize = 4;

/// The alignment of everything.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    /// What was dropped on this thread.
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Items in memory that goes to the next ones of this thread.
pub(crate) struct Recycled<T> {
    lines: Vec<Line>,
    len: usize,
    items: PhantomData<T>,
}

impl<T: Pod> Recycled<T> {
    /// `len` items of any value.
    pub(crate) fn new(len: usize) -> Self {
        const { assert!(align_of::<T>() <= align_of::<Line>()) };
        let needed = len.saturating_mul(size_of::<T>()).div_ceil(size_of::<Line>());
        let spare = SPARE.with_borrow_mut(|spare| {
            // The smallest that is large enough; or the largest, which ends here.
            let fits = |(_, lines): &(usize, &Vec<Line>)| lines.len() >= needed;
            let all = || spare.iter().enumerate();
            let best = all().filter(fits).min_by_key(|(_, lines)| lines.len());
            let best = best.or_else(|| all().max_by_key(|(_, lines)| lines.len()));
            best.map(|(index, _)| index).map(|index| spare.swap_remove(index))
        });
        let lines = match spare {
            Some(lines) if lines.len() >= needed => lines,
            other => {
                drop(other);
                vec![Line([0; 64]); needed]
            }
        };
        Self { lines, len, items: PhantomData }
    }
}

/// Gives back what this thread keeps.
pub(crate) fn forget() {
    SPARE.take();
}

impl<T: Pod> Deref for Recycled<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as in `deref_mut`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod> DerefMut for Recycled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: there are at least so many bytes, as aligned as items must be
        // (`new`); they were written before, and any bytes are an item.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> Drop for Recycled<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that ends keeps nothing.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < MOST
                && !lines.is_empty()
            {
                spare.push(lines);
            }
        });
    }
}

impl<T> fmt::Debug for Recycled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recycled({} items)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_given_back() {
        forget();
        let mut first = Recycled::<f32>::new(100);
        first.fill(7.0);
        let at = first.as_ptr() as usize;
        let other = Recycled::<u64>::new(1000);
        assert_ne!(other.as_ptr() as usize, at, "both are there");
        drop((first, other));
        let smaller = Recycled::<u16>::new(3);
        assert_eq!((smaller.as_ptr() as usize, smaller.len()), (at, 3), "the smallest that fits");
        let larger = Recycled::<u8>::new(1 << 16);
        assert!(larger.iter().all(|byte| *byte == 0) && larger.as_ptr().align_offset(64) == 0);
        assert!(Recycled::<f32>::new(0).is_empty());
        drop((smaller, larger));
        SPARE.with_borrow(|spare| assert_eq!(spare.len(), 2, "one grew"));
        forget();
        SPARE.with_borrow(|spare| assert!(spare.is_empty()));
    }

    #[test]
    fn no_more_is_kept_than_lives_at_a_time() {
        forget();
        drop((0..3 * MOST).map(|_| Recycled::<f32>::new(10)).collect::<Vec<_>>());
        SPARE.with_borrow(|spare| assert_eq!(spare.len(), MOST));
    }
}
