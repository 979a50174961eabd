//! Attention over many chunks of keys: against a naive twin in f64, and the
//! same bits from every instruction set, with any number of threads, for any
//! part of a sequence and any size of blocks.

#![allow(clippy::unwrap_used, reason = "a test")]

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use inference_candle::{AttentionSpec, BatchView, KvCache, KvLayout, Ops};
use inference_core::KvDtype;
use inference_cpu::{CpuOps, CpuOptions, Tier};
use inference_engine::StepSequence;
use proptest::prelude::*;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
    };
    (0..count).map(|_| next()).collect()
}

/// A sequence's operands, `[len, heads, head_dim]`, and its place in a pool.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    len: usize,
    block_table: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Case {
    spec: AttentionSpec,
    dtype: KvDtype,
    len: usize,
    block_size: usize,
    seed: u64,
}

impl Case {
    fn blocks(&self) -> usize {
        self.len.div_ceil(self.block_size)
    }

    /// In blocks from last to first.
    fn sequence(&self) -> Sequence {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = self.spec;
        let numbers = |heads, seed| numbers(self.len * heads * head_dim, self.seed ^ seed);
        Sequence {
            q: numbers(num_heads, 1),
            k: numbers(num_kv_heads, 2),
            v: numbers(num_kv_heads, 3),
            len: self.len,
            block_table: (0..self.blocks() as u32).rev().collect(),
        }
    }

    fn cache(&self, ops: &CpuOps) -> Box<dyn KvCache> {
        let AttentionSpec { num_kv_heads, head_dim, .. } = self.spec;
        let (num_blocks, block_size, dtype) = (self.blocks(), self.block_size, self.dtype);
        let num_layers = 1;
        ops.kv_cache(&KvLayout {
            num_layers,
            num_kv_heads,
            head_dim,
            block_size,
            num_blocks,
            dtype,
        })
        .unwrap()
    }

    /// The value that is stored for `x`.
    fn stored(&self, x: f32) -> f64 {
        f64::from(match self.dtype {
            KvDtype::F16 => f16::from_f32(x).to_f32(),
            KvDtype::Bf16 => bf16::from_f32(x).to_f32(),
            _ => x,
        })
    }

    /// One position's result of one head, by the definition.
    fn naive(&self, sequence: &Sequence, position: usize, head: usize) -> Vec<f64> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, scale, softcap, window } = self.spec;
        let kv_head = head / (num_heads / num_kv_heads);
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let q = &sequence.q[(position * num_heads + head) * head_dim..][..head_dim];
        let row = |all: &[f32], key: usize| -> Vec<f64> {
            let row = &all[(key * num_kv_heads + kv_head) * head_dim..][..head_dim];
            row.iter().map(|x| self.stored(*x)).collect()
        };
        let score = |key: usize| -> f64 {
            let dot: f64 =
                q.iter().zip(row(&sequence.k, key)).map(|(q, k)| f64::from(*q) * k).sum();
            let score = dot * f64::from(scale);
            softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (first..=position).map(score).collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; head_dim];
        for (weight, key) in weights.iter().zip(first..) {
            for (out, v) in out.iter_mut().zip(row(&sequence.v, key)) {
                *out += weight / sum * v;
            }
        }
        out
    }
}

