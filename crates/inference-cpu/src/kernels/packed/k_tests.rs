//! Packed 256-value types against their documented arithmetic.

use bytemuck::Zeroable;
use half::f16;
use inference_gguf::BlockType;
use inference_gguf::blocks::Unpacked;
use proptest::prelude::*;

use super::{Chunk32, Chunk256, FEATURES, PackedArgs};
use crate::Tier;
use crate::kernels::Kernels;

const SUPER: usize = 256;

/// The types, with the places of d and dmin.
const TYPES: [(BlockType, usize, Option<usize>); 6] = [
    (BlockType::Q2K, 80, Some(82)),
    (BlockType::Q3K, 108, None),
    (BlockType::Q4K, 0, Some(2)),
    (BlockType::Q5K, 0, Some(2)),
    (BlockType::Q6K, 208, None),
    (BlockType::Iq4Xs, 0, None),
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A block of random codes and sub-scales with scales as given.
    fn block(&mut self, (kind, d, dmin): (BlockType, usize, Option<usize>), scale: f32) -> Vec<u8> {
        let mut block: Vec<u8> =
            (0..kind.block_bytes()).map(|_| (self.next() >> 32) as u8).collect();
        for at in [Some(d), dmin].into_iter().flatten() {
            let sign = if self.next().is_multiple_of(2) { 1.0 } else { -1.0 };
            let scale = sign * scale * (self.next() % 1000) as f32 / 1000.0;
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        }
        block
    }

    /// From -1 to 1, some of other sizes.
    fn activation(&mut self) -> f32 {
        let number = (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match self.next() % 50 {
            0 => number * 100.0,
            1 => number * 1e-38,
            2 => 0.0,
            _ => number,
        }
    }
}

/// One feature's superblock in integers.
struct Integers {
    d: f32,
    dmin: f32,
    codes: [i64; SUPER],
    /// For each 16.
    scales: [i64; 16],
    minimums: [i64; 16],
}

/// The scales are products of a 16-bit float and few bits, and so exact.
fn integers(&(kind, d, dmin): &(BlockType, usize, Option<usize>), block: &[u8]) -> Integers {
    let mut unpacked = Unpacked::new();
    kind.unpack(block, SUPER, &mut unpacked).unwrap();
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let (d, dmin) = (half(d), dmin.map_or(0.0, half));
    let whole = |product: f32, factor: f32| match factor {
        0.0 => 0,
        _ => (product / factor) as i64,
    };
    Integers {
        d,
        dmin,
        codes: unpacked.q.map(i64::from),
        scales: unpacked.scale.map(|scale| whole(scale, d)),
        minimums: unpacked.offset.map(|offset| whole(-offset, dmin)),
    }
}

/// The documented chain of one feature and one row.
fn chain(weights: &[Integers], x: &[f32], minimums: bool, bias: f32) -> f32 {
    let mut sum = 0.0f32;
    for (w, x) in weights.iter().zip(x.chunks(SUPER)) {
        let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let usable = x.iter().all(|x| x.is_finite()) && largest >= 1e-36;
        let scale = if usable { largest / 127.0 } else { 0.0 };
        let q: Vec<i64> = x
            .iter()
            .map(|x| if scale > 0.0 { (x / scale).round_ties_even() as i64 } else { 0 })
            .collect();
        let (mut dots, mut sums) = (0, 0);
        for i in 0..SUPER {
            dots += w.scales[i / 16] * w.codes[i] * q[i];
            sums += w.minimums[i / 16] * q[i];
        }
        let scale = if x.iter().all(|x| x.is_finite()) { scale } else { f32::NAN };
        sum = (dots as f32).mul_add(w.d * scale, sum);
        if minimums {
            sum = (-(sums as f32)).mul_add(w.dmin * scale, sum);
        }
    }
    sum + bias
}

/// A matrix of random blocks: as it is stored, and in panels.
struct Matrix {
    n: usize,
    k: usize,
    source: Vec<Vec<u8>>,
    packed: Vec<u8>,
}

impl Matrix {
    fn new(
        kernels: &Kernels,
        kind: (BlockType, usize, Option<usize>),
        n: usize,
        supers: usize,
        random: &mut Random,
        scale: f32,
    ) -> Self {
        let source: Vec<Vec<u8>> = (0..n * supers).map(|_| random.block(kind, scale)).collect();
        let packing = (kernels.packed)(kind.0).unwrap();
        let nothing = vec![0; kind.0.block_bytes()];
        let bytes = packing.block_bytes();
        // Panels are aligned; the kernels do not ask for it.
        let mut packed = vec![0xAA; n.div_ceil(FEATURES) * supers * bytes + 1];
        for (i, to) in packed[1..].chunks_exact_mut(bytes).enumerate() {
            let (panel, block) = (i / supers, i % supers);
            let rows = std::array::from_fn(|lane| {
                let feature = panel * FEATURES + lane;
                source
                    .get(feature * supers + block)
                    .filter(|_| feature < n)
                    .unwrap_or(&nothing)
                    .as_slice()
            });
            (packing.pack)(&rows, to);
        }
        Self { n, k: supers * SUPER, source, packed }
    }

    /// The product of `x`, by both ways.
    fn product(
        &self,
        kernels: &Kernels,
        kind: BlockType,
        x: &[f32],
        bias: &[f32],
    ) -> [Vec<f32>; 2] {
        let rows = x.len() / self.k;
        let supers = self.k / SUPER;
        let mut chunks = vec![Chunk256::zeroed(); rows * supers];
        for (row, x) in x.chunks(self.k).enumerate() {
            // SAFETY: as many chunks as the row has superblocks, `rows` apart;
            // the table is for this CPU.
            unsafe { (kernels.quantize256)(x, chunks.as_mut_ptr().add(row), rows) };
        }
        let packing = (kernels.packed)(kind).unwrap();
        [packing.few, packing.many].map(|kernel| {
            let mut out = vec![f32::MAX; rows * self.n];
            let args = PackedArgs {
                x: chunks.as_ptr().cast(),
                x_rows: rows,
                rows,
                w: self.packed[1..].as_ptr(),
                panels: self.n.div_ceil(FEATURES),
                blocks: supers,
                features: self.n,
                bias: bias.as_ptr(),
                out: out.as_mut_ptr(),
                out_stride: self.n,
            };
            // SAFETY: the extents are those of the vectors.
            unsafe { kernel(&args) };
            out
        })
    }
}

fn tables() -> impl Iterator<Item = &'static Kernels> {
    Tier::ALL.into_iter().filter_map(Tier::kernels)
}

