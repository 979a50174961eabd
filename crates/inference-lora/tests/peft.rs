//! PEFT's files: written and read back, and every way in which they can be
//! wrong.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use candle_core::DType;
use common::*;
use inference_core::{ErrorKind, LoraConfig};
use inference_lora::{
    AdapterFiles, AdapterFormat, AdapterWeights, PeftConfig, ReadOptions, peft_files, save_peft,
};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

#[test]
fn what_is_saved_is_read() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    assert_same(&read(folder.path()).unwrap().weights, &weights());
    for part in ["adapter_config.json", "adapter_model.safetensors"] {
        let files = AdapterFiles::open(&folder.path().join(part)).unwrap();
        assert_eq!(files.format(), AdapterFormat::Peft);
        assert_eq!(files.tensors().unwrap().len(), 4);
    }
}

#[test]
fn a_trained_adapters_description_is_read_back() {
    let lora = LoraConfig::new().with_rank(4).with_alpha(6.5).with_rslora(true);
    let config = PeftConfig::new(&lora).unwrap().with_base_model("org/base");
    let read = PeftConfig::from_json("f", config.to_json().as_bytes()).unwrap();
    assert_eq!(read.base_model.as_deref(), Some("org/base"));
    assert_eq!(read.scaling_of("model.layers.0.self_attn.v_proj").unwrap(), 3.25);
    assert!(PeftConfig::new(&LoraConfig::new().with_rank(0)).is_err());
}

/// Everything that an adapter can have, at once.
#[test]
fn magnitudes_biases_whole_weights_and_embeddings_survive() {
    let config = peft_config(json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 6,
        "target_modules": ["q_proj", "v_proj"], "use_dora": true, "lora_bias": true,
        "bias": "all", "modules_to_save": ["lm_head", "input_layernorm"],
        "rank_pattern": {"v_proj": 1}, "alpha_pattern": {r"layers\.1.*q_proj": 4},
    }));
    let mut weights = AdapterWeights::default();
    for layer in 0..2 {
        for (name, out, rank) in [("q_proj", HIDDEN, 2), ("v_proj", KV, 1)] {
            let name = format!("layers.{layer}.self_attn.{name}");
            let scaling = match (layer, rank) {
                (1, 2) => 2.0,
                (_, 1) => 6.0,
                _ => 3.0,
            };
            let delta = delta(layer * 10 + rank, &name, rank, scaling)
                .with_magnitude(tensor(layer, &[out]))
                .with_bias(tensor(layer + 5, &[out]));
            weights.modules.insert(name, delta);
        }
        let norm = format!("layers.{layer}.input_layernorm");
        weights.weights.insert(norm, tensor(layer + 40, &[HIDDEN]));
        weights.biases.insert(format!("layers.{layer}.self_attn.v_proj"), tensor(layer, &[KV]));
    }
    weights.weights.insert("lm_head".to_owned(), tensor(50, &[VOCAB, HIDDEN]));
    let folder = tempfile::tempdir().unwrap();
    save_peft(folder.path(), &config, &weights, &table()).unwrap();
    assert_same(&read(folder.path()).unwrap().weights, &weights);

    let config = peft_config(json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["embed_tokens"],
    }));
    let delta = delta(60, "embed_tokens", 2, 3.0);
    let weights = AdapterWeights::new([("embed_tokens".to_owned(), delta)].into());
    save_peft(folder.path(), &config, &weights, &table()).unwrap();
    assert_same(&read(folder.path()).unwrap().weights, &weights);
    // PEFT's own names and order for embeddings.
    let files = AdapterFiles::open(folder.path()).unwrap();
    let shapes: Vec<_> = files.tensors().unwrap().into_iter().map(|t| (t.name, t.shape)).collect();
    let name = |end: &str| format!("base_model.model.model.embed_tokens.lora_embedding_{end}");
    assert_eq!(shapes, [(name("A"), vec![2, VOCAB]), (name("B"), vec![HIDDEN, 2])]);
}

