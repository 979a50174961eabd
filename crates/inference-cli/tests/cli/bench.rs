//! `bench`: the shape of what it reports; nothing here depends on speed.

use serde_json::Value;

use crate::run::inference;

const SMALL: [&str; 8] =
    ["bench", "--prompt-tokens", "24", "--gen-tokens", "16", "--repeat", "3", "--depth"];

fn assert_spread(value: &Value) {
    let number = |name: &str| value[name].as_f64().unwrap();
    assert!(number("min") > 0.0);
    assert!(number("min") <= number("median") && number("median") <= number("max"), "{value}");
}

#[test]
fn it_reports_every_batch_size_on_a_line() {
    let args = SMALL.into_iter().chain(["8", "--batch", "1,3", "--threads", "1", "--json"]);
    let lines = inference(args).json_lines();
    assert_eq!(lines.len(), 2);
    for (line, batch) in lines.iter().zip([1, 3]) {
        assert_eq!(line["batch"], batch);
        assert_eq!(line["depth"], 8);
        assert_eq!(line["threads"], 1);
        assert_spread(&line["prefill_tokens_per_sec"]);
        assert_spread(&line["decode_tokens_per_sec"]);
        assert!(line["load_ms"].as_f64().unwrap() > 0.0);
        assert!(line["first_token_ms"].as_f64().unwrap() > 0.0);
        assert!(!line["machine"]["name"].as_str().unwrap().is_empty());
        if cfg!(target_os = "linux") {
            assert!(line["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
        }
    }
}

#[test]
fn people_get_a_table() {
    let text = inference(SMALL.into_iter().chain(["0", "--batch", "2"])).text();
    for part in ["the embedded model", "prefill of 24", "decode of 16", "peak memory"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let error = inference(["bench", "--depth", "1000000"]).error(2);
    assert!(error.contains("context_len"), "{error}");
    for bad in [["--batch", "0"], ["--repeat", "0"], ["--prompt-tokens", "x"]] {
        inference(["bench"].into_iter().chain(bad)).error(2);
    }
}