/// Attention of the positions `from..to`; `[to - from, heads, head_dim]`.
fn step(
    ops: &CpuOps,
    cache: Option<&mut dyn KvCache>,
    spec: &AttentionSpec,
    sequence: &Sequence,
    from: usize,
    to: usize,
) -> Vec<f32> {
    let len = to - from;
    let tensor = |all: &[f32], heads: usize| {
        let row = heads * spec.head_dim;
        let rows = all[from * row..to * row].to_vec();
        Tensor::from_vec(rows, (len, heads, spec.head_dim), &Device::Cpu).unwrap()
    };
    let q = tensor(&sequence.q, spec.num_heads);
    let (k, v) = (tensor(&sequence.k, spec.num_kv_heads), tensor(&sequence.v, spec.num_kv_heads));
    let block_table = sequence.block_table.clone();
    let sequences = [StepSequence {
        start: 0,
        len,
        position: from,
        prompt_len: sequence.len,
        adapter: None,
        block_table,
    }];
    let positions: Vec<usize> = (from..to).collect();
    let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
    let out = ops.attention(&q, &k, &v, cache.map(|cache| (cache, 0)), &batch, spec).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn cases() -> impl Strategy<Value = Case> {
    let heads =
        prop::sample::select(vec![(1, 1), (3, 1), (4, 2), (2, 2), (7, 1), (10, 2), (16, 1)]);
    let head_dim =
        prop::sample::select(vec![8usize, 16, 33, 40, 64, 64, 72, 80, 96, 128, 160, 256]);
    let dtype =
        prop::sample::select(vec![KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Q8_0]);
    let block_size = prop::sample::select(vec![16usize, 16, 32, 48, 128, 1, 5, 24]);
    let window = prop::option::of(1usize..300);
    let softcap = prop::option::of(5.0f32..50.0);
    let sizes = (100usize..420, block_size);
    (heads, head_dim, dtype, window, softcap, sizes, any::<u64>()).prop_map(
        |((num_heads, num_kv_heads), head_dim, dtype, window, softcap, (len, block_size), seed)| {
            let q8 = dtype == KvDtype::Q8_0;
            let head_dim = if q8 { head_dim.next_multiple_of(32) } else { head_dim };
            let scale = (head_dim as f32).sqrt().recip();
            let spec = AttentionSpec { num_heads, num_kv_heads, head_dim, scale, softcap, window };
            Case { spec, dtype, len, block_size, seed }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn is_that_of_the_definition_and_has_one_result(
        case in cases(),
        cut in 0.0f64..1.0,
        tail in 1usize..12,
    ) {
        let spec = &case.spec;
        let row = spec.num_heads * spec.head_dim;
        let sequence = case.sequence();
        let best = CpuOps::new(&CpuOptions::new().with_threads(2)).unwrap();
        let mut cache = case.cache(&best);
        let whole = step(&best, Some(&mut *cache), spec, &sequence, 0, case.len);

        if case.dtype != KvDtype::Q8_0 {
            for position in [0, 127, 128, 129, case.len / 2, case.len - 1] {
                for head in [0, spec.num_heads - 1] {
                    if position >= case.len {
                        continue;
                    }
                    let found = &whole[position * row + head * spec.head_dim..];
                    let expected = case.naive(&sequence, position, head);
                    for (found, expected) in found.iter().zip(expected) {
                        prop_assert!(
                            (f64::from(*found) - expected).abs() < 1e-5,
                            "{found} instead of {expected} at {position}"
                        );
                    }
                }
            }
        }
        // In two parts.
        let cut = 1 + (cut * (case.len - 1) as f64) as usize;
        let mut other = case.cache(&best);
        let mut parts = step(&best, Some(&mut *other), spec, &sequence, 0, cut);
        if cut < case.len {
            parts.extend(step(&best, Some(&mut *other), spec, &sequence, cut, case.len));
        }
        prop_assert_eq!(bits(&parts), bits(&whole));
        if case.dtype == KvDtype::F32 {
            let uncached = step(&best, None, spec, &sequence, 0, case.len);
            prop_assert_eq!(bits(&uncached), bits(&whole));
        }
        // The last tokens again, by every tier; the pool is everyone's.
        let from = case.len - tail;
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            for threads in [1, 3] {
                let options = CpuOptions::new().with_tier(tier).with_threads(threads);
                let ops = CpuOps::new(&options).unwrap();
                let found = step(&ops, Some(&mut *cache), spec, &sequence, from, case.len);
                prop_assert_eq!(
                    bits(&found), bits(&whole[from * row..]), "{} {}", tier, threads
                );
            }
        }
    }
}

#[test]
fn a_later_token_that_is_not_finite_does_not_reach_earlier_ones() {
    let spec = AttentionSpec {
        num_heads: 2,
        num_kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        window: None,
    };
    for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Q8_0] {
        let case = Case { spec: spec.clone(), dtype, len: 150, block_size: 16, seed: 5 };
        let row = spec.num_heads * spec.head_dim;
        let good = case.sequence();
        let mut bad = case.sequence();
        bad.k[140 * row + 3] = f32::INFINITY;
        bad.v[140 * row + 5] = f32::NAN;
        let ops = CpuOps::new(&CpuOptions::new().with_threads(1)).unwrap();
        let of = |sequence: &Sequence| {
            step(&ops, Some(&mut *case.cache(&ops)), &spec, sequence, 0, case.len)
        };
        let (good, bad) = (of(&good), of(&bad));
        assert_eq!(bits(&good[..140 * row]), bits(&bad[..140 * row]), "{dtype}");
        assert!(bad[140 * row + 5].is_nan(), "{dtype}");
    }
}
