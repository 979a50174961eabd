//! Every fixture, damaged: a typed error that names file, field or tensor, or
//! a correct load; never a panic, a second of work, or memory beyond the files
//! and a little.
//!
//! Cases come from seeded generators and are the same in every run.
//! `MUTATION_ROUNDS=20` tries twenty times as many.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bytes;
mod gguf;
mod harness;
mod json;
mod random;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use inference::text::TextParts;
use inference_core::{ChatPrompt, Message, Prompt};
use inference_gguf::{GgufFile, TensorType};
use serde_json::Value;

use harness::{Copy, Outcome, Trial, load, message, rounds};
use random::Random;

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";

/// The models of the fixtures that are folders.
fn folders() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for group in ["tiny", "models"] {
        let Some(group) = inference_fixtures::dir(group) else { continue };
        let entries = std::fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.join(CONFIG).is_file()));
    }
    found.sort();
    found
}

/// The files of a fixture folder with an extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let Some(folder) = inference_fixtures::dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn prompt() -> Prompt {
    Prompt::Tokens(vec![1, 0, 2])
}

/// The names of all fields of a document.
fn field_names(value: &Value, found: &mut BTreeSet<String>) {
    if let Value::Object(map) = value {
        for (name, value) in map.iter().filter(|(name, _)| name.len() > 2) {
            found.insert(name.clone());
            field_names(value, found);
        }
    }
}

/// The document at the head of a safetensors file, and where data begins.
fn safetensors_header(bytes: &[u8]) -> (Value, usize) {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), 8 + len)
}

#[test]
fn config_json() {
    let mut trial = Trial::begin("config.json");
    for folder in folders() {
        let mut copy = Copy::of(&folder);
        let original = copy.read(CONFIG);
        let document: Value = serde_json::from_slice(&original).unwrap();
        field_names(&document, &mut copy.words);
        field_names(&safetensors_header(&copy.read(WEIGHTS)).0, &mut copy.words);
        let mut random = Random::named(&name(&folder));
        for case in 0..40 * rounds() {
            let (text, done) = if case == 0 {
                // Parsed, 16 times as large as the file.
                let zeros = format!("{{\"zeros\": [{}0]}}", "0,".repeat(4_000_000));
                (zeros.into_bytes(), "only zeros".to_owned())
            } else if case % 4 == 0 {
                let mut bytes = original.clone();
                let done = bytes::damage(&mut bytes, original.len(), &mut random);
                (bytes, done)
            } else {
                let (text, done) = json::damage(&document, &mut random);
                (text.into_bytes(), done)
            };
            copy.replace(CONFIG, &text);
            let (path, label) = (copy.path(), format!("{}: {done}", name(&folder)));
            let bytes = copy.bytes + text.len() as u64;
            trial.case(label, &copy.words, bytes, move || load(&path, prompt()));
        }
    }
    trial.end();
}

#[test]
fn safetensors() {
    let mut trial = Trial::begin("safetensors");
    for folder in folders() {
        let mut copy = Copy::of(&folder);
        let original = copy.read(WEIGHTS);
        let (document, start) = safetensors_header(&original);
        field_names(&document, &mut copy.words);
        let mut random = Random::named(&name(&folder));
        for case in 0..24 * rounds() {
            let mut bytes = original.clone();
            let done = if case % 2 == 0 {
                bytes::damage(&mut bytes, start, &mut random)
            } else {
                let (text, done) = json::damage(&document, &mut random);
                let len = (text.len() as u64).to_le_bytes();
                bytes = [&len, text.as_bytes(), &original[start..]].concat();
                done
            };
            let size = copy.bytes + bytes.len() as u64;
            copy.replace(WEIGHTS, bytes);
            let (path, label) = (copy.path(), format!("{}: {done}", name(&folder)));
            trial.case(label, &copy.words, size, move || load(&path, prompt()));
        }
    }
    trial.end();
}

