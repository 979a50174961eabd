//! Checksums by which the hub identifies files.

use inference_core::{Error, Result};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// What the content of a file has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// The SHA-256 of a large file; 64 digits.
    Sha256(String),
    /// The id that git gives to a small one: the SHA-1 of `blob`, its length
    /// and its content; 40 digits.
    GitBlob(String),
}

impl Checksum {
    /// `None` where the digits are not as many as they have to be.
    pub(super) fn sha256(digits: &str) -> Option<Self> {
        hex(digits, 64).map(Self::Sha256)
    }

    pub(super) fn git_blob(digits: &str) -> Option<Self> {
        hex(digits, 40).map(Self::GitBlob)
    }

    /// The name of a file with this content in the cache, which is also the
    /// hub's entity tag.
    pub(super) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "git blob id",
        }
    }

    /// A hasher of `size` bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitBlob(_) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {size}\0"));
                Hasher::GitBlob(hasher)
            }
        }
    }

    /// Compares with what was hashed; `file` names it in the error.
    pub(super) fn verify(&self, file: &str, hasher: Hasher) -> Result<()> {
        let found = hasher.digits();
        if found == self.digits() {
            return Ok(());
        }
        Err(Error::invalid_model(file, self.name(), self.digits(), found))
    }
}

/// A checksum in the making.
#[derive(Clone, Debug)]
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    fn digits(self) -> String {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => digits(&hasher.finalize()),
            Self::GitBlob(hasher) => digits(&hasher.finalize()),
        }
    }
}

fn hex(digits: &str, len: usize) -> Option<String> {
    let valid = digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| digits.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(checksum: &Checksum, content: &[u8]) -> Result<()> {
        let mut hasher = checksum.hasher(content.len() as u64);
        content.chunks(2).for_each(|part| hasher.update(part));
        checksum.verify("file", hasher)
    }

    #[test]
    fn they_are_those_of_git_and_of_sha256sum() {
        // `printf 'hello\n' | git hash-object --stdin`, `… | sha256sum`.
        let git = Checksum::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        verify(&git, b"hello\n").unwrap();
        let digits = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let sha256 = Checksum::sha256(&digits.to_uppercase()).unwrap();
        verify(&sha256, b"hello\n").unwrap();
        let error = verify(&sha256, b"hellO\n").unwrap_err().to_string();
        assert!(error.contains("file: SHA-256: expected 5891b5b5"), "{error}");
    }

    #[test]
    fn what_is_no_checksum_names_no_file() {
        for bad in ["", "../../etc/passwd", &"g".repeat(64), &"a".repeat(63)] {
            assert_eq!(Checksum::sha256(bad), None);
            assert_eq!(Checksum::git_blob(bad), None);
        }
    }
}
