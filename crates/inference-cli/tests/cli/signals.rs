//! Ctrl-C, and readers that go away.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::chat::chat_model;
use crate::run::{command, fixture, inference_reading};

/// Starts the command with every stream in a pipe.
fn start(args: &[&str]) -> Child {
    let mut command = command();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What Ctrl-C sends.
fn interrupt(child: &Child) {
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
}

/// Interrupts until the child has ended. (Signals of one kind that arrive
/// together count as one, so two may not be enough on a busy machine.)
fn interrupt_to_the_end(child: &mut Child) -> Option<i32> {
    for _ in 0..300 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        interrupt(child);
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    None
}

fn read_all(mut stream: impl std::io::Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// More output than a pipe and the engine's buffer hold: the run cannot end
/// before it is read.
fn long_run(model: &str) -> [&str; 10] {
    ["generate", "--model", model, "--json", "--logits", "--ignore-eos", "-n", "400", "--ids", "1"]
}

#[test]
fn an_interrupted_text_still_gets_its_summary() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let mut child = start(&long_run(&model));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    interrupt(&child);
    let rest = read_all(stdout);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{}", read_all(child.stderr.take().unwrap()));
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!(last["summary"]["finish_reason"], "cancelled");
    let text: String = std::iter::once(first.as_str())
        .chain(rest.lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| line["token"]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(last["summary"]["text"], text);
    assert!(rest.lines().count() < 400);
}

#[test]
fn a_second_interrupt_ends_the_program_at_once() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let mut child = start(&long_run(&model));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    // Nobody reads: the first interrupt alone cannot end it.
    assert_eq!(interrupt_to_the_end(&mut child), Some(130));
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let mut child = start(&long_run(&model));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(read_all(child.stderr.take().unwrap()), "");
}

#[test]
fn one_interrupt_at_the_prompt_does_not_end_a_chat() {
    let Some((_folder, model)) = chat_model() else { return };
    let mut child = start(&["chat", "-i", "--json", "--model", &model, "-n", "4"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut reply = || {
        let summary =
            lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains("summary"));
        summary.is_some()
    };
    stdin.write_all(b"Hi\n").unwrap();
    assert!(reply());
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(200));
    stdin.write_all(b"Hi\n").unwrap();
    assert!(reply());
    assert_eq!(interrupt_to_the_end(&mut child), Some(130));
}

#[test]
fn the_end_of_the_input_ends_a_chat() {
    let Some((_folder, model)) = chat_model() else { return };
    let run = inference_reading(&["chat", "-i", "--model", &model, "-n", "2"], "Hi\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}
