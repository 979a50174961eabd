//! What is refused is refused by the call, with names and numbers.

use inference_core::{Error, ErrorKind, Message, Prompt, TokenEvent};
use inference_text::{ChatTemplate, SpecialTokens};

use super::*;

#[track_caller]
fn refused(model: &EngineModel, prompt: impl Into<Prompt>, options: GenerateOptions) -> Error {
    model.generate(prompt.into(), options).map(|_| ()).unwrap_err()
}

#[test]
fn prompts_that_cannot_run() {
    let spec = SimSpec::default().with_vocab_size(260).with_context_len(16);
    let parts = ModelParts::new(info()).with_tokenizer(byte_tokenizer());
    let (model, control) = start(spec, parts, EngineOptions::new());
    let empty = refused(&model, Prompt::Tokens(Vec::new()), greedy(1));
    assert_eq!(empty.kind(), ErrorKind::InvalidInput);
    assert!(empty.to_string().contains("at least 1 token"), "{empty}");
    assert_eq!(refused(&model, "", greedy(1)).kind(), ErrorKind::InvalidInput);
    let outside = refused(&model, vec![5, 260], greedy(1));
    assert_eq!(outside.kind(), ErrorKind::InvalidInput);
    assert!(outside.to_string().contains("below 260, found 260"), "{outside}");
    let long = refused(&model, "sixteen letters.", greedy(1));
    assert_eq!(long.kind(), ErrorKind::Exhausted);
    assert!(long.to_string().contains("17 needed, 16 available"), "{long}");
    let chat = refused(&model, vec![Message::user("hi")], greedy(1));
    assert_eq!(chat.kind(), ErrorKind::Unsupported);
    assert!(chat.to_string().contains("chat template"), "{chat}");
    assert!(control.batches().is_empty());
}

#[test]
fn options_that_cannot_be_honoured() {
    let (model, _) = text_model(EngineOptions::new());
    let cases = [
        (greedy(0), ErrorKind::InvalidOption, "max_tokens"),
        (greedy(1).with_temperature(-1.0), ErrorKind::InvalidOption, "temperature"),
        (greedy(1).with_min_tokens(2), ErrorKind::InvalidOption, "min_tokens"),
        (GenerateOptions::new().with_min_tokens(300), ErrorKind::InvalidOption, "256"),
        (greedy(1).with_logit_bias(260, 1.0), ErrorKind::InvalidOption, "token 260"),
        (greedy(1).with_stop_token(1000), ErrorKind::InvalidOption, "token 1000"),
        (greedy(1).with_stop_string(""), ErrorKind::InvalidOption, "stop_strings"),
        (greedy(1).with_adapter("a"), ErrorKind::Unsupported, "adapter"),
    ];
    for (options, kind, part) in cases {
        let error = refused(&model, vec![1], options);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_model_without_a_tokenizer_works_on_ids_alone() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    let mut stream = model.generate(vec![1].into(), greedy(3).with_logprobs(1)).unwrap();
    assert!(read(&mut stream).iter().all(|token| token.text.is_empty()));
    assert_eq!(refused(&model, "text", greedy(1)).kind(), ErrorKind::Unsupported);
    let error = refused(&model, vec![1], greedy(1).with_stop_string("x"));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(model.encode("a", false).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(model.decode(&[1], false).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_chat_is_rendered_by_the_template() {
    let source = "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no bad words') }}\
                  {% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                  {% if add_generation_prompt %}[assistant]{% endif %}";
    let template =
        ChatTemplate::new(source, "chat_template.jinja", SpecialTokens::default()).unwrap();
    let parts = ModelParts::new(info()).with_tokenizer(byte_tokenizer()).with_template(template);
    let spec = SimSpec::default().with_vocab_size(260);
    let (model, control) = start(spec, parts, EngineOptions::new());
    assert!(model.info().has_chat_template);
    let chat = |text| vec![Message::user(text)].into();
    model.chat(chat("hi"), greedy(1)).unwrap().finish().unwrap();
    let expected = model.encode("[user]hi[assistant]", false).unwrap();
    assert_eq!(control.batches()[0].tokens, expected);
    let error = model.chat(chat("bad"), greedy(1)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("no bad words"), "{error}");
}

#[test]
fn a_bad_item_does_not_disturb_its_batch() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    let prompts = [vec![1], vec![], vec![2]];
    let items =
        prompts.map(|prompt| inference_core::BatchItem::new(prompt).with_options(greedy(3)));
    let events: Vec<_> = model.batch_generate(items.to_vec()).unwrap().collect();
    let ends = |index| {
        let ends = events.iter().filter(|(i, e)| *i == index && !matches!(e, TokenEvent::Token(_)));
        ends.count()
    };
    assert_eq!([ends(0), ends(1), ends(2)], [1, 1, 1]);
    assert!(events.iter().any(|(i, event)| *i == 1 && matches!(event, TokenEvent::Failed(_))));
    assert_eq!(events.len(), 3 + 3 + 3);
}
