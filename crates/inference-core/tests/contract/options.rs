//! Options: ranges and precedence.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::{
    CancelToken, ClassifyOptions, Error, ErrorKind, GenerateOptions, KvDtype, LoadOptions,
    ProbeBus, ProgressSink, QuantizeType,
};

/// The error names `field`, and the value and range are there.
fn refused(error: &Error, name: &str) {
    let Error::InvalidOption { field, value, expected } = error else { panic!("{error:?}") };
    assert_eq!(*field, name);
    assert!(!value.is_empty() && !expected.is_empty());
}

#[test]
fn request_options_are_refused_just_outside_their_ranges() {
    let new = GenerateOptions::new;
    let below_0 = -f32::MIN_POSITIVE;
    let above_1 = 1.0 + f32::EPSILON;
    type Set = fn(f32) -> GenerateOptions;
    let floats: [(&str, Set, &[f32], &[f32]); 7] = [
        (
            "temperature",
            |v| GenerateOptions::new().with_temperature(v),
            &[0.0, -0.0, 1.0, 100.0],
            &[below_0, 100.001],
        ),
        (
            "top_p",
            |v| GenerateOptions::new().with_top_p(v),
            &[f32::MIN_POSITIVE, 1.0],
            &[0.0, below_0, above_1],
        ),
        ("min_p", |v| GenerateOptions::new().with_min_p(v), &[0.0, 1.0], &[below_0, above_1]),
        (
            "typical_p",
            |v| GenerateOptions::new().with_typical_p(v),
            &[f32::MIN_POSITIVE, 1.0],
            &[0.0, below_0, above_1],
        ),
        (
            "repeat_penalty",
            |v| GenerateOptions::new().with_repeat_penalty(v),
            &[f32::MIN_POSITIVE, 1.0, f32::MAX],
            &[0.0, below_0],
        ),
        (
            "frequency_penalty",
            |v| GenerateOptions::new().with_frequency_penalty(v),
            &[-2.0, 0.0, 2.0],
            &[-2.001, 2.001],
        ),
        (
            "presence_penalty",
            |v| GenerateOptions::new().with_presence_penalty(v),
            &[-2.0, 0.0, 2.0],
            &[-2.001, 2.001],
        ),
    ];
    for (field, set, inside, outside) in floats {
        for value in inside {
            set(*value).validate().unwrap_or_else(|error| panic!("{field} {value}: {error}"));
        }
        for value in outside.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
            refused(&set(*value).validate().expect_err(field), field);
        }
    }

    for valid in [
        new(),
        new().with_max_tokens(1),
        new().with_min_tokens(0),
        new().with_min_tokens(5).with_max_tokens(5),
        // Against what, is not known before the model's own maximum is.
        new().with_min_tokens(1000),
        new().with_top_k(0).with_top_k(usize::MAX),
        new().with_penalty_window(0),
        new().with_logit_bias(1, f32::NEG_INFINITY).with_logit_bias(2, -100.0),
        new().with_stop_token(0).with_stop_string("\n"),
        new().with_logprobs(0),
        new().with_logprobs(100),
        new().with_priority(i32::MIN),
        new().with_seed(0),
    ] {
        valid.validate().unwrap();
    }
    for (invalid, field) in [
        (new().with_max_tokens(0), "max_tokens"),
        (new().with_min_tokens(6).with_max_tokens(5), "min_tokens"),
        (new().with_logit_bias(1, 0.0).with_logit_bias(2, f32::NAN), "logit_bias"),
        (new().with_logit_bias(1, f32::INFINITY), "logit_bias"),
        (new().with_stop_string("a").with_stop_string(""), "stop_strings"),
        (new().with_logprobs(101), "logprobs"),
    ] {
        refused(&invalid.validate().unwrap_err(), field);
    }
}

#[test]
fn what_the_request_says_goes_before_what_the_model_says() {
    let deadline = Instant::now();
    let request_cancel = CancelToken::new();
    let set = |n: usize, x: f32, yes: bool, cancel: &CancelToken, name: &str| {
        GenerateOptions::new()
            .with_max_tokens(n)
            .with_min_tokens(n)
            .with_temperature(x)
            .with_top_k(n)
            .with_top_p(x)
            .with_min_p(x)
            .with_typical_p(x)
            .with_repeat_penalty(x)
            .with_frequency_penalty(x)
            .with_presence_penalty(x)
            .with_penalty_window(n)
            .with_logit_bias(n as u32, x)
            .with_stop_token(n as u32)
            .with_stop_string(name)
            .with_ignore_eos(yes)
            .with_seed(n as u64)
            .with_logprobs(n)
            .with_logits(yes)
            .with_deadline(deadline + Duration::from_secs(n as u64))
            .with_cancel(cancel.clone())
            .with_priority(n as i32)
            .with_adapter(name)
    };
    // Zero and `false` are values, not "unset".
    let request = set(0, 0.0, false, &request_cancel, "request");
    let model = set(7, 0.5, true, &CancelToken::new(), "model");
    let same = |a: &GenerateOptions, b: &GenerateOptions| {
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
    };

    let merged = request.clone().or(&model);
    same(&merged, &request);
    request_cancel.cancel();
    assert!(merged.cancel.unwrap().is_cancelled(), "the token is shared, not copied");

    same(&GenerateOptions::new().or(&model), &model);
    same(&model.clone().or(&GenerateOptions::new()), &model);

    let partly = GenerateOptions::new().with_temperature(0.0).with_stop_string("x").or(&model);
    assert_eq!((partly.temperature, partly.top_p), (Some(0.0), Some(0.5)));
    assert_eq!((partly.stop_strings, partly.stop_tokens), (vec!["x".to_owned()], vec![7]));
}

