//! The backend behaves as every backend has to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::process::ExitCode;

use inference_conformance::{LoadRefusal, ModelUnderTest, Reference, SuiteOptions, run};
use inference_core::{ChatPrompt, ErrorKind, Message, Registry, Role, TokenId};
use ngram_backend::{Counts, EOS};

const TIDES: &str = include_str!("../data/tides.txt");

fn main() -> ExitCode {
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str, text: &str| {
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Counts::of_text(text, 5).unwrap().save(&folder).unwrap();
        folder
    };
    let model = folder("tides", TIDES);
    let template = "{% for message in messages %}{% if message.role == 'tool' %}\
                    {{ raise_exception('no tools') }}{% endif %}\
                    {{ 'Question: ' if message.role == 'user' else 'Answer: ' }}\
                    {{ message.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}Answer:{% endif %}";
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    let other = folder("other", "abracadabra");
    let damaged = folder("damaged", "abracadabra");
    std::fs::write(damaged.join("counts.json"), "{").unwrap();

    let ids = |text: &str| -> Vec<TokenId> { text.bytes().map(TokenId::from).collect() };
    let mut under_test = ModelUnderTest::new("tides", model)
        .with_prompts(vec![ids("The moon "), ids("A"), ids("海は月に"), ids("When the tide is ")])
        .with_eos(vec![EOS])
        .with_text("Any bytes: Ünïcödé, 👩\u{200d}🚀, \u{0}.")
        .with_encoding("Aé", ids("Aé"))
        .with_template(
            ChatPrompt::new(vec![Message::user("What pulls the water?")]),
            "Question: What pulls the water?\nAnswer:",
        )
        .with_refused_chat(vec![Message::new(Role::Tool, "42")])
        .with_other(other)
        .with_refusal(LoadRefusal::new("damaged", damaged, ErrorKind::InvalidModel, "counts.json"));

    // What the definition says, token by token, without the engine.
    let counts = Counts::of_text(TIDES, 5).unwrap();
    for prompt in ["The moon pulls the ", "Where d"] {
        let (mut history, mut greedy) = (ids(prompt), Vec::new());
        let logits = counts.log_probabilities(&history);
        for _ in 0..16 {
            let row = counts.log_probabilities(&history);
            // The earlier of equals.
            let best = (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            greedy.push(best as TokenId);
            history.push(best as TokenId);
        }
        let reference = Reference::new(ids(prompt), greedy).with_last_logits(logits);
        under_test = under_test.with_reference(reference);
    }

    let registry = Registry::new();
    ngram_backend::register(&registry);
    run(&registry, &SuiteOptions::new().with_model(under_test))
}
