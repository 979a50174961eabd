//! A GGUF file as another one: the same metadata and tensors, other types.

use candle_core::DType;
use inference_core::{Error, Result};
use inference_gguf::{BlockType, GgufFile, GgufWriter, TensorInfo, TensorType};

use super::QuantizeOptions;
use super::recipe::{Recipe, is_matrix};
use super::tensors::{Data, NewTensor, Plan, choose};
use crate::config::gguf::ARCHITECTURE;
use crate::weights::{TensorForm, aligned};
use crate::{Weight, WeightSource, WeightType};

/// Keys that say how the source was stored.
const STORAGE_KEYS: [&str; 5] = [
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
];

pub(super) fn plan(
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
        tied: file.tensor("output.weight").is_none(),
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
        if !stored.is_dense() && kind != stored && !options.requantize {
            return Err(requantizing(options, name, stored.as_str()));
        }
        parameters = parameters.saturating_add(tensor.elem_count());
        let data = Data::Weights { names: vec![name.to_owned()], form: TensorForm::Same };
        let (name, shape) = (name.to_owned(), tensor.shape().to_vec());
        tensors.push(NewTensor { name, shape, kind, data });
    }
    let source = Box::new(Stored { file });
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
