//! Ending requests from elsewhere.

use std::thread;

use inference_core::{
    BatchItem, CancelToken, ClassifyOptions, ErrorKind, FinishReason, GenerateOptions, TokenEvent,
};
use inference_service::action::Cancel;
use inference_service::reply::RequestKind;
use inference_service::{RequestId, ServiceOptions};

use crate::support::{service, wait_until};

#[test]
fn another_consumer_cancels_a_running_stream_by_its_id() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let control = stage.sim("sim");
    control.hold();
    control.allow(2);
    let options = GenerateOptions::new().with_max_tokens(100);
    let mut generation = service.generate("sim", vec![1, 2], options).unwrap();
    let id = generation.id;
    generation.stream.next().unwrap().unwrap();
    let other = service.clone();
    let cancelled = thread::spawn(move || other.cancel(id).unwrap()).join().unwrap();
    assert_eq!(cancelled.requests, [id]);
    assert!(service.metrics().unwrap().open[0].cancelled);
    control.release();
    let completion = generation.stream.finish().unwrap();
    assert_eq!(completion.finish_reason, FinishReason::Cancelled);
    assert!(completion.metrics.generated_tokens < 100);
    // It has ended, and that is no error.
    assert!(service.cancel(id).unwrap().requests.is_empty());
    assert!(service.metrics().unwrap().open.is_empty());
}

#[test]
fn an_id_that_was_never_given_out_is_refused() {
    let (service, _) = service(ServiceOptions::new());
    for id in [0, 1, u64::MAX] {
        let error = service.cancel(RequestId(id)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&id.to_string()), "{error}");
    }
}

#[test]
fn the_callers_own_token_still_counts() {
    let (service, _) = service(ServiceOptions::new());
    service.load("a", "1 bytes").unwrap();
    let token = CancelToken::new();
    let options = GenerateOptions::new().with_cancel(token.clone());
    let mut own = service.generate("a", "hello", options.clone()).unwrap();
    let mut sibling = service.generate("a", "hello", options).unwrap();
    own.stream.next().unwrap().unwrap();
    sibling.stream.next().unwrap().unwrap();
    // By id: this one alone.
    service.cancel(own.id).unwrap();
    assert!(!token.is_cancelled());
    assert!(sibling.stream.next().is_some());
    assert_eq!(own.stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
    token.cancel();
    assert_eq!(sibling.stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
}

#[test]
fn a_batch_is_cancelled_as_a_whole_and_its_items_by_their_own_tokens() {
    let (service, _) = service(ServiceOptions::new());
    service.load("a", "1 bytes").unwrap();
    let token = CancelToken::new();
    let items = || {
        let own = GenerateOptions::new().with_cancel(token.clone());
        vec![BatchItem::new("one").with_options(own), BatchItem::new("two")]
    };
    token.cancel();
    let outputs = service.batch("a", items()).unwrap().stream.collect_all();
    let reasons: Vec<_> =
        outputs.into_iter().map(|output| output.unwrap().completion.finish_reason).collect();
    assert_eq!(reasons, [FinishReason::Cancelled, FinishReason::StopToken(0)]);

    let mut batch = service.batch("a", vec![BatchItem::new("one"), BatchItem::new("two")]).unwrap();
    batch.stream.next().unwrap();
    assert_eq!(service.cancel(batch.id).unwrap().requests, [batch.id]);
    let ends = batch.stream.filter(|(_, event)| {
        matches!(event, TokenEvent::Finished(end) if end.finish_reason == FinishReason::Cancelled)
    });
    assert_eq!(ends.count(), 2);
}

#[test]
fn the_requests_of_one_model_or_all_are_cancelled() {
    let (service, _) = service(ServiceOptions::new());
    service.load("a", "1 bytes").unwrap();
    service.load("b", "1 bytes").unwrap();
    let start = |name: &str| service.generate(name, "hello", GenerateOptions::new()).unwrap();
    let open = [start("a"), start("b"), start("a")];
    let ids = open.each_ref().map(|generation| generation.id);
    let cancelled = service.perform(Cancel::Model("a".into())).unwrap();
    assert_eq!(cancelled.requests, [ids[0], ids[2]]);
    assert_eq!(service.perform(Cancel::All).unwrap().requests, ids);
    for generation in open {
        let (text, completion) = generation.stream.collect_text().unwrap();
        assert_eq!((text.as_str(), completion.finish_reason), ("", FinishReason::Cancelled));
    }
}

#[test]
fn a_classification_is_cancelled_by_its_id() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let control = stage.sim("sim");
    control.hold();
    thread::scope(|scope| {
        // More than one step computes.
        let prompts = vec![vec![1; 400].into(), vec![2; 400].into()];
        let classes = scope.spawn(|| service.classify("sim", prompts, ClassifyOptions::new()));
        assert!(control.wait_for(1));
        let open = service.metrics().unwrap().open;
        assert_eq!((open.len(), open[0].kind), (1, RequestKind::Classify));
        assert_eq!(service.cancel(open[0].id).unwrap().requests, [open[0].id]);
        control.release();
        let classes = classes.join().unwrap().unwrap();
        assert_eq!(classes.id, open[0].id);
        let error = classes.results.into_iter().next_back().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
    wait_until(|| service.metrics().unwrap().open.is_empty());
}
