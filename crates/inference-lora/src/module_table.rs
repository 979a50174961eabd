//! The modules of a model, by name, with their sizes.

use std::collections::BTreeMap;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleKind {
    /// An affine map of activations.
    Map,
    /// The table of embeddings.
    Embedding,
    /// The output head.
    Head,
    /// A norm: a vector of weights.
    Norm,
}

/// One module of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Module {
    /// What it is.
    pub kind: ModuleKind,
    /// Rows of its weight: outputs of a map, entries of a table, size of a norm.
    pub out: usize,
    /// Columns of its weight: inputs of a map; 1 for a norm.
    pub input: usize,
    /// Whether it has a bias, `[out]`.
    pub bias: bool,
    /// Its tensor in GGUF files, where they have one.
    pub gguf: Option<GgufModule>,
}

impl Module {
    /// A module with a weight `[out, input]` and no bias.
    #[must_use]
    pub fn new(kind: ModuleKind, out: usize, input: usize) -> Self {
        Self { kind, out, input, bias: false, gguf: None }
    }

    /// Sets whether it has a bias.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Sets its tensor in GGUF files.
    #[must_use]
    pub fn with_gguf(mut self, gguf: GgufModule) -> Self {
        self.gguf = Some(gguf);
        self
    }

    /// Shape of its weight: `[out, input]`, or `[out]` of a norm.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        match self.kind {
            ModuleKind::Norm => vec![self.out],
            ModuleKind::Map | ModuleKind::Embedding | ModuleKind::Head => {
                vec![self.out, self.input]
            }
        }
    }
}

/// A module as GGUF files have it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufModule {
    /// The tensor's name without `.weight`, for example `blk.0.attn_q`.
    pub name: String,
    /// Which entry of a stacked tensor it is.
    pub expert: Option<usize>,
    /// Where llama.cpp interleaves the rows of each head for its rotary
    /// embedding (rows `i` and `i + n/2` of a head of `n` lie at `2i` and
    /// `2i + 1`): the number of heads.
    pub interleaved_heads: Option<usize>,
}

impl GgufModule {
    /// A module whose tensor has that name and the order of rows of the model.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), expert: None, interleaved_heads: None }
    }

    /// Sets which entry of a stacked tensor it is.
    #[must_use]
    pub fn with_expert(mut self, expert: Option<usize>) -> Self {
        self.expert = expert;
        self
    }

    /// Sets the number of heads whose rows are interleaved.
    #[must_use]
    pub fn with_interleaved_heads(mut self, heads: Option<usize>) -> Self {
        self.interleaved_heads = heads;
        self
    }
}

/// The modules of a model, as its class in transformers has them: what an
/// adapter is checked against.
///
/// Names are those below the model's root (`layers.0.self_attn.q_proj`), and
/// that of the output head. Where the model has one map for several (`qkv_proj`
/// of Phi-3), that one is listed and not its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleTable {
    /// Prefixes of everything but the head, for example `model.`; the usual one
    /// first.
    pub roots: Vec<String>,
    /// The modules by name.
    pub modules: BTreeMap<String, Module>,
    /// What GGUF calls the architecture, where it has a name there.
    pub gguf_architecture: Option<String>,
}

impl ModuleTable {
    /// A table without modules.
    pub fn new<I: IntoIterator<Item: Into<String>>>(roots: I) -> Self {
        let roots = roots.into_iter().map(Into::into).collect();
        Self { roots, modules: BTreeMap::new(), gguf_architecture: None }
    }

    /// Adds a module.
    pub fn insert(&mut self, name: impl Into<String>, module: Module) {
        self.modules.insert(name.into(), module);
    }

    /// The module of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Module> {
        self.modules.get(name)
    }

    /// The module that the model's class calls `path` (`model.layers.0.…`),
    /// with its name in this table.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<(&str, &Module)> {
        let known = |name: &str| self.modules.get_key_value(name);
        let below = |root: &String| path.strip_prefix(root.as_str()).and_then(known);
        let is_head = |module: &Module| module.kind == ModuleKind::Head;
        self.roots
            .iter()
            .find_map(below)
            .or_else(|| known(path).filter(|(_, module)| is_head(module)))
            .map(|(name, module)| (name.as_str(), module))
    }

    /// What the model's class calls a module of this table.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        match (self.roots.first(), self.modules.get(name)) {
            (Some(root), module) if module.is_none_or(|module| module.kind != ModuleKind::Head) => {
                format!("{root}{name}")
            }
            _ => name.to_owned(),
        }
    }

    /// The last parts of all maps' names, sorted: what an adapter can target
    /// by suffix.
    #[must_use]
    pub fn suffixes(&self) -> Vec<&str> {
        let maps = self.modules.iter().filter(|(_, module)| module.kind != ModuleKind::Norm);
        let mut names: Vec<_> =
            maps.map(|(name, _)| name.rsplit('.').next().unwrap_or(name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
