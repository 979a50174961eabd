//! The CPU backend (draft head; the manual follows).

mod attention;
mod kernels;
mod kv_cache;
mod linear;
mod ops;
mod options;
mod view;
mod workers;

pub use kernels::Tier;
pub use ops::CpuOps;
pub use options::CpuOptions;
