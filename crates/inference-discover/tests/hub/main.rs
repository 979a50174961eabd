//! Downloads from a server of this machine that fails in every way it can.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use inference_core::{CancelToken, Error, ErrorKind, ProgressEvent, ProgressSink};
use inference_discover::{HubOptions, StoreKind, Stores, pull};
use serde_json::json;
use server::{COMMIT, Fault, Server, git_blob, sha256};

const WEIGHTS: &str = "model.safetensors";

/// A safetensors file of one matrix.
fn safetensors(name: &str, rows: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..rows * 64 * 4).map(|i| (i * 31 % 251) as u8).collect();
    let header =
        json!({name: {"dtype": "F32", "shape": [rows, 64], "data_offsets": [0, data.len()]}});
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

fn config() -> Vec<u8> {
    json!({"model_type": "llama", "max_position_embeddings": 64}).to_string().into_bytes()
}

/// A repository of one model with a megabyte of weights.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", config()),
        (WEIGHTS, safetensors("w", 4096)),
        ("tokenizer_config.json", b"{\"chat_template\": \"x\"}".to_vec()),
        ("notes with space.txt", b"not needed".to_vec()),
    ]
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn options(&self, server: &Server) -> HubOptions {
        HubOptions::new()
            .with_endpoint(&*server.endpoint)
            .with_cache(self.cache())
            .with_retries(2, Duration::from_millis(1))
            .with_read_timeout(Duration::from_millis(400))
    }

    fn stores(&self) -> Stores {
        Stores::new().with_store(StoreKind::HuggingFace, self.cache())
    }

    fn repository(&self) -> PathBuf {
        self.cache().join("models--org--name")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.repository().join("blobs").join(name)
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    /// That nothing can be resolved, and how it is said.
    fn assert_nothing_visible(&self) {
        let error = self.stores().resolve("org/name").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelNotFound, "{error}");
        assert!(error.to_string().contains("inference pull org/name"), "{error}");
        assert!(!self.snapshot().join(WEIGHTS).exists());
    }
}

fn weights() -> Vec<u8> {
    safetensors("w", 4096)
}

fn pulled(place: &Place, server: &Server) -> PathBuf {
    let resolved = pull("org/name", &place.options(server)).unwrap();
    assert_eq!(fs::read(resolved.path.join(WEIGHTS)).unwrap(), weights());
    resolved.path
}

fn refused(place: &Place, server: &Server) -> Error {
    pull("org/name", &place.options(server)).unwrap_err()
}

#[test]
fn a_model_comes_into_the_layout_of_the_hubs_own_tools() {
    let (place, server) = (Place::new(), Server::start(files()));
    place.assert_nothing_visible();
    let path = pulled(&place, &server);
    assert_eq!(path, place.snapshot());
    assert_eq!(fs::read_to_string(place.repository().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(place.blob(&sha256(&weights()))).unwrap(), weights());
    assert_eq!(fs::read(place.blob(&git_blob(&config()))).unwrap(), config());
    #[cfg(unix)]
    {
        let link = fs::read_link(path.join(WEIGHTS)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(sha256(&weights())));
    }
    assert!(!path.join("notes with space.txt").exists(), "only what a model needs");
    let lock = place.cache().join(".locks/models--org--name");
    assert!(lock.join(format!("{}.lock", sha256(&weights()))).exists());

    let resolved = place.stores().resolve("org/name").unwrap();
    assert_eq!((resolved.path, resolved.store), (path, Some(StoreKind::HuggingFace)));
    let models: Vec<_> = place.stores().models().collect::<Result<_, _>>().unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].name, "org/name");
    assert!(models[0].has_chat_template);
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let (place, server) = (Place::new(), Server::start(files()));
    pulled(&place, &server);
    let before = server.requests().len();
    assert_eq!(before, 1 + 3, "a description and three files");
    pulled(&place, &server);
    assert_eq!(server.requests().len(), before + 1, "the description alone");
}

#[test]
fn a_dropped_connection_is_taken_up_where_it_ended() {
    let server = Server::start(files()).fault(WEIGHTS, Fault::Drop { after: 300_000, times: 3 });
    let place = Place::new();
    pulled(&place, &server);
    let ranges: Vec<_> =
        server.requests_of(WEIGHTS).into_iter().map(|request| request.range).collect();
    let from = |bytes: usize| Some(format!("bytes={bytes}-"));
    assert_eq!(ranges, [None, from(300_000), from(600_000), from(900_000)]);
}

