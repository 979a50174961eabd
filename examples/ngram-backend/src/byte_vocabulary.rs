//! A token per byte, and one that ends a text.

use inference_core::{Result, TokenId};
use inference_text::Tokenizer;
use serde_json::{Map, json};

/// The token that ends a text; the ids below it are bytes.
pub const EOS: TokenId = 256;

/// Bytes, and [`EOS`].
pub const VOCAB_SIZE: usize = 257;

/// The tokenizer, in the format of `tokenizer.json`: a byte-level BPE without
/// merges. Any text has ids, and any ids have a text; bytes that are no UTF-8
/// show as U+FFFD.
pub(crate) fn tokenizer() -> Result<Tokenizer> {
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let vocab: Map<_, _> = (0..=255).map(|byte| (letter(byte).into(), json!(byte))).collect();
    let definition = json!({
        "version": "1.0",
        "added_tokens": [{
            "id": EOS, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(definition.to_string().as_bytes(), "the byte vocabulary")
}

/// The letter that stands for a byte in byte-level vocabularies: the byte's own
/// character where that is printable, else the next unused one from U+0100.
fn letter(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..);
    if printable(&byte) {
        return char::from(byte);
    }
    let earlier = (0..byte).filter(|byte| !printable(byte)).count();
    char::from_u32(0x100 + earlier as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_own_id() {
        let tokenizer = tokenizer().unwrap();
        let text = "a b\t\n~é 日本 👩‍🚀 e\u{301}\u{0}\u{7f}";
        let ids: Vec<TokenId> = text.bytes().map(TokenId::from).collect();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert_eq!(tokenizer.vocab_size(), VOCAB_SIZE);
        assert_eq!(tokenizer.encode("</s>", true).unwrap(), [EOS]);
        assert_eq!(tokenizer.decode(&[0xff, EOS, b'x'.into()], true).unwrap(), "\u{fffd}x");
    }
}
