//! Writing a file: the header first, then the data of one tensor after the
//! other.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};

use crate::{BlockType, Metadata, ValueType, limits};

/// What tensors are aligned to: ggml's default, so no file has to say it.
const ALIGNMENT: u64 = 32;

const ALIGNMENT_KEY: &str = "general.alignment";

/// The header of a file to be written: metadata, and names, shapes and types
/// of tensors in the order of their data.
///
/// ```
/// use inference_gguf::{BlockType, GgufWriter};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("tiny.gguf");
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", "llama");
/// writer.set("llama.block_count", 1_u32);
/// writer.set_array("tokenizer.ggml.tokens", ["a", "b"]);
/// writer.tensor("output_norm.weight", &[2], BlockType::F32)?;
/// let mut file = writer.create(&path)?;
/// file.write(&1.0_f32.to_le_bytes())?;
/// file.write(&2.0_f32.to_le_bytes())?;
/// file.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    /// Key, and the value's type and bytes.
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<NewTensor>,
    names: HashSet<String>,
}

#[derive(Clone, Debug)]
struct NewTensor {
    name: String,
    shape: Vec<usize>,
    kind: BlockType,
    bytes: u64,
}

/// A metadata value that has a fixed type in files.
pub trait WriteValue {
    /// Its type.
    const TYPE: ValueType;

    /// Appends its bytes.
    fn append_to(&self, bytes: &mut Vec<u8>);
}

macro_rules! write_numbers {
    ($($number:ty: $kind:ident),*) => {$(
        impl WriteValue for $number {
            const TYPE: ValueType = ValueType::$kind;

            fn append_to(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

write_numbers!(u8: U8, i8: I8, u16: U16, i16: I16, u32: U32, i32: I32, u64: U64, i64: I64, f32: F32, f64: F64);

impl WriteValue for bool {
    const TYPE: ValueType = ValueType::Bool;

    fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }
}

impl WriteValue for &str {
    const TYPE: ValueType = ValueType::Text;

    fn append_to(&self, bytes: &mut Vec<u8>) {
        append_text(bytes, self);
    }
}

impl WriteValue for String {
    const TYPE: ValueType = ValueType::Text;

    fn append_to(&self, bytes: &mut Vec<u8>) {
        append_text(bytes, self);
    }
}

fn append_text(bytes: &mut Vec<u8>, text: &str) {
    (text.len() as u64).append_to(bytes);
    bytes.extend_from_slice(text.as_bytes());
}

impl GgufWriter {
    /// A header with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key, in the place of an earlier value if it has one.
    pub fn set(&mut self, key: &str, value: impl WriteValue) {
        fn typed<V: WriteValue>(value: &V) -> Vec<u8> {
            let mut bytes = V::TYPE.id().to_le_bytes().to_vec();
            value.append_to(&mut bytes);
            bytes
        }
        self.put(key, typed(&value));
    }

    /// Sets a key to an array.
    pub fn set_array<V: WriteValue>(
        &mut self,
        key: &str,
        values: impl IntoIterator<Item = V, IntoIter: ExactSizeIterator>,
    ) {
        let values = values.into_iter();
        let mut bytes = ValueType::Array.id().to_le_bytes().to_vec();
        V::TYPE.id().append_to(&mut bytes);
        (values.len() as u64).append_to(&mut bytes);
        for value in values {
            value.append_to(&mut bytes);
        }
        self.put(key, bytes);
    }

    /// Copies every key of another file for which `wanted` says so, in its
    /// order; an alignment is not copied, because it is that file's own.
    pub fn copy(&mut self, metadata: &Metadata, wanted: impl Fn(&str) -> bool) {
        for key in metadata.keys().filter(|key| *key != ALIGNMENT_KEY && wanted(key)) {
            if let Some((kind, stored)) = metadata.stored(key) {
                let mut bytes = kind.id().to_le_bytes().to_vec();
                bytes.extend_from_slice(stored);
                self.put(key, bytes);
            }
        }
    }

    fn put(&mut self, key: &str, bytes: Vec<u8>) {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, value)) => *value = bytes,
            None => self.metadata.push((key.to_owned(), bytes)),
        }
    }

    /// Adds a tensor; `shape` has the outermost dimension first. Its data is
    /// written after that of the tensors before it.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) for a second
    /// tensor of a name, more than four dimensions, rows that are not whole
    /// blocks and sizes that overflow.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: BlockType) -> Result<()> {
        let invalid = |expected: String, found: String| {
            Err(Error::invalid_model("output", format!("tensor `{name}`"), expected, found))
        };
        if shape.is_empty() || shape.len() > limits::DIMENSIONS as usize {
            let expected = format!("1 to {} dimensions", limits::DIMENSIONS);
            return invalid(expected, shape.len().to_string());
        }
        let row = kind.row_bytes(shape.last().copied().unwrap_or(1));
        let rows = shape.iter().rev().skip(1).try_fold(1_usize, |n, dim| n.checked_mul(*dim));
        let Some(bytes) = row.zip(rows).and_then(|(row, rows)| row.checked_mul(rows)) else {
            let expected = format!("rows of whole blocks of {}", kind.block_values());
            return invalid(expected, format!("{shape:?}"));
        };
        if !self.names.insert(name.to_owned()) {
            return invalid("once".to_owned(), "twice".to_owned());
        }
        let (name, shape, bytes) = (name.to_owned(), shape.to_vec(), bytes as u64);
        self.tensors.push(NewTensor { name, shape, kind, bytes });
        Ok(())
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let data: u64 = self.tensors.iter().map(|t| t.bytes.next_multiple_of(ALIGNMENT)).sum();
        self.header().len() as u64 + data
    }

    /// Begins a file: writes the header to a temporary file beside `path`,
    /// which takes the name `path` when it is [finished](GgufFileWriter::finish)
    /// and is removed when it is not.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io).
    pub fn create(self, path: &Path) -> Result<GgufFileWriter> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create_new(&temporary).map_err(|e| Error::io(&temporary, "create", e))?;
        let header = self.header();
        let mut writer = GgufFileWriter {
            path: path.to_owned(),
            temporary,
            file: Some(BufWriter::with_capacity(1 << 20, file)),
            tensors: self.tensors,
            current: 0,
            written: 0,
        };
        writer.raw(&header)?;
        writer.skip_finished()?;
        Ok(writer)
    }

    /// Everything before the data, padded.
    fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        3_u32.append_to(&mut bytes);
        (self.tensors.len() as u64).append_to(&mut bytes);
        (self.metadata.len() as u64).append_to(&mut bytes);
        for (key, value) in &self.metadata {
            append_text(&mut bytes, key);
            bytes.extend_from_slice(value);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            append_text(&mut bytes, &tensor.name);
            (tensor.shape.len() as u32).append_to(&mut bytes);
            for dim in tensor.shape.iter().rev() {
                (*dim as u64).append_to(&mut bytes);
            }
            tensor.kind.id().append_to(&mut bytes);
            offset.append_to(&mut bytes);
            offset += tensor.bytes.next_multiple_of(ALIGNMENT);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        bytes
    }
}

