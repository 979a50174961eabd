//! Writing JSON, as far as one flat object per event needs it.

use std::fmt::{Display, Write as _};

/// A JSON object that is being written at the end of a buffer.
pub(super) struct Object<'a>(&'a mut String);

impl<'a> Object<'a> {
    /// Opens an object.
    pub(super) fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self(out)
    }

    /// Closes it.
    pub(super) fn close(self) {
        self.0.push('}');
    }

    fn key(&mut self, name: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        string(self.0, name);
        self.0.push(':');
    }

    pub(super) fn null(&mut self, name: &str) {
        self.key(name);
        self.0.push_str("null");
    }

    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.key(name);
        string(self.0, value);
    }

    pub(super) fn integer(&mut self, name: &str, value: impl Into<u128>) {
        self.key(name);
        append(self.0, value.into());
    }

    pub(super) fn size(&mut self, name: &str, value: usize) {
        self.key(name);
        append(self.0, value);
    }

    pub(super) fn float(&mut self, name: &str, value: impl Float) {
        self.key(name);
        float(self.0, value);
    }

    pub(super) fn floats(&mut self, name: &str, values: &[f32]) {
        self.key(name);
        self.0.push('[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            float(self.0, *value);
        }
        self.0.push(']');
    }
}

/// `f32` and `f64`, each written with the digits that its own type needs to
/// read back the same value.
pub(super) trait Float: Display + Copy {
    fn is_finite(self) -> bool;
}

impl Float for f32 {
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Float for f64 {
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

fn append(out: &mut String, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{value}");
}

/// Rust displays a finite float without an exponent, which is a JSON number.
fn float(out: &mut String, value: impl Float) {
    if value.is_finite() { append(out, value) } else { out.push_str("null") }
}

/// RFC 8259, section 7.
fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Also those that JSON allows but that end a line for some readers.
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::{Object, float, string};

    fn written(value: &str) -> String {
        let mut out = String::new();
        string(&mut out, value);
        out
    }

    #[test]
    fn every_character_reads_back_and_stays_on_its_line() {
        for c in (0..0x3000).chain(0xff00..0x1_0100).filter_map(char::from_u32) {
            let text = format!("a{c}b");
            let json = written(&text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text, "{c:?}");
            assert_eq!(json.lines().count(), 1);
        }
        assert_eq!(written("\u{1}\"\\"), r#""\u0001\"\\""#);
    }

    #[test]
    fn floats_read_back_and_what_json_cannot_hold_is_null() {
        let mut out = String::new();
        for value in [0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::MAX, 1e-45, 0.1] {
            out.clear();
            float(&mut out, value);
            let json: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert_eq!(json.as_f64().unwrap() as f32, value, "{out}");
            assert_eq!(out.parse::<f32>().unwrap(), value);
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            out.clear();
            float(&mut out, value);
            assert_eq!(out, "null");
        }
    }

    #[test]
    fn an_object_separates_its_members() {
        let mut out = String::new();
        let mut object = Object::open(&mut out);
        // A value that ends in a brace does not hide the comma.
        object.string("a", "{");
        object.integer("b", u64::MAX);
        object.null("c");
        object.floats("d", &[1.0, f32::NAN]);
        object.close();
        assert_eq!(out, r#"{"a":"{","b":18446744073709551615,"c":null,"d":[1,null]}"#);
    }
}
