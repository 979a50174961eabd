//! Training that is killed, again and again, and goes on.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::run::{command, fixture, inference};

const STEPS: u64 = 14;

/// When a run is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After so many lines of its output.
    Lines(usize),
    /// As soon as a file or folder is there whose name ends with this, after
    /// so many lines: while a checkpoint is written.
    Written(usize, &'static str),
}

/// A step's checkpoint is written before the line that says so, so these are
/// moments within steps, within checkpoints, and between.
const MOMENTS: [Moment; 9] = [
    Moment::Lines(0),
    Moment::Written(0, ".part"),
    Moment::Lines(1),
    Moment::Written(1, "adapter_model.safetensors"),
    Moment::Written(2, "state.safetensors"),
    Moment::Lines(3),
    Moment::Written(1, "state.json"),
    Moment::Written(3, "latest.part"),
    Moment::Lines(4),
];

fn arguments(model: &str, data: &str, out: &Path) -> Vec<String> {
    let steps = STEPS.to_string();
    let out = out.to_str().unwrap();
    [
        "lora",
        "train",
        "--json",
        "--model",
        model,
        "--data",
        data,
        "--out",
        out,
        "--epochs",
        "100",
        "--max-steps",
        &steps,
        "--batch",
        "2",
        "--rank",
        "4",
        "--dropout",
        "0.1",
        "--checkpoint-every",
        "1",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Whether a checkpoint is being written and has come to this name.
fn is_being_written(out: &Path, end: &str) -> bool {
    let list = |folder: &Path| -> Vec<_> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
    };
    let named = |path: &Path| path.to_str().unwrap().ends_with(end);
    let part = |path: &Path| path.to_str().unwrap().ends_with(".part");
    let all = list(&out.join("checkpoints"));
    all.iter().any(|path| part(path) && (named(path) || list(path).iter().any(|path| named(path))))
}

/// Kills a run at a moment, or finds that it ended before.
fn kill(child: &mut Child, out: &Path, moment: Moment) -> bool {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let lines = match moment {
        Moment::Lines(lines) | Moment::Written(lines, _) => lines,
    };
    for _ in 0..lines {
        if stdout.read_line(&mut String::new()).unwrap() == 0 {
            return !child.wait().unwrap().success();
        }
    }
    if let Moment::Written(_, end) = moment {
        while !is_being_written(out, end) {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return false;
            }
            std::thread::yield_now();
        }
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// After each kill the latest checkpoint is whole and the run goes on from it;
/// in the end the adapter is that of a run that nobody killed, bit by bit.
#[test]
fn a_run_that_is_killed_goes_on_from_its_latest_checkpoint() {
    let Some((_, model)) = fixture("models/stories260k") else { return };
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data.jsonl");
    let line = |i: usize| format!("{{\"text\": \"Tim had {i} red balls and a cat {}.\"}}\n", i * 7);
    std::fs::write(&data, (0..9).map(line).collect::<String>()).unwrap();
    let data = data.to_str().unwrap();

    let whole = place.path().join("whole");
    inference(arguments(&model, data, &whole)).text();

    let out = place.path().join("killed");
    let mut killed = 0;
    for moment in MOMENTS {
        let mut arguments = arguments(&model, data, &out);
        let pointer = out.join("checkpoints/latest");
        let before = std::fs::read_to_string(&pointer).ok();
        if before.is_some() {
            arguments.push("--resume".to_owned());
        }
        let mut child = command()
            .args(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        killed += usize::from(kill(&mut child, &out, moment));
        // What there was is not lost, and what there is can be read.
        let latest = std::fs::read_to_string(&pointer).ok();
        assert!(latest >= before, "{moment:?}: {latest:?} after {before:?}");
        let Some(latest) = latest else { continue };
        let folder = out.join("checkpoints").join(latest.trim());
        let state = std::fs::read(folder.join("state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(format!("step-{:08}", state["step"].as_u64().unwrap()), latest.trim());
        inference(["lora", "inspect", folder.to_str().unwrap()]).text();
    }
    assert!(killed >= 4, "{killed} of {} runs were killed", MOMENTS.len());

    let mut arguments = arguments(&model, data, &out);
    if out.join("checkpoints/latest").exists() {
        arguments.push("--resume".to_owned());
    }
    let text = inference(arguments).text();
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["steps"], STEPS);
    let adapter = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert!(adapter(&out) == adapter(&whole), "not the bits of a run that nobody killed");
}
