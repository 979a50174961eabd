//! Requests to the hub, over hf-hub's client.

use std::io::Read;
use std::sync::Arc;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use inference_core::{Error, Result};

use super::options::HubOptions;

/// How long to wait between two looks at whether to go on waiting.
const STEP: std::time::Duration = std::time::Duration::from_millis(100);

/// hf-hub's client, which has the hub's headers and sends the token to its
/// host alone, with limits on time of our own.
pub(super) struct Client<'a> {
    api: Api,
    pub(super) options: &'a HubOptions,
}

/// An answer whose status is a success.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_length: Option<u64>,
    pub(super) content_range: Option<String>,
    pub(super) body: Box<dyn Read + Send>,
}

/// Why a request failed, and whether to repeat it.
#[derive(Debug)]
pub(super) enum Failed {
    /// The next attempt may succeed.
    Transient(Error),
    /// It will not.
    Fatal(Error),
    /// The server has nothing from this position on.
    NotSatisfiable(Error),
    /// The server knows no such thing.
    NotFound(Error),
}

impl Failed {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Transient(error)
            | Self::Fatal(error)
            | Self::NotSatisfiable(error)
            | Self::NotFound(error) => error,
        }
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a HubOptions, cache: &std::path::Path) -> Result<Self> {
        options.validate()?;
        let builder = ApiBuilder::from_cache(Cache::new(cache.to_owned()))
            .with_endpoint(options.endpoint.clone())
            .with_token(options.token.clone())
            .with_user_agent("inference", env!("CARGO_PKG_VERSION"));
        let api = builder.build().map_err(|e| Error::engine("setting up the hub's client", e))?;
        Ok(Self { api, options })
    }

    /// The address of the description of a repository.
    pub(super) fn listing_url(&self, repository: &str, revision: &str) -> String {
        let (endpoint, revision) = (&self.options.endpoint, encoded(revision, false));
        format!("{endpoint}/api/models/{repository}/revision/{revision}?blobs=true")
    }

    /// The address of a file of a commit.
    pub(super) fn file_url(&self, repository: &str, commit: &str, file: &str) -> String {
        let repo = Repo::with_revision(repository.to_owned(), RepoType::Model, commit.to_owned());
        // hf-hub takes the name as it is.
        self.api.repo(repo).url(&encoded(file, true))
    }

    /// Waits before a repetition and counts it.
    pub(super) fn pause(&self, url: &str, repetition: &mut usize) -> Result<()> {
        let mut pause = self.options.delay(*repetition);
        *repetition += 1;
        while !pause.is_zero() {
            if self.options.is_cancelled() {
                return Err(cancelled(url));
            }
            std::thread::sleep(pause.min(STEP));
            pause = pause.saturating_sub(STEP);
        }
        Ok(())
    }

    /// Asks for a resource, from a byte on.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Reply, Failed> {
        if self.options.is_cancelled() {
            return Err(Failed::Fatal(cancelled(url)));
        }
        // The one public way to a request with the client's headers.
        let any = self.api.repo(Repo::model(String::from("any/any")));
        let mut request = any.info_request().uri(url).header("accept-encoding", "identity");
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request
            .config()
            .http_status_as_error(false)
            .timeout_connect(Some(self.options.connect_timeout))
            .timeout_recv_response(Some(self.options.read_timeout))
            .timeout_per_read(Some(self.options.read_timeout))
            .build();
        let response = request.call().map_err(|e| {
            let (url, problem) = (url.to_owned(), "the request failed".to_owned());
            Failed::Transient(Error::Network { url, problem, source: Some(Arc::new(e)) })
        })?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.chars().take(200).collect::<String>())
        };
        let status = response.status().as_u16();
        match status {
            200 | 206 => Ok(Reply {
                status,
                content_length: header("content-length").and_then(|length| length.parse().ok()),
                content_range: header("content-range"),
                body: Box::new(response.into_body().into_reader()),
            }),
            _ => Err(refused(url, status, header("x-error-message"), &self.options.token)),
        }
    }
}

/// What a status that is no success means.
fn refused(url: &str, status: u16, said: Option<String>, token: &Option<String>) -> Failed {
    let meaning = match status {
        401 | 403 if token.is_some() => {
            "the repository is private, gated or does not exist, and the token does not open it"
        }
        401 | 403 => {
            "the repository is private, gated or does not exist; HF_TOKEN has to hold a token \
             that opens it"
        }
        404 => "there is no such thing",
        416 => "the server has less than was expected",
        429 => "the server asks for patience",
        500..=599 => "the server failed",
        _ => "an unexpected answer",
    };
    let mut problem = format!("status {status}: {meaning}");
    if let Some(said) = said {
        problem.push_str(&format!(" ({said})"));
    }
    let error = Error::network(url, problem);
    match status {
        408 | 429 | 500..=599 => Failed::Transient(error),
        404 => Failed::NotFound(error),
        416 => Failed::NotSatisfiable(error),
        _ => Failed::Fatal(error),
    }
}

pub(super) fn cancelled(url: &str) -> Error {
    Error::network(url, "cancelled")
}

/// A text as a part of an address; slashes stay where it is a path.
fn encoded(text: &str, path: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            b'/' if path => encoded.push('/'),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_parts_of_addresses() {
        assert_eq!(encoded("a b/c#1.gguf", true), "a%20b/c%231.gguf");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("ü", true), "%C3%BC");
    }
}
