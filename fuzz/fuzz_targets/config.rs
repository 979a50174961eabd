//! `config.json`: a configuration within its limits, or an error that names
//! the file.

#![no_main]

use inference_candle::{DecoderConfig, QuantizationScheme};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    const FILE: &str = "config.json";
    match DecoderConfig::from_json(FILE, json) {
        Ok(config) => {
            assert!(config.num_layers() > 0 && config.vocab_size > 0);
            assert!(config.num_heads > 0 && config.num_kv_heads > 0 && config.head_dim > 0);
        }
        Err(error) => assert!(error.to_string().contains(FILE), "{error}"),
    }
    if let Err(error) = QuantizationScheme::from_json(FILE, json) {
        assert!(error.to_string().contains(FILE), "{error}");
    }
});
