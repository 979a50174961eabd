//! A model as its files describe it, before any weight is used: the one place
//! that knows which formats there are.

use inference_core::{Error, Result, TokenId};
use inference_gguf::GgufFile;
use inference_text::TextParts;

use crate::config::{Fields, parse};
use crate::generation_config::{self, GenerationConfig};
use crate::weights::WeightSource;
use crate::{
    DecoderConfig, GgufWeights, ModelFiles, QuantizationScheme, QuantizedWeights, SafetensorsFiles,
};

/// The name of the description beside safetensors.
pub(crate) const CONFIG: &str = "config.json";

/// A model's description, and where its weights are.
pub(crate) struct Checkpoint {
    pub(crate) config: DecoderConfig,
    pub(crate) text: TextParts,
    pub(crate) generation: GenerationConfig,
    /// The tokens that end a text.
    pub(crate) eos: Vec<TokenId>,
    files: ModelFiles,
    format: Format,
}

enum Format {
    /// Safetensors, with the quantization of `config.json`.
    Safetensors(Option<QuantizationScheme>),
    Gguf(GgufFile),
}

impl Checkpoint {
    /// Reads descriptions and headers.
    ///
    /// # Errors
    ///
    /// As [`load_model`](crate::load_model).
    pub(crate) fn open(files: ModelFiles) -> Result<Self> {
        match files.gguf()? {
            Some(file) => Self::from_gguf(files, file),
            None => Self::from_folder(files),
        }
    }

    fn from_folder(files: ModelFiles) -> Result<Self> {
        let json = parse(CONFIG, &files.read_required(CONFIG)?)?;
        let fields = Fields::new(CONFIG, &json)?;
        let config = DecoderConfig::from_fields(&fields)?;
        let Companions { text, generation, eos } =
            Companions::read(&files, &fields, config.vocab_size)?;
        let format = Format::Safetensors(QuantizationScheme::from_fields(&fields)?);
        Ok(Self { config, text, generation, eos, files, format })
    }

    fn from_gguf(files: ModelFiles, file: GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let config = DecoderConfig::from_gguf(&file)?;
        let text = TextParts::from_gguf(metadata)?;
        let place = "the rows of tensor `token_embd.weight`";
        check_vocabulary(metadata.file(), &text, config.vocab_size, place)?;
        let generation = GenerationConfig::from_gguf(metadata)?;
        let eos = text.eos_ids.clone();
        check_eos(metadata.file(), "the tokens that end a text", &eos, config.vocab_size)?;
        let format = Format::Gguf(file);
        Ok(Self { config, text, generation, eos, files, format })
    }

    /// The weights; only headers are read.
    ///
    /// # Errors
    ///
    /// As [`load_model`](crate::load_model).
    pub(crate) fn weights(&self) -> Result<Box<dyn WeightSource>> {
        Ok(match &self.format {
            Format::Gguf(file) => Box::new(GgufWeights::new(file.clone(), &self.config)?),
            Format::Safetensors(scheme) => {
                let stored = SafetensorsFiles::open(&self.files)?;
                match scheme {
                    Some(scheme) => Box::new(QuantizedWeights::new(stored, scheme.clone())),
                    None => Box::new(stored),
                }
            }
        })
    }
}

/// What lies beside the weights in a folder.
pub(crate) struct Companions {
    pub(crate) text: TextParts,
    pub(crate) generation: GenerationConfig,
    /// The tokens that end a text.
    pub(crate) eos: Vec<TokenId>,
}

impl Companions {
    /// Reads tokenizer, chat template and generation defaults; `fields` are
    /// those of `config.json`.
    ///
    /// # Errors
    ///
    /// As [`load_model`](crate::load_model).
    pub(crate) fn read(files: &ModelFiles, fields: &Fields<'_>, vocab: usize) -> Result<Self> {
        let text = TextParts::load(|name| files.read(name))?;
        let place = format!("the vocab_size of {CONFIG}");
        check_vocabulary("tokenizer.json", &text, vocab, &place)?;
        let generation = match files.read(generation_config::FILE)? {
            Some(json) => GenerationConfig::read(&json)?,
            None => GenerationConfig::default(),
        };
        // Of `generation_config.json`, else of `config.json`, else the tokenizer's.
        let (file, eos) = match fields.get("eos_token_id") {
            Some(_) if !generation.has_eos => (CONFIG, fields.token_ids("eos_token_id")?),
            _ => (generation_config::FILE, text.eos_ids.clone()),
        };
        check_eos(file, "eos_token_id", &eos, vocab)?;
        Ok(Self { text, generation, eos })
    }
}

/// Every id of the tokenizer has a row of the embedding. (The embedding may
/// have more rows: many are padded.)
fn check_vocabulary(file: &str, text: &TextParts, rows: usize, place: &str) -> Result<()> {
    match text.tokenizer.as_ref().map(|tokenizer| tokenizer.vocab_size()) {
        Some(ids) if ids > rows => Err(Error::invalid_model(
            file,
            "vocabulary",
            format!("at most {rows} ids, {place}"),
            format!("{ids} ids"),
        )),
        _ => Ok(()),
    }
}

fn check_eos(file: &str, what: &str, ids: &[TokenId], vocab: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(Error::invalid_model(
            file,
            what,
            format!("below vocab_size ({vocab})"),
            id.to_string(),
        )),
        None => Ok(()),
    }
}
