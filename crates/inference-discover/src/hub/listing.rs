//! What a repository holds.

use std::io::Read as _;
use std::sync::Arc;

use inference_core::{Error, Result};
use serde::Deserialize;

use super::checksum::Checksum;
use super::client::{Client, Failed};
use crate::reference::{HubRef, is_relative};

/// The largest description of a repository that is read.
const MAX_LISTING: u64 = 64 << 20;

/// A repository at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// 40 digits.
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// A path that stays below where it is applied.
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) checksum: Checksum,
}

#[derive(Deserialize)]
struct Document {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Asks the hub.
    ///
    /// # Errors
    ///
    /// [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound),
    /// [`Network`](inference_core::ErrorKind::Network), and
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming the
    /// part of the description that cannot be used.
    pub(super) fn fetch(client: &Client<'_>, wanted: &HubRef) -> Result<Self> {
        let url = client.listing_url(&wanted.repository, wanted.revision());
        let mut repetition = 0;
        loop {
            match read(client, &url) {
                Ok(json) => return Self::parse(&url, &json),
                Err(Failed::Transient(error)) if repetition >= client.options.retries => {
                    return Err(error);
                }
                Err(Failed::Transient(error)) => {
                    tracing::debug!(%error, repetition, "asking the hub again");
                    client.pause(&url, &mut repetition)?;
                }
                Err(Failed::NotFound(_)) => {
                    let endpoint = &client.options.endpoint;
                    let revision = wanted.revision();
                    let hint = format!("{endpoint} has no such repository with `{revision}`");
                    return Err(Error::model_not_found(wanted.to_string(), hint));
                }
                Err(other) => return Err(other.into_error()),
            }
        }
    }

    /// `url` names the description in errors.
    fn parse(url: &str, json: &[u8]) -> Result<Self> {
        let document: Document = serde_json::from_slice(json).map_err(|e| {
            Error::invalid_model(url, "the description", "a repository's", e.to_string())
        })?;
        let Some(commit) = Checksum::git_blob(&document.sha) else {
            return Err(Error::invalid_model(url, "sha", "40 digits", shortened(&document.sha)));
        };
        let file = |sibling: Sibling| {
            let name = sibling.rfilename;
            let invalid = |field: &str, expected: &str, found: String| {
                let what = format!("{field} of `{}`", shortened(&name));
                Error::invalid_model(url, what, expected, found)
            };
            if !is_relative(&name) {
                return Err(invalid("rfilename", "a relative path", shortened(&name)));
            }
            let (checksum, size) = match (&sibling.lfs, &sibling.blob_id) {
                (Some(lfs), _) => {
                    let checksum = Checksum::sha256(&lfs.sha256);
                    let error = || invalid("lfs.sha256", "64 digits", shortened(&lfs.sha256));
                    (checksum.ok_or_else(error)?, Some(lfs.size))
                }
                (None, Some(id)) => {
                    let error = || invalid("blobId", "40 digits", shortened(id));
                    (Checksum::git_blob(id).ok_or_else(error)?, sibling.size)
                }
                (None, None) => return Err(invalid("blobId", "40 digits", "nothing".into())),
            };
            let size =
                size.ok_or_else(|| invalid("size", "a number of bytes", "nothing".into()))?;
            Ok(RemoteFile { name, size, checksum })
        };
        let files = document.siblings.into_iter().map(file).collect::<Result<_>>()?;
        Ok(Self { commit: commit.digits().to_owned(), files })
    }

    /// The file of a name.
    pub(super) fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

fn read(client: &Client<'_>, url: &str) -> Result<Vec<u8>, Failed> {
    let reply = client.get(url, 0)?;
    let mut json = Vec::new();
    reply.body.take(MAX_LISTING + 1).read_to_end(&mut json).map_err(|e| {
        let (url, problem) = (url.to_owned(), "the answer broke off".to_owned());
        Failed::Transient(Error::Network { url, problem, source: Some(Arc::new(e)) })
    })?;
    if json.len() as u64 > MAX_LISTING {
        let expected = format!("at most {MAX_LISTING} bytes");
        return Err(Failed::Fatal(Error::invalid_model(url, "the description", expected, "more")));
    }
    Ok(json)
}

fn shortened(text: &str) -> String {
    format!("`{}`", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(document: &serde_json::Value) -> Result<Listing> {
        Listing::parse("http://hub/api", document.to_string().as_bytes())
    }

    #[test]
    fn large_files_are_known_by_sha256_and_small_ones_by_their_blob() {
        let listing = parse(&json!({
            "sha": "a".repeat(40), "gated": false,
            "siblings": [
                {"rfilename": "config.json", "size": 3, "blobId": "b".repeat(40)},
                {"rfilename": "w/model.safetensors", "size": 9, "blobId": "c".repeat(40),
                 "lfs": {"sha256": "d".repeat(64), "size": 9, "pointerSize": 130}},
            ],
        }))
        .unwrap();
        assert_eq!(listing.commit, "a".repeat(40));
        let weights = listing.file("w/model.safetensors").unwrap();
        assert_eq!(weights.checksum, Checksum::sha256(&"d".repeat(64)).unwrap());
        assert_eq!(listing.file("config.json").unwrap().size, 3);
    }

    #[test]
    fn a_description_that_would_write_elsewhere_is_refused() {
        let good = json!({"rfilename": "x", "size": 3, "blobId": "b".repeat(40)});
        for (field, value) in [
            ("rfilename", json!("../../x")),
            ("rfilename", json!("/etc/x")),
            ("rfilename", json!("a//b")),
            ("rfilename", json!(r"a\..\..\b")),
            ("blobId", json!("../../../x")),
            ("blobId", json!(null)),
            ("size", json!(null)),
            ("lfs", json!({"sha256": "../x", "size": 1})),
        ] {
            let mut sibling = good.clone();
            sibling[field] = value.clone();
            let document = json!({"sha": "a".repeat(40), "siblings": [sibling]});
            let error = parse(&document).unwrap_err().to_string();
            assert!(error.contains(field), "{value}: {error}");
        }
        let error = parse(&json!({"sha": "../x", "siblings": []})).unwrap_err().to_string();
        assert!(error.contains("sha"), "{error}");
        assert!(parse(&json!([])).is_err());
    }
}
