//! How `config.json` says that weights are quantized.

use std::collections::HashMap;

use inference_core::Result;
use serde_json::Value;

use crate::config::{Fields, parse};

/// The largest number of weights that may share a scale.
const MAX_GROUP: u64 = 1 << 20;

/// The quantization of a safetensors model: `quantization_config` of
/// `config.json`, or MLX's `quantization`.
///
/// MLX affine (4 and 8 bits), GPTQ and AWQ (4 bits), FP8 e4m3. Others are
/// refused by the name of their `quant_method`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizationScheme {
    pub(super) method: Method,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Mlx(MlxSettings),
    Gptq(GptqSettings),
    Awq(AwqSettings),
    Fp8(Fp8Settings),
}

/// Bits and group size of each module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MlxSettings {
    default: (u32, usize),
    /// Modules of their own; `None` where one is not quantized.
    modules: HashMap<String, Option<(u32, usize)>>,
}

impl MlxSettings {
    /// Bits and group size of a module; `None` where it is not quantized.
    pub(super) fn of(&self, module: &str) -> Option<(u32, usize)> {
        self.modules.get(module).copied().unwrap_or(Some(self.default))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GptqSettings {
    /// `None`: the whole column.
    pub(super) group: Option<usize>,
    /// The first version of the format.
    pub(super) zeros_less_one: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AwqSettings {
    /// `None`: the whole column.
    pub(super) group: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fp8Settings {
    /// Rows and columns of a block; `None`: a scale per tensor or output.
    pub(super) block: Option<[usize; 2]>,
}

impl QuantizationScheme {
    /// Reads `config.json`; `file` names it in errors. `None` where weights
    /// are not quantized.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// naming the method or setting that is not implemented,
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// naming the field that is malformed.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Option<Self>> {
        Self::from_fields(&Fields::new(file, &parse(file, json)?)?)
    }

    /// As [`from_json`](Self::from_json), from the parsed file.
    pub(crate) fn from_fields(fields: &Fields<'_>) -> Result<Option<Self>> {
        let config = fields.object("quantization_config")?;
        let method = match &config {
            Some(config) => match config.text("quant_method")? {
                Some("gptq") => Method::Gptq(gptq(config)?),
                Some("awq") => Method::Awq(awq(config)?),
                Some("fp8") => Method::Fp8(fp8(config)?),
                Some("fbgemm_fp8") => Method::Fp8(Fp8Settings { block: None }),
                Some("compressed-tensors") => Method::Fp8(compressed_tensors(config)?),
                // mlx-lm writes its settings under both names.
                None if config.has("group_size") => Method::Mlx(mlx(config)?),
                None => return Err(config.invalid("quant_method", known())),
                Some(_) => return Err(config.unsupported("quant_method", known())),
            },
            None => match &fields.object("quantization")? {
                Some(config) => Method::Mlx(mlx(config)?),
                None => return Ok(None),
            },
        };
        Ok(Some(Self { method }))
    }
}

/// The methods of quantized safetensors that are implemented, as `config.json`
/// names them; `mlx` stands for mlx-lm's, which has no name there.
pub(crate) fn quantization_methods() -> &'static [&'static str] {
    &["gptq", "awq", "fp8", "fbgemm_fp8", "compressed-tensors", "mlx"]
}

fn known() -> String {
    quantization_methods().join(", ")
}

fn mlx(config: &Fields<'_>) -> Result<MlxSettings> {
    let default = mlx_settings(config)?;
    let mut modules = HashMap::new();
    for (name, value) in config.entries() {
        let own = match value {
            _ if matches!(name, "group_size" | "bits" | "mode" | "quant_method") => continue,
            Value::Bool(quantized) => quantized.then_some(default),
            Value::Object(_) => match config.object(name)? {
                Some(module) => Some(mlx_settings(&module)?),
                None => continue,
            },
            Value::Null => continue,
            _ => return Err(config.unsupported(name, "a module's settings, true or false")),
        };
        modules.insert(name.to_owned(), own);
    }
    Ok(MlxSettings { default, modules })
}

fn mlx_settings(config: &Fields<'_>) -> Result<(u32, usize)> {
    if config.text("mode")?.is_some_and(|mode| mode != "affine") {
        return Err(config.unsupported("mode", "affine"));
    }
    let bits = match config.integer("bits")? {
        Some(bits @ (4 | 8)) => bits as u32,
        Some(_) => return Err(config.unsupported("bits", "4, 8")),
        None => return Err(config.invalid("bits", "4 or 8")),
    };
    match config.integer("group_size")? {
        Some(group @ (32 | 64 | 128)) => Ok((bits, group as usize)),
        Some(_) => Err(config.unsupported("group_size", "32, 64, 128")),
        None => Err(config.invalid("group_size", "32, 64 or 128")),
    }
}

fn gptq(config: &Fields<'_>) -> Result<GptqSettings> {
    four_bits(config, &["bits"])?;
    // Settings of single modules.
    if config.object("dynamic")?.is_some_and(|rules| rules.entries().next().is_some()) {
        return Err(config.unsupported("dynamic", "the same settings for all modules"));
    }
    if config.flag("is_marlin_format")? == Some(true) {
        return Err(config.unsupported("is_marlin_format", "false"));
    }
    if config.text("pack_dtype")?.is_some_and(|name| name != "int32") {
        return Err(config.unsupported("pack_dtype", "int32"));
    }
    let format = ["checkpoint_format", "format"].into_iter().find(|name| config.has(name));
    let zeros_less_one = match format.map(|name| (name, config.text(name))) {
        None => true,
        Some((name, format)) => match format? {
            None | Some("gptq") => true,
            Some("gptq_v2") => false,
            Some(_) => return Err(config.unsupported(name, "gptq, gptq_v2")),
        },
    };
    Ok(GptqSettings { group: group(config, &["group_size"])?, zeros_less_one })
}

fn awq(config: &Fields<'_>) -> Result<AwqSettings> {
    four_bits(config, &["bits", "w_bit"])?;
    for name in ["version", "format"] {
        let gemm = |version: &str| version.eq_ignore_ascii_case("gemm");
        if config.text(name)?.is_some_and(|version| !gemm(version)) {
            return Err(config.unsupported(name, "gemm"));
        }
    }
    Ok(AwqSettings { group: group(config, &["group_size", "q_group_size"])? })
}

fn fp8(config: &Fields<'_>) -> Result<Fp8Settings> {
    if config.text("fmt")?.is_some_and(|format| format != "e4m3") {
        return Err(config.unsupported("fmt", "e4m3"));
    }
    Ok(Fp8Settings { block: block(config, "weight_block_size")? })
}

fn compressed_tensors(config: &Fields<'_>) -> Result<Fp8Settings> {
    if config.text("format")? != Some("float-quantized") {
        return Err(config.unsupported("format", "float-quantized"));
    }
    if let Some(sparsity) = config.object("sparsity_config")?
        && sparsity.text("format")?.is_some_and(|format| format != "dense")
    {
        return Err(sparsity.unsupported("format", "dense"));
    }
    let mut settings = None;
    let Some(groups) = config.object("config_groups")? else {
        return Err(config.invalid("config_groups", "an object"));
    };
    for (name, _) in groups.entries() {
        let Some(group) = groups.object(name)? else { continue };
        let Some(weights) = group.object("weights")? else {
            return Err(group.invalid("weights", "an object"));
        };
        if weights.text("type")? != Some("float") {
            return Err(weights.unsupported("type", "float"));
        }
        if weights.integer("num_bits")? != Some(8) {
            return Err(weights.unsupported("num_bits", "8"));
        }
        if weights.flag("symmetric")? == Some(false) {
            return Err(weights.unsupported("symmetric", "true"));
        }
        let block = match weights.text("strategy")? {
            Some("tensor" | "channel") => None,
            Some("block") => match block(&weights, "block_structure")? {
                Some(block) => Some(block),
                None => return Err(weights.invalid("block_structure", "[rows, columns]")),
            },
            _ => return Err(weights.unsupported("strategy", "tensor, channel, block")),
        };
        if settings.is_some_and(|settings| settings != block) {
            return Err(groups.unsupported(name, "one strategy for all groups"));
        }
        settings = Some(block);
    }
    match settings {
        Some(block) => Ok(Fp8Settings { block }),
        None => Err(config.invalid("config_groups", "at least one group")),
    }
}

fn four_bits(config: &Fields<'_>, names: &[&str]) -> Result<()> {
    let name = names.iter().find(|name| config.has(name)).or(names.first());
    let name = name.copied().unwrap_or_default();
    match config.integer(name)? {
        Some(4) => Ok(()),
        Some(_) => Err(config.unsupported(name, "4")),
        None => Err(config.invalid(name, "4")),
    }
}

/// Inputs that share a scale; -1 is all of them.
fn group(config: &Fields<'_>, names: &[&str]) -> Result<Option<usize>> {
    let Some(name) = names.iter().find(|name| config.has(name)) else { return Ok(Some(128)) };
    match config.get(name) {
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(group @ 1..=MAX_GROUP) => Ok(Some(group as usize)),
            _ => Err(config.invalid(name, format!("-1, or 1 to {MAX_GROUP}"))),
        },
        None => Ok(Some(128)),
    }
}

fn block(config: &Fields<'_>, name: &str) -> Result<Option<[usize; 2]>> {
    let Some(sizes) = config.integers(name)? else { return Ok(None) };
    match sizes.as_slice() {
        &[rows @ 1..=MAX_GROUP, columns @ 1..=MAX_GROUP] => {
            Ok(Some([rows as usize, columns as usize]))
        }
        _ => Err(config.invalid(name, format!("[rows, columns], each 1 to {MAX_GROUP}"))),
    }
}
