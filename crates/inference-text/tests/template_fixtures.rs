//! Chat templates of real models against what transformers renders.

use inference_fixtures::{dir, json};
use inference_text::{ChatTemplate, LocalTime, SpecialTokens, TemplateRequest};

#[test]
fn every_case_renders_as_in_transformers() {
    let Some(dir) = dir("templates") else { return };
    // The fixtures' `clock`.
    let clock = LocalTime::new(2025, 1, 15, 12, 30, 45).unwrap();
    let (mut templates, mut cases) = (0, 0);
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(name) = name.strip_suffix(".expected.json") else { continue };
        templates += 1;
        let expected = json(&path);
        assert_eq!(expected["clock"], "2025-01-15T12:30:45");
        let mut special = SpecialTokens::default();
        special.bos = expected["special_tokens"]["bos_token"].as_str().map(str::to_owned);
        special.eos = expected["special_tokens"]["eos_token"].as_str().map(str::to_owned);
        let file = format!("{name}.jinja");
        let source = std::fs::read_to_string(dir.join(&file)).unwrap();
        let template = ChatTemplate::new(&source, &file, special).unwrap().with_clock(clock);
        for case in expected["cases"].as_array().unwrap() {
            cases += 1;
            let mut request = TemplateRequest::new(case["messages"].clone())
                .with_generation_prompt(case["add_generation_prompt"].as_bool().unwrap());
            if !case["tools"].is_null() {
                request = request.with_tools(case["tools"].clone());
            }
            for (name, value) in case["kwargs"].as_object().unwrap() {
                request = request.with_variable(name, value.clone());
            }
            let rendered = template.render_json(&request);
            let name = format!("{name}: {}", case["name"]);
            match (&rendered, case["expected"].as_str(), case["error"].as_str()) {
                (Ok(text), Some(expected), None) if text == expected => {}
                (Err(error), None, Some(reference)) => {
                    if let Some(message) = reference.strip_prefix("TemplateError: ")
                        && !error.to_string().ends_with(message)
                    {
                        wrong.push(format!("{name}: {error} for {reference}"));
                    }
                }
                (Ok(text), Some(expected), _) => {
                    let same =
                        text.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
                    let from =
                        |text: &str| -> String { text.chars().skip(same).take(60).collect() };
                    let (found, wanted) = (from(text), from(expected));
                    wrong.push(format!("{name}: at {same} {found:?} for {wanted:?}"));
                }
                (Ok(_), None, reference) => {
                    wrong.push(format!("{name}: rendered despite {reference:?}"))
                }
                (Err(error), _, _) => wrong.push(format!("{name}: {error}")),
            }
        }
    }
    assert!(templates >= 14 && cases >= 500, "{templates} templates, {cases} cases");
    assert!(wrong.is_empty(), "{} of {cases} differ:\n{}", wrong.len(), wrong.join("\n"));
}