#[test]
fn what_does_not_fit_its_description_is_not_saved() {
    let table = table();
    let try_save = |change: Value, weights: &AdapterWeights| {
        let mut config = fields();
        for (name, value) in change.as_object().unwrap() {
            config[name] = value.clone();
        }
        peft_files(&peft_config(config), weights, &table).map(|_| ()).map_err(|e| e.to_string())
    };
    try_save(json!({}), &weights()).unwrap();
    for (change, named) in [
        (json!({"r": 3}), "rank"),
        (json!({"lora_alpha": 3}), "scaling"),
        (json!({"target_modules": ["v_proj"]}), "target_modules"),
        (json!({"use_dora": true}), "use_dora"),
        (json!({"lora_bias": true}), "lora_bias"),
    ] {
        let error = try_save(change, &weights()).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    let mut other = weights();
    other.weights.insert("lm_head".to_owned(), tensor(0, &[VOCAB, HIDDEN]));
    assert!(try_save(json!({}), &other).unwrap_err().contains("modules_to_save"));
    let mut other = weights();
    other.biases.insert(V0.to_owned(), tensor(0, &[KV]));
    assert!(try_save(json!({}), &other).unwrap_err().contains("bias"));
}

/// A field with its value, and what the error names beside it.
fn refused_fields() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("peft_type", json!("LOHA"), "LOHA"),
        ("peft_type", json!(3), "3"),
        ("r", json!(0), "at least 1"),
        ("r", json!("8"), "integer"),
        ("r", json!(-1), "integer"),
        ("lora_alpha", Value::Null, "number"),
        ("lora_alpha", json!("x"), "number"),
        ("use_rslora", json!("yes"), "true or false"),
        ("bias", json!("some"), "lora_only"),
        ("init_lora_weights", json!("pissa"), "pissa"),
        ("init_lora_weights", json!("pissa_niter_4"), "pissa_niter_4"),
        ("init_lora_weights", json!("olora"), "olora"),
        ("init_lora_weights", json!("loftq"), "loftq"),
        ("init_lora_weights", json!("corda"), "corda"),
        ("init_lora_weights", json!("lora_ga"), "lora_ga"),
        ("fan_in_fan_out", json!(true), "true"),
        ("trainable_token_indices", json!([1, 2]), "[1,2]"),
        ("target_parameters", json!(["experts.gate_up_proj"]), "experts"),
        ("layer_replication", json!([[0, 1]]), "[[0,1]]"),
        ("alora_invocation_tokens", json!([5]), "[5]"),
        ("use_qalora", json!(true), "true"),
        ("megatron_config", json!({"a": 1}), "null or false"),
        ("arrow_config", json!({"top_k": 1}), "null or false"),
        ("a_field_of_the_future", json!("on"), "on"),
        ("rank_pattern", json!({"q_proj": 0}), "at least 1"),
        ("rank_pattern", json!({"q_proj": 1.5}), "at least 1"),
        ("rank_pattern", json!({"(": 2}), "regular expression"),
        ("alpha_pattern", json!({"q_proj": "x"}), "numbers"),
        ("target_modules", json!("("), "regular expression"),
        ("target_modules", json!([1]), "texts"),
        ("exclude_modules", json!(7), "expression"),
        ("layers_to_transform", json!([-1]), "number"),
        ("modules_to_save", json!("lm_head"), "texts"),
        ("modules_to_save", json!(["score"]), "score"),
        // Promises that the file does not keep.
        ("target_modules", json!(["q_proj", "v_proj"]), "v_proj"),
        ("target_modules", json!("all-linear"), "v_proj"),
        ("target_modules", json!(r".*\.(q|v)_proj"), "v_proj"),
        ("bias", json!("all"), "v_proj"),
        ("use_dora", json!(true), "q_proj"),
        ("lora_bias", json!(true), "q_proj"),
        ("modules_to_save", json!(["lm_head"]), "lm_head"),
    ]
}

#[test]
fn fields_are_refused_by_name() {
    for (field, value, named) in refused_fields() {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        set_field(folder.path(), field, value.clone());
        let error = failure(folder.path());
        let has = |text: &str| error.contains(text);
        assert!(has(field) && has(named) && has("adapter_config.json"), "{value}: {error}");
    }
}

