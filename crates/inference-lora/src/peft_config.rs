//! PEFT's `adapter_config.json`: every field honoured, without effect on what
//! a model computes, or refused by name.

use inference_core::{Error, LoraConfig, Result};
use serde_json::{Map, Value, json};

use crate::json_fields::{Fields, size};
use crate::module_patterns::{LayerChoice, ModulePattern, ValueByModule, ends_with_name};
use crate::{ModuleKind, ModuleTable};

/// The file's name.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// Fields that say nothing about what the adapted model computes.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    // Of initializations, which `init_lora_weights` names.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
];

/// Fields that are read here.
const READ: &[&str] = &[
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
];

/// Initializations after which the base model is as it was.
const INITIALIZATIONS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// Which biases an adapter replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BiasMode {
    /// None.
    #[default]
    None,
    /// Those of the modules with factors.
    LoraOnly,
    /// All of the model's.
    All,
}

impl BiasMode {
    const NAMES: [(Self, &'static str); 3] =
        [(Self::None, "none"), (Self::LoraOnly, "lora_only"), (Self::All, "all")];

    fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(mode, _)| *mode == self).map_or("none", |(_, name)| name)
    }
}

/// The description of an adapter in PEFT's format.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeftConfig {
    /// Rank, where no pattern says otherwise; at least 1.
    pub rank: usize,
    /// Numerator of the scaling, where no pattern says otherwise.
    pub alpha: f64,
    /// Dropout of the training.
    pub dropout: f64,
    /// The scaling is `alpha / sqrt(rank)`.
    pub rslora: bool,
    /// The matrices are decomposed into norms and directions.
    pub dora: bool,
    /// `B` has a bias.
    pub factor_bias: bool,
    /// Which of the model's biases are replaced.
    pub bias: BiasMode,
    /// The modules with factors; `None` where the file does not say, or says
    /// [`all_linear`](Self::all_linear).
    pub target_modules: Option<ModulePattern>,
    /// All maps but the output head are targets (`all-linear`).
    pub all_linear: bool,
    /// Not these.
    pub exclude_modules: Option<ModulePattern>,
    /// Modules whose whole weights are replaced, by ends of their names.
    pub modules_to_save: Vec<String>,
    /// The base model, by name or path.
    pub base_model: Option<String>,
    /// The kind of task, by PEFT's name.
    pub task_type: Option<String>,
    layers: Option<LayerChoice>,
    ranks: ValueByModule,
    alphas: ValueByModule,
}

impl PeftConfig {
    /// The description of an adapter that was trained as `config` says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](inference_core::ErrorKind::InvalidOption)
    /// as [`LoraConfig::validate`].
    pub fn new(config: &LoraConfig) -> Result<Self> {
        config.validate()?;
        let targets = match &config.target_pattern {
            Some(pattern) => ModulePattern::expression("the options", "target_pattern", pattern)?,
            None => ModulePattern::names(config.target_modules.iter().cloned()),
        };
        Ok(Self {
            rank: config.rank,
            alpha: f64::from(config.alpha),
            dropout: f64::from(config.dropout),
            rslora: config.rslora,
            dora: false,
            factor_bias: false,
            bias: BiasMode::None,
            target_modules: Some(targets),
            all_linear: false,
            exclude_modules: None,
            modules_to_save: Vec::new(),
            base_model: None,
            task_type: Some("CAUSAL_LM".to_owned()),
            layers: None,
            ranks: ValueByModule::default(),
            alphas: ValueByModule::default(),
        })
    }

    /// Sets what the base model is called.
    #[must_use]
    pub fn with_base_model(mut self, name: impl Into<String>) -> Self {
        self.base_model = Some(name.into());
        self
    }

    /// Sets the modules with factors.
    #[must_use]
    pub fn with_target_modules(mut self, modules: ModulePattern) -> Self {
        self.target_modules = Some(modules);
        self
    }

    /// Sets ranks of modules, by regular expressions that match the end of
    /// their names; the first that matches counts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// an expression that cannot be compiled.
    pub fn with_rank_pattern(mut self, ranks: Vec<(String, usize)>) -> Result<Self> {
        let ranks = ranks.into_iter().map(|(name, rank)| (name, rank as f64)).collect();
        self.ranks = ValueByModule::new(CONFIG, "rank_pattern", ranks)?;
        Ok(self)
    }

