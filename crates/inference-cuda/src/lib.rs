//! The CUDA backend: device discovery, and Candle's operations on a CUDA
//! device.
//!
//! Linking this crate registers the backend `cuda`; where link-time
//! registration is lost, call [`register`]. Built without the feature `cuda` it
//! is there and unavailable, and says why:
//!
//! ```
//! use inference_core::{Availability, Registry};
//!
//! let registry = Registry::new();
//! inference_cuda::register(&registry);
//! match registry.get("cuda")?.availability() {
//!     Availability::Ready { devices } => assert!(!devices.is_empty()),
//!     Availability::Unavailable { reason } => println!("no CUDA: {reason}"),
//!     _ => {}
//! }
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! # The seam for kernels
//!
//! A model computes through
//! [`Ops`](inference_candle::Ops), whose methods all have plain-Candle
//! defaults. This backend passes
//! [`ReferenceOps`](inference_candle::ReferenceOps) on the first CUDA device;
//! kernels come as a type of this crate that overrides some of those methods,
//! takes the place of `ReferenceOps` in [`CudaBackend`]'s `load_model`, and is
//! tested against it. Its results agree with the CPU's within rounding, not
//! bit for bit.
#![forbid(unsafe_code)]

mod backend;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(not(feature = "cuda"))]
#[path = "no_driver.rs"]
mod driver;

use std::sync::Arc;

use inference_core::{BackendRegistration, Registry, inventory};

pub use backend::CudaBackend;

inventory::submit! { BackendRegistration::new(|| Arc::new(CudaBackend)) }

/// Adds the backend `cuda` to a registry.
pub fn register(registry: &Registry) {
    registry.register(Arc::new(CudaBackend));
}