#[test]
fn fields_without_effect_are_accepted() {
    for (field, value) in [
        ("lora_dropout", json!(0.3)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!(false)),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("a_field_of_the_future", json!(false)),
        ("another", json!({})),
        ("exclude_modules", json!(["v_proj"])),
        ("exclude_modules", json!(".*v_proj")),
        ("target_modules", json!(".*q_proj")),
        ("target_modules", Value::Null),
        ("layers_to_transform", json!([0, 1])),
    ] {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        set_field(folder.path(), field, value);
        assert_same(&read(folder.path()).unwrap().weights, &weights());
    }
}

/// One layer, however it is said.
#[test]
fn layers_and_exclusions_limit_the_promise() {
    for (field, value) in [
        ("layers_to_transform", json!([1])),
        ("layers_to_transform", json!(1)),
        ("exclude_modules", json!(["layers.0.self_attn.q_proj"])),
        ("exclude_modules", json!(r".*layers\.0\..*")),
        ("target_modules", json!(["model.layers.1.self_attn.q_proj"])),
    ] {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        set_field(folder.path(), field, value.clone());
        edit_tensors(folder.path(), |tensors| {
            tensors.retain(|(name, _)| name.contains("layers.1."));
        });
        let found = read(folder.path()).unwrap().weights;
        assert_eq!(found.modules.keys().collect::<Vec<_>>(), [Q1], "{value}");
    }
}

#[test]
fn tensors_are_refused_by_name() {
    type Edit = fn(&mut Vec<(String, Entry)>);
    let cases: [(Edit, &[&str]); 10] = [
        (|t| drop(t.remove(1)), &["lora_A", "factor B", "nothing"]),
        (|t| drop(t.remove(0)), &["lora_B", "factor A", "nothing"]),
        (
            |t| t[0].0 = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight".into(),
            &["layers.9", "none of that name", "q_proj, v_proj"],
        ),
        (|t| t[0].0 = "x.lora_A.weight".into(), &["`x.lora_A.weight`"]),
        (|t| t[0].1 = Entry::new(&tensor(0, &[3, HIDDEN])), &["[2, 8]", "[3, 8]", "lora_A"]),
        (|t| t[1].1 = Entry::new(&tensor(0, &[16, 2])), &["[8, 2]", "[16, 2]", "lora_B"]),
        (|t| t[0].1 = Entry::new(&tensor(0, &[16])), &["[16]", "lora_A"]),
        (|t| t[0].1.2[..4].copy_from_slice(&f32::NAN.to_le_bytes()), &["NaN", "element 0"]),
        (
            |t| t[1].1.2[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes()),
            &["element 2", "finite"],
        ),
        (|t| t[0].1 = Entry(Dtype::I8, vec![2, HIDDEN], vec![0; 16]), &["I8", "F16"]),
    ];
    for (edit, named) in cases {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        edit_tensors(folder.path(), edit);
        let error = failure(folder.path());
        for name in named.iter().chain(&["adapter_model.safetensors"]) {
            assert!(error.contains(name), "{name} in {error}");
        }
    }
}

/// Whatever the configuration switches off may not be in the file.
#[test]
fn tensors_that_nothing_explains_are_refused() {
    for (name, shape, field) in [
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", [HIDDEN], "use_dora"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", [HIDDEN], "lora_bias"),
        ("model.layers.0.self_attn.v_proj.bias", [KV], "bias"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        let name = format!("base_model.model.{name}");
        edit_tensors(folder.path(), |t| t.push((name.clone(), Entry::new(&tensor(0, &shape)))));
        let error = failure(folder.path());
        assert!(error.contains(field) && error.contains(&name), "{error}");
    }
}

#[test]
fn a_bias_of_a_module_without_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    set_field(folder.path(), "bias", json!("lora_only"));
    let name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias".to_owned();
    edit_tensors(folder.path(), |t| t.push((name.clone(), Entry::new(&tensor(0, &[HIDDEN])))));
    let error = failure(folder.path());
    assert!(error.contains("no bias") && error.contains(&name), "{error}");
}

