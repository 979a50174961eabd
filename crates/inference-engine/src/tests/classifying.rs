//! Prefill without generation: classification, prompt logits, attention.

use inference_core::{CancelToken, ClassifyOptions, ErrorKind, FinishReason, LogitRows, Prompt};

use super::*;

/// `values` without the generation of a token.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    logits.iter().map(|l| f64::from(*l) - total.ln()).collect()
}

#[test]
fn a_classification_is_the_distribution_of_the_next_token() {
    let (model, _) = text_model(EngineOptions::new());
    let options = ClassifyOptions::new().with_labels(["yes", "no"]).with_top(3).with_logits(true);
    let results = model.classify(vec!["Q: ".into()], &options).unwrap();
    let classification = results[0].as_ref().unwrap();
    let logits = SimRunner::expected_logits(260, &[81, 58, 32]);
    let logprobs = log_softmax(&logits);
    assert_eq!(classification.prompt_tokens, 3);
    assert_eq!(classification.token.logits.as_deref(), Some(logits.as_slice()));
    let best = (0..260).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    assert_eq!(classification.token.id as usize, best);
    assert_eq!(classification.token.top_logprobs.len(), 3);
    let total: f32 = classification.labels.iter().map(|label| label.probability).sum();
    assert!((total - 1.0).abs() < 1e-6);
    assert!(classification.labels[0].probability >= classification.labels[1].probability);
    for score in &classification.labels {
        assert_eq!(score.token_id, TokenId::from(score.label.as_bytes()[0]));
        assert!((f64::from(score.logprob) - logprobs[score.token_id as usize]).abs() < 1e-5);
    }
}

#[test]
fn prompts_are_classified_in_as_few_passes_as_fit() {
    let options = EngineOptions::new().with_max_batch(8).with_step_token_budget(64);
    let (model, control) = model(SimSpec::default(), options);
    let prompts = || (0..24).map(|i| Prompt::from(vec![i, i, i])).collect::<Vec<_>>();
    let results = model.classify(prompts(), &ClassifyOptions::new()).unwrap();
    assert_eq!(results.len(), 24);
    assert_eq!(model.metrics().forward_count, 3);
    assert!(control.batches().iter().all(|batch| batch.logit_rows.len() == 8));
    for (index, result) in (0..).zip(&results) {
        let logits = SimRunner::expected_logits(64, &[index; 3]);
        let best = (0..64).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        assert_eq!(result.as_ref().unwrap().token.id as usize, best);
    }
    assert_idle(&model);
}

#[test]
fn a_bad_prompt_does_not_disturb_the_others() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    let prompts = vec![vec![1].into(), Prompt::Tokens(Vec::new()), vec![99].into(), "text".into()];
    let results = model.classify(prompts, &ClassifyOptions::new()).unwrap();
    let kinds: Vec<_> =
        results.iter().map(|result| result.as_ref().err().map(|error| error.kind())).collect();
    let invalid = Some(ErrorKind::InvalidInput);
    assert_eq!(kinds, [None, invalid, invalid, Some(ErrorKind::Unsupported)]);
}

#[test]
fn labels_follow_the_prompt_as_a_writer_would_put_them() {
    let (model, _) = text_model(EngineOptions::new());
    let token = |prompt: Prompt, label: &str| {
        let options = ClassifyOptions::new().with_labels([label]);
        let results = model.classify(vec![prompt], &options).unwrap();
        results[0].as_ref().unwrap().labels[0].token_id
    };
    let (space, y) = (32, 121);
    assert_eq!(token("Answer:".into(), "yes"), space);
    assert_eq!(token("Answer".into(), "yes"), space);
    assert_eq!(token("Answer: ".into(), "yes"), y);
    assert_eq!(token("Answer (".into(), "yes"), y);
    assert_eq!(token("Answer:".into(), " yes"), space);
    assert_eq!(token("答".into(), "yes"), y);
    assert_eq!(token(vec![65].into(), "yes"), y, "ids are continued with the label as it is");
}

