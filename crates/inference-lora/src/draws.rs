//! Random numbers that are a function of their place.

/// Numbers that depend on a seed, a stream and an index, and on nothing else:
/// they can be drawn again, in any order and on any machine.
///
/// Steele et al., *Fast Splittable Pseudorandom Number Generators*, 2014
/// (SplitMix64's finalizer over a Weyl sequence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    base: u64,
}

/// The fraction of the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Draws {
    /// The numbers of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { base: mix(seed.wrapping_add(GOLDEN)) }
    }

    /// Numbers that have nothing to do with those of other streams.
    #[must_use]
    pub fn stream(self, stream: u64) -> Self {
        Self { base: mix(self.base ^ mix(stream.wrapping_mul(GOLDEN).wrapping_add(1))) }
    }

    /// 64 random bits.
    #[must_use]
    pub fn bits(self, index: u64) -> u64 {
        mix(self.base.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    #[must_use]
    pub fn uniform(self, index: u64) -> f32 {
        (self.bits(index) >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// Standard normal. Box & Muller, 1958.
    #[must_use]
    pub fn normal(self, index: u64) -> f32 {
        let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let radius = (-2.0 * unit(self.bits(2 * index)).ln()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * unit(self.bits(2 * index + 1));
        (radius * angle.cos()) as f32
    }

    /// The indices below `len`, shuffled. Fisher & Yates, in Durstenfeld's
    /// form, 1964.
    #[must_use]
    pub fn permutation(self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for end in (1..len).rev() {
            // A high product: without the bias of a remainder.
            let other = (u128::from(self.bits(end as u64)) * (end as u128 + 1)) >> 64;
            order.swap(end, other as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_decides_and_streams_differ() {
        let draws = Draws::new(7);
        assert_eq!(draws.bits(3), Draws::new(7).bits(3));
        assert_ne!(draws.bits(3), draws.bits(4));
        assert_ne!(draws.stream(0).bits(3), draws.stream(1).bits(3));
        assert_ne!(draws.bits(0), Draws::new(8).bits(0));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let draws = Draws::new(1);
        let n = 100_000_u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| f64::from(draws.uniform(i))) - 0.5).abs() < 0.005);
        assert!(mean(&|i| f64::from(draws.normal(i))).abs() < 0.01);
        assert!((mean(&|i| f64::from(draws.normal(i)).powi(2)) - 1.0).abs() < 0.02);
    }

    #[test]
    fn a_permutation_has_every_index_once() {
        let order = Draws::new(5).permutation(100);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, sorted);
    }
}
