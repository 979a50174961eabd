//! The files of a trained model.

use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use half::f16;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::architecture::{CONTEXT, config};
use super::tokenizer::{BOS, END, EOS, SPECIAL, special_id};
use crate::Result;

const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// Tensor data begin at a multiple of this many bytes.
const ALIGNMENT: usize = 64;

/// `weights` as they are stored: rounded to f16.
pub(crate) fn rounded(weights: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
    weights
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), tensor.detach().to_dtype(DType::F16)?)))
        .collect()
}

/// Writes the model's folder; the bytes depend on the arguments alone.
pub(crate) fn write(
    folder: &Path,
    weights: &[(String, Tensor)],
    tokenizer: &Tokenizer,
) -> Result<()> {
    fs::create_dir_all(folder)?;
    let json = |name: &str, value: &Value| -> Result<()> {
        fs::write(folder.join(name), serde_json::to_string_pretty(value)? + "\n")?;
        Ok(())
    };
    json("config.json", &config())?;
    json("generation_config.json", &generation_config())?;
    json("tokenizer_config.json", &tokenizer_config())?;
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string(false)?)?;
    fs::write(folder.join("model.safetensors"), safetensors(weights)?)?;
    Ok(())
}

fn generation_config() -> Value {
    json!({
        "bos_token_id": special_id(BOS),
        "eos_token_id": [special_id(EOS), special_id(END)],
        "do_sample": false,
    })
}

fn tokenizer_config() -> Value {
    let added: Map<String, Value> = SPECIAL
        .iter()
        .map(|token| {
            let entry = json!({
                "content": token,
                "lstrip": false,
                "normalized": false,
                "rstrip": false,
                "single_word": false,
                "special": true,
            });
            (special_id(token).to_string(), entry)
        })
        .collect();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": false,
        "model_max_length": CONTEXT,
        "added_tokens_decoder": added,
        "chat_template": CHAT_TEMPLATE.trim_end(),
    })
}

/// f16 `weights` as a safetensors file: the length of the header in 8 bytes,
/// the header, filled up with spaces until the data are aligned, the data.
fn safetensors(weights: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for (name, tensor) in weights {
        let start = data.len();
        for value in tensor.flatten_all()?.to_vec1::<f16>()? {
            data.extend(value.to_le_bytes());
        }
        let entry =
            json!({"dtype": "F16", "shape": tensor.dims(), "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::to_string(&header)?;
    while !(8 + header.len()).is_multiple_of(ALIGNMENT) {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn safetensors_read_back_and_are_aligned() {
        let a = Tensor::new(&[[1.0_f32, -2.5], [0.5, 65504.0]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[3.0_f32], &Device::Cpu).unwrap();
        let weights = rounded(&[("a".to_owned(), a), ("b".to_owned(), b)]).unwrap();
        let file = safetensors(&weights).unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!((8 + header) % ALIGNMENT, 0);
        let read = SafeTensors::deserialize(&file).unwrap();
        let a = read.tensor("a").unwrap();
        assert_eq!((a.dtype(), a.shape()), (safetensors::Dtype::F16, &[2, 2][..]));
        let values: Vec<f32> = a
            .data()
            .chunks(2)
            .map(|bytes| f16::from_le_bytes(bytes.try_into().unwrap()).to_f32())
            .collect();
        assert_eq!(values, [1.0, -2.5, 0.5, 65504.0]);
        assert_eq!(read.tensor("b").unwrap().data().len(), 2);
    }
}
