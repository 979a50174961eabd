//! One file: resumed, checked, and only then in its place.
//!
//! hf-hub's own download appends to what is there whatever the server answers,
//! trusts its length and compares no checksum; what is needed is done here.

use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use inference_core::{Error, ProgressEvent, ProgressSink, Result};

use super::cache::CacheRepository;
use super::checksum::Hasher;
use super::client::{Client, Failed, cancelled};
use super::listing::RemoteFile;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Has the file's content in the cache, verified.
///
/// # Errors
///
/// [`Network`](inference_core::ErrorKind::Network) where the server keeps
/// failing (what came so far stays for the next time),
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) where it sends
/// something else than it announced, [`Io`](inference_core::ErrorKind::Io).
pub(super) fn fetch(
    client: &Client<'_>,
    cache: &CacheRepository,
    url: &str,
    remote: &RemoteFile,
) -> Result<()> {
    let blob = cache.blob(&remote.checksum);
    let _lock = cache.lock(&remote.checksum, client.options)?;
    // Only verified content ever gets this name.
    if fs::metadata(&blob).is_ok_and(|facts| facts.len() == remote.size) {
        return Ok(());
    }
    let progress = Progress::start(client.options.progress.as_ref(), remote);
    let path = cache.incomplete(&remote.checksum);
    let mut partial = Partial::open(&path, remote)?;
    let mut resumed = partial.len > 0;
    loop {
        partial.complete(client, url, &progress)?;
        match remote.checksum.verify(&remote.name, partial.hasher.clone()) {
            Ok(()) => break,
            Err(error) => {
                partial.restart()?;
                if !resumed {
                    drop(partial);
                    fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))?;
                    return Err(error);
                }
                // An earlier process may have left other bytes than it thought.
                tracing::debug!(%error, "what was kept does not fit; from the start");
                resumed = false;
            }
        }
    }
    partial.file.sync_all().map_err(|e| Error::io(&path, "write", e))?;
    drop(partial);
    fs::rename(&path, &blob).map_err(|e| Error::io(&blob, "rename", e))?;
    progress.finish();
    Ok(())
}

/// What there is of a file.
struct Partial<'a> {
    remote: &'a RemoteFile,
    path: &'a Path,
    file: File,
    len: u64,
    /// Of the bytes that are there.
    hasher: Hasher,
}

impl<'a> Partial<'a> {
    /// Opens what an earlier download left, and hashes it.
    fn open(path: &'a Path, remote: &'a RemoteFile) -> Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(|e| Error::io(path, "create", e))?;
        let hasher = remote.checksum.hasher(remote.size);
        let mut partial = Self { remote, path, file, len: 0, hasher };
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = partial.file.read(&mut buffer).map_err(|e| Error::io(path, "read", e))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            partial.hasher.update(bytes);
            partial.len += read as u64;
            if partial.len > remote.size {
                partial.restart()?;
                break;
            }
        }
        Ok(partial)
    }

    /// Forgets everything.
    fn restart(&mut self) -> Result<()> {
        let cut = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cut.map_err(|e| Error::io(self.path, "write", e))?;
        self.len = 0;
        self.hasher = self.remote.checksum.hasher(self.remote.size);
        Ok(())
    }

    /// Asks until all is there.
    fn complete(&mut self, client: &Client<'_>, url: &str, progress: &Progress<'_>) -> Result<()> {
        let mut repetition = 0;
        while self.len < self.remote.size {
            let before = self.len;
            let error = match self.attempt(client, url, progress) {
                Ok(()) => continue,
                Err(Failed::Transient(error)) => error,
                Err(Failed::NotSatisfiable(_)) if before > 0 => {
                    self.restart()?;
                    client.pause(url, &mut repetition)?;
                    continue;
                }
                Err(other) => return Err(other.into_error()),
            };
            if self.len > before {
                repetition = 0;
            }
            if repetition >= client.options.retries {
                return Err(error);
            }
            tracing::debug!(%error, have = self.len, "the download goes on");
            client.pause(url, &mut repetition)?;
        }
        Ok(())
    }

    /// Reads one answer to its end.
    fn attempt(
        &mut self,
        client: &Client<'_>,
        url: &str,
        progress: &Progress<'_>,
    ) -> Result<(), Failed> {
        let mut reply = client.get(url, self.len)?;
        let name = &*self.remote.name;
        let size = self.remote.size;
        let lies = |what: &str, expected: u64, found: String| {
            Failed::Fatal(Error::invalid_model(name, what, format!("{expected} bytes"), found))
        };
        if reply.status == 206 {
            let range = reply.content_range.as_deref().unwrap_or_default();
            let Some((start, total)) = parse_range(range) else {
                let error = Error::network(url, format!("Content-Range `{range}` says nothing"));
                return Err(Failed::Fatal(error));
            };
            if total.is_some_and(|total| total != size) {
                return Err(lies("length", size, format!("a range of `{range}`")));
            }
            if start != self.len {
                let problem = format!("asked from byte {} and got from {start}", self.len);
                return Err(Failed::Fatal(Error::network(url, problem)));
            }
        } else if self.len > 0 {
            // The server does not resume.
            self.restart().map_err(Failed::Fatal)?;
        }
        let missing = size - self.len;
        if let Some(length) = reply.content_length.filter(|length| *length != missing) {
            return Err(lies("length", missing, format!("an announcement of {length}")));
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            if client.options.is_cancelled() {
                return Err(Failed::Fatal(cancelled(url)));
            }
            let read = reply.body.read(&mut buffer).map_err(|e| {
                let problem = format!("broke off after {} of {size} bytes", self.len);
                let (url, source) = (url.to_owned(), Some(Arc::new(e) as _));
                Failed::Transient(Error::Network { url, problem, source })
            })?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            if self.len + read as u64 > size {
                self.restart().map_err(Failed::Fatal)?;
                return Err(lies("length", size, "more".to_owned()));
            }
            let written = self.file.write_all(bytes);
            written.map_err(|e| Failed::Fatal(Error::io(self.path, "write", e)))?;
            self.hasher.update(bytes);
            self.len += read as u64;
            progress.advance(self.len);
        }
        if self.len < size {
            let problem = format!("ended after {} of {size} bytes", self.len);
            return Err(Failed::Transient(Error::network(url, problem)));
        }
        Ok(())
    }
}

/// `bytes START-END/TOTAL`, where the total may be `*`.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (bytes, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = bytes.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

/// The phase of a file.
struct Progress<'a> {
    sink: Option<&'a ProgressSink>,
    phase: &'a str,
}

impl<'a> Progress<'a> {
    fn start(sink: Option<&'a ProgressSink>, remote: &'a RemoteFile) -> Self {
        let this = Self { sink, phase: &remote.name };
        let (total, unit) = (Some(remote.size), "bytes");
        this.report(ProgressEvent::Started { phase: this.phase.to_owned(), total, unit });
        this
    }

    fn advance(&self, done: u64) {
        self.report(ProgressEvent::Advanced { phase: self.phase.to_owned(), done });
    }

    fn finish(&self) {
        self.report(ProgressEvent::Finished { phase: self.phase.to_owned() });
    }

    fn report(&self, event: ProgressEvent) {
        if let Some(sink) = self.sink {
            sink.report(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_say_where_they_start_and_how_much_there_is() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes", "bytes 5", "bytes a-b/c", "bytes 1-2", "5-9/10"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
