//! Learning rates over the steps of a run.

use std::f64::consts::PI;

/// How the learning rate goes after warming up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls to 0 in a straight line.
    #[default]
    Linear,
    /// It falls to 0 along half a cosine. Loshchilov & Hutter, *SGDR*, 2017,
    /// without restarts.
    Cosine,
}

impl Decay {
    /// Every decay.
    pub const ALL: [Self; 3] = [Self::Constant, Self::Linear, Self::Cosine];

    /// Its name: `constant`, `linear`, `cosine`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }

    /// The factor on the learning rate in `step` (from 0) of `total`: after
    /// `warmup` steps of a straight rise from `1 / warmup` to 1.
    #[must_use]
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let length = total.saturating_sub(warmup).max(1) as f64;
        let done = ((step - warmup) as f64 / length).min(1.0);
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - done,
            Self::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        for decay in Decay::ALL {
            assert_eq!(decay.factor(0, 4, 12), 0.25);
            assert_eq!(decay.factor(3, 4, 12), 1.0);
            assert_eq!(decay.factor(4, 4, 12), 1.0);
            assert_eq!(decay.factor(0, 0, 8), 1.0);
        }
        assert_eq!(Decay::Constant.factor(11, 4, 12), 1.0);
        assert_eq!(Decay::Linear.factor(8, 4, 12), 0.5);
        assert!((Decay::Cosine.factor(8, 4, 12) - 0.5).abs() < 1e-12);
        assert_eq!(Decay::Linear.factor(12, 4, 12), 0.0);
        assert_eq!(Decay::Linear.factor(100, 4, 12), 0.0);
    }
}
