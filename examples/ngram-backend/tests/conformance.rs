//! The backend behaves as every backend has to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::process::ExitCode;

use inference_conformance::{LoadRefusal, ModelUnderTest, SuiteOptions, run};
use inference_core::{ChatPrompt, ErrorKind, Message, Registry, TokenId};
use ngram_backend::{Counts, EOS};

fn main() -> ExitCode {
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str, text: &str| {
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Counts::of_text(text, 5).unwrap().save(&folder).unwrap();
        folder
    };
    let model = folder("tides", include_str!("../data/tides.txt"));
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
    let under_test = ModelUnderTest::new("tides", model)
        .with_prompts(vec![ids("The moon "), ids("A"), ids("海は月に"), ids("When the tide is ")])
        .with_eos(vec![EOS])
        .with_text("Any bytes: Ünïcödé, 👩\u{200d}🚀, \u{0}.")
        .with_encoding("Aé", ids("Aé"))
        .with_template(
            ChatPrompt::new(vec![Message::user("What pulls the water?")]),
            "Question: What pulls the water?\nAnswer:",
        )
        .with_refused_chat(vec![Message::new(inference_core::Role::Tool, "42")])
        .with_other(other)
        .with_refusal(LoadRefusal::new("damaged", damaged, ErrorKind::InvalidModel, "counts.json"));

    let registry = Registry::new();
    ngram_backend::register(&registry);
    run(&registry, &SuiteOptions::new().with_model(under_test))
}
