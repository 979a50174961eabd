//! KV blocks are copied, read and written bit for bit, by this backend and by
//! the reference, and each takes what the other read.

#![allow(clippy::unwrap_used, reason = "a test")]

use candle_core::{Device, Tensor};
use inference_candle::{AttentionSpec, BatchView, KvCache, KvLayout, Ops, ReferenceOps};
use inference_core::{ErrorKind, KvDtype};
use inference_cpu::{CpuOps, CpuOptions};
use inference_engine::StepSequence;

const SPEC: AttentionSpec = AttentionSpec {
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 32,
    scale: 0.2,
    softcap: None,
    window: None,
};

const DTYPES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Q8_0];

fn implementations() -> Vec<Box<dyn Ops>> {
    let cpu = CpuOps::new(&CpuOptions::new().with_threads(1)).unwrap();
    vec![Box::new(cpu), Box::new(ReferenceOps::cpu())]
}

fn layout(block_size: usize, dtype: KvDtype) -> KvLayout {
    let AttentionSpec { num_kv_heads, head_dim, .. } = SPEC;
    KvLayout { num_layers: 2, num_kv_heads, head_dim, block_size, num_blocks: 6, dtype }
}

/// `[tokens, heads, head_dim]`, from -4 to 4.
fn values(tokens: usize, heads: usize, seed: usize) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 8009) as f32 / 1001.0 - 4.0;
    let values = (0..tokens * heads * SPEC.head_dim).map(value).collect();
    Tensor::from_vec(values, (tokens, heads, SPEC.head_dim), &Device::Cpu).unwrap()
}

/// Attention of positions `from..to` in both layers, as bits.
fn attend(
    ops: &dyn Ops,
    cache: &mut dyn KvCache,
    table: &[u32],
    from: usize,
    to: usize,
) -> Vec<u32> {
    let len = to - from;
    let sequences = [StepSequence {
        start: 0,
        len,
        position: from,
        prompt_len: to,
        adapter: None,
        block_table: table.into(),
    }];
    let positions: Vec<usize> = (from..to).collect();
    let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
    let part = |heads, seed| values(to, heads, seed).narrow(0, from, len).unwrap();
    (0..2)
        .flat_map(|layer| {
            let (q, k, v) = (part(4, 1), part(2, 2 + 2 * layer), part(2, 3 + 2 * layer));
            let out = ops.attention(&q, &k, &v, Some((&mut *cache, layer)), &batch, &SPEC);
            out.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        })
        .map(f32::to_bits)
        .collect()
}

#[test]
fn what_was_read_can_be_written_anywhere() {
    for dtype in DTYPES {
        let mut bytes_of_all = Vec::new();
        for from in implementations() {
            // Eleven positions in blocks of four, and the twelfth to follow.
            let mut cache = from.kv_cache(&layout(4, dtype)).unwrap();
            attend(&*from, &mut *cache, &[4, 1, 3], 0, 11);
            let bytes: Vec<u8> = [(4, 4), (1, 4), (3, 3)]
                .iter()
                .flat_map(|(block, len)| cache.read_block(*block, *len).unwrap())
                .collect();
            assert_eq!(bytes.len() as u64, 11 * cache.layout().position_bytes());
            let prefix = cache.read_block(4, 2).unwrap();
            assert_eq!(prefix, bytes[..prefix.len()], "position after position");
            for to in implementations() {
                // The same positions in blocks of eight.
                let mut restored = to.kv_cache(&layout(8, dtype)).unwrap();
                let size = bytes.len() / 11;
                restored.write_block(5, 8, &bytes[..8 * size]).unwrap();
                restored.write_block(2, 3, &bytes[8 * size..]).unwrap();
                assert_eq!(restored.read_block(5, 8).unwrap(), bytes[..8 * size]);
                assert_eq!(restored.read_block(2, 3).unwrap(), bytes[8 * size..]);
                let mut whole = to.kv_cache(&layout(8, dtype)).unwrap();
                attend(&*to, &mut *whole, &[0, 1], 0, 11);
                let expected = attend(&*to, &mut *whole, &[0, 1], 11, 12);
                let found = attend(&*to, &mut *restored, &[5, 2], 11, 12);
                assert_eq!(found, expected, "{dtype}");
            }
            bytes_of_all.push(bytes);
        }
        assert_eq!(bytes_of_all[0], bytes_of_all[1], "{dtype}: one format");
    }
}

#[test]
fn copies_are_the_same_and_leave_the_rest_alone() {
    for dtype in DTYPES {
        for ops in implementations() {
            let mut cache = ops.kv_cache(&layout(4, dtype)).unwrap();
            attend(&*ops, &mut *cache, &[0, 1, 2], 0, 12);
            let (first, second) =
                (cache.read_block(0, 4).unwrap(), cache.read_block(1, 4).unwrap());
            assert_ne!(first, second);
            cache.copy_block(0, 1, 3).unwrap();
            let copied = cache.read_block(1, 4).unwrap();
            let three = first.len() / 4 * 3;
            assert_eq!(copied[..three], first[..three]);
            assert_eq!(copied[three..], second[three..]);
            cache.copy_block(1, 1, 4).unwrap();
            cache.copy_block(2, 1, 0).unwrap();
            assert_eq!(cache.read_block(1, 4).unwrap(), copied);
            assert_eq!(cache.read_block(0, 4).unwrap(), first);
            assert!(cache.read_block(0, 0).unwrap().is_empty());
        }
    }
}

#[test]
fn wrong_blocks_and_lengths_are_refused() {
    for dtype in DTYPES {
        for ops in implementations() {
            let mut cache = ops.kv_cache(&layout(4, dtype)).unwrap();
            let size = usize::try_from(cache.layout().position_bytes()).unwrap();
            let bytes = vec![0; size * 5];
            let results = [
                cache.copy_block(0, 6, 1),
                cache.copy_block(6, 0, 1),
                cache.copy_block(0, 1, 5),
                cache.read_block(6, 1).map(drop),
                cache.read_block(0, 5).map(drop),
                cache.write_block(6, 1, &bytes[..size]),
                cache.write_block(0, 5, &bytes),
                cache.write_block(0, 2, &bytes[..2 * size - 1]),
                cache.write_block(0, 2, &bytes[..3 * size]),
                cache.write_block(0, 0, &bytes[..1]),
            ];
            for (index, result) in results.into_iter().enumerate() {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{index}: {error}");
            }
            cache.write_block(0, 0, &[]).unwrap();
        }
    }
}
