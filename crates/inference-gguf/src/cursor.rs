//! Reading little-endian values from bytes that may end anywhere.

use inference_core::{Error, Result};

/// A position in a file's bytes.
pub(crate) struct Cursor<'a> {
    /// The file's name, for messages.
    pub(crate) file: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a str, bytes: &'a [u8], at: usize) -> Self {
        Self { file, bytes, at }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next `len` bytes; `what` names them in the error.
    #[inline]
    pub(crate) fn take(&mut self, len: u64, what: impl Fn() -> String) -> Result<&'a [u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(self.ends(len, &what())),
        }
    }

    /// The next `N` bytes.
    #[inline]
    pub(crate) fn chunk<const N: usize>(&mut self, what: impl Fn() -> String) -> Result<[u8; N]> {
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<N>) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.ends(N as u64, &what())),
        }
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: impl Fn() -> String) -> Result<u32> {
        self.chunk(what).map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self, what: impl Fn() -> String) -> Result<u64> {
        self.chunk(what).map(u64::from_le_bytes)
    }

    /// The bytes of a text: a 64-bit length and as many bytes.
    #[inline]
    pub(crate) fn text_bytes(&mut self, what: impl Fn() -> String) -> Result<&'a [u8]> {
        let len = self.u64(&what)?;
        self.take(len, what)
    }

    /// Moves over `count` texts, checking that they are there.
    pub(crate) fn skip_texts(&mut self, count: usize, what: impl Fn() -> String) -> Result<()> {
        let mut rest = self.bytes.get(self.at..).unwrap_or_default();
        for _ in 0..count {
            let text = rest.split_first_chunk::<8>().and_then(|(len, after)| {
                after.get(usize::try_from(u64::from_le_bytes(*len)).ok()?..)
            });
            let Some(after) = text else {
                // The general way says what is wrong.
                self.at = self.bytes.len() - rest.len();
                self.text_bytes(&what)?;
                return Err(self.ends(0, &what()));
            };
            rest = after;
        }
        self.at = self.bytes.len() - rest.len();
        Ok(())
    }

    /// A count of things of at least `least` bytes each: no more than `most`,
    /// and no more than there can be in what is left.
    pub(crate) fn count(&mut self, least: usize, most: usize, what: &str) -> Result<usize> {
        let count = self.u64(|| what.to_owned())?;
        let possible = most.min(self.left() / least);
        usize::try_from(count).ok().filter(|count| *count <= possible).ok_or_else(|| {
            let expected = format!("at most {possible}");
            Error::invalid_model(self.file, what, expected, count.to_string())
        })
    }

    fn ends(&self, len: u64, what: &str) -> Error {
        let (at, left) = (self.at, self.left());
        let found = format!("{left} before the end of the file");
        Error::invalid_model(self.file, what, format!("{len} bytes from byte {at} on"), found)
    }
}

/// The text of bytes from a file.
pub(crate) fn utf8<'a>(file: &str, bytes: &'a [u8], what: impl Fn() -> String) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|e| Error::invalid_model(file, what(), "UTF-8", format!("other bytes ({e})")))
}
