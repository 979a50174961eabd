//! `template`, against the templates of well-known models.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Run, fixture, inference, inference_reading};

/// A folder with a template and no weights, and a file of messages.
struct Folder(TempDir);

impl Folder {
    fn new(template: &str, special_tokens: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = special_tokens.clone();
        config["chat_template"] = template.into();
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn run(&self, messages: &Value, more: &[String]) -> Run {
        let messages = self.file("messages.json", messages);
        let base = ["template", "--model", self.path(), &messages].map(str::to_owned);
        inference(base.iter().chain(more))
    }
}

/// A case's options.
fn options(folder: &Folder, case: &Value, clock: &str) -> Vec<String> {
    let mut options = vec!["--now".to_owned(), clock.to_owned()];
    if case["tools"].is_array() {
        options.extend(["--tools".to_owned(), folder.file("tools.json", &case["tools"])]);
    }
    if case["add_generation_prompt"] == false {
        options.push("--no-generation-prompt".to_owned());
    }
    for (key, value) in case["kwargs"].as_object().into_iter().flatten() {
        options.extend(["--set".to_owned(), format!("{key}={value}")]);
    }
    options
}

#[test]
fn rendered_texts_are_the_references() {
    let Some((dir, _)) = fixture("templates") else { return };
    let mut compared = 0;
    for path in templates(&dir) {
        let expected = inference_fixtures::json(&path);
        let template = dir.join(expected["template"].as_str().unwrap());
        let template = fs::read_to_string(template).unwrap();
        let folder = Folder::new(&template, &expected["special_tokens"]);
        let clock = expected["clock"].as_str().unwrap();
        for case in expected["cases"].as_array().unwrap().iter().step_by(7) {
            let run = folder.run(&case["messages"], &options(&folder, case, clock));
            let name = format!("{}: {}", path.display(), case["name"]);
            match case["expected"].as_str() {
                Some(text) => assert_eq!(run.text(), text, "{name}"),
                None => assert!(run.error(2).starts_with("error: "), "{name}"),
            }
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
}

fn templates(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.to_str().unwrap().ends_with(".expected.json")).collect();
    files.sort();
    files
}

const SIMPLE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";

#[test]
fn messages_may_come_from_standard_input() {
    let folder = Folder::new(SIMPLE, &json!({}));
    let messages = r#"[{"role":"user","content":"Hi"}]"#;
    let args = ["template", "--model", folder.path(), "-"];
    assert_eq!(inference_reading(&args, messages).text(), "<user>Hi\n<assistant>");
    let args = ["template", "--json", "--model", folder.path(), "-"];
    let json = inference_reading(&args, messages).json();
    assert_eq!(json, json!({ "text": "<user>Hi\n<assistant>" }));
}

#[test]
fn bad_messages_are_refused_by_name() {
    let folder = Folder::new(SIMPLE, &json!({}));
    for (messages, named) in [
        (json!([{ "role": "robot", "content": "x" }]), "robot"),
        (json!([{ "content": "x" }]), "role"),
        (json!([3]), "messages[0]"),
        (json!("hello"), "messages"),
    ] {
        let stderr = folder.run(&messages, &[]).error(2);
        assert!(stderr.contains(named), "{messages}: {stderr}");
    }
    let stderr = inference(["template", "--model", folder.path(), "/no/such.json"]).error(2);
    assert!(stderr.contains("/no/such.json"), "{stderr}");
}

#[test]
fn a_template_that_raises_is_told_in_its_own_words() {
    let folder = Folder::new("{{ raise_exception('only cats may speak') }}", &json!({}));
    let stderr = folder.run(&json!([{ "role": "user", "content": "x" }]), &[]).error(2);
    assert!(stderr.contains("only cats may speak"), "{stderr}");
}

#[test]
fn a_folder_without_a_template_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["template", "--model", folder.path().to_str().unwrap(), "-"];
    let stderr = inference_reading(&args, r#"[{"role":"user","content":"x"}]"#).error(3);
    assert!(stderr.contains("chat_template.jinja"), "{stderr}");
}

#[test]
fn a_gguf_file_has_its_template_with_it() {
    let Some((_, model)) = fixture("gguf-vocab/ggml-vocab-phi-3.gguf") else { return };
    let folder = Folder::new("", &json!({}));
    let messages = folder.file("chat.json", &json!([{ "role": "user", "content": "hi" }]));
    let text = inference(["template", "--model", &model, &messages]).text();
    assert_eq!(text.trim_end(), "<s><|user|>\nhi<|end|>\n<|assistant|>");
}
