//! The byte alphabet of byte-level BPE, and lossy UTF-8 decoding in pieces.

/// The byte that a character of the byte-level alphabet stands for.
///
/// The alphabet (GPT-2, `bytes_to_unicode`) writes printable Latin-1 bytes as
/// themselves and numbers the other 68 from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x143 => {
            let index = u8::try_from(code - 0x100).ok()?;
            // The gaps in order: 0x00..=0x20, 0x7F..=0xA0, 0xAD.
            Some(match index {
                0..=0x20 => index,
                0x21..=0x42 => index - 0x21 + 0x7F,
                _ => 0xAD,
            })
        }
        _ => None,
    }
}

/// The bytes of a byte-level token. A token with a character outside the
/// alphabet (an added token) stands for its own UTF-8.
pub(crate) fn token_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// `String::from_utf8_lossy` over a sequence of pieces: the results of
/// [`push`](Self::push) and [`finish`](Self::finish), concatenated, are the
/// lossy decoding of all bytes together.
#[derive(Clone, Debug, Default)]
pub(crate) struct LossyUtf8 {
    /// The start of a character whose rest has not come yet; at most 3 bytes.
    tail: Vec<u8>,
}

impl LossyUtf8 {
    /// The text that is certain after `bytes`.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.tail.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.tail.len());
        let mut rest = self.tail.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = after.get(len..).unwrap_or_default();
                        }
                        None => {
                            rest = after;
                            break;
                        }
                    }
                }
            }
        }
        self.tail = rest.to_vec();
        text
    }

    /// The dangling start of a character, as U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        let tail = std::mem::take(&mut self.tail);
        String::from_utf8_lossy(&tail).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_on_bytes() {
        let mut seen = [false; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true), "{byte} twice");
            }
        }
        assert!(seen.iter().all(|&byte| byte));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    proptest::proptest! {
        #[test]
        fn pieces_decode_like_the_whole(pieces in proptest::collection::vec(
            proptest::collection::vec(proptest::prop_oneof![
                proptest::prelude::any::<u8>(), 0x80..0xC0u8, 0xE0..0xF5u8
            ], 0..5), 0..12,
        )) {
            let whole = pieces.concat();
            let mut decoder = LossyUtf8::default();
            let mut text: String = pieces.iter().map(|piece| decoder.push(piece)).collect();
            text.push_str(&decoder.finish());
            proptest::prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
