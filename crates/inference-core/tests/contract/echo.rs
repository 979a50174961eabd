//! The example backend honours or refuses every option.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use inference_core::doc::{CONTEXT_LEN, EOS, EchoBackend};
use inference_core::{
    Backend, BatchItem, CancelToken, ClassifyOptions, Error, ErrorKind, FinishReason,
    GenerateOptions, KvDtype, LoadOptions, Message, ModelSource, ProgressEvent, ProgressSink,
    Prompt, QuantizeType, TextModel,
};

fn model() -> Arc<dyn TextModel> {
    EchoBackend.load_model(&"echo".into(), &LoadOptions::new()).unwrap()
}

fn refusal(options: GenerateOptions) -> Error {
    model().generate("hi".into(), options).unwrap_err()
}

#[test]
fn it_gives_the_prompt_back() {
    let model = model();
    let options = GenerateOptions::new().with_seed(5);
    let (text, completion) =
        model.generate("a → 😀".into(), options).unwrap().collect_text().unwrap();
    assert_eq!(text, "a → 😀");
    assert_eq!(completion.finish_reason, FinishReason::StopToken(EOS));
    assert_eq!(completion.seed, 5);
    assert_eq!(completion.metrics.prompt_tokens, 5);
    assert_eq!(completion.metrics.generated_tokens, 6);
    assert!(completion.metrics.ttft.unwrap() <= completion.metrics.total_time);
    assert_eq!(completion.metrics.peak_bytes, 20);
}

#[test]
fn request_options_are_honoured() {
    let model = model();
    let read = |options: GenerateOptions| {
        let stream = model.generate("abcdef".into(), options).unwrap();
        let (text, completion) = stream.collect_text().unwrap();
        (text, completion.finish_reason)
    };
    let new = GenerateOptions::new;
    assert_eq!(read(new().with_max_tokens(2)), ("ab".to_owned(), FinishReason::Length));
    let stop = u32::from('d');
    let expected = ("abc".to_owned(), FinishReason::StopToken(stop));
    assert_eq!(read(new().with_stop_token(stop)), expected);
    let cancel = CancelToken::new();
    cancel.cancel();
    assert_eq!(read(new().with_cancel(cancel)), (String::new(), FinishReason::Cancelled));
    let past = Instant::now() - Duration::from_millis(1);
    assert_eq!(read(new().with_deadline(past)), (String::new(), FinishReason::Deadline));

    let stream = model.generate("xy".into(), new().with_logprobs(3).with_max_tokens(1)).unwrap();
    let token = stream.map(Result::unwrap).next().unwrap();
    assert_eq!(token.logprob, Some(0.99f32.ln()));
    let top: Vec<_> = token.top_logprobs.iter().map(|top| top.id).collect();
    assert_eq!(top, [u32::from('x'), 0, 1]);
    assert!(token.top_logprobs.is_sorted_by(|a, b| a.logprob >= b.logprob));
}

#[test]
fn request_options_that_it_lacks_are_refused_by_name() {
    let new = GenerateOptions::new;
    for (options, name) in [
        (new().with_temperature(0.5), "temperature"),
        (new().with_top_k(1), "top_k"),
        (new().with_top_p(0.5), "top_p"),
        (new().with_min_p(0.5), "min_p"),
        (new().with_typical_p(0.5), "typical_p"),
        (new().with_repeat_penalty(1.1), "repeat_penalty"),
        (new().with_frequency_penalty(1.0), "frequency_penalty"),
        (new().with_presence_penalty(1.0), "presence_penalty"),
        (new().with_penalty_window(1), "penalty_window"),
        (new().with_logit_bias(1, 1.0), "logit_bias"),
        (new().with_stop_string("x"), "stop_strings"),
        (new().with_min_tokens(1), "min_tokens"),
        (new().with_ignore_eos(true), "ignore_eos"),
        (new().with_logits(true), "logits"),
        (new().with_priority(1), "priority"),
        (new().with_adapter("a"), "adapter"),
    ] {
        let error = refusal(options);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), format!("the echo backend does not support {name}"));
    }
    assert_eq!(refusal(new().with_max_tokens(0)).kind(), ErrorKind::InvalidOption);
}

