//! mlx-lm's files: `adapter_config.json` and `adapters.safetensors`.
//!
//! Factors are transposed: `lora_a` is `[in, rank]`, `lora_b` `[rank, out]`; of
//! an embedding they are `[rows, rank]` and `[rank, columns]`. The change is
//! scaled by `scale` itself.

use std::path::Path;

use inference_core::{Error, Result};

use crate::json_fields::Fields;
use crate::pieces::{Expected, Pieces, Role, transposed};
use crate::read_adapter::{ReadAdapter, ReadOptions, Unmatched};
use crate::{ModuleKind, ModuleTable, stored_tensors};

/// The weights' file.
pub(crate) const WEIGHTS: &str = "adapters.safetensors";

/// Fields that only mlx-lm's configuration has.
pub(crate) const OWN_FIELDS: [&str; 4] =
    ["lora_parameters", "fine_tune_type", "lora_layers", "adapter_path"];

/// What the configuration says of the adapter; the rest is about training.
struct MlxConfig {
    rank: usize,
    scale: f64,
    dora: bool,
    /// The modules, below a layer or below the model.
    keys: Option<Vec<String>>,
    /// How many of the last layers; `None`: all.
    layers: Option<usize>,
}

impl MlxConfig {
    fn from_fields(fields: &Fields) -> Result<Self> {
        let dora = match fields.text("fine_tune_type")? {
            None | Some("lora") => fields.flag("use_dora")?.unwrap_or(false),
            Some("dora") => true,
            Some(_) => return Err(fields.unsupported("fine_tune_type", "lora, dora")),
        };
        let nested = fields.object("lora_parameters")?;
        let parameters =
            nested.ok_or_else(|| fields.invalid("lora_parameters", "rank and scale"))?;
        let named = |field: &str, expected: &str| {
            let found = parameters.get(field).map_or("nothing".to_owned(), ToString::to_string);
            let what = format!("lora_parameters.{field}");
            Error::invalid_model(fields.file(), what, expected, found)
        };
        let rank = parameters.size("rank")?.filter(|rank| *rank > 0);
        let rank = rank.ok_or_else(|| named("rank", "at least 1"))?;
        let scale = parameters.number("scale")?.ok_or_else(|| named("scale", "a number"))?;
        // Early versions scaled by `scale * alpha / rank`, later ones by `scale`
        // whatever `alpha` is; nothing says which wrote the file.
        if let Some(alpha) = parameters.number("alpha")?
            && alpha != rank as f64
        {
            return Err(Error::unsupported_model(
                fields.file(),
                "lora_parameters.alpha",
                alpha.to_string(),
                "scale alone (remove alpha; where mlx-lm was older than 0.19, set scale to scale * \
                 alpha / rank)",
            ));
        }
        let layers = match fields.get("num_layers").map(|_| "num_layers") {
            None => "lora_layers",
            Some(name) => name,
        };
        let layers = match fields.number(layers)? {
            None => None,
            Some(count) if count < 0.0 => None,
            Some(_) => fields.size(layers)?,
        };
        Ok(Self { rank, scale, dora, keys: parameters.texts("keys")?, layers })
    }

    /// Whether the module has factors, as far as the configuration says.
    fn targets(&self, name: &str, table: &ModuleTable, first_layer: usize) -> bool {
        let Some(keys) = &self.keys else { return false };
        match layer_of(name) {
            Some((layer, rest)) => layer >= first_layer && keys.iter().any(|key| key == rest),
            None => keys.iter().any(|key| *key == table.path(name)),
        }
    }
}

/// The layer's number, and the name below it.
fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Reads an adapter from a folder.
pub(crate) fn read(
    folder: &Path,
    fields: &Fields,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<ReadAdapter> {
    let config = MlxConfig::from_fields(fields)?;
    let path = folder.join(WEIGHTS);
    let file = path.display().to_string();
    let mut pieces = Pieces::new(&file, table);
    stored_tensors::read_each(&path, |name, tensor| {
        let Some((module, role)) = parse(name, table) else {
            pieces.add_unmatched(name);
            return Ok(());
        };
        let tensor = tensor.read()?;
        let turned = match (role, table.get(module).map(|module| module.kind)) {
            // `[rows, rank]` and `[rank, columns]` are B and A as they are.
            (_, Some(ModuleKind::Embedding)) => false,
            (Role::A | Role::B, _) => true,
            _ => false,
        };
        let tensor = if turned { transposed(&file, name, &tensor)? } else { tensor };
        pieces.add(module, role, name, tensor)
    })?;
    if let Some(tensor) = pieces.first(Role::Magnitude).filter(|_| !config.dora) {
        let expected = format!("dora, because of tensor `{tensor}`");
        return Err(Error::invalid_model(fields.file(), "fine_tune_type", expected, "otherwise"));
    }
    let count = table.modules.keys().filter_map(|name| layer_of(name)).map(|(layer, _)| layer + 1);
    let first_layer = match config.layers {
        Some(last) => count.max().unwrap_or(0).saturating_sub(last),
        None => 0,
    };
    let mut missing = Vec::new();
    for (name, module) in &table.modules {
        let has_factors = pieces.has(name, Role::A) || pieces.has(name, Role::B);
        let can = module.kind != ModuleKind::Norm;
        if can && !has_factors && config.targets(name, table, first_layer) {
            missing.push(("lora_parameters.keys", name.clone()));
        }
        if has_factors && config.dora && !pieces.has(name, Role::Magnitude) {
            missing.push(("fine_tune_type", name.clone()));
        }
    }
    let tensors = pieces.take_unmatched();
    let unmatched = Unmatched { file: &file, tensors, config: fields.file(), missing };
    unmatched.check(table, options)?;
    let expected = |_: &str| Ok(Expected { rank: Some(config.rank), scaling: config.scale });
    unmatched.into_adapter(pieces.finish(expected)?)
}

/// The module of a tensor, and what it is to it.
fn parse<'a>(name: &str, table: &'a ModuleTable) -> Option<(&'a str, Role)> {
    let (path, ending) = name.rsplit_once('.')?;
    let (module, kind) = table.find(path)?;
    let is_embedding = kind.kind == ModuleKind::Embedding;
    let role = match ending {
        "lora_a" if is_embedding => Role::B,
        "lora_b" if is_embedding => Role::A,
        "lora_a" => Role::A,
        "lora_b" => Role::B,
        "m" => Role::Magnitude,
        _ => return None,
    };
    Some((module, role))
}