/// A file whose header is written; takes the tensors' data, in their order and
/// in pieces of any size.
#[derive(Debug)]
pub struct GgufFileWriter {
    path: PathBuf,
    temporary: PathBuf,
    /// `None` once it is finished.
    file: Option<BufWriter<File>>,
    tensors: Vec<NewTensor>,
    /// Index of the tensor whose data comes next, and how much it has.
    current: usize,
    written: u64,
}

impl GgufFileWriter {
    /// Writes the next bytes of the tensor whose turn it is.
    ///
    /// # Errors
    ///
    /// [`Engine`](inference_core::ErrorKind::Engine) for more bytes than the
    /// tensor has, [`Io`](inference_core::ErrorKind::Io).
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(Error::engine_message("data after the last tensor"));
        };
        let written = self.written + data.len() as u64;
        if written > tensor.bytes {
            let (name, bytes) = (&tensor.name, tensor.bytes);
            return Err(Error::engine_message(format!("{written} bytes of {bytes} of `{name}`")));
        }
        self.written = written;
        self.raw(data)?;
        self.skip_finished()
    }

    /// Goes on to the next tensor that has data to come.
    fn skip_finished(&mut self) -> Result<()> {
        while let Some(tensor) = self.tensors.get(self.current)
            && self.written == tensor.bytes
        {
            let padding = tensor.bytes.next_multiple_of(ALIGNMENT) - tensor.bytes;
            self.current += 1;
            self.written = 0;
            self.raw(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        result.map_err(|e| Error::io(&self.temporary, "write", e))
    }

    /// Flushes everything to the disk and gives the file its name, replacing
    /// what had it.
    ///
    /// # Errors
    ///
    /// [`Engine`](inference_core::ErrorKind::Engine) where data is missing,
    /// [`Io`](inference_core::ErrorKind::Io).
    pub fn finish(self) -> Result<()> {
        self.finish_checked(|_| Ok(()))
    }

    /// As [`finish`](Self::finish), unless `check`, which is given the path of
    /// the finished temporary file, fails.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish), and what `check` returns.
    pub fn finish_checked(mut self, check: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if let Some(tensor) = self.tensors.get(self.current) {
            let (name, written, bytes) = (&tensor.name, self.written, tensor.bytes);
            return Err(Error::engine_message(format!("{written} bytes of {bytes} of `{name}`")));
        }
        let Some(file) = self.file.take() else { return Ok(()) };
        let failed = |e| Error::io(&self.path, "write", e);
        let result = file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(failed)
            .and_then(|()| check(&self.temporary))
            .and_then(|()| fs::rename(&self.temporary, &self.path).map_err(failed));
        if result.is_err() {
            // Nobody else knows of it; the first failure is the one to tell.
            let _ = fs::remove_file(&self.temporary);
        }
        result
    }
}

impl Drop for GgufFileWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // An unfinished file is of no use, and a destructor cannot fail.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
