//! Counts as a person reads them.

/// A number of parameters: `1.24B`, `270M`, `812`.
pub(crate) fn parameters(count: u64) -> String {
    for (unit, size) in [("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)] {
        let value = count as f64 / size;
        if value >= 1.0 {
            // Three digits.
            let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
            return format!("{value:.decimals$}{unit}");
        }
    }
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_three_digits_and_a_unit() {
        assert_eq!(parameters(0), "0");
        assert_eq!(parameters(812), "812");
        assert_eq!(parameters(1_235_814_400), "1.24B");
        assert_eq!(parameters(32_763_876_352), "32.8B");
        assert_eq!(parameters(268_098_176), "268M");
    }
}
