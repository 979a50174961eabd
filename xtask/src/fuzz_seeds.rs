//! Seed corpora and dictionaries for `fuzz/`, made from the reference data.
//!
//! A fuzzer tries many small inputs: models are cut down to a header that is
//! right and tensors of a block or two.

mod gguf;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::Result;

/// Largest seed of a text format, in bytes.
const MAX_TEXT: usize = 32 << 10;

/// Settings of quantized checkpoints; the fixtures have few.
const QUANTIZATIONS: [&str; 5] = [
    r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "desc_act": false}"#,
    r#"{"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm"}"#,
    r#"{"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}"#,
    r#"{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}}}"#,
    r#"{"group_size": 64, "bits": 4, "model.embed_tokens": {"group_size": 32, "bits": 8}}"#,
];

/// Words of the template language and of what templates call.
const TEMPLATE_WORDS: [&str; 40] = [
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "for ",
    " in ",
    "endfor",
    "if ",
    "elif ",
    "else",
    "endif",
    "set ",
    "endset",
    "macro ",
    "endmacro",
    "filter ",
    "generation",
    "namespace(",
    "loop.index0",
    "break",
    "continue",
    "messages",
    "message['role']",
    "content",
    "tools",
    "add_generation_prompt",
    "raise_exception(",
    "strftime_now(",
    "range(",
    "|tojson",
    "|trim",
    ".split(",
    ".replace(",
    "is defined",
    "is string",
    "|selectattr(",
];

/// Writes `fuzz/corpus/TARGET/*` and `fuzz/corpus/TARGET.dict` for every
/// target of `fuzz/`, from the reference data.
#[derive(Debug, Args)]
pub(crate) struct FuzzSeeds {
    /// The folder of reference data.
    #[arg(long, default_value = "../shared/fixtures")]
    fixtures: PathBuf,
    /// Where to write.
    #[arg(long, default_value = "fuzz/corpus")]
    out: PathBuf,
}

/// The seeds of one target.
struct Corpus {
    folder: PathBuf,
    words: BTreeSet<String>,
    count: usize,
}

impl Corpus {
    fn new(out: &Path, target: &str) -> Result<Self> {
        let folder = out.join(target);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, words: BTreeSet::new(), count: 0 })
    }

    /// The path of the next seed.
    fn next(&mut self) -> PathBuf {
        self.count += 1;
        self.folder.join(format!("seed-{:03}", self.count))
    }

    fn add(&mut self, seed: &[u8]) -> Result<()> {
        Ok(fs::write(self.next(), seed)?)
    }

    /// Field names become words of the dictionary.
    fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(map) if map.len() < 100 => {
                for (name, value) in map {
                    self.words.insert(format!("\"{name}\":"));
                    self.learn(value);
                }
            }
            Value::Array(items) => items.iter().take(4).for_each(|item| self.learn(item)),
            Value::String(text) if text.len() < 32 => {
                self.words.insert(format!("\"{text}\""));
            }
            _ => {}
        }
    }

    #[expect(clippy::print_stdout, reason = "a command reports what it did")]
    fn finish(self) -> Result<()> {
        let escape = |byte: u8| match byte {
            b'"' | b'\\' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        let line = |word: &String| {
            let word: String = word.bytes().map(escape).collect();
            format!("\"{word}\"\n")
        };
        let dictionary: String = self.words.iter().map(line).collect();
        let path = self.folder.with_extension("dict");
        fs::write(&path, dictionary)?;
        println!("{}: {} seeds, {} words", self.folder.display(), self.count, self.words.len());
        Ok(())
    }
}

impl FuzzSeeds {
    pub(crate) fn run(&self) -> Result<()> {
        let mut corpus = Corpus::new(&self.out, "gguf")?;
        for file in self.files("gguf") {
            gguf::shrink(&file, &corpus.next(), &mut corpus.words)?;
        }
        corpus.finish()?;
        self.configs()?;
        self.tokenizers()?;
        self.templates()?;
        self.adapters()?;
        self.safetensors()
    }