#[test]
fn a_later_process_resumes_what_an_earlier_one_left() {
    let server = Server::start(files()).fault(WEIGHTS, Fault::Drop { after: 0, times: 99 });
    let place = Place::new();
    server.set_fault(WEIGHTS, Some(Fault::Drop { after: 100_000, times: 1 }));
    let options = place.options(&server).with_retries(0, Duration::ZERO);
    let error = pull("org/name", &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
    assert!(error.to_string().contains("100000 of"), "{error}");
    place.assert_nothing_visible();
    let incomplete = place.blob(&format!("{}.incomplete", sha256(&weights())));
    assert_eq!(fs::metadata(&incomplete).unwrap().len(), 100_000);

    pulled(&place, &server);
    let last = server.requests_of(WEIGHTS).pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=100000-"));
    assert!(!incomplete.exists());
}

#[test]
fn what_an_earlier_process_left_is_not_trusted() {
    let (place, server) = (Place::new(), Server::start(files()));
    let incomplete = place.blob(&format!("{}.incomplete", sha256(&weights())));
    for kept in [vec![9; 1000], vec![9; weights().len()], vec![9; weights().len() + 1]] {
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(&incomplete, &kept).unwrap();
        pulled(&place, &server);
        fs::remove_dir_all(place.cache()).unwrap();
    }
}

#[test]
fn a_server_that_keeps_dropping_is_given_up() {
    let server = Server::start(files()).fault(WEIGHTS, Fault::Drop { after: 0, times: 99 });
    let place = Place::new();
    let error = refused(&place, &server);
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
    assert_eq!(server.requests_of(WEIGHTS).len(), 3, "one request and two repetitions");
    place.assert_nothing_visible();
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    let server = Server::start(files()).fault(WEIGHTS, Fault::Stall { after: 500_000, times: 1 });
    let place = Place::new();
    let start = Instant::now();
    pulled(&place, &server);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let last = server.requests_of(WEIGHTS).pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=500000-"));
}

#[test]
fn lies_about_lengths_are_named() {
    for (fault, named) in [
        (Fault::Announce(1000), "length"),
        (Fault::Announce(-1000), "length"),
        (Fault::Excess(1000), "length"),
        (Fault::OtherTotal { first_drop: 1000 }, "length"),
    ] {
        let server = Server::start(files()).fault(WEIGHTS, fault.clone());
        let place = Place::new();
        let error = refused(&place, &server);
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{fault:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(WEIGHTS) && text.contains(named), "{fault:?}: {text}");
        place.assert_nothing_visible();
        // The next attempt succeeds: nothing wrong was kept.
        server.set_fault(WEIGHTS, None);
        pulled(&place, &server);
    }
}

#[test]
fn a_server_that_does_not_resume_sends_everything_again() {
    let server = Server::start(files()).fault(WEIGHTS, Fault::NoRanges { first_drop: 5000 });
    pulled(&Place::new(), &server);
    assert_eq!(server.requests_of(WEIGHTS).len(), 2);
}

#[test]
fn other_bytes_than_announced_never_become_visible() {
    for file in [WEIGHTS, "config.json"] {
        let server = Server::start(files()).fault(file, Fault::OtherBytes);
        let place = Place::new();
        let error = refused(&place, &server);
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        let checksum = if file == WEIGHTS { "SHA-256" } else { "git blob id" };
        assert!(error.to_string().starts_with(&format!("{file}: {checksum}: expected")), "{error}");
        assert!(!place.snapshot().join(file).exists());
        place.assert_nothing_visible();
        server.set_fault(file, None);
        pulled(&place, &server);
    }
}

#[test]
fn a_description_that_lies_about_a_length_is_found_out() {
    for by in [-10_i64, 10] {
        let server = Server::start(files()).listing(|listing| {
            let size = weights().len() as i64 + by;
            listing["siblings"][1]["size"] = json!(size);
            listing["siblings"][1]["lfs"]["size"] = json!(size);
        });
        let place = Place::new();
        let error = refused(&place, &server);
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        place.assert_nothing_visible();
    }
}

#[test]
fn a_failing_server_is_asked_again_and_a_refusing_one_is_not() {
    let twice = Fault::Status { status: 503, times: 2 };
    let server = Server::start(files()).fault(WEIGHTS, twice.clone()).fault("listing", twice);
    pulled(&Place::new(), &server);

    let server = Server::start(files()).fault(WEIGHTS, Fault::Status { status: 403, times: 99 });
    let error = refused(&Place::new(), &server);
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("403") && error.to_string().contains("HF_TOKEN"), "{error}");
    assert_eq!(server.requests_of(WEIGHTS).len(), 1);
}

