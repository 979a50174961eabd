//! The runner on its own: chunks, interleaved sequences, and slots used again.

use std::path::Path;

use candle_core::Device;
use inference_core::{ErrorKind, LoadOptions, ModelSource};
use inference_engine::{ModelRunner, StepBatch, StepSequence};

use super::load::open;
use super::runner::SequenceRunner;

fn runner(case: &str) -> SequenceRunner {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/extra").join(case);
    let options = LoadOptions::new();
    open("test", &ModelSource::from(dir), &options, &Device::Cpu, 3).unwrap().unwrap().0
}

/// A step's part: the block, the first position, and the tokens.
type Part<'a> = (u32, usize, &'a [u32]);

/// One step; the logits of each part's last token.
fn step(runner: &mut SequenceRunner, parts: &[Part<'_>]) -> Vec<Vec<f32>> {
    let mut batch = StepBatch::default();
    for (block, position, tokens) in parts {
        batch.sequences.push(StepSequence {
            start: batch.tokens.len(),
            len: tokens.len(),
            position: *position,
            prompt_len: 20,
            adapter: None,
            block_table: vec![*block],
        });
        batch.tokens.extend(*tokens);
        batch.logit_rows.push(batch.tokens.len() - 1);
    }
    let logits = runner.forward(&batch).unwrap();
    logits.chunks_exact(runner.spec().vocab_size).map(<[f32]>::to_vec).collect()
}

fn close(case: &str, a: &[f32], b: &[f32]) {
    let diff = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(a.len() == b.len() && diff < 1e-4, "{case}: {diff}");
}

const A: [u32; 11] = [33, 1, 60, 9, 9, 14, 50, 27, 41, 3, 8];
const B: [u32; 7] = [63, 0, 4, 4, 21, 8, 13];

#[test]
fn chunks_and_company_change_nothing() {
    for case in super::extra_architectures() {
        let mut runner = runner(case);
        let whole_a = step(&mut runner, &[(0, 0, &A)]).remove(0);
        let whole_b = step(&mut runner, &[(0, 0, &B)]).remove(0);
        assert!(whole_a.iter().zip(&whole_b).any(|(a, b)| (a - b).abs() > 0.1), "{case}");
        // In chunks of four, beside each other, the second a step later.
        step(&mut runner, &[(2, 0, &A[..4])]);
        step(&mut runner, &[(2, 4, &A[4..8]), (1, 0, &B[..4])]);
        let both = step(&mut runner, &[(1, 4, &B[4..]), (2, 8, &A[8..])]);
        close(case, &both[0], &whole_b);
        close(case, &both[1], &whole_a);
        // A slot that is used again knows nothing of what it held.
        let again = step(&mut runner, &[(2, 0, &B)]).remove(0);
        close(case, &again, &whole_b);
    }
}

#[test]
fn rows_in_the_middle_are_those_of_their_position() {
    for case in super::extra_architectures() {
        let mut runner = runner(case);
        let short = step(&mut runner, &[(0, 0, &A[..3])]).remove(0);
        let whole = step(&mut runner, &[(0, 0, &A)]).remove(0);
        let sequence = StepSequence {
            start: 0,
            len: 11,
            position: 0,
            prompt_len: 11,
            adapter: None,
            block_table: vec![1],
        };
        let batch =
            StepBatch { tokens: A.to_vec(), sequences: vec![sequence], logit_rows: vec![2, 10] };
        let logits = runner.forward(&batch).unwrap();
        let (middle, last) = logits.split_at(runner.spec().vocab_size);
        close(case, middle, &short);
        close(case, last, &whole);
    }
}

#[test]
fn what_does_not_fit_the_state_is_an_error() {
    let mut runner = runner("phi");
    let forward = |runner: &mut SequenceRunner, block, position, token| {
        let sequence = StepSequence {
            start: 0,
            len: 1,
            position,
            prompt_len: 1,
            adapter: None,
            block_table: vec![block],
        };
        let batch =
            StepBatch { tokens: vec![token], sequences: vec![sequence], logit_rows: vec![0] };
        runner.forward(&batch)
    };
    forward(&mut runner, 0, 0, 5).unwrap();
    for (block, position, token, kind) in [
        (0, 2, 5, ErrorKind::Engine),
        (1, 1, 5, ErrorKind::Engine),
        (3, 0, 5, ErrorKind::InvalidInput),
        (0, 0, 64, ErrorKind::InvalidInput),
        (0, 128, 5, ErrorKind::InvalidInput),
    ] {
        let error = forward(&mut runner, block, position, token).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}
