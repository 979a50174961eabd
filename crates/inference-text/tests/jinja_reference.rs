//! Small templates against what Jinja2 makes of them, in an environment set up
//! as transformers sets up its own (`data/make_jinja_cases.py`).

use inference_text::{ChatTemplate, LocalTime, SpecialTokens, TemplateRequest};
use serde_json::{Value, json};

#[test]
fn templates_render_as_in_jinja2() {
    let data: Value = serde_json::from_str(include_str!("data/jinja_cases.json")).unwrap();
    let clock = LocalTime::new(2025, 1, 5, 9, 30, 45).unwrap();
    let mut request = TemplateRequest::new(json!([]));
    request.variables = data["variables"].as_object().unwrap().clone();
    let mut wrong = Vec::new();
    let cases = data["cases"].as_array().unwrap();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let rendered = ChatTemplate::new(source, "case", SpecialTokens::default())
            .and_then(|template| template.with_clock(clock).render_json(&request));
        match (rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(_), None) => {}
            (rendered, expected) => wrong.push(format!(
                "{source}\n  ours {}\n  ref  {}",
                rendered.map_or_else(|error| error.to_string(), |text| format!("{text:?}")),
                expected.map_or_else(|| case["error"].to_string(), |text| format!("{text:?}")),
            )),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
