//! Actions and replies that are plain data, as JSON.

use inference_service::action::{Cancel, Info, Unload};
use inference_service::reply::{Loaded, ServiceInfo, ServiceMetrics};
use inference_service::{RequestId, ServiceOptions, Target, UnloadMode};
use serde_json::{from_str, json, to_value};

use crate::support::service;

#[test]
fn payloads_read_as_they_are_written() {
    assert_eq!(to_value(Target::Default).unwrap(), json!(null));
    assert_eq!(from_str::<Target>("\"a\"").unwrap(), Target::from("a"));
    assert_eq!(from_str::<Unload>("{\"name\": \"a\"}").unwrap(), Unload::new("a"));
    let drain = Unload::new("a").with_mode(UnloadMode::Drain);
    assert_eq!(to_value(&drain).unwrap(), json!({"name": "a", "mode": "drain"}));
    assert_eq!(from_str::<Info>("{}").unwrap(), Info::all());
    for (cancel, text) in [
        (Cancel::Request(RequestId(3)), json!({"request": 3})),
        (Cancel::Model("a".into()), json!({"model": "a"})),
        (Cancel::All, json!("all")),
    ] {
        assert_eq!(to_value(&cancel).unwrap(), text);
        assert_eq!(serde_json::from_value::<Cancel>(text).unwrap(), cancel);
    }
}

#[test]
fn replies_come_back_the_same() {
    let (service, _) = service(ServiceOptions::new());
    let loaded = service.load("a", "10 bytes").unwrap();
    let text = serde_json::to_string(&loaded).unwrap();
    assert_eq!(from_str::<Loaded>(&text).unwrap(), loaded);
    let info = service.info().unwrap();
    let value = to_value(&info).unwrap();
    assert_eq!(value["models"][0]["state"], "ready");
    assert_eq!(serde_json::from_value::<ServiceInfo>(value).unwrap(), info);
    let metrics = service.metrics().unwrap();
    let text = serde_json::to_string(&metrics).unwrap();
    assert_eq!(from_str::<ServiceMetrics>(&text).unwrap(), metrics);
    let backends = to_value(service.capabilities().unwrap()).unwrap();
    assert_eq!(backends["backends"][0]["name"], "absent");
}
