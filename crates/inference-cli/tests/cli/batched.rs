//! `inference batched`.

use std::path::Path;

use crate::run::inference;

/// Two networks of two inputs, as `layer_0` `[2, 2, 1]`: sums, and differences.
fn write_weights(path: &Path) {
    use inference::batched::{Activation, Architecture, BatchedWeights};

    let architecture = Architecture::mlp(&[2, 1], Activation::None, Activation::None).unwrap();
    let mut weights = BatchedWeights::new(3, &architecture).unwrap();
    weights
        .load_weights(0, [("layer_0", [1.0, 1.0].as_slice()), ("layer_0.bias", &[0.0])])
        .unwrap();
    weights
        .load_weights(1, [("layer_0", [1.0, -1.0].as_slice()), ("layer_0.bias", &[0.5])])
        .unwrap();
    weights.save(path).unwrap();
}

#[test]
fn rows_are_evaluated_in_their_order() {
    let place = tempfile::tempdir().unwrap();
    let weights = place.path().join("w.safetensors");
    write_weights(&weights);
    let (csv, json) = (place.path().join("rows.csv"), place.path().join("rows.json"));
    std::fs::write(&csv, "1,2\n3,4\n5,6\n").unwrap();
    std::fs::write(&json, "[[3, 1]]").unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let run = |inputs: &Path, more: &[&str]| {
        let fixed = ["batched", "run", "--weights", &path(&weights), "--inputs", &path(inputs)]
            .map(str::to_owned);
        inference(fixed.into_iter().chain(more.iter().map(ToString::to_string)))
    };
    assert_eq!(run(&csv, &["--models", "1,0,1"]).text(), "-0.5\n7\n-0.5\n");
    let lines = run(&json, &["--models", "1", "--json", "--threads", "1"]).json_lines();
    assert_eq!(lines[0]["model"], 1);
    assert_eq!(lines[0]["outputs"], serde_json::json!([2.5]));
    // The third network has no weights.
    assert!(run(&csv, &[]).error(2).contains("model 2"));
    assert!(run(&json, &["--models", "3"]).error(2).contains("0 to 2"));
    assert!(run(&json, &["--models", "0,1"]).error(2).contains("2 rows"));
    std::fs::write(&csv, "1,2,3\n").unwrap();
    assert!(run(&csv, &[]).error(2).contains("row 0"));
    std::fs::write(&weights, "nothing").unwrap();
    assert!(run(&json, &[]).error(3).contains("w.safetensors"));
}

#[test]
fn a_benchmark_reports_what_it_measured() {
    let args = ["batched", "bench", "--models", "40", "--widths", "4,8,2", "--seconds", "0.01"];
    let report = inference(args.into_iter().chain(["--rows", "2", "--json"])).json();
    assert_eq!(report["models"], 40);
    // As many models as fill the lanes of this machine's kernel.
    let bytes = report["weight_bytes"].as_u64().unwrap();
    assert!((40 * 58 * 4..=48 * 58 * 4).contains(&bytes), "{bytes}");
    assert!(report["calls"].as_u64().unwrap() >= 1);
    assert!(report["models_per_sec"].as_f64().unwrap() > 0.0);
    assert!(inference(args).text().contains("GB/s"));
    for bad in [
        &["batched", "bench", "--widths", "4"][..],
        &["batched", "bench", "--models", "0"],
        &["batched", "bench", "--activation", "cubic"],
        &["batched", "bench", "--threads", "0"],
        &["batched"],
    ] {
        inference(bad).error(2);
    }
}
