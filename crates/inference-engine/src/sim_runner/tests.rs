use std::time::{Duration, Instant};

use super::*;

fn batch(sequences: &[(usize, &[TokenId], BlockId)]) -> StepBatch {
    let mut batch = StepBatch::default();
    for (position, tokens, block) in sequences {
        let start = batch.tokens.len();
        batch.tokens.extend_from_slice(tokens);
        batch.logit_rows.push(batch.tokens.len() - 1);
        batch.sequences.push(StepSequence {
            start,
            len: tokens.len(),
            position: *position,
            prompt_len: tokens.len(),
            adapter: None,
            block_table: vec![*block],
        });
    }
    batch
}

#[test]
fn the_logits_are_those_of_what_the_blocks_hold() {
    let (mut runner, _) = SimRunner::new(SimSpec::default());
    let whole = runner.forward(&batch(&[(0, &[1, 2, 3], 0)])).unwrap();
    assert_eq!(whole, SimRunner::expected_logits(64, &[1, 2, 3]));
    runner.forward(&batch(&[(0, &[1, 2], 1), (0, &[7], 2)])).unwrap();
    assert_eq!(runner.forward(&batch(&[(2, &[3], 1)])).unwrap(), whole, "in pieces");
    assert_ne!(runner.forward(&batch(&[(2, &[3], 2)])).unwrap(), whole, "a foreign block");
    assert_ne!(runner.forward(&batch(&[(1, &[2], 1)])).unwrap(), whole);
    assert!(runner.forward(&batch(&[(4, &[2], 1)])).is_err(), "beyond the table");
    assert!(runner.forward(&batch(&[(0, &[2], 512)])).is_err(), "beyond the pool");
}

#[test]
fn costs_are_a_line_in_steps_sequences_and_tokens() {
    let micros = Duration::from_micros;
    let costs = StepCosts::new(micros(1000), micros(100), micros(1));
    let (mut runner, control) =
        SimRunner::new(SimSpec::default().with_costs(costs, SimClock::Virtual));
    runner.forward(&batch(&[(0, &[1, 2, 3], 0), (0, &[4], 1)])).unwrap();
    runner.forward(&batch(&[(1, &[5], 1)])).unwrap();
    assert_eq!(control.elapsed(), micros(1204 + 1101));
    assert_eq!(control.steps(), 2);
    let (mut runner, _) = SimRunner::new(SimSpec::default().with_costs(costs, SimClock::Real));
    let begin = Instant::now();
    runner.forward(&batch(&[(0, &[1], 0)])).unwrap();
    assert!(begin.elapsed() >= micros(1101));
}

#[test]
fn faults_come_by_seed_and_rate_and_are_counted() {
    let rates = FaultRates::default().with_error(0.1).with_nan(0.3);
    let run = |seed| {
        let (mut runner, control) = SimRunner::new(SimSpec::default());
        control.fail_randomly(seed, rates);
        control.forget_batches();
        let results: Vec<_> =
            (0..500).map(|_| runner.forward(&batch(&[(0, &[1], 0), (0, &[2], 1)]))).collect();
        for fault in control.injected() {
            let result = &results[fault.step];
            match fault.fault {
                SimFault::Error { survives } => {
                    assert!(survives && fault.victims == 2 && result.is_err());
                }
                SimFault::NanSequence(n) => {
                    let rows: Vec<_> = result.as_ref().unwrap().chunks(64).collect();
                    assert!(rows[n % 2].iter().all(|x| x.is_nan()));
                    assert!(rows[1 - n % 2].iter().all(|x| !x.is_nan()));
                    assert_eq!(fault.victims, 1);
                }
                fault => panic!("{fault:?}"),
            }
        }
        assert!(control.batches().is_empty());
        control.injected()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let errors = run(3).iter().filter(|f| matches!(f.fault, SimFault::Error { .. })).count();
    assert!((25..100).contains(&errors), "{errors} of about 50");
    assert!((150..260).contains(&run(3).len()), "{} of about 200", run(3).len());
}
