//! What goes wrong in the runner becomes a typed error, and no panic.

use inference_core::{BatchItem, ClassifyOptions, ErrorKind, LogitRows};

use super::*;
use crate::sim_runner::SimFault;

#[test]
fn a_failure_that_the_runner_survives_ends_the_sequences_of_that_step() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.fail_at(3, SimFault::Error { survives: true });
    let mut stream = model.generate(vec![1].into(), greedy(10)).unwrap();
    let tokens: Vec<_> = stream.by_ref().collect();
    assert_eq!(tokens.len(), 4);
    assert!(tokens[..3].iter().all(Result::is_ok));
    let error = stream.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("simulated failure"));
    assert_idle(&model);
    assert_eq!(model.metrics().failed, 1);
    assert_eq!(generate(&model, &[1], greedy(10)).len(), 10, "the engine goes on");
}

#[test]
fn after_a_fatal_failure_every_call_reports_the_first_cause() {
    for fault in [SimFault::Error { survives: false }, SimFault::Panic] {
        let (model, control) =
            model(SimSpec::default().with_attention(true), EngineOptions::new().with_max_batch(2));
        let expected = match fault {
            SimFault::Panic => "the model runner panicked: simulated panic",
            _ => "simulated failure",
        };
        control.fail_at(2, fault);
        let items = (0..5).map(|i| BatchItem::new(vec![i]).with_options(greedy(50)));
        let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
        for output in outputs {
            assert_eq!(output.unwrap_err().to_string(), expected, "also where it only waited");
        }
        let check = |error: inference_core::Error| assert_eq!(error.to_string(), expected);
        check(model.generate(vec![1].into(), greedy(1)).map(|_| ()).unwrap_err());
        check(model.classify(vec![vec![1].into()], &ClassifyOptions::new()).unwrap_err());
        check(model.batch_generate(Vec::new()).map(|_| ()).unwrap_err());
        let scorer = model.as_scorer().unwrap();
        check(scorer.prompt_logits(vec![1].into(), LogitRows::Last).unwrap_err());
        let inspector = model.as_attention_inspector().unwrap();
        check(inspector.inspect_attention(vec![1].into()).unwrap_err());
        assert_idle(&model);
        model.close();
        assert!(control.is_dropped());
        let error = model.generate(vec![1].into(), greedy(1)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}

#[test]
fn waiting_calls_hear_of_a_fatal_failure() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_max_batch(1));
    control.fail_at(0, SimFault::Panic);
    let prompts = (0..5).map(|i| vec![i].into()).collect();
    let results = model.classify(prompts, &ClassifyOptions::new()).unwrap();
    for result in results {
        assert!(result.unwrap_err().to_string().contains("simulated panic"));
    }
}

#[test]
fn logits_that_are_no_numbers_end_their_own_sequence_alone() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.fail_at(2, SimFault::Nan(13));
    let items = [12, 13, 14].map(|i| BatchItem::new(vec![i]).with_options(greedy(8)));
    let outputs = model.batch_generate(items.to_vec()).unwrap().collect_all();
    assert_eq!(outputs[0].as_ref().unwrap().tokens.len(), 8);
    let error = outputs[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("NaN"), "{error}");
    assert_eq!(outputs[2].as_ref().unwrap().tokens.len(), 8);
    assert_eq!(model.metrics().forward_count, 8);
    assert_idle(&model);
}

#[test]
fn a_classification_of_no_numbers_is_an_error_of_that_prompt() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.fail_at(0, SimFault::Nan(13));
    let prompts = vec![vec![13].into(), vec![14].into()];
    let results = model.classify(prompts, &ClassifyOptions::new()).unwrap();
    assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::Engine);
    assert!(results[1].is_ok());
}

#[test]
fn a_runner_that_returns_too_little_is_found_out() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.fail_at(0, SimFault::Short);
    let stream = model.generate(vec![1].into(), greedy(4)).unwrap();
    let error = stream.finish().unwrap_err();
    assert!(error.to_string().contains("63 logits, expected 1 rows of 64"), "{error}");
}
