//! Attention against the reference, and the same bits however a sequence is
//! cut into steps, wherever its blocks lie and whatever runs beside it.

#![allow(clippy::unwrap_used, reason = "a test")]

use candle_core::{Device, Tensor};
use inference_candle::{AttentionSpec, BatchView, KvCache, KvLayout, Ops, ReferenceOps};
use inference_core::KvDtype;
use inference_cpu::{CpuOps, CpuOptions, Tier};
use inference_engine::StepSequence;
use proptest::prelude::*;

const BLOCK: usize = 4;
const BLOCKS: usize = 40;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
    };
    (0..count).map(|_| next()).collect()
}

/// Queries, keys and values of one sequence, `[tokens, heads, head_dim]`.
struct Sequence {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    len: usize,
    block_table: Vec<u32>,
}

fn sequence(spec: &AttentionSpec, len: usize, first_block: usize, seed: u64) -> Sequence {
    let tensor = |heads: usize, seed: u64| {
        let data = numbers(len * heads * spec.head_dim, seed);
        Tensor::from_vec(data, (len, heads, spec.head_dim), &Device::Cpu).unwrap()
    };
    let q = tensor(spec.num_heads, seed);
    let (k, v) = (tensor(spec.num_kv_heads, seed ^ 1), tensor(spec.num_kv_heads, seed ^ 2));
    // Blocks in an order of their own: 7 is coprime to their number's divisors.
    let blocks = len.div_ceil(BLOCK);
    let block_table = (0..blocks).map(|b| ((first_block + b) * 7 % BLOCKS) as u32).collect();
    Sequence { q, k, v, len, block_table }
}

/// One step of attention over parts of sequences: `(sequence, from, to)`.
fn step(
    ops: &dyn Ops,
    cache: Option<&mut dyn KvCache>,
    spec: &AttentionSpec,
    parts: &[(&Sequence, usize, usize)],
) -> Tensor {
    let cat = |pick: fn(&Sequence) -> &Tensor| {
        let rows = parts.iter().map(|(s, from, to)| pick(s).narrow(0, *from, to - from).unwrap());
        Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap()
    };
    let mut sequences = Vec::new();
    let mut positions = Vec::new();
    for (sequence, from, to) in parts {
        sequences.push(StepSequence {
            start: positions.len(),
            len: to - from,
            position: *from,
            prompt_len: sequence.len,
            adapter: None,
            block_table: sequence.block_table.clone(),
        });
        positions.extend(*from..*to);
    }
    let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
    let (q, k, v) = (cat(|s| &s.q), cat(|s| &s.k), cat(|s| &s.v));
    ops.attention(&q, &k, &v, cache.map(|cache| (cache, 1)), &batch, spec).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    floats(tensor).into_iter().map(f32::to_bits).collect()
}

fn layout(spec: &AttentionSpec, dtype: KvDtype) -> KvLayout {
    KvLayout {
        num_layers: 2,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        block_size: BLOCK,
        num_blocks: BLOCKS,
        dtype,
    }
}

fn specs() -> impl Strategy<Value = AttentionSpec> {
    let heads = prop_oneof![Just((1, 1)), Just((4, 2)), Just((6, 2)), Just((9, 1)), Just((3, 3))];
    let dims = prop_oneof![Just(8usize), Just(16), Just(24), Just(64), Just(80), 1usize..40];
    let window = prop::option::of(1usize..30);
    let softcap = prop::option::of(5.0f32..50.0);
    (heads, dims, window, softcap).prop_map(
        |((num_heads, num_kv_heads), head_dim, window, softcap)| {
            let scale = (head_dim as f32).sqrt().recip();
            AttentionSpec { num_heads, num_kv_heads, head_dim, scale, softcap, window }
        },
    )
}

