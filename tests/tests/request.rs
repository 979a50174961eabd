//! One request end to end, through the contract alone: a user's text in, a
//! real model's text out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use inference::prelude::*;
use inference_core::{
    BatchItem, CancelToken, ClassifyOptions, Error, FinishReason, LogitRows, Prompt, TokenEvent,
};

/// The real trained model of the reference data.
fn stories() -> Option<Arc<dyn TextModel>> {
    let dir = inference_fixtures::dir("models/stories260k")?;
    let options = LoadOptions::new().with_backend("cpu").with_parallel_slots(4);
    Some(inference::load(dir, &options).unwrap())
}

fn greedy(tokens: usize) -> GenerateOptions {
    GenerateOptions::new().with_max_tokens(tokens).with_temperature(0.0)
}

fn text(model: &dyn TextModel, prompt: &str, options: GenerateOptions) -> (String, FinishReason) {
    let (text, completion) =
        model.generate(prompt.into(), options).unwrap().collect_text().unwrap();
    (text, completion.finish_reason)
}

#[test]
fn a_stream_tells_how_it_ended() {
    let Some(model) = stories() else { return };
    let mut stream = model.generate("Once upon a time".into(), greedy(20)).unwrap();
    let tokens: Vec<_> = stream.by_ref().map(Result::unwrap).collect();
    let completion = stream.finish().unwrap();
    let prompt_tokens = model.encode("Once upon a time", true).unwrap().len();

    assert_eq!(tokens.len(), 20);
    assert_eq!(completion.finish_reason, FinishReason::Length);
    let metrics = &completion.metrics;
    assert_eq!((metrics.prompt_tokens, metrics.generated_tokens), (prompt_tokens, 20));
    assert!(metrics.prefill_tokens_per_sec() > 0.0 && metrics.decode_tokens_per_sec() > 0.0);
    assert!(metrics.ttft.unwrap() <= metrics.total_time);
    assert!(metrics.active_bytes > 0 && metrics.peak_bytes >= metrics.active_bytes);
}

#[test]
fn the_stream_of_texts_is_the_decoded_text() {
    let Some(model) = stories() else { return };
    let prompt = "Lily found a";
    let tokens: Vec<_> =
        model.generate(prompt.into(), greedy(48)).unwrap().map(Result::unwrap).collect();
    let ids: Vec<_> = tokens.iter().map(|token| token.id).collect();
    let streamed: String = tokens.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(streamed, model.decode(&ids, true).unwrap());
}

#[test]
fn stop_strings_and_stop_tokens_are_not_yielded() {
    let Some(model) = stories() else { return };
    let (whole, _) = text(&*model, "Once upon a time", greedy(40));
    // A string from the middle of a known continuation, spanning tokens.
    let middle: String = whole.chars().skip(25).take(9).collect();
    let (cut, reason) =
        text(&*model, "Once upon a time", greedy(40).with_stop_string(middle.clone()));
    assert_eq!(reason, FinishReason::StopString(middle.clone()));
    assert_eq!(cut, whole[..whole.find(&middle).unwrap()]);

    let tokens: Vec<_> = model
        .generate("Once upon a time".into(), greedy(40))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let stop = tokens[7].id;
    let first = tokens.iter().position(|token| token.id == stop).unwrap();
    let mut stream =
        model.generate("Once upon a time".into(), greedy(40).with_stop_token(stop)).unwrap();
    assert_eq!(stream.by_ref().map(Result::unwrap).count(), first);
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::StopToken(stop));
}

