//! `inference quantize`.

use crate::run::inference;

#[test]
fn a_folder_becomes_a_file_that_tells_the_same_story() {
    let Some(folder) = inference_fixtures::dir("models/stories260k") else { return };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("stories.gguf");
    let (folder, file) = (folder.to_str().unwrap(), file.to_str().unwrap());
    let run = inference(["quantize", folder, file, "--type", "f32", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(report["parameters"], 260_032);
    assert_eq!(report["bytes"], std::fs::metadata(file).unwrap().len());
    assert_eq!(report["types"][0]["type"], "F32");
    let story = |model: &str| {
        let args = ["generate", "--model", model, "--temperature", "0", "--max-tokens", "30"];
        inference(args.iter().copied().chain(["Once upon a time"])).text()
    };
    assert_eq!(story(file), story(folder));

    let error = inference(["quantize", folder, file, "--type", "Q8_0"]).error(2);
    assert!(error.contains("stories.gguf"), "{error}");
    let text = inference(["quantize", folder, file, "--type", "Q8_0", "--force"]).text();
    assert!(text.contains("Q8_0") && text.contains("bits per weight"), "{text}");
    let error = inference(["quantize", file, file, "--type", "Q4_K_M", "--force"]).error(2);
    assert!(error.contains("already"), "{error}");
}

#[test]
fn senseless_arguments_are_usage_errors() {
    for args in [
        &["quantize", "in", "out"][..],
        &["quantize", "in", "out", "--type", "Q99"],
        &["quantize", "in", "--type", "Q8_0"],
    ] {
        inference(args).error(2);
    }
}
