//! LoRA adapters, apart from any model.
//!
//! [`AdapterWeights`] is what an adapter is once it is read: the low-rank
//! factors of each module that it changes, whatever the format of its files.
//! [`ModuleTable`] is what it is checked against.
//!
//! The crate knows modules by name and weights by shape, never a decoder:
//! `inference-candle` applies what is read here to the model that it serves.

mod adapter_weights;
mod module_table;

pub use adapter_weights::{AdapterWeights, ModuleDelta};
pub use module_table::{GgufModule, Module, ModuleKind, ModuleTable};