    /// Every file of the reference data with this ending, sorted.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, ending, found);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.fixtures, ending, &mut found);
        found.sort();
        found
    }

    fn configs(&self) -> Result<()> {
        let mut corpus = Corpus::new(&self.out, "config")?;
        let files = self.files("/config.json");
        let settings = QUANTIZATIONS.iter().map(|text| serde_json::from_str(text));
        let settings = settings.collect::<std::result::Result<Vec<Value>, _>>()?;
        for (index, file) in files.iter().enumerate() {
            let mut config: Value = serde_json::from_slice(&fs::read(file)?)?;
            corpus.add(&serde_json::to_vec(&config)?)?;
            config["quantization_config"] = settings[index % settings.len()].clone();
            corpus.learn(&config);
            corpus.add(&serde_json::to_vec(&config)?)?;
        }
        corpus.finish()
    }

    fn tokenizers(&self) -> Result<()> {
        let mut corpus = Corpus::new(&self.out, "tokenizer")?;
        for file in self.files("/tokenizer.json") {
            let beside = file.with_file_name("tokenizer_config.json");
            let parts = [fs::read(&file)?, fs::read(beside)?, b"{\"unk_token\": \"?\"}".to_vec()];
            for part in &parts {
                corpus.learn(&serde_json::from_slice(part)?);
            }
            let seed = parts.join(&0);
            if seed.len() <= MAX_TEXT {
                corpus.add(&seed)?;
            }
        }
        corpus.finish()
    }

    fn templates(&self) -> Result<()> {
        let mut corpus = Corpus::new(&self.out, "template")?;
        for file in self.files(".jinja") {
            let mut seed = fs::read(file)?;
            seed.extend(b"\0{\"enable_thinking\": false, \"date_string\": \"1 Jan\"}");
            corpus.add(&seed)?;
        }
        corpus.words.extend(TEMPLATE_WORDS.map(str::to_owned));
        corpus.finish()
    }

    /// PEFT's adapters of the reference data, with the first tensors of each;
    /// the same tensors as mlx-lm would have them; and one in GGUF.
    fn adapters(&self) -> Result<()> {
        let mut corpus = Corpus::new(&self.out, "adapter")?;
        let mlx = serde_json::json!({"fine_tune_type": "lora", "num_layers": -1,
            "lora_parameters": {"rank": 4, "scale": 2.0, "keys": ["self_attn.q_proj"]}});
        corpus.learn(&mlx);
        let seed = corpus.next();
        gguf::adapter(&seed, &mut corpus.words)?;
        let gguf = fs::read(&seed)?;
        fs::write(&seed, [b"\0", gguf.as_slice()].concat())?;
        for file in self.files("/adapter_config.json") {
            let config: Value = serde_json::from_slice(&fs::read(&file)?)?;
            let weights = fs::read(file.with_file_name("adapter_model.safetensors"))?;
            let weights = safetensors::SafeTensors::deserialize(&weights)?;
            let mut tensors = weights.tensors();
            tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
            tensors.truncate(2);
            corpus.words.extend(tensors.iter().map(|(name, _)| name.clone()));
            corpus.learn(&config);
            let written = safetensors::serialize(tensors.clone(), None)?;
            corpus.add(&[b"\x01", config.to_string().as_bytes(), b"\0", &written].concat())?;
            let renamed = tensors.into_iter().map(|(name, tensor)| {
                let name = name.replace("base_model.model.", "").replace(".weight", "");
                (name.replace("lora_A", "lora_b").replace("lora_B", "lora_a"), tensor)
            });
            let written = safetensors::serialize(renamed, None)?;
            corpus.add(&[b"\x02", mlx.to_string().as_bytes(), b"\0", &written].concat())?;
        }
        corpus.finish()
    }

    fn safetensors(&self) -> Result<()> {
        let mut corpus = Corpus::new(&self.out, "safetensors")?;
        let data: Vec<u8> = (0..64).collect();
        let names = ["a", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"];
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::U32, Dtype::U8, Dtype::F8_E4M3] {
            let columns = 64 * 8 / dtype.bitsize() / 2;
            let tensor = TensorView::new(dtype, vec![2, columns], &data)?;
            let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let tensors = names.map(|name| (name, tensor.clone()));
            let file = safetensors::serialize(tensors, Some(about))?;
            corpus.add(&[&[0], &file[..]].concat())?;
            let shard = "model-00001-of-00001.safetensors";
            let map: serde_json::Map<_, _> =
                names.iter().map(|name| ((*name).to_owned(), Value::from(shard))).collect();
            let index = serde_json::json!({"metadata": {"total_size": 192}, "weight_map": map});
            corpus.learn(&index);
            corpus.add(&[b"\x01", index.to_string().as_bytes(), b"\0", &file].concat())?;
            corpus.words.insert(format!("\"{dtype:?}\""));
        }
        for word in ["\"dtype\":", "\"shape\":", "\"data_offsets\":", "\"__metadata__\":"] {
            corpus.words.insert(word.to_owned());
        }
        corpus.finish()
    }
}
