//! What threads share, by the standard library's types, or by loom's where its
//! tests try the orders in which threads can run (feature `loom-tests`).

#[cfg(all(test, feature = "loom-tests"))]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Condvar, Mutex},
    thread::yield_now,
};
#[cfg(not(all(test, feature = "loom-tests")))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Condvar, Mutex},
    thread::yield_now,
};
