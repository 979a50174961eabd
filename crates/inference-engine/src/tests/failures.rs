//! What goes wrong in the runner becomes a typed error, and no panic.

use inference_core::{BatchItem, ClassifyOptions, ErrorKind, LogitRows};

use super::*;
use crate::sim_runner::SimFault;
use crate::{BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch};

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

/// Logits that no memory holds are refused before anything is computed.
#[test]
fn more_logits_than_memory_are_refused_with_the_numbers() {
    let (model, control) = model(SimSpec::default().with_vocab_size(1 << 60), EngineOptions::new());
    let refused = model.as_scorer().unwrap().prompt_logits(vec![1, 2].into(), LogitRows::All);
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("memory for logits, in bytes"), "{error}");
    assert!(control.batches().is_empty());
}

#[test]
fn more_blocks_than_can_be_numbered_are_refused() {
    let (sim, _) = SimRunner::new(SimSpec::default());
    let mut spec = sim.spec().clone();
    spec.num_blocks = 1 << 40;
    let runner = Copier { sim, spec, copying: Copying::Works };
    let parts = ModelParts::new(info());
    let error = EngineModel::start(Box::new(runner), parts, EngineOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("num_blocks"), "{error}");
}

/// What happens when a block is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copying {
    Works,
    Fails,
    FailsForGood,
    Panics,
}

/// The simulated runner, but for copying.
struct Copier {
    sim: SimRunner,
    spec: RunnerSpec,
    copying: Copying,
}

impl ModelRunner for Copier {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &StepBatch) -> inference_core::Result<Vec<f32>> {
        self.sim.forward(batch)
    }

    fn survives(&self, _: &inference_core::Error) -> bool {
        self.copying != Copying::FailsForGood
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        Some(self)
    }

    fn memory(&self) -> MemoryUsage {
        self.sim.memory()
    }
}

impl KvBlocks for Copier {
    fn format(&self) -> String {
        KvBlocks::format(&self.sim)
    }

    fn position_bytes(&self) -> u64 {
        self.sim.position_bytes()
    }

    fn sharing_class(&self, prompt_len: usize) -> u64 {
        self.sim.sharing_class(prompt_len)
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> inference_core::Result<()> {
        match self.copying {
            Copying::Works => self.sim.copy_block(from, to, len),
            Copying::Fails | Copying::FailsForGood => {
                Err(inference_core::Error::engine_message("the copy failed"))
            }
            Copying::Panics => panic!("the copy panicked"),
        }
    }

    fn read_block(&mut self, block: BlockId, len: usize) -> inference_core::Result<Vec<u8>> {
        self.sim.read_block(block, len)
    }

    fn write_block(
        &mut self,
        block: BlockId,
        len: usize,
        bytes: &[u8],
    ) -> inference_core::Result<()> {
        self.sim.write_block(block, len, bytes)
    }
}

/// A block of which a part is of use must be copied. Where that fails, its
/// sequence ends, and the engine as the runner says.
#[test]
fn a_copy_that_fails_ends_its_sequence() {
    for copying in [Copying::Works, Copying::Fails, Copying::FailsForGood, Copying::Panics] {
        let (sim, _) = SimRunner::new(SimSpec::default());
        let runner = Copier { spec: sim.spec().clone(), sim, copying };
        let parts = ModelParts::new(info());
        let model = EngineModel::start(Box::new(runner), parts, EngineOptions::new()).unwrap();
        let first = generate(&model, &[1, 2, 3, 4, 5, 6], greedy(3));
        let second = model.generate(vec![1, 2, 3, 4, 5, 6].into(), greedy(3)).unwrap();
        let second: inference_core::Result<Vec<TokenId>> =
            second.map(|token| Ok(token?.id)).collect();
        assert_idle(&model);
        if copying == Copying::Works {
            assert_eq!(second.unwrap(), first);
            continue;
        }
        let message = second.unwrap_err().to_string();
        assert!(message.contains("the copy "), "{message}");
        let other = model.generate(vec![7, 8, 9].into(), greedy(3));
        assert_eq!(other.is_ok(), copying == Copying::Fails, "{copying:?}");
        assert_eq!(model.metrics().failed, 1);
    }
}

#[test]
fn who_heard_of_a_fatal_failure_is_refused_at_once() {
    for _ in 0..200 {
        let (model, control) = model(SimSpec::default(), EngineOptions::new());
        control.fail_at(0, SimFault::Error { survives: false });
        let mut stream = model.generate(vec![1].into(), greedy(1)).unwrap();
        stream.next().unwrap().unwrap_err();
        let error = model.generate(vec![1].into(), greedy(1)).err().unwrap();
        assert_eq!(error.to_string(), "simulated failure");
    }
}
