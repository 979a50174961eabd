//! The GGUF files of the reference data, with what they must compute.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests; each uses its part")]

use std::path::PathBuf;

use inference_fixtures::{floats, ids};

/// One file.
pub(crate) struct GgufCase {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// How far llama.cpp is from the reference.
    pub(crate) llama_cpp_diff: f32,
    pub(crate) prompts: Vec<GgufPrompt>,
}

/// A prompt, with the reference's answer over the dequantized weights.
pub(crate) struct GgufPrompt {
    pub(crate) ids: Vec<u32>,
    pub(crate) last_logits: Vec<f32>,
    pub(crate) greedy: Vec<u32>,
}

/// The files of a folder of `gguf/`; nothing where there is no reference data.
pub(crate) fn cases(folder: &str) -> Vec<GgufCase> {
    let Some(dir) = inference_fixtures::dir(&format!("gguf/{folder}")) else { return Vec::new() };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let prompts: Vec<Vec<u32>> = expected["prompts"].as_array().unwrap().iter().map(ids).collect();
    let files = expected["files"].as_object().unwrap();
    let mut on_disk = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".gguf"))
        .collect::<Vec<_>>();
    on_disk.sort();
    assert!(!on_disk.is_empty(), "{folder}");
    let case = |name: &String| {
        let file = &files[name];
        let answers = prompts.iter().enumerate().map(|(index, ids_in)| GgufPrompt {
            ids: ids_in.clone(),
            last_logits: floats(&file["dequantized_last_logits"][index]),
            greedy: ids(&file["dequantized_greedy"][index]),
        });
        GgufCase {
            path: dir.join(name),
            name: name.clone(),
            llama_cpp_diff: file["llama_cpp_max_abs_diff"].as_f64().unwrap() as f32,
            prompts: answers.collect(),
        }
    };
    on_disk.iter().map(case).collect()
}

/// Every folder of the reference data that has files.
pub(crate) const FOLDERS: [&str; 6] =
    ["gemma3", "llama", "llama-h256", "qwen2", "qwen3", "stories260k"];