#[test]
fn what_does_not_exist_is_said_to() {
    let (place, server) = (Place::new(), Server::start(files()));
    let error = pull("org/other", &place.options(&server)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotFound);
    assert!(error.to_string().contains("org/other"), "{error}");
    let error = pull("hf:org/name@v2", &place.options(&server)).unwrap_err();
    assert!(error.to_string().contains("v2"), "{error}");
    for bad in ["/no/such/path", "ollama:llama3.2:1b"] {
        let error = pull(bad, &place.options(&server)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn a_token_opens_what_is_private_and_shows_nowhere() {
    let (place, server) = (Place::new(), Server::start(files()).token("hf_secret"));
    let error = refused(&place, &server).to_string();
    assert!(error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    let wrong = place.options(&server).with_token("hf_wrong");
    let error = pull("org/name", &wrong).unwrap_err();
    assert!(!format!("{error:?}{wrong:?}").contains("hf_wrong"), "{error:?}");
    pull("org/name", &place.options(&server).with_token("hf_secret")).unwrap();
    assert!(server.requests().last().unwrap().authorization.is_some());
}

#[test]
fn a_token_is_not_sent_to_where_the_hub_redirects() {
    let storage = Server::start(files()).fault(WEIGHTS, Fault::Drop { after: 9999, times: 1 });
    // Another name of this machine: another host.
    let elsewhere = storage.endpoint.replace("127.0.0.1", "localhost");
    let hub = Server::start(files()).token("hf_secret").fault(WEIGHTS, Fault::Redirect(elsewhere));
    let place = Place::new();
    let resolved = pull("org/name", &place.options(&hub).with_token("hf_secret")).unwrap();
    assert_eq!(fs::read(resolved.path.join(WEIGHTS)).unwrap(), weights());
    let requests = storage.requests_of(WEIGHTS);
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.authorization.is_none()), "{requests:?}");
    assert_eq!(requests[1].range.as_deref(), Some("bytes=9999-"));
}

#[test]
fn offline_no_request_is_made() {
    let (place, server) = (Place::new(), Server::start(files()));
    let offline = place.options(&server).with_offline(true);
    let error = pull("org/name", &offline).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotFound);
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(server.requests().is_empty());
    pulled(&place, &server);
    let before = server.requests().len();
    assert_eq!(pull("org/name", &offline).unwrap().path, place.snapshot());
    assert_eq!(server.requests().len(), before);
}

#[test]
fn a_local_path_is_no_business_of_the_network() {
    let (place, server) = (Place::new(), Server::start(files()));
    let local = place.folder.path().join("local");
    fs::create_dir(&local).unwrap();
    let text = local.to_str().unwrap();
    assert_eq!(pull(text, &place.options(&server)).unwrap().path, local);
    assert_eq!(place.stores().resolve(text).unwrap().path, local);
    assert!(server.requests().is_empty());
}

#[test]
fn shards_are_those_that_the_index_names() {
    let index = json!({"weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors"}});
    let mut files = vec![
        ("config.json", config()),
        ("model.safetensors.index.json", index.to_string().into_bytes()),
        ("model-00001-of-00002.safetensors", safetensors("a", 4)),
        ("model-00002-of-00002.safetensors", safetensors("b", 4)),
        ("other.safetensors", safetensors("c", 4)),
    ];
    let (place, server) = (Place::new(), Server::start(files.clone()));
    let path = pull("org/name", &place.options(&server)).unwrap().path;
    assert!(path.join("model-00002-of-00002.safetensors").is_file());
    assert!(!path.join("other.safetensors").exists());

    // A shard that is taken away makes the model incomplete.
    fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    let error = place.stores().resolve("org/name").unwrap_err();
    assert!(error.to_string().contains("model-00002-of-00002.safetensors"), "{error}");
    assert!(error.to_string().contains("inference pull org/name"), "{error}");

    files.remove(3);
    let (place, server) = (Place::new(), Server::start(files));
    let error = refused(&place, &server).to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
    assert!(!place.repository().join("refs/main").exists());
}

