//! A hub that serves one folder, without faults.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Serves the files of a folder as `org/name`; the address.
pub(crate) fn serve(folder: &Path, commit: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&stream.unwrap(), &folder, commit);
        }
    });
    endpoint
}

fn answer(mut stream: &TcpStream, folder: &Path, commit: &str) {
    let mut request = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut request).unwrap();
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap();
    let body = if path == "/api/models/org/name/revision/main?blobs=true" {
        let siblings: Vec<Value> = files(folder).iter().map(|file| sibling(file)).collect();
        json!({"sha": commit, "siblings": siblings}).to_string().into_bytes()
    } else {
        let name = path.strip_prefix(&format!("/org/name/resolve/{commit}/")).unwrap();
        fs::read(folder.join(name)).unwrap()
    };
    let head =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// A file as the hub describes it, by the id that git itself gives it.
fn sibling(file: &Path) -> Value {
    let content = fs::File::open(file).unwrap();
    let git = Command::new("git")
        .args(["hash-object", "--no-filters", "--stdin"])
        .stdin(Stdio::from(content))
        .output()
        .unwrap();
    let id = String::from_utf8(git.stdout).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    json!({"rfilename": name, "size": fs::metadata(file).unwrap().len(), "blobId": id.trim()})
}