fn bits(values: &[f32]) -> Vec<u32> {
    // The sign of NaN is not ours to choose.
    values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

fn check(seed: u64, rows: usize, n: usize, supers: usize, scale: f32, poison: bool) {
    for kind in TYPES {
        let mut random = Random(seed | 1);
        let scalar = Tier::Scalar.kernels().unwrap();
        let matrix = Matrix::new(scalar, kind, n, supers, &mut random, scale);
        let mut x: Vec<f32> = (0..rows * matrix.k).map(|_| random.activation()).collect();
        if poison {
            let at = random.next() as usize % x.len();
            x[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][seed as usize % 3];
        }
        let bias: Vec<f32> = (0..n).map(|_| random.activation()).collect();
        let weights: Vec<Vec<Integers>> = matrix
            .source
            .chunks(supers)
            .map(|row| row.iter().map(|block| integers(&kind, block)).collect())
            .collect();
        let expected: Vec<f32> = x
            .chunks(matrix.k)
            .flat_map(|x| {
                let features = weights.iter().zip(&bias);
                features.map(|(w, bias)| chain(w, x, kind.2.is_some(), *bias)).collect::<Vec<_>>()
            })
            .collect();
        for kernels in tables() {
            for (way, out) in ["few", "many"].iter().zip(matrix.product(kernels, kind.0, &x, &bias))
            {
                assert_eq!(bits(&out), bits(&expected), "{} {} {way}", kind.0, kernels.tier);
            }
        }
    }
}

#[test]
fn the_documented_chain_bit_for_bit() {
    let sizes = [(9, 1, 1), (2, 1, 3), (1, 16, 1), (3, 33, 2), (4, 17, 1), (5, 31, 2), (13, 40, 5)];
    for (rows, n, supers) in sizes.into_iter().take(if cfg!(miri) { 2 } else { sizes.len() }) {
        check(0x9E37_79B9_7F4A_7C15, rows, n, supers, 0.01, false);
    }
}

#[test]
fn integers_are_exact_where_they_are_largest() {
    // Every code, sub-scale and activation of the largest magnitude.
    for kind in TYPES {
        let random = &mut Random(77);
        for fill in [0x80, 0xFF, 0x00, 0x7F].into_iter().take(if cfg!(miri) { 1 } else { 4 }) {
            let mut block = vec![fill; kind.0.block_bytes()];
            for at in [Some(kind.1), kind.2].into_iter().flatten() {
                block[at..at + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
            }
            let weights = [integers(&kind, &block)];
            let scalar = Tier::Scalar.kernels().unwrap();
            let mut matrix = Matrix::new(scalar, kind, 16, 1, random, 1.0);
            let rows: [&[u8]; FEATURES] = [&block; FEATURES];
            ((scalar.packed)(kind.0).unwrap().pack)(&rows, &mut matrix.packed[1..]);
            for x in [3.0, -3.0] {
                let x = [x; SUPER];
                let expected = chain(&weights, &x, kind.2.is_some(), 0.0);
                for kernels in tables() {
                    for out in matrix.product(kernels, kind.0, &x, &[0.0; 16]) {
                        assert_eq!(
                            bits(&out),
                            [expected.to_bits(); 16],
                            "{} {}",
                            kind.0,
                            kernels.tier
                        );
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn any_size_and_scale(
        seed in any::<u64>(),
        (rows, n, supers) in (1usize..11, 1usize..50, 1usize..9),
        scale in prop::sample::select(vec![6e-8f32, 1e-3, 1.0, 6e4]),
        poison in any::<bool>(),
    ) {
        check(seed, rows, n, supers, scale, poison);
    }
}

/// Every code and sub-scale comes back: the weights of a product with the rows
/// of an identity matrix are those of the block.
#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn packing_loses_nothing() {
    for kind in TYPES {
        let random = &mut Random(5);
        let scalar = Tier::Scalar.kernels().unwrap();
        let matrix = Matrix::new(scalar, kind, 19, 2, random, 0.02);
        let mut x = vec![0.0; matrix.k * matrix.k];
        for i in 0..matrix.k {
            // Quantized to exactly 127 of 127.
            x[i * matrix.k + i] = 127.0;
        }
        let out = &matrix.product(scalar, kind.0, &x, &[0.0; 19])[0];
        for (feature, blocks) in matrix.source.chunks(2).enumerate() {
            let mut decoded = vec![0.0; matrix.k];
            kind.0.decode(&blocks.concat(), &mut decoded).unwrap();
            for (i, value) in decoded.iter().enumerate() {
                let product = out[i * 19 + feature];
                // Two roundings there, one here.
                let close = (product - 127.0 * value).abs() <= 1e-5 * (1.0 + product.abs());
                assert!(close, "{} feature {feature} value {i}: {product}, {value}", kind.0);
            }
        }
    }
}

/// Types of 32 values on every instruction set against portable code, whose
/// products `tests/packed.rs` compares with their definition.
#[test]
fn types_of_32_values_are_the_same_everywhere() {
    for kind in [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Iq4Nl,
        BlockType::Mxfp4,
    ] {
        let mut random = Random(0xD1B5_4A32_D192_ED03);
        // More than a tile's blocks, and the last of them not whole.
        let (rows, blocks) = match kind {
            _ if !cfg!(miri) => (11, 19),
            BlockType::Q4_0 => (1, 17),
            _ => (9, 1),
        };
        let (n, k) = (2 * FEATURES, 32 * blocks);
        let scalar = Tier::Scalar.kernels().unwrap();
        let packing = (scalar.packed)(kind).unwrap();
        let mut packed = vec![0; 2 * blocks * packing.block_bytes()];
        for to in packed.chunks_exact_mut(packing.block_bytes()) {
            let rows: [Vec<u8>; FEATURES] = std::array::from_fn(|_| {
                let mut block: Vec<u8> =
                    (0..kind.block_bytes()).map(|_| (random.next() >> 32) as u8).collect();
                if kind == BlockType::Mxfp4 {
                    block[0] = [0, 1, 2, 100, 127, 130][block[0] as usize % 6];
                } else {
                    // Not NaN, and of a usual size.
                    block[1] &= 0xBB;
                    block[3] &= 0xBB;
                }
                block
            });
            (packing.pack)(&rows.each_ref().map(Vec::as_slice), to);
        }
        let x: Vec<f32> = (0..rows * k).map(|_| random.activation()).collect();
        let bias = vec![0.25; n];
        let product = |kernels: &Kernels| {
            let chunk_count = k.div_ceil(SUPER);
            let mut chunks = vec![Chunk32::zeroed(); rows * chunk_count];
            for (row, x) in x.chunks(k).enumerate() {
                // SAFETY: as many chunks as the row takes, `rows` apart; the
                // table is for this CPU.
                unsafe { (kernels.quantize32)(x, chunks.as_mut_ptr().add(row), rows) };
            }
            let packing = (kernels.packed)(kind).unwrap();
            [packing.few, packing.many].map(|kernel| {
                let mut out = vec![f32::MAX; rows * n];
                let args = PackedArgs {
                    x: chunks.as_ptr().cast(),
                    x_rows: rows,
                    rows,
                    w: packed.as_ptr(),
                    panels: 2,
                    blocks,
                    features: n,
                    bias: bias.as_ptr(),
                    out: out.as_mut_ptr(),
                    out_stride: n,
                };
                // SAFETY: the extents are those of the vectors.
                unsafe { kernel(&args) };
                bits(&out)
            })
        };
        let [expected, other] = product(scalar);
        assert_eq!(expected, other, "{kind}");
        assert!(expected.iter().any(|x| *x != expected[0]), "{kind}");
        for kernels in tables() {
            for out in product(kernels) {
                assert_eq!(out, expected, "{kind} {}", kernels.tier);
            }
        }
    }
}