/// A model in three shards with an index, made of one that is whole.
#[test]
fn shards_and_their_index() {
    const INDEX: &str = "model.safetensors.index.json";
    let Some(folder) = inference_fixtures::dir("tiny/llama-tied-bias") else { return };
    let mut copy = Copy::of(&folder);
    let whole = copy.read(WEIGHTS);
    copy.remove(WEIGHTS);
    let (document, start) = safetensors_header(&whole);
    field_names(&document, &mut copy.words);
    let mut index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": {}});
    let mut shards: [(serde_json::Map<String, Value>, Vec<u8>); 3] = Default::default();
    let tensors = document.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let shard_name = |number: usize| format!("model-{number:05}-of-00003.safetensors");
    for (number, (tensor, info)) in tensors.enumerate() {
        let offset = |index: usize| info["data_offsets"][index].as_u64().unwrap() as usize;
        let (header, data) = &mut shards[number % 3];
        let (begin, mut info) = (data.len(), info.clone());
        data.extend(&whole[start + offset(0)..start + offset(1)]);
        info["data_offsets"] = serde_json::json!([begin, data.len()]);
        header.insert(tensor.clone(), info);
        index["weight_map"][tensor] = shard_name(number % 3).into();
    }
    for (number, (header, data)) in shards.iter().enumerate() {
        let header = serde_json::to_vec(header).unwrap();
        let len = (header.len() as u64).to_le_bytes();
        copy.words.insert(shard_name(number));
        copy.replace(&shard_name(number), [&len[..], &header, data].concat());
    }
    let text = index.to_string();
    copy.words.insert(INDEX.to_owned());
    copy.replace(INDEX, &text);
    let Outcome::Loaded = load(&copy.path(), prompt()) else {
        panic!("the whole model is refused")
    };

    let mut trial = Trial::begin("shards");
    let mut random = Random::named(INDEX);
    for case in 0..120 * rounds() {
        let file = if case % 3 == 0 { shard_name(random.below(3)) } else { INDEX.to_owned() };
        let original = copy.read(&file);
        let (bytes, done) = if case % 3 == 1 {
            let (text, done) = json::damage(&index, &mut random);
            (text.into_bytes(), done)
        } else {
            let mut bytes = original.clone();
            let done = bytes::damage(&mut bytes, 4096, &mut random);
            (bytes, done)
        };
        let size = copy.bytes + bytes.len() as u64;
        copy.replace(&file, bytes);
        let path = copy.path();
        trial.case(format!("{file}: {done}"), &copy.words, size, move || load(&path, prompt()));
        copy.replace(&file, original);
    }
    trial.end();
}

#[test]
fn tokenizers() {
    let mut trial = Trial::begin("tokenizers");
    let texts =
        ["tokenizer.json", "tokenizer_config.json", "generation_config.json"].map(str::to_owned);
    for folder in folders().into_iter().filter(|folder| folder.join(&texts[0]).is_file()) {
        let copy = Copy::of(&folder);
        let mut random = Random::named(&name(&folder));
        for file in texts.iter().filter(|file| folder.join(file).is_file()) {
            let original = copy.read(file);
            let document: Value = serde_json::from_slice(&original).unwrap();
            for case in 0..40 * rounds() {
                let (bytes, done) = if case % 4 == 0 {
                    let mut bytes = original.clone();
                    let done = bytes::damage(&mut bytes, 2048, &mut random);
                    (bytes, done)
                } else {
                    let (text, done) = json::damage(&document, &mut random);
                    (text.into_bytes(), done)
                };
                let size = copy.bytes + bytes.len() as u64;
                copy.replace(file, bytes);
                let (path, label) = (copy.path(), format!("{}: {file}: {done}", name(&folder)));
                trial.case(label, &copy.words, size, move || {
                    load(&path, Prompt::Text("Once upon a time </s>\u{e9}\u{1f600}".to_owned()))
                });
            }
            copy.replace(file, original);
        }
    }
    trial.end();
}

