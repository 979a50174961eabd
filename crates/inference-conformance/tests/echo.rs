//! The example backend of the contract passes the suite.

use std::process::ExitCode;

use inference_conformance::{LoadRefusal, ModelUnderTest, Reference, SuiteOptions, run};
use inference_core::{ErrorKind, Message, Registry, doc};

fn main() -> ExitCode {
    let registry = Registry::new();
    doc::register(&registry);
    let ids = |text: &str| text.chars().map(u32::from).collect::<Vec<_>>();
    let long = "A text that is longer than the others, so that it takes a while. ".repeat(5);
    let model = ModelUnderTest::new("echo", "echo")
        .with_prompts(vec![ids("Hello"), ids("a"), ids(&long), ids("日本語")])
        .with_eos(vec![doc::EOS])
        .with_reference(Reference::new(ids("Hello"), ids("Hello")))
        .with_refusal(LoadRefusal::new(
            "another name",
            "no-echo",
            ErrorKind::UnsupportedModel,
            "no-echo",
        ))
        .with_refused_chat(Vec::<Message>::new())
        .with_text("Any text at all: 日本語, 👩\u{200d}👩\u{200d}👧, e\u{301}.")
        .with_encoding("Hi", vec![72, 105])
        .with_template(vec![Message::system("no"), Message::user("yes")], "yes");
    run(&registry, &SuiteOptions::new().with_model(model))
}
