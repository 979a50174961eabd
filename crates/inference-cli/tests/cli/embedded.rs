//! The first commands of a new user, with the embedded model.

use crate::run::{inference, inference_reading};

#[test]
fn a_story_comes_out_without_any_option() {
    let text = inference(["generate", "Once upon a time"]).text();
    assert!(text.split_whitespace().count() > 20, "{text}");
    assert!(text.contains('.'), "{text}");
    let again = inference(["generate", "Once upon a time"]).text();
    assert_eq!(text, again);
}

#[test]
fn a_greeting_is_answered_in_a_chat() {
    let reply = inference(["chat", "Hello!"]).text();
    assert!(reply.contains("What can I do for you?"), "{reply}");
    let spoken = inference_reading(&["chat", "--interactive"], "Hello!\n/exit\n").text();
    assert_eq!(spoken, format!("{reply}\n"));
}

#[test]
fn sentiment_is_what_classify_asks_for() {
    let texts = ["What a lovely day.", "The soup was cold and awful."];
    for options in [&[][..], &["--chat", "--labels", "positive,negative"]] {
        let items = inference([&["classify", "--json"], options, &texts].concat()).json();
        assert_eq!(items[0]["label"], "positive", "{items}");
        assert_eq!(items[1]["label"], "negative", "{items}");
    }
}

#[test]
fn its_tokenizer_and_template_need_no_weights() {
    let ids = inference(["tokenize", "--no-special", "Once upon a time"]).text();
    assert_eq!(inference_reading(&["tokenize", "--decode"], &ids).text(), "Once upon a time");
    let messages = r#"[{"role":"user","content":"Hello!"}]"#;
    let open = inference_reading(&["template", "-"], messages).text();
    let closed = inference_reading(&["template", "--no-generation-prompt", "-"], messages).text();
    assert!(open.contains("Hello!") && open.starts_with(&closed) && open != closed, "{open}");
}
