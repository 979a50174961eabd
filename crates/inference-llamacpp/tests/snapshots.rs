//! Snapshots with every type of keys and values that llama.cpp stores.

#![cfg(feature = "llama-cpp")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use inference_core::{
    Backend, ErrorKind, GenerateOptions, KvDtype, LoadOptions, ModelSource, SequenceState,
    TextModel, Token, TokenId, TokenStream,
};
use inference_llamacpp::{Devices, LlamaCppBackend};

const DTYPES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Q8_0];
/// Its heads are of 32, a block of Q8_0.
const MODEL: &str = "gguf/qwen3/qwen3-f32.gguf";

fn load(path: &Path, dtype: KvDtype) -> Arc<dyn TextModel> {
    let options = LoadOptions::new().with_threads(1).with_kv_dtype(dtype);
    LlamaCppBackend::new(Devices::Default).load_model(&ModelSource::from(path), &options).unwrap()
}

fn greedy() -> GenerateOptions {
    GenerateOptions::new()
        .with_max_tokens(12)
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_logits(true)
}

fn state(model: &Arc<dyn TextModel>) -> &dyn SequenceState {
    model.as_state().unwrap()
}

fn prompt(first: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|i| (first + 29 * i) % 300).collect()
}

fn tokens(stream: TokenStream) -> Vec<Token> {
    stream.map(|token| token.unwrap()).collect()
}

/// The largest difference of the logits behind the prompt.
fn distance(a: &[Token], b: &[Token]) -> f32 {
    let logits = |tokens: &[Token]| tokens[0].logits.clone().unwrap();
    logits(a).iter().zip(logits(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_file_holds_what_the_context_held() {
    let Some(path) = inference_fixtures::dir(MODEL) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (begin, rest) = (prompt(7, 70), prompt(11, 5));
    for dtype in DTYPES {
        let model = load(&path, dtype);
        let file = folder.path().join(dtype.to_string());
        state(&model).snapshot(begin.clone().into()).unwrap().save(&file).unwrap();
        // The prefix cache has the beginning, as it was computed.
        let expected = tokens(
            model.generate([begin.clone(), rest.clone()].concat().into(), greedy()).unwrap(),
        );

        let again = load(&path, dtype);
        let snapshot = state(&again).load(&file).unwrap();
        let found = tokens(state(&again).resume(&*snapshot, &rest, greedy()).unwrap());
        let distance_of_same = distance(&found, &expected);
        assert!(distance_of_same < 1e-5, "{dtype}: logits differ by {distance_of_same}");
        let ids = |tokens: &[Token]| tokens.iter().map(|token| token.id).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&expected), "{dtype}");

        // The keys and values matter.
        let other = state(&again).snapshot(prompt(8, 70).into()).unwrap();
        let other = tokens(state(&again).resume(&*other, &rest, greedy()).unwrap());
        assert!(distance(&other, &expected) > 0.1, "{dtype}");
    }
}

#[test]
fn a_file_of_another_type_of_keys_and_values_is_refused() {
    let Some(path) = inference_fixtures::dir(MODEL) else { return };
    let folder = tempfile::tempdir().unwrap();
    let models = DTYPES.map(|dtype| load(&path, dtype));
    for (dtype, model) in DTYPES.iter().zip(&models) {
        let file = folder.path().join(dtype.to_string());
        state(model).snapshot(prompt(7, 9).into()).unwrap().save(&file).unwrap();
        for (other, model) in DTYPES.iter().zip(&models) {
            let read = state(model).load(&file);
            match read {
                Ok(_) => assert_eq!(dtype, other),
                Err(error) => {
                    assert_ne!(dtype, other);
                    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
                    assert!(error.to_string().contains(&dtype.to_string()), "{error}");
                }
            }
        }
    }
}
