//! The modules of a decoder: what an adapter can change.

use inference_core::Result;
use inference_lora::{GgufModule, Module, ModuleKind, ModuleTable};

use crate::checkpoint::CONFIG;
use crate::config::gguf::GgufArchitecture;
use crate::weights::{GgufNames, TensorForm};
use crate::{DecoderConfig, MlpSpec, ModelFiles, NormLayout, QkNorm};

impl ModelFiles {
    /// The modules of the model: [`DecoderConfig::modules`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) and
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// as [`DecoderConfig::from_json`] and [`DecoderConfig::from_gguf`].
    pub fn modules(&self) -> Result<ModuleTable> {
        let config = match self.gguf()? {
            Some(file) => DecoderConfig::from_gguf(&file)?,
            None => DecoderConfig::from_json(CONFIG, &self.read_required(CONFIG)?)?,
        };
        Ok(config.modules())
    }
}

impl DecoderConfig {
    /// The modules that transformers' class of the model has, fused maps as
    /// one, under the names that adapters use.
    ///
    /// ```
    /// use inference_candle::DecoderConfig;
    ///
    /// let json = br#"{"model_type": "llama", "vocab_size": 16, "hidden_size": 8,
    ///     "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 12,
    ///     "num_hidden_layers": 1}"#;
    /// let modules = DecoderConfig::from_json("config.json", json)?.modules();
    /// let (name, key) = modules.find("model.layers.0.self_attn.k_proj").unwrap();
    /// assert_eq!(name, "layers.0.self_attn.k_proj");
    /// assert_eq!((key.out, key.input), (4, 8));
    /// # Ok::<(), inference_core::Error>(())
    /// ```
    #[must_use]
    pub fn modules(&self) -> ModuleTable {
        let architecture = GgufArchitecture::by_model_type(&self.architecture);
        let mut lister = Lister {
            gguf: architecture.map(|known| GgufNames::new(self, known)),
            root: self.names.roots.first().copied().unwrap_or_default(),
            table: ModuleTable::new(self.names.roots.iter().copied()),
        };
        lister.table.gguf_architecture = architecture.map(|known| known.name.to_owned());
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        lister.add(self.names.embedding, Module::new(ModuleKind::Embedding, vocab, hidden));
        lister.add(self.names.final_norm, Module::new(ModuleKind::Norm, hidden, 1));
        lister.add(self.names.head, Module::new(ModuleKind::Head, vocab, hidden));
        for (index, layer) in self.layers.iter().enumerate() {
            self.attention_modules(&format!("layers.{index}."), &mut lister);
            self.mlp_modules(&format!("layers.{index}."), &layer.mlp, &mut lister);
        }
        lister.table
    }

    fn attention_modules(&self, prefix: &str, lister: &mut Lister<'_>) {
        let (names, hidden) = (&self.names, self.hidden_size);
        let mut norm = |name: &str, size: usize| {
            lister.add(&format!("{prefix}{name}"), Module::new(ModuleKind::Norm, size, 1));
        };
        if matches!(self.norms, NormLayout::Pre | NormLayout::PrePost) {
            norm(names.attention_norm, hidden);
            norm(names.mlp_norm, hidden);
        }
        if matches!(self.norms, NormLayout::Post | NormLayout::PrePost) {
            norm(names.post_attention_norm, hidden);
            norm(names.post_mlp_norm, hidden);
        }
        let query = self.num_heads * self.head_dim;
        let key = self.num_kv_heads * self.head_dim;
        let qk_sizes = match self.qk_norm {
            Some(QkNorm::PerHead) => Some((self.head_dim, self.head_dim)),
            Some(QkNorm::AllHeads) => Some((query, key)),
            None => None,
        };
        if let Some((query, key)) = qk_sizes {
            norm("self_attn.q_norm", query);
            norm("self_attn.k_norm", key);
        }
        let mut map = |name: &str, out: usize, input: usize, bias: bool| {
            let module = Module::new(ModuleKind::Map, out, input).with_bias(bias);
            lister.add(&format!("{prefix}self_attn.{name}"), module);
        };
        if self.fused_qkv {
            map("qkv_proj", query + 2 * key, hidden, self.bias.qkv);
        } else {
            map("q_proj", query, hidden, self.bias.qkv);
            map("k_proj", key, hidden, self.bias.qkv);
            map("v_proj", key, hidden, self.bias.qkv);
        }
        map("o_proj", hidden, query, self.bias.output);
    }

    fn mlp_modules(&self, prefix: &str, mlp: &MlpSpec, lister: &mut Lister<'_>) {
        let (names, hidden) = (&self.names, self.hidden_size);
        let mut map = |name: &str, out: usize, input: usize, bias: bool| {
            let module = Module::new(ModuleKind::Map, out, input).with_bias(bias);
            lister.add(&format!("{prefix}{name}"), module);
        };
        match *mlp {
            MlpSpec::Gated { intermediate } => {
                let bias = self.bias.mlp;
                if self.fused_gate_up {
                    map("mlp.gate_up_proj", 2 * intermediate, hidden, bias);
                } else {
                    map("mlp.gate_proj", intermediate, hidden, bias);
                    map("mlp.up_proj", intermediate, hidden, bias);
                }
                map("mlp.down_proj", hidden, intermediate, bias);
            }
            MlpSpec::Moe { experts, intermediate, .. } => {
                map(names.router, experts, hidden, false);
                let [gate, up, down] = names.expert;
                for index in 0..experts {
                    let name = |map: &str| format!("{}.{index}.{map}", names.experts);
                    map(&name(gate), intermediate, hidden, false);
                    map(&name(up), intermediate, hidden, false);
                    map(&name(down), hidden, intermediate, false);
                }
            }
        }
    }
}

/// Adds modules with what GGUF calls them.
struct Lister<'a> {
    gguf: Option<GgufNames>,
    root: &'a str,
    table: ModuleTable,
}

impl Lister<'_> {
    fn add(&mut self, name: &str, mut module: Module) {
        let path = match module.kind {
            ModuleKind::Head => format!("{name}.weight"),
            _ => format!("{}{name}.weight", self.root),
        };
        let tensor = self.gguf.as_ref().and_then(|names| names.tensor(&path));
        // Norms with one added would have to have it taken away again.
        let tensor = tensor.filter(|tensor| tensor.form != TensorForm::PlusOne);
        if let Some(tensor) = tensor {
            let heads = match tensor.form {
                TensorForm::Interleaved { heads } => Some(heads),
                TensorForm::Same | TensorForm::PlusOne => None,
            };
            let name = tensor.name.trim_end_matches(".weight");
            module = module.with_gguf(
                GgufModule::new(name).with_expert(tensor.expert).with_interleaved_heads(heads),
            );
        }
        self.table.insert(name, module);
    }
}
