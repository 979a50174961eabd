//! How downloads are made.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use inference_core::{CancelToken, Error, ProgressSink, Result};

use crate::bounded_file;
use crate::stores::Dirs;

/// The hub where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// How downloads are made. [`from_env`](Self::from_env) is where the process's
/// environment is read; nothing else looks at it.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubOptions {
    /// The hub's address, `http://` or `https://`, without a final slash.
    pub endpoint: String,
    /// The folder of the cache; it has to be set.
    pub cache: Option<PathBuf>,
    /// What proves the user's rights to the hub; sent to its host alone.
    pub token: Option<String>,
    /// Never touch the network.
    pub offline: bool,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence of a server.
    pub read_timeout: Duration,
    /// How often a request that failed is repeated before it counts as
    /// failed; a download that came further starts counting anew.
    pub retries: usize,
    /// Pause before the first repetition; it doubles with each, up to 30 s.
    pub retry_delay: Duration,
    /// Longest wait for another process that downloads the same file.
    pub lock_timeout: Duration,
    /// Receives a phase per file, in bytes.
    pub progress: Option<ProgressSink>,
    /// Ends the download; what came so far is kept.
    pub cancel: Option<CancelToken>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            cache: None,
            token: None,
            offline: false,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            retries: 5,
            retry_delay: Duration::from_secs(1),
            lock_timeout: Duration::from_secs(600),
            progress: None,
            cancel: None,
        }
    }
}

impl HubOptions {
    /// The public hub, without a token or a cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the process's environment says: `HF_ENDPOINT`, `HF_HUB_CACHE` or
    /// `HF_HOME`, `HF_TOKEN` (else the file `HF_TOKEN_PATH`, else the file
    /// `token` that the hub's own tools write), `HF_HUB_OFFLINE`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// [`from_env`](Self::from_env) of an environment given as a function from
    /// the names of variables to their values.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| {
            let value = var(name)?.into_string().ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let dirs = Dirs::from_vars(&var);
        let mut options = Self::new();
        if let Some(endpoint) = text("HF_ENDPOINT") {
            options = options.with_endpoint(endpoint);
        }
        options.cache = dirs.hub_cache(&var);
        options.token = text("HF_TOKEN").or_else(|| {
            let home = || dirs.hub_home(&var).map(|home| home.join("token"));
            let file = text("HF_TOKEN_PATH").map(PathBuf::from).or_else(home)?;
            let token = bounded_file::head(&file, 4096)?.trim().to_owned();
            Some(token).filter(|token| !token.is_empty())
        });
        options.offline = text("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "true", "yes", "on"].contains(&&*value.to_ascii_lowercase())
        });
        options
    }

    /// Sets the hub's address.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into().trim_end_matches('/').to_owned();
        self
    }

    /// Sets the folder of the cache.
    #[must_use]
    pub fn with_cache(mut self, cache: impl Into<PathBuf>) -> Self {
        self.cache = Some(cache.into());
        self
    }

    /// Sets the token.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets whether the network is left alone.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the longest wait for a connection.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the longest silence of a server.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Sets how often a request is repeated, and the first pause.
    #[must_use]
    pub fn with_retries(mut self, retries: usize, delay: Duration) -> Self {
        self.retries = retries;
        self.retry_delay = delay;
        self
    }

    /// Sets the longest wait for another process.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Sets who is told about progress.
    #[must_use]
    pub fn with_progress(mut self, progress: ProgressSink) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Sets the token that ends the download.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// The pause before a repetition, counted from 0.
    pub(super) fn delay(&self, repetition: usize) -> Duration {
        let factor = 1_u32 << repetition.min(5);
        self.retry_delay.saturating_mul(factor).min(Duration::from_secs(30))
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let rest = self.endpoint.strip_prefix("https://");
        let host = rest.or_else(|| self.endpoint.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) {
            let expected = "http:// or https:// and a host";
            return Err(Error::invalid_option("endpoint", &self.endpoint, expected));
        }
        Ok(())
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}
