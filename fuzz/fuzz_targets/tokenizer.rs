//! Tokenizer definitions and what lies beside them: a tokenizer that encodes
//! and decodes, or an error that names a file.
//!
//! The input is the content of three files with zero bytes between them:
//! `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

#![no_main]

use std::panic;
use std::sync::Once;

use inference_text::TextParts;
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
const TEXT: &str = "Once upon a time, 12345 \u{e9}\u{4f60}\u{597d}\u{1f600}\t</s><|im_end|>  two";

/// The `tokenizers` crate panics on some definitions, which the library
/// catches; libFuzzer's hook would abort before it can. Panics of our own code
/// are told apart by where they are.
fn abort_on_first_party_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let abort = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let file = info.location().map_or("", |location| location.file());
            if !file.contains("/registry/") && !file.contains("/rustc/") {
                abort(info);
            }
        }));
    });
}

fuzz_target!(|bytes: &[u8]| {
    abort_on_first_party_panics();
    let contents: Vec<&[u8]> = bytes.splitn(FILES.len(), |byte| *byte == 0).collect();
    let parts = TextParts::load(|name| {
        let index = FILES.iter().position(|file| *file == name);
        let content = index.and_then(|index| contents.get(index));
        Ok(content.filter(|content| !content.is_empty()).map(|content| content.to_vec()))
    });
    let parts = match parts {
        Ok(parts) => parts,
        Err(error) => {
            let message = error.to_string();
            assert!(FILES.iter().any(|file| message.contains(file)), "{message}");
            return;
        }
    };
    let Some(tokenizer) = parts.tokenizer else { return };
    let Ok(ids) = tokenizer.encode(TEXT, true) else { return };
    let _ = tokenizer.decode(&ids, true);
    let mut stream = tokenizer.stream_decoder(false);
    for id in ids {
        let _ = stream.push(id);
        let _ = tokenizer.token_bytes(id);
    }
});
