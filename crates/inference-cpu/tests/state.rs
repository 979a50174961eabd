//! The same bits from a prefix that was computed, cached, resumed from a
//! snapshot, forked, or read from a file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_core::{
    Backend, ErrorKind, GenerateOptions, KvDtype, LoadOptions, ModelSource, QuantizeType,
    TextModel, TokenStream,
};
use inference_cpu::CpuBackend;
use inference_fixtures::ids;

const CASES: [(&str, KvDtype); 6] = [
    ("llama-h256", KvDtype::F32),
    ("llama-h256", KvDtype::Q8_0),
    ("gemma2", KvDtype::F16),
    ("gemma3-text", KvDtype::F32),
    ("mistral-window8", KvDtype::Bf16),
    ("phi3-longrope", KvDtype::F32),
];

fn load(dir: &Path, options: LoadOptions) -> Arc<dyn TextModel> {
    CpuBackend::new().load_model(&ModelSource::from(dir), &options).unwrap()
}

fn options() -> GenerateOptions {
    GenerateOptions::new()
        .with_max_tokens(6)
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_logits(true)
}

/// The tokens of a text and the bits of their logits.
fn read(stream: TokenStream) -> (Vec<u32>, Vec<u32>) {
    let tokens: Vec<_> = stream.map(Result::unwrap).collect();
    assert_eq!(tokens.len(), 6);
    let bits = tokens.iter().flat_map(|token| token.logits.as_ref().unwrap().iter());
    (tokens.iter().map(|token| token.id).collect(), bits.map(|x| x.to_bits()).collect())
}

fn generate(model: &dyn TextModel, prompt: &[u32]) -> (Vec<u32>, Vec<u32>) {
    read(model.generate(prompt.to_vec().into(), options()).unwrap())
}

/// The folder and the longest prompt of a case.
fn fixture(case: &str) -> Option<(PathBuf, Vec<u32>)> {
    let dir = inference_fixtures::dir(&format!("tiny/{case}"))?;
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let prompts = expected["prompts"].as_array().unwrap();
    let prompts = prompts.iter().map(|prompt| ids(&prompt["input_ids"]));
    Some((dir, prompts.max_by_key(Vec::len).unwrap()))
}

#[test]
fn however_the_prefix_came_to_be() {
    let folder = tempfile::tempdir().unwrap();
    for (case, dtype) in CASES {
        let Some((dir, prompt)) = fixture(case) else { return };
        let new = || LoadOptions::new().with_kv_dtype(dtype).with_threads(1);
        let plain = load(&dir, new().with_prefix_cache(false));
        let cached = load(&dir, new().with_threads(2));
        let computed = |model: &dyn TextModel| model.metrics().prompt_tokens;
        let expected = generate(&*plain, &prompt);
        assert_eq!(generate(&*cached, &prompt), expected, "{case} {dtype}");
        assert_eq!(cached.metrics().cached_prompt_tokens, 0);
        assert_eq!(generate(&*cached, &prompt), expected, "{case} {dtype}: cached");
        assert_eq!(cached.metrics().cached_prompt_tokens as usize, prompt.len() - 1);

        for at in [1, 15, 16, 17, prompt.len() - 1, prompt.len()] {
            let (begin, rest) = prompt.split_at(at);
            let taken = plain.as_state().unwrap().snapshot(begin.to_vec().into()).unwrap();
            assert_eq!(taken.ids(), begin);
            let before = computed(&*plain);
            for fork in 0..2 {
                let stream = plain.as_state().unwrap().resume(&*taken, rest, options()).unwrap();
                assert!(read(stream) == expected, "{case} {dtype}: {at} of the prompt, {fork}");
            }
            let spared = 2 * prompt.len() as u64 - (computed(&*plain) - before);
            // The last token of a prompt is computed for its logits. A prefix
            // with other frequencies than the whole is of no use.
            let most = 2 * begin.len().min(prompt.len() - 1) as u64;
            assert!(spared == most || (case == "phi3-longrope" && spared == 0), "{spared}");

            let path = folder.path().join("prefix.kv");
            taken.save(&path).unwrap();
            let restored = load(&dir, new().with_threads(2));
            let state = restored.as_state().unwrap();
            let read_back = state.load(&path).unwrap();
            assert_eq!(read_back.ids(), begin);
            let stream = state.resume(&*read_back, rest, options()).unwrap();
            assert!(read(stream) == expected, "{case} {dtype}: {at} from a file");
            // Then it is in the prefix cache, as if it had been computed there.
            assert_eq!(generate(&*restored, &prompt), expected);
        }

        // A fork takes another way.
        let other: Vec<u32> = [&prompt[..prompt.len() - 2], &[1, 2, 3]].concat();
        let taken = cached.as_state().unwrap();
        let taken = taken.snapshot(prompt[..prompt.len() - 2].to_vec().into()).unwrap();
        let stream = cached.as_state().unwrap().resume(&*taken, &[1, 2, 3], options()).unwrap();
        assert_eq!(read(stream), generate(&*plain, &other), "{case} {dtype}");
    }
}

#[test]
fn a_running_text_goes_on_from_a_file() {
    let Some((dir, mut text)) = fixture("qwen3") else { return };
    let model = load(&dir, LoadOptions::new());
    let (all, _) = read(model.generate(text.clone().into(), options()).unwrap());
    text.extend(&all[..3]);
    let expected = generate(&*model, &text);
    assert_eq!(expected.0[..3], all[3..]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.kv");
    model.as_state().unwrap().snapshot(text.into()).unwrap().save(&path).unwrap();
    drop(model);
    let later = load(&dir, LoadOptions::new());
    let state = later.as_state().unwrap();
    let taken = state.load(&path).unwrap();
    assert_eq!(read(state.resume(&*taken, &[], options()).unwrap()), expected);
}

#[test]
fn another_model_is_refused_by_what_differs() {
    let Some((dir, prompt)) = fixture("qwen3") else { return };
    let Some((moe, _)) = fixture("qwen3moe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.kv");
    let model = load(&dir, LoadOptions::new());
    let taken = model.as_state().unwrap().snapshot(prompt.into()).unwrap();
    taken.save(&path).unwrap();

    // The same model with one weight changed: the end of the last norm.
    let edited = folder.path().join("edited");
    std::fs::create_dir(&edited).unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), edited.join(entry.file_name())).unwrap();
    }
    let weights = edited.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = header["model.norm.weight"]["data_offsets"][1].as_u64().unwrap() as usize;
    bytes[8 + length + end - 1] ^= 1;
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, bytes).unwrap();

    for (field, other) in [
        ("architecture", load(&moe, LoadOptions::new())),
        ("model", load(&edited, LoadOptions::new())),
        ("model", load(&dir, LoadOptions::new().with_quantize(QuantizeType::Q8_0))),
        ("kv_format", load(&dir, LoadOptions::new().with_kv_dtype(KvDtype::F16))),
        ("kv_format", load(&dir, LoadOptions::new().with_kv_dtype(KvDtype::Q8_0))),
        ("positions", load(&dir, LoadOptions::new().with_context_len(4))),
    ] {
        let state = other.as_state().unwrap();
        let error = state.load(&path).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(field), "{field}: {error}");
        let error = state.resume(&*taken, &[], options()).map(drop).unwrap_err();
        assert!(error.to_string().contains(field) || field == "positions", "{field}: {error}");
    }
    // Other blocks and threads make no other model.
    let same = load(&dir, LoadOptions::new().with_threads(1).with_parallel_slots(3));
    assert!(same.as_state().unwrap().load(&path).is_ok());
}
