//! Plain values: cancel tokens, completions, roles, adapters, attention.

use std::time::Duration;

use inference_core::probe::Interest;
use inference_core::probe::ProbeKind;
use inference_core::{
    CancelToken, ErrorKind, FinishReason, GenerateMetrics, LayerAttention, LoraConfig, Loss,
    Message, PromptLogits, Role, TrainingSequence,
};

#[test]
fn clones_of_a_cancel_token_share_its_flag() {
    let token = CancelToken::new();
    let clone = token.clone();
    assert!(!clone.is_cancelled());
    std::thread::spawn(move || token.cancel()).join().unwrap();
    assert!(clone.is_cancelled());
    clone.cancel();
    assert!(clone.is_cancelled());
    assert!(!CancelToken::new().is_cancelled());
}

#[test]
fn a_token_follows_any_of_several_and_leads_none() {
    let parents = [CancelToken::new(), CancelToken::new()];
    let child = CancelToken::any_of(parents.clone());
    let grandchild = CancelToken::any_of([child.clone()]);
    assert!(!grandchild.is_cancelled());
    grandchild.cancel();
    assert!(grandchild.is_cancelled() && !child.is_cancelled());
    let other = CancelToken::any_of([child.clone()]);
    parents[1].cancel();
    assert!(child.is_cancelled() && other.is_cancelled() && !parents[0].is_cancelled());
    assert!(!CancelToken::any_of([]).is_cancelled());
}

#[test]
fn throughputs_count_what_was_computed() {
    let mut metrics = GenerateMetrics::default();
    assert_eq!(metrics.prefill_tokens_per_sec(), 0.0);
    assert_eq!(metrics.decode_tokens_per_sec(), 0.0);

    metrics.prompt_tokens = 100;
    metrics.cached_prompt_tokens = 60;
    metrics.prefill_time = Duration::from_millis(200);
    assert_eq!(metrics.prefill_tokens_per_sec(), 200.0);

    // The first token belongs to the prefill.
    metrics.generated_tokens = 1;
    metrics.decode_time = Duration::from_secs(1);
    assert_eq!(metrics.decode_tokens_per_sec(), 0.0);
    metrics.generated_tokens = 11;
    metrics.decode_time = Duration::from_millis(500);
    assert_eq!(metrics.decode_tokens_per_sec(), 20.0);

    metrics.cached_prompt_tokens = 100;
    metrics.decode_time = Duration::ZERO;
    assert_eq!(metrics.prefill_tokens_per_sec(), 0.0);
    assert_eq!(metrics.decode_tokens_per_sec(), 0.0);
}

#[test]
fn finish_reasons_have_stable_names() {
    for (reason, name) in [
        (FinishReason::StopToken(2), "stop_token"),
        (FinishReason::StopString("\n".to_owned()), "stop_string"),
        (FinishReason::Length, "length"),
        (FinishReason::Cancelled, "cancelled"),
        (FinishReason::Lagging, "lagging"),
        (FinishReason::Deadline, "deadline"),
    ] {
        assert_eq!(reason.name(), name);
        assert_eq!(reason.to_string(), name);
    }
}

#[test]
fn roles_are_known_by_name() {
    for role in Role::ALL {
        assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
    }
    let error = "narrator".parse::<Role>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("`narrator`"), "{error}");
    assert_eq!(Message::without_content(Role::Assistant).content, None);
}

#[test]
fn lora_configurations_are_checked() {
    let valid = [
        LoraConfig::new(),
        LoraConfig::new().with_rank(1).with_alpha(f32::MIN_POSITIVE).with_rslora(true),
        LoraConfig::new().with_dropout(0.999).with_seed(u64::MAX),
    ];
    valid.iter().for_each(|config| config.validate().unwrap());
    for (config, field) in [
        (LoraConfig::new().with_rank(0), "rank"),
        (LoraConfig::new().with_alpha(0.0), "alpha"),
        (LoraConfig::new().with_alpha(f32::NAN), "alpha"),
        (LoraConfig::new().with_alpha(f32::INFINITY), "alpha"),
        (LoraConfig::new().with_dropout(-0.1), "dropout"),
        (LoraConfig::new().with_dropout(1.0), "dropout"),
        (LoraConfig::new().with_dropout(f32::NAN), "dropout"),
        (LoraConfig::new().with_target_modules::<[&str; 0]>([]), "target_modules"),
        (LoraConfig::new().with_target_modules([""]), "target_modules"),
    ] {
        let error = config.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
}

#[test]
fn training_sequences_are_checked() {
    let sequence = TrainingSequence::new(vec![1, 2, 3]);
    sequence.validate().unwrap();
    assert_eq!(sequence.num_targets(), 2);
    let masked = sequence.clone().with_targets(vec![true, false, true]);
    assert_eq!(masked.num_targets(), 1);
    for broken in [
        sequence.clone().with_targets(vec![true; 2]),
        sequence.with_targets(vec![true, false, false]),
        TrainingSequence::new(vec![1]),
        TrainingSequence::new(vec![]),
    ] {
        assert_eq!(broken.validate().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_loss_carries_its_backends_graph() {
    let loss = Loss::new(1.5, Box::new("graph"));
    assert_eq!(loss.value(), 1.5);
    assert_eq!(*loss.into_graph().downcast::<&str>().unwrap(), "graph");
}

#[test]
fn attention_is_cut_by_head() {
    // 2 query heads, 1 key head, head_dim 2, 3 tokens.
    let queries: Vec<f32> = (0..12).map(|value| value as f32).collect();
    let keys: Vec<f32> = (0..6).map(|value| -(value as f32)).collect();
    let layer = LayerAttention::new(0, [2, 1, 2], queries, keys);
    assert_eq!(layer.head_queries(1), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(layer.head_keys(0).len(), 6);
    let beyond = std::panic::AssertUnwindSafe(|| layer.head_keys(1).len());
    assert!(std::panic::catch_unwind(beyond).is_err());
}

#[test]
fn logits_are_cut_by_row() {
    let logits = PromptLogits::new(2, vec![1.0, 2.0, 3.0, 4.0]);
    assert!(logits.rows().eq([[1.0, 2.0], [3.0, 4.0]]));
    assert_eq!(PromptLogits::new(0, vec![]).rows().len(), 0);
}

#[test]
fn interests_are_sets() {
    let expensive = Interest::from(ProbeKind::Logits) | ProbeKind::Attention;
    for kind in ProbeKind::ALL {
        assert!(Interest::ALL.contains(kind));
        assert!(!Interest::NONE.contains(kind));
        assert_ne!(Interest::CHEAP.contains(kind), expensive.contains(kind));
    }
    assert_eq!(Interest::CHEAP | expensive, Interest::ALL);
}
