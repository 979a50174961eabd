//! LoRA adapters, apart from any model.
//!
//! [`AdapterWeights`] is what an adapter is once it is read: the low-rank
//! factors of each module that it changes, whatever the format of its files.
//! [`ModuleTable`] is what it is checked against.
//!
//! # Training
//!
//! [`TrainingData`] reads examples, [`Trainer`] runs over them on any model that
//! [`can be trained`](inference_core::TextModel::as_trainable), and
//! [`Checkpoints`] keep a run that may end at any moment. The same data, options
//! and seed give the same bits, in one run or in several.
//!
//! Sequences of a batch lie side by side without padding and do not see each
//! other ([`BatchSize::Tokens`] packs them). The loss is the mean over targets:
//! with several batches per step each counts by its targets. Factors of 16 bits
//! ([`AdapterDtype::Bf16`](inference_core::AdapterDtype::Bf16)) are roundings
//! of the optimizer's f32 copy.
//!
//! # What it does not know
//!
//! The crate knows modules by name and weights by shape, never a decoder:
//! `inference-candle` applies what is read here to the model that it serves.
//!
//! # Files
//!
//! [`AdapterFiles::open`] tells the format by the content: PEFT, mlx-lm, or one
//! of llama.cpp's GGUF files. [`AdapterFiles::read`] honours every field of a
//! configuration or refuses it by name, and compares names, shapes, pairs and
//! promises with the modules; [`ReadOptions::lenient`] lists what does not
//! match. [`save_peft`] writes PEFT's files, whole or not at all
//! ([`replace_files`]).
//!
//! # Arithmetic
//!
//! [`ModuleDelta`] says what a change does to its map. [`MergeDelta`] adds it
//! to rows of the matrix, DoRA included.

mod adamw;
mod adapter_files;
mod adapter_weights;
mod batch_plan;
mod checkpoints;
mod draws;
mod gguf_adapter;
mod json_fields;
mod merge;
mod mlx;
mod module_patterns;
mod module_table;
mod peft;
mod peft_config;
mod peft_save;
mod pieces;
mod read_adapter;
mod replace_files;
mod schedule;
mod stored_tensors;
mod targets;
mod trainer;
mod trainer_options;
mod training_data;
mod training_event;

pub use adamw::{adamw, clip_factor};
pub use adapter_files::{AdapterFiles, AdapterFormat};
pub use adapter_weights::{AdapterWeights, ModuleDelta};
pub use checkpoints::{Checkpoints, RunState};
pub use draws::Draws;
pub use merge::MergeDelta;
pub use module_patterns::{ModuleExpression, ModulePattern};
pub use module_table::{GgufModule, Module, ModuleKind, ModuleTable};
pub use peft_config::{BiasMode, PeftConfig};
pub use peft_save::{peft_files, save_peft};
pub use read_adapter::{ReadAdapter, ReadOptions};
pub use replace_files::replace_files;
pub use schedule::Decay;
pub use stored_tensors::TensorEntry;
pub use targets::target_modules;
pub use trainer::Trainer;
pub use trainer_options::{BatchSize, TrainerOptions};
pub use training_data::{BadLines, DataOptions, SkippedLine, TrainingData};
pub use training_event::{AfterEvent, RunEnd, TrainingEvent, TrainingSummary, peak_memory};
