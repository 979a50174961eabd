//! How texts end, and that no token or character is lost on the way.

use inference_core::{Completion, FinishReason};
use proptest::prelude::*;

use super::*;

/// The model answers with `text`; what comes of it.
fn respond(text: &str, options: GenerateOptions) -> (Vec<Token>, Completion) {
    let (model, control) = text_model(EngineOptions::new());
    answer(&control, 1, text);
    let mut stream = model.generate(vec![65].into(), options).unwrap();
    let tokens = read(&mut stream);
    (tokens, stream.finish().unwrap())
}

fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.text.as_str()).collect()
}

#[test]
fn the_end_of_sequence_token_ends_the_text_and_is_not_yielded() {
    let (tokens, completion) = respond("abc", greedy(50));
    assert_eq!(ids(&tokens), [97, 98, 99]);
    assert_eq!(text(&tokens), "abc");
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
    assert_eq!(completion.metrics.generated_tokens, 4, "the stop token counts");
}

#[test]
fn an_immediate_end_is_an_empty_text() {
    let (tokens, completion) = respond("", greedy(50));
    assert!(tokens.is_empty());
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
}

#[test]
fn stop_tokens_add_to_the_models_own() {
    let (tokens, completion) = respond("abc", greedy(50).with_stop_token(98));
    assert_eq!(text(&tokens), "a");
    assert_eq!(completion.finish_reason, FinishReason::StopToken(98));
    let (tokens, _) = respond("abc", greedy(50).with_stop_token(120));
    assert_eq!(text(&tokens), "abc");
}

#[test]
fn ignored_end_of_sequence_tokens_are_ordinary() {
    let (tokens, completion) = respond("ab", greedy(4).with_ignore_eos(true));
    assert_eq!(ids(&tokens), [97, 98, EOS, EOS]);
    assert_eq!(text(&tokens), "ab");
    assert_eq!(completion.finish_reason, FinishReason::Length);
    let both = greedy(4).with_ignore_eos(true).with_stop_token(EOS);
    assert_eq!(respond("ab", both).1.finish_reason, FinishReason::StopToken(EOS));
}

#[test]
fn length_ends_the_text_after_exactly_so_many_tokens() {
    let (tokens, completion) = respond("abcdef", greedy(3));
    assert_eq!(text(&tokens), "abc");
    assert_eq!(completion.finish_reason, FinishReason::Length);
    assert_eq!(completion.metrics.generated_tokens, 3);
}

#[test]
fn output_is_clamped_to_the_context() {
    let spec = SimSpec::default().with_context_len(20);
    let (model, _) = model(spec, EngineOptions::new());
    let mut stream = model.generate(vec![1; 15].into(), greedy(100)).unwrap();
    assert_eq!(read(&mut stream).len(), 5);
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Length);
    // The pool is a limit like the context.
    let spec = SimSpec::default().with_blocks(4, 3);
    let (model, _) = super::model(spec, EngineOptions::new());
    assert_eq!(model.info().context_len, 12);
    assert_eq!(generate(&model, &[1; 5], greedy(100)).len(), 7);
}

#[test]
fn a_stop_string_that_spans_tokens_is_cut_out_whole() {
    let (tokens, completion) = respond("one END two", greedy(50).with_stop_string(" END"));
    assert_eq!(text(&tokens), "one");
    assert_eq!(completion.finish_reason, FinishReason::StopString(" END".into()));
    assert_eq!(ids(&tokens), b"one END".map(TokenId::from), "its tokens are yielded, without text");
}

#[test]
fn a_stop_string_that_does_not_come_loses_nothing() {
    let (tokens, completion) = respond("one EN", greedy(50).with_stop_string("END"));
    assert_eq!(text(&tokens), "one EN");
    assert_eq!(tokens.last().unwrap().text, "EN", "the last token carries the rest");
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
    let (tokens, completion) = respond("one EN", greedy(6).with_stop_string("END"));
    assert_eq!(text(&tokens), "one EN");
    assert_eq!(completion.finish_reason, FinishReason::Length);
}

#[test]
fn a_character_that_spans_tokens_comes_with_its_last() {
    let (tokens, _) = respond("aé€z", greedy(50));
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(texts, ["a", "", "é", "", "", "€", "z"]);
}

#[test]
fn a_character_that_is_cut_off_is_a_replacement_character() {
    let (tokens, _) = respond("a€", greedy(3));
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(texts, ["a", "", "\u{fffd}"]);
}

#[test]
fn settled_tokens_are_not_held_back() {
    let (model, control) = text_model(EngineOptions::new());
    answer(&control, 1, "hello");
    control.hold();
    let options = greedy(50).with_stop_string("END");
    let mut stream = model.generate(vec![65].into(), options).unwrap();
    stream.start();
    control.allow(1);
    assert_eq!(stream.next().unwrap().unwrap().text, "h");
    control.release();
}