#[test]
fn load_options_are_honoured_or_refused_by_name() {
    let load = |options: LoadOptions| EchoBackend.load_model(&"echo".into(), &options);
    let new = LoadOptions::new;
    let accepted = new().with_backend("echo").with_gpu_layers(-1).with_threads(1);
    assert!(load(accepted).is_ok());
    for (options, name) in [
        (new().with_backend("cpu"), "backend"),
        (new().with_gpu_layers(0), "gpu_layers"),
        (new().with_parallel_slots(2), "parallel_slots"),
        (new().with_adapter_path("a"), "adapter_path"),
        (new().with_quantize(QuantizeType::Q8_0), "quantize"),
        (new().with_kv_dtype(KvDtype::F32), "kv_dtype"),
        (new().with_kv_budget(1), "kv_budget"),
        (new().with_step_token_budget(8), "step_token_budget"),
        (new().with_max_wait(Duration::from_millis(1)), "max_wait"),
        (new().with_max_queue(1), "max_queue"),
        (new().with_lag_timeout(Duration::from_secs(1)), "lag_timeout"),
        (new().with_prefix_cache(true), "prefix_cache"),
        (new().with_threads(2), "threads"),
        (new().with_affinity(vec![0]), "affinity"),
    ] {
        let error = load(options).err().expect(name);
        assert_eq!(error.to_string(), format!("the echo backend does not support {name}"));
    }
    let error = load(new().with_context_len(CONTEXT_LEN + 1)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let embedded = EchoBackend.load_model(&ModelSource::Embedded(&[]), &new()).err().unwrap();
    assert_eq!(embedded.kind(), ErrorKind::UnsupportedModel);

    let phases = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&phases);
    let progress = ProgressSink::new(move |event| seen.lock().unwrap().push(event.clone()));
    load(new().with_progress(progress)).unwrap();
    let phases = phases.lock().unwrap();
    assert!(matches!(phases[..], [ProgressEvent::Started { .. }, ProgressEvent::Finished { .. }]));
}

#[test]
fn the_context_is_a_limit() {
    let options = LoadOptions::new().with_context_len(4);
    let model = EchoBackend.load_model(&"echo".into(), &options).unwrap();
    let generate = |prompt: &str| model.generate(prompt.into(), GenerateOptions::new());
    let error = generate("abcde").err().unwrap();
    assert_eq!(error.to_string(), "context (tokens) exhausted: 5 needed, 4 available");
    let (text, completion) = generate("abc").unwrap().collect_text().unwrap();
    assert_eq!((text.as_str(), completion.finish_reason), ("a", FinishReason::Length));
    let (text, _) = generate("abcd").unwrap().collect_text().unwrap();
    assert_eq!(text, "");
}

