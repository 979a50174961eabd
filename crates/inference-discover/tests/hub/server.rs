//! A hub of one repository on a port of this machine, with faults to order.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// What goes wrong when a file is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes, so many times.
    Drop { after: usize, times: usize },
    /// The connection falls silent after so many bytes, so many times.
    Stall { after: usize, times: usize },
    /// `Content-Length` is off by so much.
    Announce(i64),
    /// No `Content-Length`, and so many bytes more than there are.
    Excess(usize),
    /// The whole file, whatever range was asked for; the first answer breaks
    /// off after so many bytes.
    NoRanges { first_drop: usize },
    /// A range of a file of another length; the first answer breaks off.
    OtherTotal { first_drop: usize },
    /// Other bytes, as many.
    OtherBytes,
    /// Elsewhere: at this address, with the name of the file behind it.
    Redirect(String),
    /// This status, so many times.
    Status { status: u16, times: usize },
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

#[derive(Default)]
struct State {
    files: Vec<(String, Vec<u8>)>,
    listing: Option<Value>,
    faults: HashMap<String, Fault>,
    requests: Vec<Request>,
    token: Option<String>,
}

pub(crate) struct Server {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Server {
    /// Serves `org/name` with these files.
    pub(crate) fn start(files: Vec<(&str, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream.unwrap(), &shared));
            }
        });
        Self { endpoint, state }
    }

    pub(crate) fn fault(self, file: &str, fault: Fault) -> Self {
        self.set_fault(file, Some(fault));
        self
    }

    pub(crate) fn set_fault(&self, file: &str, fault: Option<Fault>) {
        let faults = &mut self.state.lock().unwrap().faults;
        match fault {
            Some(fault) => faults.insert(file.to_owned(), fault),
            None => faults.remove(file),
        };
    }

    /// Changes the description of the repository.
    pub(crate) fn listing(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut state = self.state.lock().unwrap();
        let mut listing = listing(&state.files);
        change(&mut listing);
        state.listing = Some(listing);
        drop(state);
        self
    }

    /// Answers only to those who bear this token.
    pub(crate) fn token(self, token: &str) -> Self {
        self.state.lock().unwrap().token = Some(token.to_owned());
        self
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The requests for a file.
    pub(crate) fn requests_of(&self, file: &str) -> Vec<Request> {
        let path = format!("/org/name/resolve/{COMMIT}/{file}");
        self.requests().into_iter().filter(|request| request.path == path).collect()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn git_blob(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn listing(files: &[(String, Vec<u8>)]) -> Value {
    let sibling = |(name, bytes): &(String, Vec<u8>)| {
        let mut sibling =
            json!({"rfilename": name, "size": bytes.len(), "blobId": git_blob(bytes)});
        if name.ends_with(".safetensors") || name.ends_with(".gguf") {
            sibling["lfs"] =
                json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
        }
        sibling
    };
    json!({"sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>()})
}

fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return };
    let header = |name: &str| {
        let found = lines.iter().filter_map(|line| line.split_once(": "));
        let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_owned())
    };
    let request = Request {
        path: path.to_owned(),
        range: header("range"),
        authorization: header("authorization"),
    };
    let mut locked = state.lock().unwrap();
    locked.requests.push(request.clone());
    let allowed = locked
        .token
        .as_ref()
        .is_none_or(|token| request.authorization.as_deref() == Some(&format!("Bearer {token}")));
    if !allowed {
        return status(&stream, 401);
    }
    if path == "/api/models/org/name/revision/main?blobs=true" {
        if let Some(Fault::Status { status: code, times }) = locked.faults.get_mut("listing")
            && *times > 0
        {
            *times -= 1;
            return status(&stream, *code);
        }
        let json = locked.listing.clone().unwrap_or_else(|| listing(&locked.files)).to_string();
        return send(
            &stream,
            "200 OK",
            &[("Content-Length", json.len().to_string())],
            json.as_bytes(),
        );
    }
    let prefix = format!("/org/name/resolve/{COMMIT}/");
    let Some(name) = path.strip_prefix(&prefix).map(|name| name.replace("%20", " ")) else {
        return status(&stream, 404);
    };
    let Some(bytes) = locked.files.iter().find(|(file, _)| *file == name).map(|(_, b)| b.clone())
    else {
        return status(&stream, 404);
    };
    let from: usize = request.range.as_deref().map_or(0, |range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
    });
    if from >= bytes.len() && from > 0 {
        return status(&stream, 416);
    }
    let fault = locked.faults.get_mut(&name);
    let total = bytes.len();
    let mut rest = bytes[from..].to_vec();
    let mut announced = Some(rest.len() as i64);
    let mut partial = from > 0;
    let mut range_total = total;
    let mut cut = usize::MAX;
    let mut silent = false;
    match fault {
        Some(Fault::Status { status: code, times }) if *times > 0 => {
            *times -= 1;
            return status(&stream, *code);
        }
        Some(Fault::Redirect(to)) => {
            let headers = [("Location", format!("{to}{path}")), ("Content-Length", "0".to_owned())];
            return send(&stream, "302 Found", &headers, b"");
        }
        Some(Fault::Drop { after, times }) if *times > 0 => {
            *times -= 1;
            cut = *after;
        }
        Some(Fault::Stall { after, times }) if *times > 0 => {
            *times -= 1;
            cut = *after;
            silent = true;
        }
        Some(Fault::Announce(by)) => announced = Some(rest.len() as i64 + *by),
        Some(Fault::Excess(more)) => {
            announced = None;
            rest.extend(std::iter::repeat_n(7, *more));
        }
        Some(Fault::NoRanges { first_drop }) => {
            (rest, partial) = (bytes, false);
            announced = Some(rest.len() as i64);
            cut = std::mem::replace(first_drop, usize::MAX);
        }
        Some(Fault::OtherTotal { first_drop }) => {
            range_total += 5;
            cut = std::mem::replace(first_drop, usize::MAX);
        }
        Some(Fault::OtherBytes) => rest.iter_mut().for_each(|byte| *byte ^= 1),
        _ => {}
    }
    drop(locked);
    let mut headers = Vec::new();
    headers.extend(announced.map(|length| ("Content-Length", length.to_string())));
    if partial {
        headers.push(("Content-Range", format!("bytes {from}-{}/{range_total}", total - 1)));
    }
    let line = if partial { "206 Partial Content" } else { "200 OK" };
    rest.truncate(cut);
    send(&stream, line, &headers, &rest);
    if silent {
        std::thread::sleep(Duration::from_secs(20));
    }
}

fn status(stream: &TcpStream, code: u16) {
    send(stream, &format!("{code} No"), &[("Content-Length", "0".to_owned())], b"");
}

fn send(mut stream: &TcpStream, line: &str, headers: &[(&str, String)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {line}\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    // A client that has read enough goes away.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(body);
    let _ = stream.flush();
}