#[test]
fn a_batch_answers_as_its_items_alone() {
    let Some(model) = stories() else { return };
    let prompts = ["Once upon a time", "Tom had a red", "The", "One day, a little girl named Lily"];
    let options = |index: usize| {
        let options = GenerateOptions::new().with_max_tokens(10 + 7 * index).with_logits(true);
        options.with_temperature(0.9).with_top_p(0.9).with_seed(index as u64)
    };
    let alone: Vec<Vec<_>> = (0..prompts.len())
        .map(|i| {
            let stream = model.generate(prompts[i].into(), options(i)).unwrap();
            stream.map(Result::unwrap).collect()
        })
        .collect();
    let before = model.metrics().forward_count;
    let items =
        (0..prompts.len()).map(|i| BatchItem::new(prompts[i]).with_options(options(i))).collect();
    let together = model.batch_generate(items).unwrap().collect_all();
    let forwards = model.metrics().forward_count - before;
    let steps: usize = alone.iter().map(Vec::len).sum();
    assert!(forwards < steps as u64, "{forwards} forward passes for {steps} tokens");
    for (alone, together) in alone.iter().zip(together) {
        let together = together.unwrap().tokens;
        assert_eq!(alone.len(), together.len());
        for (a, b) in alone.iter().zip(&together) {
            let bits = |token: &Token| -> Vec<u32> {
                token.logits.as_ref().unwrap().iter().map(|v| v.to_bits()).collect()
            };
            assert_eq!((a.id, &a.text), (b.id, &b.text));
            assert!(bits(a) == bits(b), "logits differ in company");
        }
    }
}

#[test]
fn a_bad_item_leaves_its_neighbours_alone() {
    let Some(model) = stories() else { return };
    let items = vec![
        BatchItem::new("Once").with_options(greedy(5)),
        BatchItem::new("Once").with_options(greedy(5).with_top_p(7.0)),
        BatchItem::new(Prompt::Tokens(vec![1, 99_999])).with_options(greedy(5)),
        BatchItem::new("Once").with_options(greedy(5)),
    ];
    let results = model.batch_generate(items).unwrap().collect_all();
    let kinds: Vec<_> = results.iter().map(|r| r.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::InvalidOption), Some(ErrorKind::InvalidInput), None]);
    assert_eq!(results[0].as_ref().unwrap().text, results[3].as_ref().unwrap().text);
}

#[test]
fn classification_is_the_first_token_of_generation() {
    let Some(model) = stories() else { return };
    let prompts: Vec<_> = ["Once upon a", "Lily and her", "He was very"].map(Prompt::from).into();
    let options = ClassifyOptions::new().with_logits(true);
    let results = model.classify(prompts.clone(), &options).unwrap();
    for (prompt, result) in prompts.into_iter().zip(results) {
        let result = result.unwrap();
        let first =
            model.generate(prompt, greedy(1).with_logits(true)).unwrap().next().unwrap().unwrap();
        assert_eq!(result.token.id, first.id);
        assert_eq!(result.token.logits, first.logits);
    }
}

#[test]
fn prompt_logits_agree_with_generation() {
    let Some(model) = stories() else { return };
    let ids = model.encode("Once upon a time there was", true).unwrap();
    let scorer = model.as_scorer().unwrap();
    let all = scorer.prompt_logits(ids.clone().into(), LogitRows::All).unwrap();
    let last = scorer.prompt_logits(ids.clone().into(), LogitRows::Last).unwrap();
    assert_eq!(all.rows().len(), ids.len());
    assert_eq!(all.rows().last(), last.rows().next());
    let token =
        model.generate(ids.into(), greedy(1).with_logits(true)).unwrap().next().unwrap().unwrap();
    assert_eq!(token.logits.as_deref(), last.rows().next());
}

