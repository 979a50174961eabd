//! `chat`, with a random model and a template of the test's own.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{fixture, inference, inference_reading};

const TEMPLATE: &str = "{% for m in messages %}{% if m.content == 'raise' %}\
    {{ raise_exception('no such talk') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}{{ style }}";

/// A model of the fixtures, with a chat template.
pub(crate) fn chat_model() -> Option<(TempDir, String)> {
    let (path, _) = fixture("tiny/llama-h256")?;
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(path.join(file), folder.path().join(file)).unwrap();
    }
    let mut config = inference_fixtures::json(&path.join("tokenizer_config.json"));
    config["chat_template"] = TEMPLATE.into();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let argument = folder.path().to_str().unwrap().to_owned();
    Some((folder, argument))
}

fn summaries(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter_map(|line| line.get("summary")).collect()
}

#[test]
fn a_reply_continues_the_rendered_messages() {
    let Some((folder, model)) = chat_model() else { return };
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Hello!" }
    ]);
    let file = folder.path().join("messages.json");
    fs::write(&file, messages.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let set = ["--set", "style=\"gently\""];

    let rendered = ["template", "--model", &model, file];
    let rendered = inference(rendered.iter().chain(&set)).text();
    let ids = inference(["tokenize", "--no-special", "--model", &model, &rendered]).text();
    let args = ["generate", "--model", &model, "--json", "-n", "12", "--ids", ids.trim()];
    let expected = inference(args).json_lines();
    let expected = &summaries(&expected)[0]["text"];

    let chat = ["chat", "--model", &model, "--json", "-n", "12"];
    let from_file = inference(chat.iter().chain(&["--messages", file]).chain(&set)).json_lines();
    assert_eq!(&summaries(&from_file)[0]["text"], expected);
    let spoken = ["--system", "Be brief.", "Hello!"];
    let spoken = inference(chat.iter().chain(&spoken).chain(&set)).json_lines();
    assert_eq!(&summaries(&spoken)[0]["text"], expected);
    let piped = [&chat[..], &["--system", "Be brief."], &set].concat();
    let piped = inference_reading(&piped, "Hello!\n").json_lines();
    assert_eq!(&summaries(&piped)[0]["text"], expected);
}

#[test]
fn history_is_kept_until_it_is_reset() {
    let Some((_folder, model)) = chat_model() else { return };
    let args = ["chat", "--interactive", "--json", "--model", &model, "-n", "6"];
    let lines = inference_reading(&args, "Hi\nHi\n\n/reset\nHi\n/exit\nnot read\n").json_lines();
    let replies = summaries(&lines);
    assert_eq!(replies.len(), 3);
    let length = |reply: &Value| reply["prompt_tokens"].as_u64().unwrap();
    assert!(length(replies[1]) > length(replies[0]));
    assert_eq!(length(replies[2]), length(replies[0]));
    assert_eq!(replies[2]["text"], replies[0]["text"]);
    // Messages in turn are the same conversation.
    let args = ["chat", "--json", "--model", &model, "-n", "6", "Hi", "Hi"];
    let turns = inference(args).json_lines();
    assert_eq!(summaries(&turns)[1]["text"], replies[1]["text"]);
    let args = ["chat", "--json", "--model", &model, "-n", "6", "--message=Hi", "--message=Hi"];
    let turns = inference(args).json_lines();
    assert_eq!(summaries(&turns)[1]["text"], replies[1]["text"]);
}

#[test]
fn what_was_said_before_is_not_computed_again() {
    let Some((_folder, model)) = chat_model() else { return };
    let args = ["chat", "--interactive", "--json", "--model", &model, "-n", "20"];
    let input = "Good morning, dear machine.\nAnd good night.\n";
    let cached = |options: &[&str]| {
        let lines = inference_reading(&[&args[..], options].concat(), input).json_lines();
        let cached = |reply: &&Value| reply["cached_prompt_tokens"].as_u64().unwrap();
        summaries(&lines).iter().map(cached).collect::<Vec<_>>()
    };
    let with = cached(&[]);
    assert!(with[0] == 0 && with[1] > 0, "{with:?}");
    assert_eq!(cached(&["--no-prefix-cache"]), [0, 0]);
}

#[test]
fn a_refused_message_leaves_the_conversation_as_it_was() {
    let Some((_folder, model)) = chat_model() else { return };
    let args = ["chat", "--interactive", "--json", "--model", &model, "-n", "6"];
    let run = inference_reading(&args, "raise\nHi\n");
    let error: Value = serde_json::from_str(run.stderr.lines().next().unwrap()).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("no such talk"), "{error}");
    let lines = run.json_lines();
    let alone = inference(["chat", "--json", "--model", &model, "-n", "6", "Hi"]).json_lines();
    assert_eq!(summaries(&lines)[0]["text"], summaries(&alone)[0]["text"]);
}

#[test]
fn bad_conversations_are_refused() {
    let Some((_folder, model)) = chat_model() else { return };
    let stderr = inference(["chat", "--model", &model, "raise"]).error(2);
    assert!(stderr.contains("no such talk"), "{stderr}");
    let robot = r#"[{"role":"robot","content":"x"}]"#;
    let args = ["chat", "--model", &model, "--messages", "-"];
    let stderr = inference_reading(&args, robot).error(2);
    assert!(stderr.contains("robot"), "{stderr}");
    let stderr = inference(["chat", "--model", &model]).error(2);
    assert!(stderr.contains("no message"), "{stderr}");
    let Some((_, mute)) = fixture("models/stories260k") else { return };
    let stderr = inference(["chat", "--model", &mute, "Hi"]).error(2);
    assert!(stderr.contains("chat"), "{stderr}");
}
