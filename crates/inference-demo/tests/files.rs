//! The embedded files are whole, small, and usable in place.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

fn file(name: &str) -> &'static [u8] {
    inference_demo::FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes).unwrap()
}

#[test]
fn under_eight_megabytes() {
    let total: usize = inference_demo::FILES.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!((1_000_000..8_000_000).contains(&total), "{total}");
}

#[test]
fn weights_are_aligned() {
    let weights = file("model.safetensors");
    assert_eq!(weights.as_ptr().align_offset(64), 0);
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap());
    assert_eq!((8 + header) % 64, 0, "data begin at {}", 8 + header);
}

#[test]
fn all_files_of_a_model_folder() {
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        let text = std::str::from_utf8(file(name)).unwrap();
        assert!(text.starts_with('{') && text.trim_end().ends_with('}'), "{name}");
    }
}
