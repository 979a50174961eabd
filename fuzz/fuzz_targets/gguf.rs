//! GGUF files: metadata, tensors and a block of each that lie in the file, or
//! an error that names the file.

#![no_main]

use std::sync::Arc;

use inference_gguf::{GgufFile, TensorType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    const FILE: &str = "fuzzed.gguf";
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
});
