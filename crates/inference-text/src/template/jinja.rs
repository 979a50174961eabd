//! Filters and tests of Jinja2 where minijinja's differ.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, Output, State, Value};

use super::{bounds, python};

/// Puts Jinja2's own in place of minijinja's.
pub(super) fn install(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_formatter(print);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    for name in ["escape", "e"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("wordcount", |text: &str| text.split_whitespace().count());
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// Prints floats as Python does; the rest is the same.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        bounds::printed(state, text)?;
    }
    if value.kind() == ValueKind::Number && !value.is_integer() {
        let number = f64::try_from(value.clone())?;
        return Ok(out.write_str(&python::float_repr(number))?);
    }
    minijinja::escape_formatter(out, state, value)
}

/// `default(value, default_value='', boolean=False)`.
fn default(
    value: Value,
    fallback: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let fallback = match fallback {
        Some(fallback) => fallback,
        None => kwargs.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => kwargs.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let missing = value.is_undefined() || (boolean && !value.is_true());
    Ok(if missing { fallback } else { value })
}

/// Escapes as MarkupSafe does.
fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `int(value, default=0, base=10)`: what is not a number is the default.
fn int(
    value: &Value,
    fallback: Option<Value>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let fallback = match fallback {
        Some(fallback) => fallback,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0)),
    };
    let base = match base {
        Some(base) => base,
        None => kwargs.get::<Option<u32>>("base")?.unwrap_or(10),
    };
    kwargs.assert_all_used()?;
    let number = match value.kind() {
        ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        ValueKind::Number if value.is_integer() => Some(value.clone()),
        ValueKind::Number => f64::try_from(value.clone()).ok().and_then(truncate),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim();
            let whole = (2..=36).contains(&base).then(|| i64::from_str_radix(text, base).ok());
            match whole.flatten() {
                Some(number) => Some(Value::from(number)),
                None => text.parse::<f64>().ok().and_then(truncate),
            }
        }
        _ => None,
    };
    Ok(number.unwrap_or(fallback))
}

/// The integer part, where it is exact.
fn truncate(value: f64) -> Option<Value> {
    // Up to 2^53 a float holds every integer.
    (value.abs() <= 9_007_199_254_740_992.0).then(|| Value::from(value.trunc() as i64))
}

/// `float(value, default=0.0)`: what is not a number is the default.
fn float(value: &Value, fallback: Option<f64>, kwargs: Kwargs) -> Result<f64, Error> {
    let fallback = match fallback {
        Some(fallback) => fallback,
        None => kwargs.get::<Option<f64>>("default")?.unwrap_or(0.0),
    };
    kwargs.assert_all_used()?;
    Ok(match value.kind() {
        ValueKind::Bool => f64::from(u8::from(value.is_true())),
        ValueKind::Number => f64::try_from(value.clone())?,
        ValueKind::String => value.as_str().unwrap_or_default().trim().parse().unwrap_or(fallback),
        _ => fallback,
    })
}

/// Whether Python's `iter` takes it.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether it has a length and items, as Python's str, list, tuple and dict.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
}