#[test]
fn nothing_ends_the_text_before_min_tokens() {
    let (tokens, completion) = respond("abc", greedy(50).with_min_tokens(3));
    assert_eq!(tokens.len(), 3);
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
    // The model wants to end after two: the stop token is not sampled.
    let (tokens, completion) = respond("ab", greedy(50).with_min_tokens(5).with_stop_token(97));
    assert!(tokens.len() >= 5, "{tokens:?}");
    assert!(tokens[..5].iter().all(|token| token.id != EOS && token.id != 97));
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
    // Nor are stop strings looked for, nor is one that began before found.
    let (tokens, _) =
        respond("xx-ENDxx-END", greedy(50).with_min_tokens(4).with_stop_string("END"));
    assert_eq!(text(&tokens), "xx-");
    let (tokens, _) =
        respond("xx-ENDxx-END", greedy(50).with_min_tokens(5).with_stop_string("END"));
    assert_eq!(text(&tokens), "xx-ENDxx-");
}

#[test]
fn log_probabilities_and_logits_come_with_each_token() {
    let (model, _) = text_model(EngineOptions::new());
    let options = greedy(3).with_logprobs(4).with_logits(true).with_ignore_eos(true);
    let mut stream = model.generate(vec![65].into(), options).unwrap();
    let mut history = vec![65];
    for token in read(&mut stream) {
        let logits = SimRunner::expected_logits(260, &history);
        assert_eq!(token.logits.as_deref(), Some(logits.as_slice()));
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let logprob = f64::from(logits[token.id as usize]) - total.ln();
        assert!((f64::from(token.logprob.unwrap()) - logprob).abs() < 1e-5);
        assert_eq!(token.top_logprobs.len(), 4);
        assert_eq!(token.top_logprobs[0].id, token.id, "greedy takes the best");
        assert!(token.top_logprobs.is_sorted_by(|a, b| a.logprob >= b.logprob));
        history.push(token.id);
    }
}

#[test]
fn an_unset_seed_is_drawn_and_reproduces_the_text() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    let run = |options: GenerateOptions| {
        let mut stream = model.generate(vec![1].into(), options.with_temperature(2.0)).unwrap();
        (ids(&read(&mut stream)), stream.finish().unwrap().seed)
    };
    let (first, seed) = run(greedy(20));
    let (second, other_seed) = run(greedy(20));
    assert_ne!(seed, other_seed);
    assert_ne!(first, second);
    assert_eq!(run(greedy(20).with_seed(seed)), (first, seed));
}

#[test]
fn the_models_defaults_fill_what_a_request_leaves_unset() {
    let defaults = greedy(7).with_temperature(1.0).with_seed(5).with_top_k(20);
    let parts = ModelParts::new(info()).with_defaults(defaults.clone());
    let (model, _) = start(SimSpec::default(), parts, EngineOptions::new());
    let (plain, _) = super::model(SimSpec::default(), EngineOptions::new());
    let prompt = [3];
    let expected = generate(&plain, &prompt, defaults.clone());
    assert_eq!(generate(&model, &prompt, GenerateOptions::new()), expected);
    assert_eq!(expected.len(), 7);
    // Zero is set, and means greedy.
    let greedy = GenerateOptions::new().with_temperature(0.0);
    assert_eq!(
        generate(&model, &prompt, greedy.clone()),
        generate(&plain, &prompt, greedy.with_max_tokens(7))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the model says and wherever it is cut off, the texts of the
    /// tokens are the full decode up to the stop string, and each token comes
    /// once.
    #[test]
    fn texts_add_up(
        answer_text in "[abé€ ]{0,12}",
        stop in prop::option::of("[ab ]{1,3}"),
        max_tokens in 1_usize..20,
    ) {
        let mut options = greedy(max_tokens);
        options.stop_strings.extend(stop.clone());
        let (tokens, completion) = respond(&answer_text, options);
        let bytes = &answer_text.as_bytes()[..answer_text.len().min(max_tokens)];
        let full = byte_tokenizer()
            .decode(&bytes.iter().map(|b| TokenId::from(*b)).collect::<Vec<_>>(), true)
            .unwrap();
        let cut = stop.as_deref().and_then(|stop| full.find(stop));
        prop_assert_eq!(text(&tokens), &full[..cut.unwrap_or(full.len())]);
        let stopped = matches!(completion.finish_reason, FinishReason::StopString(_));
        prop_assert_eq!(stopped, cut.is_some());
        let expected: Vec<TokenId> = bytes.iter().map(|b| TokenId::from(*b)).collect();
        prop_assert!(expected.starts_with(&ids(&tokens)));
        if !stopped {
            prop_assert_eq!(tokens.len(), expected.len());
        }
    }
}
