//! Chat templates: what they render, or an error, within a rendering's bounds
//! on steps and output.
//!
//! The input is a template, a zero byte, and JSON for its variables.

#![no_main]

use std::sync::LazyLock;

use inference_text::{ChatTemplate, SpecialTokens, TemplateRequest};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static MESSAGES: LazyLock<Value> = LazyLock::new(|| {
    json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_0001", "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "tool_call_id": "call_0001", "content": "{\"sky\": \"clear\"}"},
        {"role": "assistant", "content": "<think>It is.</think>Clear."},
        {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
    ])
});

fuzz_target!(|bytes: &[u8]| {
    const FILE: &str = "chat_template.jinja";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (source, variables) = text.split_once('\0').unwrap_or((text, ""));
    let special = SpecialTokens::default().with_bos("<s>").with_eos("</s>");
    let template = match ChatTemplate::new(source, FILE, special) {
        Ok(template) => template,
        Err(error) => {
            assert!(error.to_string().contains(FILE), "{error}");
            return;
        }
    };
    let mut request = TemplateRequest::new(MESSAGES.clone());
    if let Ok(Value::Object(variables)) = serde_json::from_str(variables) {
        for (name, value) in variables {
            request = request.with_variable(name, value);
        }
    }
    match template.render_json(&request) {
        Ok(text) => assert!(text.len() <= 64 << 20),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
