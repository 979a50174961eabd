//! The time that `strftime_now` shows.

use inference_core::{Error, Result};
use jiff::civil::DateTime;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};

/// A local date and time without a zone, as Python's naive `datetime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime(DateTime);

impl LocalTime {
    /// The time now, in the system's time zone.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Zoned::now().datetime())
    }

    /// A given time: month and day from 1, hour 0 to 23, minute and second 0
    /// to 59.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where there is no such time.
    pub fn new(year: i16, month: i8, day: i8, hour: i8, minute: i8, second: i8) -> Result<Self> {
        DateTime::new(year, month, day, hour, minute, second, 0).map(Self).map_err(|error| {
            let found = format!("{year}-{month}-{day} {hour}:{minute}:{second} ({error})");
            Error::invalid_input("local time", "a date and time of the calendar", found)
        })
    }

    /// Formats as Python's `strftime` does in the C locale: the zone is empty,
    /// `%f` is microseconds, an unknown directive stands for itself.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the format cannot be applied.
    pub fn strftime(&self, format: &str) -> Result<String> {
        let mut prepared = String::with_capacity(format.len());
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                prepared.push(c);
                continue;
            }
            match chars.next() {
                Some('z' | 'Z') => {}
                Some('f') => {
                    let micros = self.0.subsec_nanosecond() / 1000;
                    prepared.push_str(&format!("{micros:06}"));
                }
                Some(directive) => prepared.extend(['%', directive]),
                None => prepared.push_str("%%"),
            }
        }
        let config = Config::new().custom(PosixCustom::new()).lenient(true);
        let mut out = String::new();
        BrokenDownTime::from(self.0).format_with_config(&config, &prepared, &mut out).map_err(
            |error| {
                let found = format!("`{format}` ({error})");
                Error::invalid_input("time format", "strftime directives", found)
            },
        )?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_like_python() {
        let time = LocalTime::new(2025, 1, 5, 9, 30, 45).unwrap();
        // Expected values: datetime.datetime(2025, 1, 5, 9, 30, 45).strftime(…), C locale.
        let cases = [
            ("%d %b %Y", "05 Jan 2025"),
            ("%-d %B %y", "5 January 25"),
            ("%Y-%m-%dT%H:%M:%S.%f%z", "2025-01-05T09:30:45.000000"),
            ("%A %a %j %p %I", "Sunday Sun 005 AM 09"),
            ("%c|%x|%X", "Sun Jan  5 09:30:45 2025|01/05/25|09:30:45"),
            ("%D %T %e %w %u %U %W %V %G", "01/05/25 09:30:45  5 0 7 01 00 01 2025"),
            ("100%% %Z日本", "100% 日本"),
        ];
        for (format, expected) in cases {
            assert_eq!(time.strftime(format).unwrap(), expected, "{format}");
        }
        assert!(LocalTime::new(2025, 2, 30, 0, 0, 0).is_err());
    }
}
