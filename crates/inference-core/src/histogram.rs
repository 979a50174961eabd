//! Distributions of times.

use std::time::Duration;

/// How many observations fell into which range of time.
///
/// The bounds are fixed, so that histograms of several models can be added.
///
/// ```
/// use std::time::Duration;
/// use inference_core::Histogram;
///
/// let mut ttft = Histogram::default();
/// ttft.record(Duration::from_millis(3));
/// ttft.record(Duration::from_millis(40));
/// assert_eq!(ttft.count(), 2);
/// assert_eq!(ttft.quantile(0.5), Some(Duration::from_millis(5)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Histogram {
    /// Observations per range: element `i` counts those above bound `i - 1`
    /// and up to bound `i` of [`BOUNDS`](Self::BOUNDS), the last those above
    /// all bounds.
    pub counts: [u64; 20],
    /// The sum of all observations, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Upper bounds of the ranges, in seconds, ascending.
    pub const BOUNDS: [f64; 19] = [
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        2.5, 5.0, 10.0, 25.0, 50.0, 100.0,
    ];

    /// Counts one observation.
    pub fn record(&mut self, time: Duration) {
        self.record_many(time, 1);
    }

    /// Counts `count` equal observations.
    pub fn record_many(&mut self, time: Duration, count: u64) {
        let seconds = time.as_secs_f64();
        let range = Self::BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[range] += count;
        self.sum += seconds * count as f64;
    }

    /// How many observations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean; `None` where there are none.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| Duration::from_secs_f64(self.sum / count as f64))
    }

    /// The bound that at least the part `q` (0 to 1) of the observations does
    /// not exceed; `None` where there are none, or it is above all bounds.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let wanted = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0);
        let mut seen = 0;
        for (bound, count) in Self::BOUNDS.iter().zip(self.counts) {
            seen += count;
            if seen as f64 >= wanted {
                return Some(Duration::from_secs_f64(*bound));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_on_a_bound_belongs_below_it() {
        let mut histogram = Histogram::default();
        for bound in Histogram::BOUNDS {
            histogram.record(Duration::from_secs_f64(bound));
        }
        histogram.record(Duration::from_secs(1000));
        assert_eq!(histogram.counts, [1; Histogram::BOUNDS.len() + 1]);
        assert_eq!(histogram.quantile(0.0), Some(Duration::from_micros(100)));
        assert_eq!(histogram.quantile(1.0), None);
    }

    #[test]
    fn nothing_observed_has_no_quantile() {
        assert_eq!((Histogram::default().quantile(0.5), Histogram::default().mean()), (None, None));
    }
}
