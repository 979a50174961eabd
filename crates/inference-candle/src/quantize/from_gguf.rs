//! A GGUF file as another one: the same metadata and tensors, other types.

use std::collections::HashMap;

use candle_core::DType;
use inference_core::{Error, Result};
use inference_gguf::{BlockType, GgufFile, GgufWriter, TensorInfo, TensorType};

use super::QuantizeOptions;
use super::recipe::{Recipe, is_matrix};
use super::tensors::{Data, NewTensor, Plan, choose, note_unmatched};
use crate::checkpoint::Checkpoint;
use crate::config::gguf::ARCHITECTURE;
use crate::weights::{TensorForm, aligned};
use crate::{MergedWeights, ModelFiles, Weight, WeightSource, WeightType};

/// Keys that say how the source was stored.
const STORAGE_KEYS: [&str; 5] = [
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
];

pub(super) fn plan(
    files: &ModelFiles,
    file: GgufFile,
    options: &QuantizeOptions,
    has_importance: bool,
) -> Result<Plan> {
    if options.pre_tokenizer.is_some() {
        return Err(Error::unsupported("a GGUF file as source", "pre_tokenizer"));
    }
    let metadata = file.metadata();
    let Some(architecture) = metadata.text(ARCHITECTURE)? else {
        return Err(metadata.invalid(ARCHITECTURE, "a text", "nothing"));
    };
    // Heads may differ from layer to layer; then the first layer's count.
    let size = |key: &str| -> Result<usize> {
        let key = format!("{architecture}.{key}");
        let scalar = metadata.size(&key);
        match (&scalar, metadata.numbers(&key)) {
            (Err(_), Ok(Some(numbers))) => Ok(numbers.first().map_or(0, |first| *first as usize)),
            _ => Ok(scalar?.unwrap_or(0)),
        }
    };
    let heads = size("attention.head_count")?;
    let merge = GgufMerge::new(files, options)?;
    let recipe = Recipe {
        file_type: options.file_type,
        pure: options.pure,
        has_importance,
        architecture: architecture.to_owned(),
        layers: size("block_count")?,
        heads,
        kv_heads: match size("attention.head_count_kv")? {
            0 => heads,
            kv_heads => kv_heads,
        },
        experts: size("expert_count")?,
        tied: file.tensor("output.weight").is_none() && merge.untied_head.is_none(),
    };
    let mut header = GgufWriter::new();
    header.copy(metadata, |key| !STORAGE_KEYS.contains(&key));
    header.set("general.quantization_version", 2_u32);
    header.set("general.file_type", options.file_type.id());
    let mut tensors = Vec::new();
    let mut parameters = 0_u64;
    for tensor in file.tensors() {
        let stored = known(&file, tensor)?;
        let name = tensor.name();
        // What is not quantized stays as it is.
        let kind = match is_matrix(name, tensor.shape()) {
            true => choose(&recipe, options, name, tensor.shape()),
            false => stored,
        };
        let merged = merge.names.get(name);
        let is_other = kind != stored || merged.is_some();
        if !stored.is_dense() && is_other && !options.requantize {
            return Err(requantizing(options, name, stored.as_str()));
        }
        parameters = parameters.saturating_add(tensor.elem_count());
        let (weight, form) = merged.cloned().unwrap_or((name.to_owned(), TensorForm::Same));
        let data = Data::Weights { names: vec![weight], form };
        let (name, shape) = (name.to_owned(), tensor.shape().to_vec());
        tensors.push(NewTensor { name, shape, kind, data });
    }
    if let Some((weight, shape)) = &merge.untied_head {
        let (name, shape) = (OUTPUT.to_owned(), shape.clone());
        let kind = choose(&recipe, options, &name, &shape);
        let data = Data::Weights { names: vec![weight.clone()], form: TensorForm::Same };
        tensors.push(NewTensor { name, shape, kind, data });
    }
    let source: Box<dyn WeightSource> = match merge.weights {
        Some(merged) => Box::new(StoredAndMerged { stored: Stored { file }, merged }),
        None => Box::new(Stored { file }),
    };
    Ok(Plan { header, tensors, source, parameters, check: Box::new(|_| Ok(())) })
}

