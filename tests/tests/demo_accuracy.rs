//! The embedded model answers questions that its training never saw, by the
//! same path as any chat: template, tokenizer, scheduler, CPU kernels.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use inference::prelude::*;
use serde_json::Value;

/// Task, question, right answer.
fn held_out() -> Vec<(String, String, String)> {
    let questions: Vec<Value> = serde_json::from_str(inference_demo::HELD_OUT).unwrap();
    let field = |question: &Value, name: &str| question[name].as_str().unwrap().to_owned();
    questions.iter().map(|q| (field(q, "task"), field(q, "prompt"), field(q, "answer"))).collect()
}

#[test]
fn held_out_questions_are_answered() {
    let options = LoadOptions::new().with_backend("cpu");
    let model = inference::load(inference::demo(), &options).unwrap();
    let questions = held_out();
    let items = questions
        .iter()
        .map(|(_, prompt, _)| {
            let chat = ChatPrompt::new(vec![Message::user(prompt)]);
            BatchItem::new(chat).with_options(GenerateOptions::new().with_max_tokens(12))
        })
        .collect();
    let answers = model.batch_generate(items).unwrap().collect_all();

    let mut scores: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for ((task, prompt, expected), answer) in questions.iter().zip(answers) {
        let answer = answer.unwrap_or_else(|error| panic!("{prompt}: {error}"));
        let (right, total) = scores.entry(task).or_default();
        let stopped = matches!(answer.completion.finish_reason, FinishReason::StopToken(_));
        *right += usize::from(answer.text == *expected && stopped);
        *total += 1;
    }
    println!("{scores:?}");
    for task in ["sentiment", "sums"] {
        let (right, total) = scores[task];
        assert!(total >= 100, "{task}: only {total} questions");
        assert!(right * 10 >= total * 9, "{task}: {right} of {total}");
    }
    assert_eq!(scores.len(), 4, "{scores:?}");
}

#[test]
fn a_story_is_told_to_its_end() {
    let options = LoadOptions::new().with_backend("cpu");
    let model = inference::load(inference::demo(), &options).unwrap();
    let options = GenerateOptions::new().with_max_tokens(250);
    let mut stream = model.generate("Once upon a time".into(), options).unwrap();
    let text: String = stream.by_ref().map(|token| token.unwrap().text).collect();
    let completion = stream.finish().unwrap();
    assert!(
        matches!(completion.finish_reason, FinishReason::StopToken(_)),
        "{:?}: {text}",
        completion.finish_reason
    );
    assert!(text.split_whitespace().count() > 30, "{text}");
}

#[test]
fn roles_that_the_template_does_not_know_are_refused() {
    let options = LoadOptions::new().with_backend("cpu");
    let model = inference::load(inference::demo(), &options).unwrap();
    let chat = ChatPrompt::new(vec![Message::new(Role::Tool, "7")]);
    let error = model.chat(chat, GenerateOptions::new()).err().unwrap();
    assert!(error.to_string().contains("unknown role `tool`"), "{error}");
    let late = vec![Message::user("Hi"), Message::system("Be kind.")];
    let error = model.chat(ChatPrompt::new(late), GenerateOptions::new()).err().unwrap();
    assert!(error.to_string().contains("must be the first message"), "{error}");
}