#[test]
fn a_gguf_file_comes_alone() {
    let Some(fixture) = inference_fixtures::dir("gguf/llama/llama-q8_0.gguf") else { return };
    let gguf = fs::read(fixture).unwrap();
    let files = vec![
        ("config.json", config()),
        ("q/m Q8_0.gguf", gguf.clone()),
        ("q/m-F32.gguf", b"never asked for".to_vec()),
    ];
    let (place, server) = (Place::new(), Server::start(files));
    let resolved = pull("hf:org/name:q8_0", &place.options(&server)).unwrap();
    assert_eq!(resolved.path, place.snapshot().join("q/m Q8_0.gguf"));
    assert_eq!(fs::read(&resolved.path).unwrap(), gguf);
    assert!(!place.snapshot().join("config.json").exists());
    for text in ["hf:org/name:q/m Q8_0.gguf", "org/name:Q8_0", "org/name"] {
        assert_eq!(place.stores().resolve(text).unwrap().path, resolved.path, "{text}");
    }
    let names: Vec<_> = place.stores().models().map(|model| model.unwrap().name).collect();
    assert_eq!(names, ["org/name:q/m Q8_0.gguf"]);
    assert_eq!(place.stores().resolve(&names[0]).unwrap().path, resolved.path);
}

#[test]
fn progress_is_told_per_file() {
    let (place, server) = (Place::new(), Server::start(files()));
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let sink = ProgressSink::new(move |event| sink.lock().unwrap().push(event.clone()));
    pull("org/name", &place.options(&server).with_progress(sink)).unwrap();
    let events = events.lock().unwrap();
    let size = weights().len() as u64;
    let phase = || WEIGHTS.to_owned();
    let started = ProgressEvent::Started { phase: phase(), total: Some(size), unit: "bytes" };
    for expected in [
        started,
        ProgressEvent::Advanced { phase: phase(), done: size },
        ProgressEvent::Finished { phase: phase() },
    ] {
        assert!(events.contains(&expected), "{expected:?}");
    }
}

#[test]
fn a_download_can_be_ended_and_taken_up() {
    let (place, server) = (Place::new(), Server::start(files()));
    let cancel = CancelToken::new();
    let token = cancel.clone();
    let sink = ProgressSink::new(move |event| {
        if matches!(event, ProgressEvent::Advanced { phase, .. } if phase == WEIGHTS) {
            token.cancel();
        }
    });
    let options = place.options(&server).with_progress(sink).with_cancel(cancel);
    let error = pull("org/name", &options).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    let incomplete = place.blob(&format!("{}.incomplete", sha256(&weights())));
    let kept = fs::metadata(incomplete).unwrap().len();
    assert!(kept > 0 && kept < weights().len() as u64, "{kept}");
    pulled(&place, &server);
    let last = server.requests_of(WEIGHTS).pop().unwrap();
    assert_eq!(last.range, Some(format!("bytes={kept}-")));
}

#[test]
fn two_at_once_download_once() {
    let (place, server) = (Place::new(), Server::start(files()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pulled(&place, &server));
        }
    });
    assert_eq!(server.requests_of(WEIGHTS).len(), 1);
}

#[test]
fn a_lock_that_is_never_released_is_an_error() {
    let (place, server) = (Place::new(), Server::start(files()));
    let locks = place.cache().join(".locks/models--org--name");
    fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", git_blob(&config())));
    let held = fs::File::create(&path).unwrap();
    held.lock().unwrap();
    let options = place.options(&server).with_lock_timeout(Duration::from_millis(100));
    let error = pull("org/name", &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn the_environment_says_where_and_with_what() {
    let place = Place::new();
    let home = place.folder.path().join("hf");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("token"), "hf_file\n").unwrap();
    let options = |vars: &[(&str, &str)]| {
        let all = [&[("HF_HOME", home.to_str().unwrap())], vars].concat();
        let find = |name: &str| all.iter().find(|(key, _)| *key == name);
        HubOptions::from_vars(|name| find(name).map(|(_, value)| value.into()))
    };
    let plain = options(&[]);
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache, Some(home.join("hub")));
    assert_eq!(plain.token.as_deref(), Some("hf_file"));
    assert!(!plain.offline);
    let set = options(&[
        ("HF_ENDPOINT", "https://mirror.example/"),
        ("HF_TOKEN", " hf_var "),
        ("HF_HUB_OFFLINE", "1"),
        ("HF_HUB_CACHE", "/cache"),
    ]);
    assert_eq!(set.endpoint, "https://mirror.example");
    assert_eq!(set.token.as_deref(), Some("hf_var"));
    assert_eq!(set.cache.as_deref(), Some(Path::new("/cache")));
    assert!(set.offline);
    let error = pull("org/name", &options(&[("HF_ENDPOINT", "ftp://x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
    let error = pull("org/name", &HubOptions::new()).unwrap_err();
    assert!(error.to_string().contains("HF_HOME"), "{error}");
}
