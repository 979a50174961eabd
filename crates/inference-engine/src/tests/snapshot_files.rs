//! Snapshots as files.

use std::path::Path;

use inference_core::{ErrorKind, StateSnapshot};
use proptest::prelude::*;

use super::*;

/// A simulated model with an identity and, if named, a tokenizer.
fn named(identity: &str, spec: SimSpec, tokenizer: Option<Tokenizer>) -> Arc<EngineModel> {
    let mut parts = ModelParts::new(info()).with_identity(identity);
    parts.tokenizer = tokenizer.map(Arc::new);
    start(spec.with_vocab_size(260), parts, EngineOptions::default()).0
}

fn first() -> Arc<EngineModel> {
    named("first", SimSpec::default(), None)
}

fn take(model: &EngineModel, len: u32) -> Arc<dyn StateSnapshot> {
    let ids: Vec<TokenId> = (0..len).map(|i| i * 11 % 260).collect();
    model.as_state().unwrap().snapshot(ids.into()).unwrap()
}

fn load(model: &EngineModel, path: &Path) -> inference_core::Result<Arc<dyn StateSnapshot>> {
    model.as_state().unwrap().load(path)
}

#[test]
fn a_file_is_read_by_another_process_s_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.kv");
    let model = first();
    // The second takes the first one's place.
    for len in [3, 22] {
        let taken = take(&model, len);
        taken.save(&path).unwrap();
        // Blocks of another size, in a larger pool.
        let other = named("first", SimSpec::default().with_blocks(7, 100), None);
        let loaded = load(&other, &path).unwrap();
        assert_eq!(loaded.ids(), taken.ids());
        assert_eq!(loaded.bytes(), taken.bytes());
        let state = other.as_state().unwrap();
        let mut stream = state.resume(&*loaded, &[5, 6], greedy(5)).unwrap();
        let whole = [taken.ids(), &[5, 6]].concat();
        assert_eq!(ids(&read(&mut stream)), generate(&model, &whole, greedy(5)));
        // In memory as well, since the identity is the same.
        assert!(state.resume(&*taken, &[], greedy(1)).is_ok());
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside it");
}

#[test]
fn what_differs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.kv");
    let taken = take(&first(), 22);
    taken.save(&path).unwrap();
    let others = [
        ("model", named("second", SimSpec::default(), None)),
        ("tokenizer", named("first", SimSpec::default(), Some(byte_tokenizer()))),
        ("positions", named("first", SimSpec::default().with_context_len(21), None)),
    ];
    for (field, other) in others {
        let error = load(&other, &path).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let message = error.to_string();
        assert!(message.contains(field) && message.contains("text.kv"), "{message}");
        if field != "positions" {
            let state = other.as_state().unwrap();
            let error = state.resume(&*taken, &[], greedy(1)).map(drop).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
    let error = load(&first(), &folder.path().join("missing")).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let error = taken.save(&folder.path().join("no/such/folder")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let error = taken.save(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "a folder is not replaced");
}

#[test]
fn files_need_a_model_with_an_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.kv");
    let (anonymous, _) = model(SimSpec::default(), EngineOptions::default());
    let taken = anonymous.as_state().unwrap().snapshot(vec![1, 2].into()).unwrap();
    assert_eq!(taken.save(&path).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(!path.exists());
    let error = load(&anonymous, &path).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn every_byte_matters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.kv");
    let model = first();
    take(&model, 6).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = load(&model, &path).map(drop).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}");
    };
    for index in 0..good.len() {
        for bit in [1, 0x20, 0x80] {
            let mut bytes = good.clone();
            bytes[index] ^= bit;
            refused(&bytes, &format!("byte {index} with bit {bit} flipped"));
        }
        refused(&good[..index], &format!("cut to {index} bytes"));
    }
    refused(&[good.as_slice(), &[0]].concat(), "one byte more");
    // A header that says that it is as long as can be.
    refused(&[&u64::MAX.to_le_bytes(), &good[8..]].concat(), "an endless header");
    std::fs::write(&path, &good).unwrap();
    assert!(load(&model, &path).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Damage of several kinds at once, and headers that are valid JSON.
    #[test]
    fn damage_is_a_typed_error(
        len in 1u32..40,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        digits in prop::option::of((0usize..6, 0u64..u64::MAX)),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.kv");
        let model = first();
        take(&model, len).save(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut bytes = good.clone();
        if let Some((field, number)) = digits {
            let (header, data) = bytes[8..].split_at(u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize);
            let mut json: serde_json::Value = serde_json::from_slice(header).unwrap();
            match field {
                0 => json["kv"]["data_offsets"][1] = number.into(),
                1 => json["kv"]["shape"][0] = number.into(),
                2 => json["ids"]["shape"] = vec![number; 3].into(),
                3 => json["ids"]["data_offsets"] = vec![number, 0].into(),
                4 => json["__metadata__"]["positions"] = number.to_string().into(),
                _ => json["__metadata__"]["sharing_class"] = number.to_string().into(),
            }
            let header = json.to_string();
            bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        } else {
            for (index, value) in edits {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, &bytes).unwrap();
        match load(&model, &path) {
            Ok(loaded) => {
                // Padding of the header or nothing was changed.
                prop_assert_eq!(loaded.ids().len(), len as usize);
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", error),
        }
    }
}
