//! Inverse frequencies against values of the reference's formulas
//! (`modeling_rope_utils.py` of transformers), computed separately in double
//! precision.

#![allow(clippy::unwrap_used, reason = "a test")]

use candle_core::Device;
use inference_candle::{BatchView, DecoderConfig, Rope, RopeScaling, RopeSpec};
use inference_engine::StepSequence;

fn rope(theta: f64, dim: usize, scaling: RopeScaling) -> Rope {
    Rope::new(RopeSpec { theta, dim, scaling })
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let difference = (f64::from(*found) - expected).abs();
        assert!(difference <= expected * 1e-6, "{found} instead of {expected}");
    }
}

#[test]
fn linear() {
    let rope = rope(1e4, 8, RopeScaling::Linear { factor: 4.0 });
    assert_close(&rope.frequencies(1), &[0.25, 0.025, 0.0025, 0.00025]);
    assert_eq!(rope.attention_factor(), 1.0);
}

#[test]
fn dynamic_goes_by_the_length_of_the_prompt() {
    let rope = rope(1e4, 8, RopeScaling::Dynamic { factor: 2.0, original_context: 64 });
    let trained = [1.0, 0.1, 0.01, 0.001];
    assert_close(&rope.frequencies(40), &trained);
    assert_close(&rope.frequencies(64), &trained);
    let at_100 = [1.0, 0.0777822237, 0.00605007433, 0.000470588235];
    assert_close(&rope.frequencies(100), &at_100);
    let at_128 = [1.0, 0.0693361274, 0.00480749857, 0.000333333333];
    assert_close(&rope.frequencies(128), &at_128);
    assert_eq!(rope.attention_factor(), 1.0);
}

#[test]
fn llama3() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let expected = [
        1.0,
        0.193922745,
        0.0376060309,
        0.00729266474,
        0.000524846161,
        3.4281022e-05,
        6.64786987e-06,
        1.28917317e-06,
    ];
    assert_close(&rope(5e5, 16, scaling).frequencies(1), &expected);
}

/// The configuration of a small Llama with this rope scaling.
fn configured(scaling: &str, theta: f64, context: usize) -> DecoderConfig {
    let json = format!(
        r#"{{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2,
            "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 10,
            "max_position_embeddings": {context}, "rope_theta": {theta:?},
            "rope_scaling": {scaling}}}"#
    );
    DecoderConfig::from_json("config.json", json.as_bytes()).unwrap()
}

#[test]
fn yarn_with_its_attention_factor() {
    let scaling = r#"{"rope_type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 2048}"#;
    let config = configured(scaling, 1e4, 8192);
    let rope = Rope::new(config.ropes[0].clone());
    let expected =
        [1.0, 0.316227766, 0.1, 0.025693506, 0.00625, 0.00138349648, 0.00025, 7.90569415e-05];
    assert_close(&rope.frequencies(1), &expected);
    assert_close(&[rope.attention_factor()], &[1.138629436111989]);
    assert_eq!(config.context_len, 8192);
}

#[test]
fn yarn_with_all_its_parameters() {
    let scaling = r#"{"type": "yarn", "factor": 4.0, "beta_fast": 16, "beta_slow": 2,
        "truncate": false, "attention_factor": 0.75}"#;
    let config = configured(scaling, 1e6, 32768);
    let rope = Rope::new(config.ropes[0].clone());
    let expected = [
        1.0,
        0.177827941,
        0.0316227766,
        0.00562341325,
        0.000595679896,
        4.44569853e-05,
        7.90569415e-06,
        1.40585331e-06,
    ];
    assert_close(&rope.frequencies(1), &expected);
    assert_eq!(rope.attention_factor(), 0.75);
    // The config names the trained context only: it is stretched.
    assert_eq!(config.context_len, 4 * 32768);
}

#[test]
fn yarn_with_mscale() {
    for (m, all, expected) in [(1.0, 0.8, 1.0569662567531275), (0.707, 1.0, 0.9210423553163399)] {
        let scaling = format!(
            r#"{{"rope_type": "yarn", "factor": 40, "mscale": {m:?}, "mscale_all_dim": {all:?}}}"#
        );
        let config = configured(&scaling, 1e4, 4096);
        let rope = Rope::new(config.ropes[0].clone());
        assert_close(&[rope.attention_factor()], &[expected]);
    }
}

#[test]
fn longrope_with_its_attention_factor() {
    let factors = |value: f64| vec![value; 8];
    let json = format!(
        r#"{{"model_type": "phi3", "hidden_size": 32, "num_attention_heads": 2,
            "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 10,
            "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
            "rope_scaling": {{"type": "su", "short_factor": {:?}, "long_factor": {:?}}}}}"#,
        factors(1.0),
        factors(2.0)
    );
    let config = DecoderConfig::from_json("config.json", json.as_bytes()).unwrap();
    let rope = Rope::new(config.ropes[0].clone());
    assert_close(&[rope.attention_factor()], &[1.1902380714238083]);
    let (short, long) = (rope.frequencies(4096), rope.frequencies(4097));
    assert_eq!(short[0], 1.0);
    for (short, long) in short.iter().zip(long) {
        assert!((short / long - 2.0).abs() < 1e-6);
    }
}

/// Angles are those of each token's own sequence: its position and its
/// prompt's length.
#[test]
fn angles_are_each_sequences_own() {
    let rope = rope(1e4, 4, RopeScaling::Dynamic { factor: 2.0, original_context: 4 });
    let sequence = |start, len, position, prompt_len| StepSequence {
        start,
        len,
        position,
        prompt_len,
        adapter: None,
        block_table: Vec::new(),
    };
    let sequences = [sequence(0, 2, 1, 3), sequence(2, 1, 6, 7)];
    let batch = BatchView { sequences: &sequences, positions: &[1, 2, 6], adapters: &[] };
    let angles = rope.angles(&batch, &Device::Cpu).unwrap();
    let sin = angles.sin.to_vec2::<f32>().unwrap();
    for (row, (position, prompt_len)) in sin.iter().zip([(1.0, 3), (2.0, 3), (6.0, 7)]) {
        let expected: Vec<f32> =
            rope.frequencies(prompt_len).iter().map(|f| (position * f).sin()).collect();
        assert_eq!(row, &expected);
    }
}