    /// Reads a description; `file` names it in errors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// a field that is malformed,
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for one that is not implemented, both by the field's name.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        Self::from_fields(&Fields::parse(file.to_owned(), json)?)
    }

    pub(crate) fn from_fields(fields: &Fields) -> Result<Self> {
        let file = fields.file();
        match fields.text("peft_type")? {
            Some("LORA") => {}
            Some(_) => return Err(fields.unsupported("peft_type", "LORA")),
            None => return Err(fields.invalid("peft_type", "LORA")),
        }
        refuse_unknown(fields)?;
        check_initialization(fields)?;
        let rank = fields.size("r")?.filter(|rank| *rank > 0);
        let alpha = fields.number("lora_alpha")?;
        let bias = fields.text("bias")?.unwrap_or("none");
        let bias = BiasMode::NAMES.iter().find(|(_, name)| *name == bias);
        let ranks = fields.numbers_by_name("rank_pattern")?;
        let whole = |rank: f64| rank >= 1.0 && rank.fract() == 0.0;
        if let Some((name, rank)) = ranks.iter().find(|(_, rank)| !whole(*rank)) {
            let what = format!("rank_pattern: `{name}`");
            return Err(Error::invalid_model(file, what, "at least 1", rank.to_string()));
        }
        let alphas = fields.numbers_by_name("alpha_pattern")?;
        let all_linear = fields.get("target_modules").and_then(Value::as_str) == Some("all-linear");
        Ok(Self {
            rank: rank.ok_or_else(|| fields.invalid("r", "at least 1"))?,
            alpha: alpha.ok_or_else(|| fields.invalid("lora_alpha", "a number"))?,
            dropout: fields.number("lora_dropout")?.unwrap_or(0.0),
            rslora: fields.flag("use_rslora")?.unwrap_or(false),
            dora: fields.flag("use_dora")?.unwrap_or(false),
            factor_bias: fields.flag("lora_bias")?.unwrap_or(false),
            bias: bias.ok_or_else(|| fields.unsupported("bias", "none, lora_only, all"))?.0,
            target_modules: if all_linear { None } else { pattern(fields, "target_modules")? },
            all_linear,
            exclude_modules: pattern(fields, "exclude_modules")?,
            modules_to_save: fields.texts("modules_to_save")?.unwrap_or_default(),
            base_model: fields.text("base_model_name_or_path")?.map(str::to_owned),
            task_type: fields.text("task_type")?.map(str::to_owned),
            layers: layers(fields)?,
            ranks: ValueByModule::new(file, "rank_pattern", ranks)?,
            alphas: ValueByModule::new(file, "alpha_pattern", alphas)?,
        })
    }

    /// The rank of a module, by its full name in the model's class.
    ///
    /// # Errors
    ///
    /// As [`ModulePattern::matches`].
    pub fn rank_of(&self, path: &str) -> Result<usize> {
        Ok(self.ranks.get(path)?.map_or(self.rank, |rank| rank as usize))
    }

    /// The scaling of a module, by its full name in the model's class.
    ///
    /// # Errors
    ///
    /// As [`ModulePattern::matches`].
    pub fn scaling_of(&self, path: &str) -> Result<f64> {
        let alpha = self.alphas.get(path)?.unwrap_or(self.alpha);
        let rank = self.rank_of(path)? as f64;
        Ok(alpha / if self.rslora { rank.sqrt() } else { rank })
    }

    /// Whether the module at `path` has factors, as far as the file says.
    ///
    /// # Errors
    ///
    /// As [`ModulePattern::matches`].
    pub fn targets(&self, path: &str, kind: ModuleKind) -> Result<bool> {
        let found = match &self.target_modules {
            _ if kind == ModuleKind::Norm => false,
            _ if self.all_linear => kind == ModuleKind::Map,
            Some(pattern) => pattern.matches(path)?,
            None => false,
        };
        if !found || self.modules_to_save.iter().any(|name| has_part(path, name)) {
            return Ok(false);
        }
        if let Some(excluded) = &self.exclude_modules
            && excluded.matches(path)?
        {
            return Ok(false);
        }
        // An expression, and a whole name, say for themselves which layers they
        // mean.
        match (&self.layers, &self.target_modules) {
            (Some(layers), Some(ModulePattern::Names(names)))
                if !names.iter().any(|name| name == path) =>
            {
                layers.contains(path)
            }
            _ => Ok(true),
        }
    }

    /// The modules of `table` whose whole weights the file promises.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where a name is none of the model's modules.
    pub(crate) fn saved_modules<'a>(
        &self,
        file: &str,
        table: &'a ModuleTable,
    ) -> Result<Vec<&'a str>> {
        let mut saved = Vec::new();
        for wanted in &self.modules_to_save {
            let before = saved.len();
            let names = table.modules.keys().map(String::as_str);
            saved.extend(names.filter(|name| ends_with_name(&table.path(name), wanted)));
            if saved.len() == before {
                let what = format!("modules_to_save: `{wanted}`");
                let expected = "a module with a weight of its own";
                return Err(Error::invalid_model(file, what, expected, "none of the model's"));
            }
        }
        Ok(saved)
    }

    /// The file's content, as PEFT reads it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let patterns = |values: &ValueByModule| -> Value {
            let pairs = values.iter().map(|(name, value)| (name.to_owned(), number(value)));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let modules = |modules: Option<&ModulePattern>| match modules {
            None => Value::Null,
            Some(ModulePattern::Names(names)) => json!(names),
            Some(ModulePattern::Expression(expression)) => json!(expression.as_str()),
        };
        let target_modules = match self.all_linear {
            true => json!("all-linear"),
            false => modules(self.target_modules.as_ref()),
        };
        let layer_patterns = self.layers.as_ref().map(LayerChoice::patterns);
        let value = json!({
            "alpha_pattern": patterns(&self.alphas),
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": self.bias.as_str(),
            "exclude_modules": modules(self.exclude_modules.as_ref()),
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": layer_patterns.filter(|patterns| !patterns.is_empty()),
            "layers_to_transform": self.layers.as_ref().map(|layers| &layers.layers),
            "lora_alpha": number(self.alpha),
            "lora_bias": self.factor_bias,
            "lora_dropout": self.dropout,
            "modules_to_save": Some(&self.modules_to_save).filter(|names| !names.is_empty()),
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": patterns(&self.ranks),
            "revision": null,
            "target_modules": target_modules,
            "task_type": self.task_type,
            "use_dora": self.dora,
            "use_rslora": self.rslora,
        });
        format!("{value:#}\n")
    }
}