/// Specs and how keys and values are stored: q8_0 where heads allow it.
fn stored() -> impl Strategy<Value = (AttentionSpec, KvDtype)> {
    let floats = prop_oneof![Just(KvDtype::F32), Just(KvDtype::F16), Just(KvDtype::Bf16)];
    let q8 = (specs(), 1usize..5).prop_map(|(spec, groups)| {
        let spec = AttentionSpec { head_dim: 32 * groups, ..spec };
        (AttentionSpec { scale: (spec.head_dim as f32).sqrt().recip(), ..spec }, KvDtype::Q8_0)
    });
    prop_oneof![3 => (specs(), floats), 1 => q8]
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {i}: {a} vs {b}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_company_does_not_matter(
        (spec, dtype) in stored(),
        len in 1usize..60,
        other in 1usize..40,
        cuts in (0.0f64..1.0, 0.0f64..1.0),
        seed: u64,
    ) {
        let a = sequence(&spec, len, 0, seed);
        let b = sequence(&spec, other, len.div_ceil(BLOCK), seed ^ 77);
        let row = spec.num_heads * spec.head_dim;
        let reference = ReferenceOps::cpu();
        let exact = floats(&step(&reference, None, &spec, &[(&a, 0, len)]));
        let mut cuts = [(cuts.0 * len as f64) as usize, (cuts.1 * len as f64) as usize];
        cuts.sort_unstable();

        let mut first: Option<Vec<u32>> = None;
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            for threads in [1, 2] {
                let options = CpuOptions::new().with_tier(tier).with_threads(threads);
                let ops = CpuOps::new(&options).unwrap();
                let mut cache = ops.kv_cache(&layout(&spec, dtype)).unwrap();
                let whole = bits(&step(&ops, Some(&mut *cache), &spec, &[(&a, 0, len)]));
                let first = first.get_or_insert_with(|| whole.clone());
                prop_assert_eq!(&whole, &*first, "{} {}", tier, threads);

                // In three chunks, each beside another sequence.
                let mut cache = ops.kv_cache(&layout(&spec, dtype)).unwrap();
                let mut from = 0;
                for to in [cuts[0], cuts[1], len] {
                    if to > from {
                        let out = step(&ops, Some(&mut *cache), &spec, &[(&b, 0, other), (&a, from, to)]);
                        prop_assert_eq!(&bits(&out)[other * row..], &whole[from * row..to * row]);
                    }
                    from = to;
                }
                // One token at a time.
                let mut cache = ops.kv_cache(&layout(&spec, dtype)).unwrap();
                for at in 0..len {
                    let out = step(&ops, Some(&mut *cache), &spec, &[(&a, at, at + 1)]);
                    prop_assert_eq!(&bits(&out)[..], &whole[at * row..(at + 1) * row]);
                }
                let whole: Vec<_> = whole.iter().map(|bits| f32::from_bits(*bits)).collect();
                let tolerance = match dtype {
                    KvDtype::F32 => 2e-5,
                    KvDtype::F16 => 2e-2,
                    _ => 2e-1,
                };
                assert_close(&whole, &exact, tolerance);
                if dtype == KvDtype::Q8_0 {
                    // The reference stores the same bytes, so this is the
                    // difference of the arithmetic alone.
                    let mut cache = reference.kv_cache(&layout(&spec, dtype)).unwrap();
                    let twin = step(&reference, Some(&mut *cache), &spec, &[(&a, 0, len)]);
                    assert_close(&whole, &floats(&twin), 2e-5);
                }
                if dtype == KvDtype::F32 {
                    let uncached = bits(&step(&ops, None, &spec, &[(&b, 0, other), (&a, 0, len)]));
                    prop_assert_eq!(&uncached[other * row..], &first[..]);
                }
            }
        }
    }
}

#[test]
fn batches_that_do_not_fit_are_errors() {
    let spec = AttentionSpec {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 8,
        scale: 1.0,
        softcap: None,
        window: None,
    };
    let ops = CpuOps::new(&CpuOptions::new().with_threads(1)).unwrap();
    let a = sequence(&spec, 5, 0, 1);
    let attend = |sequences: &[StepSequence], cache: Option<&mut dyn KvCache>| {
        let positions: Vec<_> = (0..5).collect();
        let batch = BatchView { sequences, positions: &positions, adapters: &[] };
        ops.attention(&a.q, &a.k, &a.v, cache.map(|cache| (cache, 0)), &batch, &spec)
    };
    let good = StepSequence {
        start: 0,
        len: 5,
        position: 0,
        prompt_len: 5,
        adapter: None,
        block_table: a.block_table.clone(),
    };
    let mut cache = ops.kv_cache(&layout(&spec, KvDtype::F32)).unwrap();
    assert!(attend(std::slice::from_ref(&good), Some(&mut *cache)).is_ok());
    for bad in [
        StepSequence { block_table: vec![0], ..good.clone() },
        StepSequence { block_table: vec![0, BLOCKS as u32], ..good.clone() },
        StepSequence { len: 4, ..good.clone() },
        StepSequence { start: 1, ..good.clone() },
    ] {
        assert!(attend(&[bad], Some(&mut *cache)).is_err());
    }
    assert!(attend(&[StepSequence { position: 3, ..good.clone() }], None).is_err());
    let mut foreign = ReferenceOps::cpu().kv_cache(&layout(&spec, KvDtype::F32)).unwrap();
    assert!(attend(&[good], Some(&mut *foreign)).is_err());
}