#[test]
fn labels_that_begin_with_the_same_token_are_refused_by_name() {
    let (model, control) = text_model(EngineOptions::new());
    let labels = |labels: &[&str]| ClassifyOptions::new().with_labels(labels.iter().copied());
    let error = model.classify(vec!["Q: ".into()], &labels(&["up", "no", "under"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("`up` and `under`"), "{error}");
    let error = model.classify(vec!["Q: ".into()], &labels(&["a", ""])).unwrap_err();
    assert!(error.to_string().contains("no empty label"), "{error}");
    let error =
        model.classify(vec!["Q".into()], &ClassifyOptions::new().with_top(101)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let error = model.classify(vec!["Q".into()], &ClassifyOptions::new().with_adapter("a"));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(control.batches().is_empty());
    let (mute, _) = super::model(SimSpec::default(), EngineOptions::new());
    let error = mute.classify(vec![vec![1].into()], &labels(&["a"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn prompt_logits_are_those_of_every_position_however_they_are_cut() {
    let options = EngineOptions::new().with_max_batch(4).with_step_token_budget(7);
    let (model, _) = model(SimSpec::default(), options);
    let scorer = model.as_scorer().unwrap();
    let prompt: Vec<TokenId> = (0..33).collect();
    let all = scorer.prompt_logits(prompt.clone().into(), LogitRows::All).unwrap();
    assert_eq!(all.rows().len(), 33);
    for (end, row) in (1..).zip(all.rows()) {
        assert_eq!(row, SimRunner::expected_logits(64, &prompt[..end]));
    }
    let last = scorer.prompt_logits(prompt.into(), LogitRows::Last).unwrap();
    assert_eq!(Some(last.values.as_slice()), all.rows().last());
    assert_idle(&model);
}

#[test]
fn a_prompt_may_fill_the_context_where_nothing_is_generated() {
    let spec = SimSpec::default().with_context_len(8);
    let (model, _) = model(spec, EngineOptions::new());
    let scorer = model.as_scorer().unwrap();
    assert!(scorer.prompt_logits(vec![1; 8].into(), LogitRows::Last).is_ok());
    let error = scorer.prompt_logits(vec![1; 9].into(), LogitRows::Last).unwrap_err();
    assert!(error.to_string().contains("9 needed, 8 available"), "{error}");
}

#[test]
fn attention_is_inspected_between_steps() {
    let (blind, _) = model(SimSpec::default(), EngineOptions::new());
    assert!(blind.as_attention_inspector().is_none());
    let (model, _) = model(SimSpec::default().with_attention(true), EngineOptions::new());
    let mut stream = model.generate(vec![1].into(), greedy(300)).unwrap();
    stream.next().unwrap().unwrap();
    let inspector = model.as_attention_inspector().unwrap();
    let snapshot = inspector.inspect_attention(vec![4, 5].into()).unwrap();
    assert_eq!(snapshot.ids, [4, 5]);
    assert_eq!(snapshot.layers[0].queries, [4.0, 5.0]);
    assert!(inspector.inspect_attention(Prompt::Tokens(Vec::new())).is_err());
}

/// In a slot, in the queue, and outside of a full queue.
#[test]
fn a_classification_is_cancelled_wherever_it_is() {
    let options = EngineOptions::new()
        .with_max_batch(1)
        .with_step_token_budget(4)
        .with_max_queue(1)
        .with_prefix_cache(false);
    let (model, control) = model(SimSpec::default(), options);
    let token = CancelToken::new();
    for by_token in [true, false] {
        control.hold();
        let before = control.steps();
        let options = match by_token {
            true => ClassifyOptions::new().with_cancel(token.clone()),
            false => ClassifyOptions::new().with_timeout(Duration::from_millis(30)),
        };
        let prompts = (0..5).map(|id| vec![id; 40].into()).collect();
        let caller = Arc::clone(&model);
        let call = std::thread::spawn(move || caller.classify(prompts, &options).unwrap());
        assert!(control.wait_for(before + 1));
        eventually(&model, "one waits", |metrics| metrics.queued == 1);
        if by_token {
            token.cancel();
        } else {
            std::thread::sleep(Duration::from_millis(40));
        }
        control.release();
        let reason = if by_token { FinishReason::Cancelled } else { FinishReason::Deadline };
        for result in call.join().unwrap() {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            assert!(error.to_string().contains(reason.name()), "{error}");
        }
        assert_eq!(control.steps(), before + 1, "within one step");
        assert_idle(&model);
    }
}

#[test]
fn closing_is_no_cancelling() {
    let (model, control) =
        model(SimSpec::default(), EngineOptions::new().with_step_token_budget(8));
    control.hold();
    let caller = Arc::clone(&model);
    let options = ClassifyOptions::new().with_cancel(CancelToken::new());
    let call = std::thread::spawn(move || caller.classify(vec![vec![1; 40].into()], &options));
    assert!(control.wait_for(1));
    let closer = Arc::clone(&model);
    let close = std::thread::spawn(move || closer.close());
    while model.generate(vec![1].into(), greedy(1)).is_ok() {
        std::thread::yield_now();
    }
    control.release();
    close.join().unwrap();
    let results = call.join().unwrap().unwrap();
    assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::Closed);
}