#[test]
fn streams_end_early_when_asked() {
    let Some(model) = stories() else { return };
    let long = || greedy(400).with_ignore_eos(true);

    let cancel = CancelToken::new();
    let mut stream = model.generate("Once".into(), long().with_cancel(cancel.clone())).unwrap();
    stream.next().unwrap().unwrap();
    cancel.cancel();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);

    let mut stream = model.generate("Once".into(), long()).unwrap();
    stream.next().unwrap().unwrap();
    stream.cancel();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);

    let past = long().with_deadline(Instant::now());
    let stream = model.generate("Once".into(), past).unwrap();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Deadline);

    let mut stream = model.generate("Once".into(), long()).unwrap();
    stream.next().unwrap().unwrap();
    drop(stream);
    let patience = Instant::now() + Duration::from_secs(10);
    while model.metrics().running > 0 || model.metrics().kv_blocks_used > 0 {
        assert!(Instant::now() < patience, "a dropped stream keeps its blocks");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_runs_before_the_stream_is_read() {
    let Some(model) = stories() else { return };
    let stream = model.generate("Once".into(), greedy(5)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(model.metrics().forward_count, 0);
    drop(stream);
}

#[test]
fn many_threads_share_one_model() {
    let Some(model) = stories() else { return };
    let expected = text(&*model, "Once upon a time", greedy(30));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(text(&*model, "Once upon a time", greedy(30)), expected));
        }
    });
}

#[test]
fn a_batch_is_read_as_it_comes() {
    let Some(model) = stories() else { return };
    let items = (1..=3).map(|n| BatchItem::new("Once").with_options(greedy(n * 4))).collect();
    let mut ended = [false; 3];
    let mut counts = [0; 3];
    for (index, event) in model.batch_generate(items).unwrap() {
        assert!(!ended[index], "an event after the end of item {index}");
        match event {
            TokenEvent::Token(_) => counts[index] += 1,
            TokenEvent::Finished(_) => ended[index] = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ended, counts), ([true; 3], [4, 8, 12]));
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let Some(model) = stories() else { return };
    let refused =
        |prompt: Prompt, options| model.generate(prompt, options).map(|_| ()).unwrap_err().kind();
    assert_eq!(refused(Prompt::Tokens(vec![]), greedy(5)), ErrorKind::InvalidInput);
    assert_eq!(refused(Prompt::Tokens(vec![u32::MAX]), greedy(5)), ErrorKind::InvalidInput);
    assert_eq!(refused("Once".into(), greedy(0)), ErrorKind::InvalidOption);
    assert_eq!(refused("Once".into(), greedy(5).with_adapter("x")), ErrorKind::InvalidInput);
    let context = model.info().context_len;
    let kind = refused(Prompt::Tokens(vec![3; context + 1]), greedy(5));
    assert!(matches!(kind, ErrorKind::Exhausted | ErrorKind::InvalidInput), "{kind:?}");

    model.close();
    model.close();
    assert_eq!(refused("Once".into(), greedy(5)), ErrorKind::Closed);
}

#[test]
fn attention_is_shown_per_layer_and_head() {
    let Some(model) = stories() else { return };
    let inspector = model.as_attention_inspector().unwrap();
    let snapshot = inspector.inspect_attention("Once upon a time".into()).unwrap();
    let info = model.info();
    assert_eq!(snapshot.layers.len(), info.num_layers);
    for layer in &snapshot.layers {
        let tokens = snapshot.ids.len();
        assert_eq!(layer.queries.len(), info.num_heads * tokens * info.head_dim);
        assert_eq!(layer.keys.len(), info.num_kv_heads * tokens * info.head_dim);
        assert_eq!(layer.head_keys(0).len(), tokens * info.head_dim);
        assert!(layer.queries.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn the_reference_text_is_reproduced() {
    let Some(model) = stories() else { return };
    let dir = inference_fixtures::dir("models/stories260k").unwrap();
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let cases = expected["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let ids = inference_fixtures::ids(&case["greedy_ids"]);
        let prompt = case["prompt"].as_str().unwrap();
        let options = greedy(ids.len()).with_ignore_eos(true);
        let tokens: Vec<_> =
            model.generate(prompt.into(), options).unwrap().map(Result::unwrap).collect();
        let found: Vec<_> = tokens.iter().map(|token| token.id).collect();
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(found, ids, "{prompt:?}");
        assert_eq!(text, case["greedy_text"].as_str().unwrap());
    }
}