#[test]
fn bad_prompts_are_refused() {
    let model = model();
    for (prompt, found) in [
        (Prompt::from(""), "none"),
        (Prompt::Tokens(vec![]), "none"),
        (Prompt::Tokens(vec![1, 0xD800]), "55296"),
        (Prompt::Tokens(vec![0x11_0000]), "1114112"),
        (Prompt::from(Vec::<Message>::new()), "none"),
        (vec![Message::without_content(inference_core::Role::User)].into(), "null"),
    ] {
        let error = model.generate(prompt, GenerateOptions::new()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(found), "{error}");
    }
    assert_eq!(model.decode(&[0xD800], false).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn encode_and_decode_are_inverse() {
    let model = model();
    let text = "né 😀\u{0}x";
    let ids = model.encode(text, true).unwrap();
    assert_eq!(model.decode(&ids, false).unwrap(), text);
    assert_eq!(model.decode(&ids, true).unwrap(), "né 😀x");
}

#[test]
fn classify_scores_tokens_and_labels() {
    let model = model();
    let options = ClassifyOptions::new().with_labels(["negative", "positive"]).with_top(2);
    let prompts = vec!["positively".into(), "".into(), "neutral".into(), "?".into()];
    let results = model.classify(prompts, &options).unwrap();
    let best = |index: usize| results[index].as_ref().unwrap().best().unwrap();
    assert_eq!(best(0).label, "positive");
    assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(best(2).label, "negative");
    for result in [&results[0], &results[2], &results[3]] {
        let classification = result.as_ref().unwrap();
        let total: f32 = classification.labels.iter().map(|label| label.probability).sum();
        assert!((total - 1.0).abs() < 1e-6);
        assert_eq!(classification.token.top_logprobs.len(), 2);
    }
    assert_eq!(results[3].as_ref().unwrap().labels[0].probability, 0.5);

    let same_token = ClassifyOptions::new().with_labels(["positive", "poor"]);
    let error = model.classify(vec![], &same_token).unwrap_err();
    assert!(error.to_string().contains("`labels` = \"poor\""), "{error}");
    for refused in
        [ClassifyOptions::new().with_logits(true), ClassifyOptions::new().with_adapter("a")]
    {
        let error = model.classify(vec![], &refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_batch_answers_every_item() {
    let model = model();
    let items = vec![
        BatchItem::new("one"),
        BatchItem::new(""),
        BatchItem::new("three").with_options(GenerateOptions::new().with_max_tokens(2)),
    ];
    let outputs = model.batch_generate(items).unwrap().collect_all();
    assert_eq!(outputs[0].as_ref().unwrap().text, "one");
    assert_eq!(outputs[1].as_ref().unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(outputs[2].as_ref().unwrap().text, "th");
}

#[test]
fn closing_ends_what_runs_and_refuses_what_comes() {
    let model = model();
    let mut stream = model.generate("abc".into(), GenerateOptions::new()).unwrap();
    stream.next().unwrap().unwrap();
    model.close();
    model.close();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
    let options = GenerateOptions::new;
    let errors = [
        model.generate("a".into(), options()).err().unwrap(),
        model.chat(vec![Message::user("a")].into(), options()).err().unwrap(),
        model.batch_generate(vec![]).err().unwrap(),
        model.classify(vec![], &ClassifyOptions::new()).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Closed));
}

#[test]
fn dropping_the_model_closes_it() {
    let model = model();
    let stream = model.generate("abc".into(), GenerateOptions::new()).unwrap();
    drop(model);
    let (text, completion) = stream.collect_text().unwrap();
    assert_eq!((text.as_str(), completion.finish_reason), ("", FinishReason::Cancelled));
}

#[test]
fn metrics_are_totals_and_dropping_gives_back() {
    let model = model();
    let unread = model.generate("abc".into(), GenerateOptions::new()).unwrap();
    assert_eq!(model.metrics().requests, 0);
    drop(unread);
    let mut stream = model.generate("abc".into(), GenerateOptions::new()).unwrap();
    stream.next().unwrap().unwrap();
    let metrics = model.metrics();
    assert_eq!((metrics.running, metrics.finished, metrics.active_bytes), (1, 0, 12));
    drop(stream);
    model.generate("a".into(), GenerateOptions::new()).unwrap().finish().unwrap();
    let metrics = model.metrics();
    assert_eq!((metrics.running, metrics.requests, metrics.finished), (0, 2, 2));
    assert_eq!((metrics.prompt_tokens, metrics.generated_tokens), (4, 3));
    assert_eq!((metrics.active_bytes, metrics.peak_bytes, metrics.failed), (0, 12, 0));
}

#[test]
fn optional_abilities_are_absent() {
    let model = model();
    assert!(model.as_scorer().is_none());
    assert!(model.as_trainable().is_none());
    assert!(model.as_attention_inspector().is_none());
    assert!(model.as_adapters().is_none());
    assert!(model.as_state().is_none());
}
