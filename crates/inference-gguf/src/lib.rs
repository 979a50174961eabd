//! GGUF files: a checked, memory-mapped reader and every quantized block type.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod block_type;
mod decode;
mod file;
mod metadata;
mod tensor;

pub use block_type::{BlockType, TensorType};
pub use file::{FileBytes, GgufFile};
pub use metadata::{Metadata, Value};
pub use tensor::TensorInfo;