/// The error that a tensor is quantized already.
pub(super) fn requantizing(options: &QuantizeOptions, name: &str, found: &str) -> Error {
    let given = format!("{}, but tensor `{name}` is {found} already", options.file_type);
    Error::invalid_option("type", given, "a dense source, or leave to quantize again")
}

fn known(file: &GgufFile, tensor: &TensorInfo) -> Result<BlockType> {
    match tensor.kind() {
        TensorType::Known(kind) => Ok(kind),
        unknown => Err(Error::unsupported_model(
            file.metadata().file(),
            format!("type of tensor `{}`", tensor.name()),
            unknown.to_string(),
            "the types of ggml",
        )),
    }
}

/// The output head.
const OUTPUT: &str = "output.weight";

/// What an adapter changes of a file's tensors.
#[derive(Default)]
struct GgufMerge {
    weights: Option<MergedWeights>,
    /// By the file's name: the weight's own name, and the form of its rows.
    names: HashMap<String, (String, TensorForm)>,
    /// The name and shape of a head that was the embedding.
    untied_head: Option<(String, Vec<usize>)>,
}

impl GgufMerge {
    fn new(files: &ModelFiles, options: &QuantizeOptions) -> Result<Self> {
        let Some(adapter) = &options.adapter else { return Ok(Self::default()) };
        let checkpoint = Checkpoint::open(files.clone())?;
        let (merged, unmatched) = adapter.apply(&checkpoint)?;
        note_unmatched(options, &unmatched);
        let table = checkpoint.config.modules();
        let mut names = HashMap::new();
        for name in merged.changed() {
            let module = table.get(name);
            let gguf = module.and_then(|module| module.gguf.as_ref());
            let Some(gguf) = gguf.filter(|gguf| gguf.expert.is_none()) else {
                let what = format!("a change of `{name}`");
                let supported = "maps, head and embedding of a GGUF model";
                return Err(Error::unsupported_model(files.name(), what, "an adapter", supported));
            };
            let form = match gguf.interleaved_heads {
                Some(heads) => TensorForm::Interleaved { heads },
                None => TensorForm::Same,
            };
            for part in ["weight", "bias"] {
                let weight = format!("{}.{part}", table.path(name));
                if merged.changes(&weight).is_some() {
                    names.insert(format!("{}.{part}", gguf.name), (weight, form));
                }
            }
        }
        let untied_head = match merged.tied_names().filter(|_| merged.unties_head()) {
            Some([head, embedding]) => {
                Some((head.clone(), merged.get(embedding)?.shape().to_vec()))
            }
            None => None,
        };
        Ok(Self { weights: Some(merged), names, untied_head })
    }
}

/// Tensors under their own names, and merged ones under those of weights.
struct StoredAndMerged {
    stored: Stored,
    merged: MergedWeights,
}

impl WeightSource for StoredAndMerged {
    fn contains(&self, name: &str) -> bool {
        self.stored.contains(name) || self.merged.contains(name)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        match self.stored.contains(name) {
            true => self.stored.get(name),
            false => self.merged.get(name),
        }
    }

    fn release_pages(&self) {
        self.stored.release_pages();
    }
}

/// Tensors under their own names.
struct Stored {
    file: GgufFile,
}

impl WeightSource for Stored {
    fn contains(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let file = self.file.metadata().file();
        let Some(tensor) = self.file.tensor(name) else {
            return Err(Error::invalid_model(
                file,
                format!("tensor `{name}`"),
                "present",
                "nothing",
            ));
        };
        let kind = match known(&self.file, tensor)? {
            BlockType::F32 => WeightType::Dense(DType::F32),
            BlockType::F16 => WeightType::Dense(DType::F16),
            BlockType::Bf16 => WeightType::Dense(DType::BF16),
            kind => WeightType::Blocks(kind),
        };
        let (bytes, range) = self.file.data(tensor)?;
        let (bytes, range) = aligned(&bytes, range, 4);
        Weight::stored(name, tensor.shape().to_vec(), kind, bytes, range)
    }

    fn release_pages(&self) {
        self.file.release_pages();
    }
}
