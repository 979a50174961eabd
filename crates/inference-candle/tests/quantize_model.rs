//! Whole models written as GGUF files, read back and computed with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/common.rs"]
mod common;
#[path = "support/gguf.rs"]
mod gguf;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{forward, max_diff, sequence};
use inference_candle::{
    Decoder, DecoderConfig, FileType, GgufWeights, QuantizeOptions, ReferenceOps, quantize_model,
};
use inference_core::{
    CancelToken, Error, ErrorKind, ModelSource, Precision, ProgressEvent, ProgressSink,
};
use inference_fixtures::{dir, floats, ids, json};
use inference_gguf::{BlockType, GgufFile, GgufWriter, TensorType};
use inference_text::TextParts;

fn decoder(path: &Path) -> Decoder {
    let file = GgufFile::open(path).unwrap();
    let config = DecoderConfig::from_gguf(&file).unwrap();
    let weights = GgufWeights::new(file, &config).unwrap();
    let ops = ReferenceOps::cpu().with_precision(Precision::Exact);
    Decoder::new(config, &weights, Arc::new(ops)).unwrap()
}

fn last_logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let len = ids.len();
    forward(decoder, ids, sequence(0, len, len), None, &[len - 1]).remove(0)
}

fn quantize(source: &Path, out: &Path, options: &QuantizeOptions) -> Result<(), Error> {
    quantize_model(&ModelSource::from(source), out, options).map(|_| ())
}

fn collect_notes(options: QuantizeOptions) -> (QuantizeOptions, Arc<Mutex<Vec<String>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let notes = Arc::clone(&notes);
        ProgressSink::new(move |event: &ProgressEvent| {
            if let ProgressEvent::Note { message } = event {
                notes.lock().unwrap().push(message.clone());
            }
        })
    };
    (options.with_progress(sink), notes)
}

