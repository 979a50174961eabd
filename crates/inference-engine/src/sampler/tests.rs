use inference_fixtures::{floats, ids, json};
use serde_json::Value;

use super::*;

fn params(case: &Value) -> SamplerParams {
    let mut params = SamplerParams { temperature: 1.0, ..SamplerParams::default() };
    for (name, value) in case.as_object().unwrap() {
        let float = || value.as_f64().unwrap() as f32;
        let count = || value.as_u64().unwrap() as usize;
        match name.as_str() {
            "temperature" => params.temperature = float(),
            "top_k" => params.top_k = count(),
            "top_p" => params.top_p = float(),
            "min_p" => params.min_p = float(),
            "typical_p" => params.typical_p = float(),
            "epsilon_cutoff" => params.epsilon_cutoff = float(),
            "repetition_penalty" => params.repeat_penalty = float(),
            "frequency_penalty" => params.frequency_penalty = float(),
            "presence_penalty" => params.presence_penalty = float(),
            "no_repeat_ngram_size" => params.no_repeat_ngram_size = count(),
            "logit_bias" => {
                for (id, bias) in value.as_object().unwrap() {
                    let bias = bias.as_f64().unwrap() as f32;
                    params.logit_bias.push((id.parse().unwrap(), bias));
                }
            }
            other => panic!("unknown parameter {other}"),
        }
    }
    params
}

fn position<'a>(logits: &'a [f32], history: &'a [u32], index: usize) -> Position<'a> {
    Position { logits, history, index, forbidden: &[], logprobs: None }
}

#[test]
fn distributions_are_those_of_the_reference() {
    let Some(file) = inference_fixtures::dir("sampling/expected.json") else { return };
    let expected = json(&file);
    let logits = floats(&expected["logits"]);
    let history = ids(&expected["history_ids"]);
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let name = &case["params"];
        let sampler = Sampler::new(params(name), &history, 0);
        let mut scratch = Vec::new();
        let processed = sampler.process(&position(&logits, &history, 0), &mut scratch);
        let mut survivors = sampler.survivors(processed);
        assert_eq!(survivors.len() as u64, case["kept"].as_u64().unwrap(), "{name}");
        let total = survivors.total_weight();
        let entropy: f64 =
            survivors.iter().map(|c| survivors.weight(c) / total).map(|p| -p * p.ln()).sum();
        assert!((entropy - case["entropy"].as_f64().unwrap()).abs() < 1e-5, "{name}: {entropy}");
        let expected_ids = ids(&case["ids"]);
        let best = survivors.likeliest(expected_ids.len()).to_vec();
        assert_eq!(best.iter().map(|c| c.id).collect::<Vec<_>>(), expected_ids, "{name}");
        for (candidate, probability) in best.iter().zip(case["probs"].as_array().unwrap()) {
            let probability = probability.as_f64().unwrap();
            let found = survivors.weight(candidate) / total;
            assert!((found - probability).abs() < 2e-6 * probability + 1e-9, "{name}: {found}");
        }
        for dropped in ids(&case["dropped_ids"]) {
            assert!(survivors.iter().all(|c| c.id != dropped), "{name}: {dropped} survived");
        }
    }
}

#[test]
fn frequencies_of_draws_follow_the_distribution() {
    let logits = [0.0, 1.0, 2.0, f32::NEG_INFINITY];
    let params = SamplerParams { temperature: 1.0, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params, &[], 7);
    let mut counts = [0_u32; 4];
    const DRAWS: usize = 20_000;
    for index in 0..DRAWS {
        counts[sampler.sample(&position(&logits, &[], index)).unwrap().id as usize] += 1;
    }
    let total: f64 = (0..3).map(|l| f64::from(l).exp()).sum();
    for (id, count) in counts.into_iter().take(3).enumerate() {
        let share = f64::from(count) / DRAWS as f64;
        assert!((share - (id as f64).exp() / total).abs() < 0.01, "token {id}: {share}");
    }
    assert_eq!(counts[3], 0);
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_ignores_truncation() {
    let params = SamplerParams { typical_p: 0.1, top_k: 1, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params, &[], 0);
    assert_eq!(sampler.sample(&position(&[1.0, 3.0, 3.0], &[], 0)).unwrap().id, 1);
}

#[test]
fn forbidden_tokens_and_bias_change_a_greedy_choice() {
    let logits = [5.0, 4.0, 3.0];
    let mut sampler = Sampler::new(SamplerParams::default(), &[], 0);
    let forbidden = Position { forbidden: &[0], ..position(&logits, &[], 0) };
    assert_eq!(sampler.sample(&forbidden).unwrap().id, 1);
    let params = SamplerParams { logit_bias: vec![(2, 9.0)], ..SamplerParams::default() };
    let mut sampler = Sampler::new(params, &[], 0);
    assert_eq!(sampler.sample(&position(&logits, &[], 0)).unwrap().id, 2);
}

#[test]
fn penalties_follow_what_was_generated() {
    let params = SamplerParams { presence_penalty: 2.0, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params, &[0], 0);
    let logits = [5.0, 4.5, 4.0];
    let mut history = vec![0];
    let mut drawn = Vec::new();
    for index in 0..3 {
        let id = sampler.sample(&position(&logits, &history, index)).unwrap().id;
        history.push(id);
        sampler.accept(&history);
        drawn.push(id);
    }
    assert_eq!(drawn, [1, 2, 0]);
}

#[test]
fn log_probabilities_are_those_of_the_processed_logits() {
    let logits = [1.0, 2.0, 3.0];
    let params =
        SamplerParams { logit_bias: vec![(0, 3.0)], temperature: 0.1, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params, &[], 0);
    let wanted = Position { logprobs: Some(2), ..position(&logits, &[], 0) };
    let draw = sampler.sample(&wanted).unwrap();
    let total: f64 = [4.0, 2.0, 3.0_f64].iter().map(|l| l.exp()).sum();
    let expected = |logit: f64| (logit - total.ln()) as f32;
    assert_eq!(draw.alternatives.len(), 2);
    assert_eq!(draw.alternatives[0].0, 0);
    assert!((draw.alternatives[0].1 - expected(4.0)).abs() < 1e-6);
    assert!((draw.alternatives[1].1 - expected(3.0)).abs() < 1e-6);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let mut sampler = Sampler::new(SamplerParams::default(), &[], 0);
    for bad in [f32::NAN, f32::INFINITY] {
        let error = sampler.sample(&position(&[0.0, bad], &[], 0)).unwrap_err();
        assert!(error.to_string().contains("token 1"), "{error}");
    }
    let nothing = [f32::NEG_INFINITY; 3];
    assert!(sampler.sample(&position(&nothing, &[], 0)).is_err());
}