/// A whole number without a fraction: PEFT has integers there.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Whether `name` stands in the path from one of its parts on, up to a dot or
/// the end.
fn has_part(path: &str, name: &str) -> bool {
    let mut rest = path;
    loop {
        let end = rest.strip_prefix(name);
        if end.is_some_and(|end| end.is_empty() || end.starts_with('.')) {
            return true;
        }
        let Some((_, after)) = rest.split_once('.') else { return false };
        rest = after;
    }
}

fn pattern(fields: &Fields, name: &str) -> Result<Option<ModulePattern>> {
    Ok(match fields.get(name) {
        None => None,
        Some(Value::String(text)) => Some(ModulePattern::expression(fields.file(), name, text)?),
        Some(Value::Array(_)) => fields.texts(name)?.map(ModulePattern::Names),
        Some(_) => return Err(fields.invalid(name, "a list of names, or an expression")),
    })
}

fn layers(fields: &Fields) -> Result<Option<LayerChoice>> {
    let expected = "a layer's number, or a list of them";
    let invalid = || fields.invalid("layers_to_transform", expected);
    let layers = match fields.get("layers_to_transform") {
        None => Vec::new(),
        Some(Value::Array(layers)) => {
            layers.iter().map(size).collect::<Option<Vec<_>>>().ok_or_else(invalid)?
        }
        Some(value) => vec![size(value).ok_or_else(invalid)?],
    };
    let patterns = match fields.get("layers_pattern") {
        None => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(_) => fields.texts("layers_pattern")?.unwrap_or_default(),
    };
    if layers.is_empty() {
        return Ok(None);
    }
    LayerChoice::new(fields.file(), layers, &patterns).map(Some)
}

/// Refuses fields that are not known here, unless they are switched off.
fn refuse_unknown(fields: &Fields) -> Result<()> {
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    };
    for (name, value) in fields.iter() {
        if !READ.contains(&name) && !WITHOUT_EFFECT.contains(&name) && !off(value) {
            return Err(fields.unsupported(name, "null or false"));
        }
    }
    Ok(())
}

fn check_initialization(fields: &Fields) -> Result<()> {
    const FIELD: &str = "init_lora_weights";
    match fields.get(FIELD) {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(kind)) if INITIALIZATIONS.contains(&kind.as_str()) => Ok(()),
        Some(_) => Err(fields.unsupported(
            FIELD,
            "true, false, gaussian, eva, orthogonal (others change the base model: save with \
             path_initial_model_for_weight_conversion)",
        )),
    }
}