#[test]
fn the_lenient_mode_lists_what_does_not_match() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    set_field(folder.path(), "target_modules", json!(["q_proj", "v_proj"]));
    edit_tensors(folder.path(), |t| t.push(("other".to_owned(), Entry::new(&tensor(0, &[2])))));
    let files = AdapterFiles::open(folder.path()).unwrap();
    let read = files.read(&table(), ReadOptions::new().with_lenient(true)).unwrap();
    assert_same(&read.weights, &weights());
    assert_eq!(read.unmatched, ["other"]);
    assert_eq!(read.missing, [V0, "layers.1.self_attn.v_proj"]);
    // An adapter of another model altogether stays an error.
    edit_tensors(folder.path(), |t| t.retain(|(name, _)| name == "other"));
    assert!(files.read(&table(), ReadOptions::new().with_lenient(true)).is_err());
}

#[test]
fn factors_of_two_types_are_widened() {
    let folder = tempfile::tempdir().unwrap();
    let mut half = weights();
    for delta in half.modules.values_mut() {
        delta.a = delta.a.to_dtype(DType::BF16).unwrap();
    }
    save_peft(folder.path(), &peft_config(fields()), &half, &table()).unwrap();
    let found = read(folder.path()).unwrap().weights;
    assert_eq!(found.modules[Q0].a.dtype(), DType::F32);
    assert_eq!(numbers(&found.modules[Q0].a), numbers(&half.modules[Q0].a));
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_eq!(AdapterFiles::open(&folder.join("none")).unwrap_err().kind(), ErrorKind::Io);
    assert!(failure(folder).contains("adapter_config.json"));
    saved(folder);
    let weights = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    for cut in [0, 7, 8, 60, weights.len() - 1] {
        std::fs::write(folder.join("adapter_model.safetensors"), &weights[..cut]).unwrap();
        assert!(failure(folder).contains("adapter_model.safetensors"), "{cut}");
    }
    for (json, named) in [("", "valid JSON"), ("[]", "an object"), ("{\"r\": 1}", "peft_type")] {
        std::fs::write(folder.join("adapter_config.json"), json).unwrap();
        let error = failure(folder);
        assert!(error.contains(named) || error.contains("object"), "{error}");
    }
}

#[test]
fn pickled_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    let from = folder.path().join("adapter_model.safetensors");
    std::fs::rename(from, folder.path().join("adapter_model.bin")).unwrap();
    let error = failure(folder.path());
    assert!(error.contains("adapter_model.bin") && error.contains("safetensors"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever one byte of a file becomes, reading ends in an adapter or in
    /// an error that names a file.
    #[test]
    fn a_changed_byte_is_no_panic(at in 0.0_f64..1.0, byte: u8, in_config: bool) {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        let name = if in_config { "adapter_config.json" } else { "adapter_model.safetensors" };
        let path = folder.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let index = (at * bytes.len() as f64) as usize;
        bytes[index] = byte;
        std::fs::write(path, bytes).unwrap();
        if let Err(error) = read(folder.path()) {
            let error = error.to_string();
            prop_assert!(error.contains("adapter_") || error.contains("layers."), "{}", error);
        }
    }

    /// Ranks, scalings and types of all kinds are read back.
    #[test]
    fn patterns_survive(
        ranks in proptest::collection::vec(1_usize..5, 2),
        alpha in 1_u32..40,
        rslora: bool,
        half: bool,
    ) {
        let mut config = fields();
        config["r"] = json!(ranks[0]);
        config["lora_alpha"] = json!(alpha);
        config["use_rslora"] = json!(rslora);
        config["rank_pattern"] = json!({r"layers\.1\.self_attn\.q_proj": ranks[1]});
        let mut weights = AdapterWeights::default();
        for (name, rank) in [Q0, Q1].into_iter().zip(&ranks) {
            let divisor = if rslora { (*rank as f64).sqrt() } else { *rank as f64 };
            let mut delta = delta(3, name, *rank, (f64::from(alpha) / divisor) as f32);
            if half {
                delta.a = delta.a.to_dtype(DType::F16).unwrap();
                delta.b = delta.b.to_dtype(DType::F16).unwrap();
            }
            weights.modules.insert(name.to_owned(), delta);
        }
        let folder = tempfile::tempdir().unwrap();
        save_peft(folder.path(), &peft_config(config), &weights, &table()).unwrap();
        assert_same(&read(folder.path()).unwrap().weights, &weights);
    }
}
