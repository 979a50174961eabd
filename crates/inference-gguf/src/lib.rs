//! GGUF files: a checked, memory-mapped reader and every quantized block type.
//!
//! # Reading
//!
//! [`GgufFile::open`] maps a file, or all parts of a split one, and checks the
//! header: every count, length, offset and type, before it allocates or
//! believes anything. Nothing is decoded: [`Metadata`] hands out values from
//! the mapped bytes as they are asked for, [`TensorInfo`] says where data
//! lies. To open a file costs a walk over its header and little memory,
//! however large vocabulary and weights are.
//!
//! Versions 2 and 3 are read; big-endian files and other versions are refused
//! by name. A tensor of a type that is not known here is listed as
//! [`TensorType::Unknown`] and cannot be read; the others can.
//!
//! # Encoding and writing
//!
//! [`BlockType::encode`] quantizes rows of values, [`GgufWriter`] writes files:
//! the header first, then tensor by tensor, under a temporary name until all
//! is on the disk.
//!
//! # Decoding
//!
//! [`BlockType::decode`] writes the values of blocks as `f32`, to the bit those
//! of ggml's reference. [`mod@blocks`] has what comes before: integers in
//! groups with scale and offset, for kernels that compute on integers.
//!
//! ```no_run
//! let file = inference_gguf::GgufFile::open("model.gguf".as_ref())?;
//! println!("{:?}", file.metadata().text("general.architecture")?);
//! for tensor in file.tensors() {
//!     println!("{} {} {:?}", tensor.name(), tensor.kind(), tensor.shape());
//! }
//! # Ok::<(), inference_core::Error>(())
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod block_type;
pub mod blocks;
mod cursor;
mod decode;
mod encode;
mod file;
mod header;
mod limits;
mod locate;
mod mapped_file;
mod metadata;
mod split;
mod tensor;
mod value;
mod writer;

pub use block_type::{BlockType, TensorType};
pub use file::{FileBytes, GgufFile};
pub use locate::{is_gguf, model_in_folder, only_model};
pub use mapped_file::{MappedFile, map_file};
pub use metadata::Metadata;
pub use tensor::TensorInfo;
pub use value::{Array, Value, ValueType};
pub use writer::{GgufFileWriter, GgufWriter, WriteValue};