/// Every architecture goes through GGUF's names, permutations and keys and
/// computes the same.
#[test]
fn conversion_keeps_the_logits() {
    let mut converted = 0;
    for name in [
        "tiny/llama-llama3rope",
        "tiny/llama-llama3rope-v5config",
        "tiny/llama-tied-bias",
        "tiny/llama-h256",
        "tiny/mistral-window8",
        "tiny/qwen2",
        "tiny/qwen3",
        "tiny/gemma3-text",
        "tiny/phi3-longrope",
        "tiny/qwen3moe",
        "tiny/qwen3moe-v5config",
        "tiny/mixtral",
        "tiny/granite",
        "tiny/smollm3",
        "tiny/olmo2",
    ] {
        let Some(source) = dir(name) else { return };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model.gguf");
        quantize(&source, &out, &QuantizeOptions::new(FileType::F32))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let decoder = decoder(&out);
        let expected = json(&source.join("expected.json"));
        for prompt in expected["prompts"].as_array().unwrap() {
            let logits = last_logits(&decoder, &ids(&prompt["input_ids"]));
            let diff = max_diff(&logits, &floats(&prompt["last_logits"]));
            assert!(diff < 1e-3, "{name}: {diff}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        converted += 1;
    }
    assert_eq!(converted, 15);
}

/// What GGUF fixes and a checkpoint varies is refused, by name, without a file.
#[test]
fn what_gguf_cannot_say_is_refused() {
    let Some(source) = dir("tiny/gemma2") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.gguf");
    let error = quantize(&source, &out, &QuantizeOptions::new(FileType::F32)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.to_string().contains("the attention scale"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Types, names, shapes and bytes of the tensors are llama.cpp's.
#[test]
fn files_are_llama_cpp_s() {
    let folder = tempfile::tempdir().unwrap();
    for (source, model, types) in [
        ("tiny/llama-h256", "llama-h256", &["f16", "q8_0", "q4_1", "q3_k_m", "q4_k_m", "q2_k"][..]),
        ("models/stories260k", "stories260k", &["f32", "bf16", "q8_0", "q4_0"]),
        ("tiny/llama-llama3rope", "llama", &["f32", "q8_0"]),
        ("tiny/gemma3-text", "gemma3", &["f32", "q8_0"]),
        ("tiny/qwen2", "qwen2", &["f32"]),
        ("tiny/qwen3", "qwen3", &["q8_0"]),
    ] {
        let Some(source) = dir(source) else { return };
        let reference = dir(&format!("gguf/{model}")).unwrap();
        for name in types {
            let out = folder.path().join(format!("{model}-{name}.gguf"));
            quantize(&source, &out, &QuantizeOptions::new(name.parse().unwrap())).unwrap();
            let ours = GgufFile::open(&out).unwrap();
            let theirs = GgufFile::open(&reference.join(out.file_name().unwrap())).unwrap();
            assert_eq!(ours.tensors().len(), theirs.tensors().len(), "{model} {name}");
            for tensor in theirs.tensors() {
                let named = format!("{model} {name} {}", tensor.name());
                let own = ours.tensor(tensor.name()).unwrap_or_else(|| panic!("{named}"));
                assert_eq!((own.shape(), own.kind()), (tensor.shape(), tensor.kind()), "{named}");
                let ((a, at), (b, bt)) = (ours.data(own).unwrap(), theirs.data(tensor).unwrap());
                let (a, b) = (&(*a).as_ref()[at], &(*b).as_ref()[bt]);
                // Ties of Q4_0 go the other way, and factors are rounded once more.
                let loose = tensor.kind() == TensorType::Known(BlockType::Q4_0)
                    || tensor.name() == "rope_freqs.weight";
                assert!(a == b || loose, "{named}: other bytes");
            }
            for key in theirs.metadata().keys() {
                let same = theirs.metadata().stored(key) == ours.metadata().stored(key);
                // The converter was told another kind for a tokenizer of its own; scores it
                // could not read; names are folders'.
                let differs = [
                    "general.name",
                    "general.size_label",
                    "general.sampling",
                    "tokenizer.ggml.pre",
                    "tokenizer.ggml.scores",
                    "tokenizer.ggml.token_type",
                    "tokenizer.ggml.add_sep_token",
                    "tokenizer.ggml.add_space_prefix",
                    "tokenizer.ggml.padding_token_id",
                    "tokenizer.ggml.add_bos_token",
                ];
                assert!(same || differs.contains(&key), "{model} {name}: {key}");
            }
        }
    }
}

#[test]
fn the_tokenizer_comes_along() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("vocabulary.gguf");
    for name in [
        "tiny/llama-h256",
        "tiny/qwen2",
        "tiny/gemma3-text",
        "models/stories260k",
        "tokenizers/llama3",
        "tokenizers/qwen2",
        "tokenizers/llama2-spm",
    ] {
        let Some(source) = dir(name) else { return };
        let parts = TextParts::from_dir(&source).unwrap();
        let original = parts.tokenizer.unwrap();
        let read = |file: &str| match std::fs::read(source.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Ok(None),
        };
        let mut writer = GgufWriter::new();
        TextParts::write_gguf(&mut writer, read, original.vocab_size() + 3, None).unwrap();
        writer.create(&out).unwrap().finish().unwrap();
        let file = GgufFile::open(&out).unwrap();
        let copy = TextParts::from_gguf(file.metadata()).unwrap();
        let tokenizer = copy.tokenizer.unwrap();
        let mut texts = vec![
            "Once upon a time, there was a little girl named Lily.".to_owned(),
            "  two  spaces\n\nand\tlines 1234567 don't WE'LL".to_owned(),
            "Grüße, 你好 🙂 \u{1F469}\u{200D}\u{1F4BB}".to_owned(),
            String::new(),
        ];
        if source.join("expected.json").is_file() && name.starts_with("tokenizers") {
            let expected = json(&source.join("expected.json"));
            for case in expected["cases"].as_array().unwrap() {
                texts.push(case["text"].as_str().unwrap().to_owned());
            }
        }
        let mut compared = 0;
        for text in texts {
            // GGUF has neither of these steps; the notes say so.
            let special = parts.special.bos.iter().any(|token| text.contains(token.as_str()));
            let decomposed = text.chars().any(|c| ('\u{300}'..'\u{36f}').contains(&c));
            let spaced = name.contains("gemma") && text.starts_with(' ');
            if spaced || special || decomposed || text.contains("<|") || text.contains("<s>") {
                continue;
            }
            let expected = original.encode(&text, false).unwrap();
            assert_eq!(tokenizer.encode(&text, false).unwrap(), expected, "{name}: {text:?}");
            compared += 1;
        }
        assert!(compared >= 3, "{name}");
        assert_eq!(copy.special.bos, parts.special.bos, "{name}");
        assert_eq!(copy.special.eos, parts.special.eos, "{name}");
        assert_eq!(copy.template.is_some(), parts.template.is_some(), "{name}");
    }
}

#[test]
fn a_pre_tokenizer_that_has_no_name_is_refused_or_named() {
    let Some(source) = dir("tiny/qwen2") else { return };
    let changed = std::fs::read_to_string(source.join("tokenizer.json")).unwrap();
    let changed = changed.replace("(?i:'s|", "(?i:'zz|'s|");
    let read = |file: &str| match file {
        "tokenizer.json" => Ok(Some(changed.clone().into_bytes())),
        _ => Ok(None),
    };
    let mut writer = GgufWriter::new();
    let error = TextParts::write_gguf(&mut writer, read, 384, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.to_string().contains("'zz"), "{error}");
    TextParts::write_gguf(&mut writer, read, 384, Some("qwen2")).unwrap();
    let error = TextParts::write_gguf(&mut writer, read, 384, Some("qwen99")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let error = TextParts::write_gguf(&mut writer, read, 100, Some("qwen2")).unwrap_err();
    assert!(error.to_string().contains("below 100"), "{error}");
}

/// GGUF in, GGUF out: as llama.cpp's own tool did from the same file.
#[test]
fn a_gguf_file_is_quantized_like_its_safetensors() {
    let Some(source) = dir("gguf/llama-h256/llama-h256-f16.gguf") else { return };
    let folder = tempfile::tempdir().unwrap();
    for case in gguf::cases("llama-h256") {
        let (_, name) = case.name.trim_end_matches(".gguf").split_once("h256-").unwrap();
        let out = folder.path().join(&case.name);
        let options = QuantizeOptions::new(name.parse().unwrap()).with_threads(2);
        let report = quantize_model(&ModelSource::from(&*source), &out, &options).unwrap();
        assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
        let (ours, theirs) = (GgufFile::open(&out).unwrap(), GgufFile::open(&case.path).unwrap());
        for tensor in theirs.tensors() {
            let own = ours.tensor(tensor.name()).unwrap();
            assert_eq!(own.kind(), tensor.kind(), "{name} {}", tensor.name());
        }
        let decoder = decoder(&out);
        let tolerance = if matches!(name, "q4_0" | "q5_0") { 0.3 } else { 1e-3 };
        for prompt in &case.prompts {
            let diff = max_diff(&last_logits(&decoder, &prompt.ids), &prompt.last_logits);
            assert!(diff < tolerance, "{name}: {diff}");
        }
    }
}

#[test]
fn quantized_sources_need_leave() {
    let Some(source) = dir("gguf/llama-h256/llama-h256-q8_0.gguf") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("again.gguf");
    let options = QuantizeOptions::new(FileType::Q4KM);
    let error = quantize(&source, &out, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("Q8_0"), "{error}");
    quantize(&source, &out, &options.clone().with_requantize(true)).unwrap();
    let error = quantize(&source, &out, &options.clone().with_requantize(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    quantize(&source, &out, &options.with_requantize(true).with_overwrite(true)).unwrap();
    assert!(GgufFile::open(&out).is_ok());
}

#[test]
fn importance_changes_what_is_chosen() {
    let Some(source) = dir("tiny/llama-h256") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    // Of one matrix, every fourth run of 8 columns alone counts.
    let mut bytes = 1_i32.to_le_bytes().to_vec();
    let name = "blk.0.ffn_up.weight";
    bytes.extend((name.len() as i32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(1_i32.to_le_bytes());
    bytes.extend(256_i32.to_le_bytes());
    let weight = |i: usize| if i % 32 < 8 { 100.0_f32 } else { 1e-3 };
    (0..256).for_each(|i| bytes.extend(weight(i).to_le_bytes()));
    std::fs::write(path("importance.dat"), bytes).unwrap();
    let plain = QuantizeOptions::new(FileType::Q4KS);
    quantize(&source, &path("plain.gguf"), &plain).unwrap();
    let (weighted, notes) = collect_notes(plain.with_imatrix(path("importance.dat")));
    quantize(&source, &path("weighted.gguf"), &weighted).unwrap();
    assert!(notes.lock().unwrap().iter().any(|note| note.contains("blk.0.ffn_down.weight")));
    quantize(&source, &path("dense.gguf"), &QuantizeOptions::new(FileType::F32)).unwrap();
    let values = |file: &str, name: &str| {
        let file = GgufFile::open(&path(file)).unwrap();
        let tensor = file.tensor(name).unwrap();
        let TensorType::Known(kind) = tensor.kind() else { panic!("{}", tensor.kind()) };
        let (bytes, range) = file.data(tensor).unwrap();
        let mut values = vec![0.0; tensor.elem_count() as usize];
        kind.decode(&(*bytes).as_ref()[range], &mut values).unwrap();
        values
    };
    let error = |file: &str| -> f32 {
        let (dense, values) = (values("dense.gguf", name), values(file, name));
        let pairs = dense.iter().zip(&values).enumerate();
        let important = pairs.filter(|(i, _)| i % 32 < 8);
        important.map(|(_, (a, b))| (a - b) * (a - b)).sum()
    };
    assert!(error("weighted.gguf") < 0.9 * error("plain.gguf"));
    let other = "blk.1.ffn_up.weight";
    assert_eq!(values("plain.gguf", other), values("weighted.gguf", other));
}

#[test]
fn a_cancelled_run_leaves_nothing() {
    let Some(source) = dir("tiny/llama-h256") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = QuantizeOptions::new(FileType::Q4KM).with_cancel(cancel);
    assert!(quantize(&source, &folder.path().join("x.gguf"), &options).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
