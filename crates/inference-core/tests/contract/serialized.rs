//! The plain types as serde writes them.

use std::time::Duration;

use inference_core::doc::EchoBackend;
use inference_core::{
    Backend, Completion, FinishReason, GenerateMetrics, KvDtype, LoraConfig, Message, ModelInfo,
    Quantization, QuantizeType, Role, Token,
};
use serde_json::{Value, from_value, json, to_value};

#[test]
fn times_are_numbers_of_seconds() {
    let mut metrics = GenerateMetrics::default();
    metrics.prefill_time = Duration::from_millis(250);
    metrics.total_time = Duration::from_nanos(1_000_000_001);
    metrics.ttft = Some(Duration::from_millis(500));
    let completion = Completion::new(FinishReason::StopToken(2), metrics.clone(), u64::MAX);
    let json = to_value(&completion).unwrap();
    assert_eq!(json["metrics"]["prefill_time"], json!(0.25));
    assert_eq!(json["metrics"]["ttft"], json!(0.5));
    assert_eq!(json["finish_reason"], json!({"stop_token": 2}));
    assert_eq!(from_value::<Completion>(json).unwrap(), completion);

    metrics.ttft = None;
    let json = to_value(&metrics).unwrap();
    assert_eq!(json["ttft"], Value::Null);
    assert_eq!(from_value::<GenerateMetrics>(json).unwrap(), metrics);
    for bad in [json!(-1.0), json!(1e300), json!("1s")] {
        assert!(from_value::<GenerateMetrics>(json!({"prefill_time": bad})).is_err());
    }
}

#[test]
fn a_field_that_is_missing_takes_its_default() {
    assert_eq!(from_value::<GenerateMetrics>(json!({})).unwrap(), GenerateMetrics::default());
    let info: ModelInfo = from_value(json!({"architecture": "llama"})).unwrap();
    assert_eq!((info.architecture.as_str(), info.quantization), ("llama", None));
    let lora: LoraConfig = from_value(json!({"rank": 4})).unwrap();
    assert_eq!(lora, LoraConfig::new().with_rank(4));
    let token: Token = from_value(json!({"id": 1, "text": "a"})).unwrap();
    assert_eq!(token, Token::new(1, "a"));
}

#[test]
fn names_are_those_of_the_contract() {
    for dtype in KvDtype::ALL {
        assert_eq!(to_value(dtype).unwrap(), json!(dtype.as_str()));
    }
    assert_eq!(to_value(QuantizeType::Q4K).unwrap(), json!("q4_k"));
    for role in Role::ALL {
        assert_eq!(to_value(role).unwrap(), json!(role.as_str()));
    }
    assert_eq!(to_value(FinishReason::Length).unwrap(), json!("length"));
    assert_eq!(to_value(Quantization::new(4, 32)).unwrap(), json!({"bits": 4, "group": 32}));
    for (json, capability) in to_value(EchoBackend.capabilities())
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .zip(&EchoBackend.capabilities())
    {
        assert_eq!(json["id"], json!(capability.id.as_str()));
        assert_eq!(json["status"], json!(capability.status.to_string()));
        assert_eq!(json["group"], json!(capability.group));
    }
    let availability = to_value(EchoBackend.availability()).unwrap();
    assert_eq!(availability["ready"]["devices"][0]["compute_units"], json!(1));
}

#[test]
fn messages_read_back() {
    let message = Message::user("hi").with_field("name", "\"Ann\"");
    let json = to_value(&message).unwrap();
    assert_eq!(from_value::<Message>(json).unwrap(), message);
    let plain: Message = from_value(json!({"role": "user", "content": "hi"})).unwrap();
    assert_eq!(plain, Message::user("hi"));
}
