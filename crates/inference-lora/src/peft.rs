//! PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use inference_core::{Error, Result};

use crate::json_fields::Fields;
use crate::peft_config::{BiasMode, PeftConfig};
use crate::pieces::{Expected, Pieces, Role, transposed};
use crate::read_adapter::{ReadAdapter, ReadOptions, Unmatched};
use crate::{ModuleKind, ModuleTable, stored_tensors};

/// The weights' file.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// The weights' file in a format that runs code when it is read.
pub(crate) const PICKLED: &str = "adapter_model.bin";

/// What names begin with.
pub(crate) const PREFIX: &str = "base_model.model.";

/// What comes after the module's name. An embedding's factors are transposed:
/// `A` is `[rank, rows]`, `B` is `[columns, rank]`.
const ENDINGS: &[(&str, Role, bool)] = &[
    (".lora_A.weight", Role::A, false),
    (".lora_B.weight", Role::B, false),
    (".lora_B.bias", Role::FactorBias, false),
    (".lora_magnitude_vector", Role::Magnitude, false),
    (".lora_magnitude_vector.weight", Role::Magnitude, false),
    (".lora_embedding_A", Role::B, true),
    (".lora_embedding_B", Role::A, true),
    (".base_layer.bias", Role::Bias, false),
    (".base_layer.weight", Role::Weight, false),
    (".modules_to_save.weight", Role::Weight, false),
    (".modules_to_save.bias", Role::Bias, false),
    (".weight", Role::Weight, false),
    (".bias", Role::Bias, false),
];

/// Reads an adapter from a folder.
pub(crate) fn read(
    folder: &Path,
    fields: &Fields,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<ReadAdapter> {
    let config = PeftConfig::from_fields(fields)?;
    let path = folder.join(WEIGHTS);
    let file = path.display().to_string();
    let mut pieces = Pieces::new(&file, table);
    stored_tensors::read_each(&path, |name, tensor| {
        let Some((module, role, turned)) = parse(name, table) else {
            pieces.add_unmatched(name);
            return Ok(());
        };
        let tensor = tensor.read()?;
        let tensor = if turned { transposed(&file, name, &tensor)? } else { tensor };
        pieces.add(module, role, name, tensor)
    })?;
    check_switches(&config, fields.file(), &pieces)?;
    let missing = missing(&config, fields.file(), table, &pieces)?;
    let tensors = pieces.take_unmatched();
    let unmatched = Unmatched { file: &file, tensors, config: fields.file(), missing };
    unmatched.check(table, options)?;
    unmatched.into_adapter(pieces.finish(|module| {
        let path = table.path(module);
        Ok(Expected { rank: Some(config.rank_of(&path)?), scaling: config.scaling_of(&path)? })
    })?)
}

/// The module of a tensor, what it is to it, and whether it is transposed.
fn parse<'a>(name: &str, table: &'a ModuleTable) -> Option<(&'a str, Role, bool)> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    ENDINGS.iter().find_map(|(ending, role, turned)| {
        let (found, module) = table.find(name.strip_suffix(ending)?)?;
        let is_factor = matches!(role, Role::A | Role::B);
        let fits = !is_factor || *turned == (module.kind == ModuleKind::Embedding);
        fits.then_some((found, *role, *turned))
    })
}

/// The modules and biases that the configuration promises and the file lacks,
/// with the field that does.
fn missing(
    config: &PeftConfig,
    file: &str,
    table: &ModuleTable,
    pieces: &Pieces<'_>,
) -> Result<Vec<(&'static str, String)>> {
    let mut missing = Vec::new();
    for (name, module) in &table.modules {
        let targeted = config.targets(&table.path(name), module.kind)?;
        let has = |role| pieces.has(name, role);
        if targeted && !has(Role::A) && !has(Role::B) {
            missing.push(("target_modules", name.clone()));
            continue;
        }
        let bias = match config.bias {
            BiasMode::None => false,
            BiasMode::LoraOnly => targeted,
            BiasMode::All => true,
        };
        for (promised, role, field) in [
            (targeted && config.dora, Role::Magnitude, "use_dora"),
            (targeted && config.factor_bias, Role::FactorBias, "lora_bias"),
            (bias && module.bias, Role::Bias, "bias"),
        ] {
            if promised && !has(role) {
                missing.push((field, name.clone()));
            }
        }
    }
    for name in config.saved_modules(file, table)? {
        if !pieces.has(name, Role::Weight) {
            missing.push(("modules_to_save", name.to_owned()));
        }
    }
    Ok(missing)
}

/// Refuses tensors that the configuration switches off: what they are for is
/// not said.
fn check_switches(config: &PeftConfig, file: &str, pieces: &Pieces<'_>) -> Result<()> {
    let no_bias = config.bias == BiasMode::None && config.modules_to_save.is_empty();
    for (off, role, field, value) in [
        (!config.dora, Role::Magnitude, "use_dora", "true"),
        (!config.factor_bias, Role::FactorBias, "lora_bias", "true"),
        (no_bias, Role::Bias, "bias", "lora_only or all"),
    ] {
        if let Some(tensor) = pieces.first(role).filter(|_| off) {
            let expected = format!("{value}, because of tensor `{tensor}`");
            return Err(Error::invalid_model(file, field, expected, "otherwise"));
        }
    }
    Ok(())
}
