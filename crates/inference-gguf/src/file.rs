//! A model in one GGUF file, or in the parts of a split one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use inference_core::{Error, Result};

use crate::header::Header;
use crate::mapped_file::MappedFile;
use crate::split::{self, Split};
use crate::{BlockType, Metadata, TensorInfo, TensorType, limits};

/// The bytes of a file: a memory map, or a binary's own static data.
pub type FileBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A model in one GGUF file, or in the parts of a split one. Cloning shares
/// everything.
#[derive(Clone)]
pub struct GgufFile {
    shared: Arc<Shared>,
}

struct Shared {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<Arc<str>, usize>,
    parts: Vec<Part>,
}

/// One file.
struct Part {
    name: String,
    bytes: FileBytes,
    /// The same bytes, where they are mapped here.
    map: Option<Arc<MappedFile>>,
}

impl Part {
    fn map(path: &Path) -> Result<Self> {
        let map = Arc::new(MappedFile::open(path)?);
        Ok(Self { name: path.display().to_string(), bytes: Arc::clone(&map) as _, map: Some(map) })
    }
}

impl GgufFile {
    /// Maps a file and, where it is a part of a split model, the other parts
    /// beside it; checks headers, reads no data.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming file
    /// and field or tensor,
    /// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for
    /// other versions and byte orders, [`Io`](inference_core::ErrorKind::Io).
    pub fn open(path: &Path) -> Result<Self> {
        let part = Part::map(path)?;
        let mut names = limits::Names::default();
        let header = Header::read(&part.name, &part.bytes, 0, &mut names)?;
        let Some(split) = Split::read(&header.metadata)? else {
            return Self::assemble(vec![(part, header)]);
        };
        let mut opened = Some(part);
        let mut parts = Vec::new();
        for (index, path) in split::part_paths(path, &split)?.iter().enumerate() {
            let part = match opened.take_if(|_| index == split.index) {
                Some(part) => part,
                None => Part::map(path)?,
            };
            let header = Header::read(&part.name, &part.bytes, index, &mut names)?;
            split.check_part(&header.metadata, index)?;
            parts.push((part, header));
        }
        split.check_tensors(parts.iter().map(|(_, header)| header.tensors.len()).sum())?;
        Self::assemble(parts)
    }

    /// Maps one file and reads its header, whether or not it is a part of a
    /// split model: the metadata's `split.count` says that.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_part(path: &Path) -> Result<Self> {
        let part = Part::map(path)?;
        let header = Header::read(&part.name, &part.bytes, 0, &mut limits::Names::default())?;
        Self::assemble(vec![(part, header)])
    }

    /// The model in the bytes of one file; `name` names it in messages.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) for a part of
    /// a split model.
    pub fn from_bytes(name: &str, bytes: FileBytes) -> Result<Self> {
        let header = Header::read(name, &bytes, 0, &mut limits::Names::default())?;
        if let Some(split) = Split::read(&header.metadata)? {
            return Err(header.metadata.invalid(
                split::COUNT,
                "1 for a model in memory",
                split.count.to_string(),
            ));
        }
        Self::assemble(vec![(Part { name: name.to_owned(), bytes, map: None }, header)])
    }

    fn assemble(files: Vec<(Part, Header)>) -> Result<Self> {
        let mut metadata = None;
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut by_name = HashMap::new();
        let mut parts = Vec::with_capacity(files.len());
        for (part, header) in files {
            by_name.reserve(header.tensors.len());
            for tensor in header.tensors {
                let name = Arc::clone(&tensor.name);
                if by_name.insert(Arc::clone(&name), tensors.len()).is_some() {
                    let what = format!("tensor `{name}`");
                    return Err(Error::invalid_model(part.name, what, "once", "twice"));
                }
                tensors.push(tensor);
            }
            if tensors.len() > limits::TENSORS {
                let expected = format!("at most {} in all parts", limits::TENSORS);
                let found = tensors.len().to_string();
                return Err(Error::invalid_model(part.name, "number of tensors", expected, found));
            }
            metadata.get_or_insert(header.metadata);
            parts.push(part);
        }
        let none = || Error::engine_message("a GGUF model of no file");
        let metadata = metadata.ok_or_else(none)?;
        Ok(Self { shared: Arc::new(Shared { metadata, tensors, by_name, parts }) })
    }

    /// The key/value part (of the first file, where the model is split).
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.shared.metadata
    }

    /// The tensors, in the order of the files.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.shared.tensors
    }

    /// The tensor of a name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.shared.tensors.get(*self.shared.by_name.get(name)?)
    }

    /// The names of the files, in order; one, unless the model is split.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.shared.parts.iter().map(|part| &*part.name)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.shared.parts.iter().map(|part| (*part.bytes).as_ref().len() as u64).sum()
    }

    /// The file that holds a tensor's data, and where in it.
    ///
    /// # Errors
    ///
    /// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for a
    /// tensor of an unknown type,
    /// [`Engine`](inference_core::ErrorKind::Engine) for one of another file.
    pub fn data(&self, tensor: &TensorInfo) -> Result<(FileBytes, std::ops::Range<usize>)> {
        let part = self.part(tensor)?;
        Ok((Arc::clone(&part.bytes), tensor.range.clone()))
    }

    /// The map of the file that holds a tensor's data, where
    /// [`open`](Self::open) made it.
    #[must_use]
    pub fn mapped(&self, tensor: &TensorInfo) -> Option<&Arc<MappedFile>> {
        self.shared.parts.get(tensor.part)?.map.as_ref()
    }

    /// A tensor's bytes.
    ///
    /// # Errors
    ///
    /// As [`data`](Self::data).
    pub fn bytes(&self, tensor: &TensorInfo) -> Result<&[u8]> {
        let bytes = (*self.part(tensor)?.bytes).as_ref().get(tensor.range.clone());
        bytes.ok_or_else(|| self.foreign(tensor))
    }

    fn part(&self, tensor: &TensorInfo) -> Result<&Part> {
        let part = self.shared.parts.get(tensor.part).ok_or_else(|| self.foreign(tensor))?;
        match tensor.kind {
            TensorType::Known(_) => Ok(part),
            TensorType::Unknown(id) => {
                let what = format!("type of tensor `{}`", tensor.name);
                let known: Vec<_> = BlockType::ALL.iter().map(|kind| kind.as_str()).collect();
                Err(Error::unsupported_model(&*part.name, what, id.to_string(), known.join(", ")))
            }
        }
    }

    fn foreign(&self, tensor: &TensorInfo) -> Error {
        let file = self.metadata().file();
        Error::engine_message(format!("tensor `{}` is not of {file}", tensor.name))
    }

    /// Gives the resident pages of mapped files back to the operating system,
    /// for example after weights were packed. What is read later is read from
    /// the files again.
    pub fn release_pages(&self) {
        self.shared.parts.iter().filter_map(|part| part.map.as_ref()).for_each(|map| {
            map.release_pages();
        });
    }
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile")
            .field("file", &self.metadata().file())
            .field("tensors", &self.tensors().len())
            .finish_non_exhaustive()
    }
}
