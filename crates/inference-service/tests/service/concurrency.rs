//! Many consumers at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use inference_core::{ClassifyOptions, ErrorKind, FinishReason, GenerateOptions};
use inference_service::ServiceOptions;
use inference_service::UnloadMode;
use inference_service::action::{Cancel, Load, Unload};

use crate::support::{service, wait_until};

/// A small generator of one's own for each thread (Marsaglia's xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn many_threads_do_everything_and_nothing_is_left() {
    let options = ServiceOptions::new()
        .with_memory_budget(16_000)
        .with_max_models(3)
        .with_default_model(Load::new("echo", "50 bytes"));
    let (service, stage) = service(options);
    let read = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seed in 1..=8 {
            let (service, read) = (service.clone(), &read);
            scope.spawn(move || {
                let mut dice = Dice(seed * 0x9e37_79b9);
                for _ in 0..150 {
                    let name = ["sim1", "sim2", "sim3", "w"][dice.below(4) as usize];
                    let source = if name == "w" { "300 bytes" } else { name };
                    let outcome = match dice.below(12) {
                        0..3 => {
                            let load = Load::new(name, source).with_memory_bytes(6120);
                            service.perform(load).map(|_| ())
                        }
                        3 => service.unload(name).map(|_| ()),
                        4 => {
                            let drain = Unload::new(name).with_mode(UnloadMode::Drain);
                            service.perform(drain).map(|_| ())
                        }
                        5 => service.perform(Cancel::Model(name.into())).map(|_| ()),
                        6 => service
                            .classify(name, vec![vec![1, 2].into()], ClassifyOptions::new())
                            .map(|_| ()),
                        7 => {
                            let tokens = vec![u32::from(b'h'), u32::from(b'i')];
                            let stream = service.generate(None, tokens, GenerateOptions::new());
                            stream.and_then(|generation| {
                                let (text, end) = generation.stream.collect_text()?;
                                if end.finish_reason != FinishReason::Cancelled {
                                    assert_eq!(text, "hi");
                                    read.fetch_add(1, Ordering::Relaxed);
                                }
                                Ok(())
                            })
                        }
                        8 => service.metrics().map(|_| ()),
                        _ => {
                            let options = GenerateOptions::new().with_max_tokens(5);
                            service.generate(name, vec![1, 2], options).and_then(|generation| {
                                if dice.below(3) == 0 {
                                    return Ok(());
                                }
                                let end = generation.stream.finish()?;
                                if end.finish_reason == FinishReason::Length {
                                    read.fetch_add(1, Ordering::Relaxed);
                                }
                                Ok(())
                            })
                        }
                    };
                    if let Err(error) = outcome {
                        let known = [
                            ErrorKind::ModelNotFound,
                            ErrorKind::Exhausted,
                            ErrorKind::Closed,
                            ErrorKind::InvalidInput,
                        ];
                        assert!(known.contains(&error.kind()), "{error}");
                    }
                    let info = service.info().unwrap();
                    assert!(info.models.len() <= 6);
                }
            });
        }
    });
    assert!(read.load(Ordering::Relaxed) > 0, "something was read to its end");
    let metrics = service.metrics().unwrap();
    assert!(metrics.open.is_empty(), "{:?}", metrics.open);
    let info = service.info().unwrap();
    assert!(info.models.iter().all(|model| model.requests == 0));
    assert!(info.memory_used <= 16_000);
    assert_eq!(metrics.loads - metrics.unloads, info.models.len() as u64);
    service.close(UnloadMode::Close).unwrap();
    wait_until(|| stage.alive() == 0);
}

#[test]
fn streams_of_many_consumers_share_one_model() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let control = stage.sim("sim");
    let alone: Vec<_> = (0..8_u32)
        .map(|id| {
            let options = GenerateOptions::new().with_max_tokens(8);
            let stream = service.generate("sim", vec![id, 7], options).unwrap().stream;
            stream.map(|token| token.unwrap().id).collect::<Vec<_>>()
        })
        .collect();
    control.hold();
    let started = AtomicUsize::new(0);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8_u32)
            .map(|id| {
                let (service, started) = (service.clone(), &started);
                scope.spawn(move || {
                    let options = GenerateOptions::new().with_max_tokens(8);
                    let mut stream = service.generate("sim", vec![id, 7], options).unwrap().stream;
                    stream.start();
                    started.fetch_add(1, Ordering::SeqCst);
                    stream.map(|token| token.unwrap().id).collect::<Vec<_>>()
                })
            })
            .collect();
        wait_until(|| started.load(Ordering::SeqCst) == 8);
        let before = control.batches().len();
        control.release();
        let together: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!(together, alone);
        assert!(control.batches().len() - before < 8 * 8, "they were computed together");
    });
}
