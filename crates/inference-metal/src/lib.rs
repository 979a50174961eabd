//! The Metal backend: device discovery, and Candle's operations on a Metal
//! device.
//!
//! Linking this crate registers the backend `metal`; where link-time
//! registration is lost, call [`register`]. Built without the feature `metal` it
//! is there and unavailable, and says why:
//!
//! ```
//! use inference_core::{Availability, Registry};
//!
//! let registry = Registry::new();
//! inference_metal::register(&registry);
//! match registry.get("metal")?.availability() {
//!     Availability::Ready { devices } => assert!(!devices.is_empty()),
//!     Availability::Unavailable { reason } => println!("no Metal: {reason}"),
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
//! [`ReferenceOps`](inference_candle::ReferenceOps) on the first Metal device;
//! kernels come as a type of this crate that overrides some of those methods,
//! takes the place of `ReferenceOps` in [`MetalBackend`]'s `load_model`, and is
//! tested against it. Its results agree with the CPU's within rounding, not
//! bit for bit.
#![forbid(unsafe_code)]

mod backend;
#[cfg(feature = "metal")]
mod driver;
#[cfg(not(feature = "metal"))]
#[path = "no_driver.rs"]
mod driver;

use std::sync::Arc;

use inference_core::{BackendRegistration, Registry, inventory};

pub use backend::MetalBackend;

inventory::submit! { BackendRegistration::new(|| Arc::new(MetalBackend)) }

/// Adds the backend `metal` to a registry.
pub fn register(registry: &Registry) {
    registry.register(Arc::new(MetalBackend));
}