#[test]
fn chat_templates() {
    const FILE: &str = "chat_template.jinja";
    let Some(folder) = inference_fixtures::dir("tiny/llama-llama3rope") else { return };
    let copy = Copy::of(&folder);
    let mut trial = Trial::begin("chat templates");
    for template in files("templates", "jinja") {
        let original = std::fs::read(&template).unwrap();
        let mut words = copy.words.clone();
        words.insert(FILE.to_owned());
        let mut random = Random::named(&name(&template));
        for _ in 0..12 * rounds() {
            let mut bytes = original.clone();
            let mut done = Vec::new();
            for _ in 0..1 + random.below(3) {
                done.push(bytes::damage(&mut bytes, original.len(), &mut random));
            }
            let size = copy.bytes + bytes.len() as u64;
            copy.replace(FILE, bytes);
            let (path, label) = (copy.path(), format!("{}: {}", name(&template), done.join("; ")));
            trial.case(label, &words, size, move || {
                let chat =
                    ChatPrompt::from(vec![Message::system("Be brief."), Message::user("Hi")]);
                load(&path, Prompt::Chat(chat))
            });
        }
    }
    trial.end();
}

/// A GGUF file with damage to its header's fields and to bytes; `run` is what
/// is done with it.
fn gguf_cases(trial: &mut Trial, source: &Path, cases: usize, run: fn(&Path) -> Outcome) {
    if let Outcome::Refused(why) = run(source) {
        panic!("{} is refused as it is: {why}", source.display());
    }
    let folder = tempfile::TempDir::new().unwrap();
    let file = name(source);
    let original = std::fs::read(source).unwrap();
    let (fields, names, start) = gguf::fields(&original);
    let mut words: BTreeSet<String> = names.into_iter().collect();
    words.insert(file.clone());
    let mut random = Random::named(&file);
    for case in 0..cases {
        let mut bytes = original.clone();
        let done = if case % 4 == 0 {
            bytes::damage(&mut bytes, start, &mut random)
        } else {
            gguf::damage(&mut bytes, &fields, &mut random)
        };
        // A new file every time: the last may still be mapped.
        let path = folder.path().join(format!("{case}-{file}"));
        let size = bytes.len() as u64;
        std::fs::write(&path, bytes).unwrap();
        let (label, model) = (format!("{file}: {done}"), path.clone());
        trial.case(label, &words, size, move || run(&model));
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn gguf_models() {
    let mut trial = Trial::begin("GGUF models");
    let Some(group) = inference_fixtures::dir("gguf") else { return };
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|path| path.is_dir()) {
        for file in files(&format!("gguf/{}", name(folder)), "gguf") {
            gguf_cases(&mut trial, &file, 24 * rounds(), |path| load(path, prompt()));
        }
    }
    trial.end();
}

/// All of a file that is no whole model: its keys, a block of each tensor, and
/// the tokenizer.
fn read(path: &Path) -> Outcome {
    let read = || -> inference_core::Result<()> {
        let file = GgufFile::open(path)?;
        for key in file.metadata().keys() {
            file.metadata().get(key)?;
        }
        for tensor in file.tensors() {
            if let TensorType::Known(kind) = tensor.kind()
                && let Some(block) = file.bytes(tensor)?.get(..kind.block_bytes())
            {
                kind.decode(block, &mut vec![0.0; kind.block_values()])?;
            }
        }
        let parts = TextParts::from_gguf(file.metadata())?;
        if let Some(tokenizer) = parts.tokenizer {
            let ids = tokenizer.encode("Once upon a time </s>\u{e9}\u{1f600}", true);
            let _ = ids.and_then(|ids| tokenizer.decode(&ids, true));
        }
        Ok(())
    };
    match read() {
        Ok(()) => Outcome::Loaded,
        Err(error) => Outcome::Refused(message(&error)),
    }
}

#[test]
fn gguf_vocabularies() {
    let mut trial = Trial::begin("GGUF vocabularies");
    for file in files("gguf-vocab", "gguf") {
        gguf_cases(&mut trial, &file, 8 * rounds(), read);
    }
    trial.end();
}
