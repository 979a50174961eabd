//! GGUF files: metadata, tensors and a block of each that lie in the file, a
//! configuration, a tokenizer, or an error that names the file.

#![no_main]

use std::sync::Arc;

use inference_candle::DecoderConfig;
use inference_gguf::{GgufFile, TensorType};
use inference_text::TextParts;
use libfuzzer_sys::fuzz_target;

const FILE: &str = "fuzzed.gguf";

fuzz_target!(|bytes: &[u8]| {
    let file = match GgufFile::from_bytes(FILE, Arc::new(bytes.to_vec())) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.to_string().contains(FILE), "{error}");
            return;
        }
    };
    let metadata = file.metadata();
    for key in metadata.keys() {
        let _ = metadata.get(key);
        let _ = (metadata.text(key), metadata.size(key), metadata.number(key), metadata.flag(key));
        let _ = metadata.texts(key).map(|texts| texts.map(|texts| texts.len()));
        let _ = metadata.numbers(key).map(|numbers| numbers.map(|numbers| numbers.len()));
        let _ = metadata.array_len(key);
    }
    for tensor in file.tensors() {
        let TensorType::Known(kind) = tensor.kind() else {
            assert!(file.data(tensor).is_err());
            continue;
        };
        let (part, range) = file.data(tensor).expect("the data of a known type");
        let data = (*part).as_ref().get(range).expect("a range within the file");
        assert_eq!(data.len() as u64, tensor.byte_len());
        let Some(block) = data.get(..kind.block_bytes()) else { continue };
        let mut values = vec![0.0; kind.block_values()];
        let _ = kind.decode(block, &mut values);
    }
    match DecoderConfig::from_gguf(&file) {
        Ok(config) => assert!(config.num_layers() > 0 && config.vocab_size > 0),
        Err(error) => assert!(error.to_string().contains(FILE), "{error}"),
    }
    match TextParts::from_gguf(metadata) {
        Ok(parts) => {
            let Some(tokenizer) = parts.tokenizer else { return };
            let ids = tokenizer.encode("Once upon a time \u{e9}\u{1f600}</s>", true);
            let _ = ids.and_then(|ids| tokenizer.decode(&ids, true));
        }
        Err(error) => assert!(error.to_string().contains(FILE), "{error}"),
    }
});