#[test]
fn a_timeout_that_the_clock_cannot_hold_is_no_deadline() {
    assert_eq!(GenerateOptions::new().with_timeout(Duration::MAX).deadline, None);
    let deadline = GenerateOptions::new().with_timeout(Duration::from_secs(60)).deadline.unwrap();
    assert!(deadline > Instant::now());
}

#[test]
fn load_options_are_refused_just_outside_their_ranges() {
    let new = LoadOptions::new;
    for valid in [
        new(),
        new().with_context_len(1).with_parallel_slots(1).with_threads(1).with_kv_budget(1),
        new().with_gpu_layers(-1),
        new().with_gpu_layers(0),
        new().with_affinity(vec![0]),
        new().with_backend("cpu").with_adapter_path("adapter"),
        new().with_quantize(QuantizeType::Q4K).with_kv_dtype(KvDtype::Bf16),
        new().with_probe_bus(Arc::new(ProbeBus::new(vec![]))),
        new().with_progress(ProgressSink::new(|_| {})),
    ] {
        valid.validate().unwrap();
    }
    for (invalid, field) in [
        (new().with_context_len(0), "context_len"),
        (new().with_parallel_slots(0), "parallel_slots"),
        (new().with_threads(0), "threads"),
        (new().with_gpu_layers(-2), "gpu_layers"),
        (new().with_kv_budget(0), "kv_budget"),
        (new().with_affinity(vec![]), "affinity"),
        (new().with_step_token_budget(0), "step_token_budget"),
        (new().with_max_queue(0), "max_queue"),
        (new().with_lag_timeout(Duration::ZERO), "lag_timeout"),
    ] {
        refused(&invalid.validate().unwrap_err(), field);
    }
}

#[test]
fn classify_options_are_checked() {
    let new = ClassifyOptions::new;
    for valid in [new(), new().with_top(0), new().with_top(100), new().with_labels(["a", "b"])] {
        valid.validate().unwrap();
    }
    for (invalid, field) in [
        (new().with_top(101), "top"),
        (new().with_labels(["a", ""]), "labels"),
        (new().with_labels(["a", "b", "a"]), "labels"),
    ] {
        refused(&invalid.validate().unwrap_err(), field);
    }
}

#[test]
fn types_are_known_by_name() {
    for dtype in KvDtype::ALL {
        assert_eq!(KvDtype::from_str(dtype.as_str()).unwrap(), *dtype);
    }
    for quantize in QuantizeType::ALL {
        assert_eq!(QuantizeType::from_str(&quantize.to_string()).unwrap(), *quantize);
    }
    let error = KvDtype::from_str("f64").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert_eq!(
        error.to_string(),
        "invalid option `kv_dtype` = `f64`: expected f32, f16, bf16, q8_0"
    );
    refused(&QuantizeType::from_str("Q4_K").unwrap_err(), "quantize");
}

#[test]
fn unset_load_options_are_taken_from_the_fallback() {
    let bus = Arc::new(ProbeBus::new(Vec::new()));
    let usual = LoadOptions::new()
        .with_backend("cpu")
        .with_threads(8)
        .with_affinity(vec![1])
        .with_probe_bus(Arc::clone(&bus));
    let options = LoadOptions::new().with_threads(2).or(&usual);
    assert_eq!(options.backend.as_deref(), Some("cpu"));
    assert_eq!(options.threads, Some(2));
    assert_eq!(options.affinity, Some(vec![1]));
    assert!(Arc::ptr_eq(options.probe_bus.as_ref().unwrap(), &bus));
    assert_eq!(options.kv_budget, None);
}

#[test]
fn loads_are_the_same_whoever_watches_them() {
    let bus = || Arc::new(ProbeBus::new(Vec::new()));
    let progress = || ProgressSink::new(|_| {});
    let one = bus();
    let options = LoadOptions::new().with_threads(2).with_probe_bus(Arc::clone(&one));
    assert!(options.loads_as(&options.clone().with_progress(progress())));
    for other in [
        LoadOptions::new(),
        options.clone().with_threads(3),
        options.clone().with_kv_dtype(KvDtype::F16),
        options.clone().with_probe_bus(bus()),
        LoadOptions::new().with_threads(2),
    ] {
        assert!(!options.loads_as(&other) && !other.loads_as(&options), "{other:?}");
    }
}
