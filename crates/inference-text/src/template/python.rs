//! What Python's values can do and minijinja's cannot.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::bounds::{self, MAX_WIDTH};

/// Refuses none where Python would; everything else is the loop's to judge.
pub(super) fn iterable(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable"));
    }
    Ok(value)
}

/// Methods of Python's str, list and dict.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        bounds::check_string_method(value, name, args)?;
    }
    match pycompat::unknown_method_callback(state, value, name, args) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => match value.kind() {
            ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args),
            ValueKind::Seq => list_method(value, name, args),
            ValueKind::Map if name == "copy" => {
                let () = from_args(args)?;
                Ok(value.clone())
            }
            _ => Err(error),
        },
        result => result,
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let parts = if name == "partition" {
                text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b])
            } else {
                text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b])
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "rsplit" => rsplit(text, args)?,
        "index" | "rindex" => {
            let (needle,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(needle) } else { text.rfind(needle) };
            let at = at
                .and_then(|at| text.get(..at))
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            at.chars().count().into()
        }
        "casefold" => {
            let () = from_args(args)?;
            text.to_lowercase().into()
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped: String = text
                .chars()
                .flat_map(|c| -> Box<dyn Iterator<Item = char>> {
                    if c.is_uppercase() {
                        Box::new(c.to_lowercase())
                    } else {
                        Box::new(c.to_uppercase())
                    }
                })
                .collect();
            swapped.into()
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            format!("{sign}{}{digits}", padding(text, width, '0')?).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let pad = padding(text, width, fill.unwrap_or(' '))?;
            match name {
                "ljust" => format!("{text}{pad}").into(),
                "rjust" => format!("{pad}{text}").into(),
                _ => {
                    // CPython puts the odd one left where the width is odd.
                    let count = pad.chars().count();
                    let left = count / 2 + (count & usize::try_from(width).unwrap_or(0) & 1);
                    let (left, right): (Vec<_>, Vec<_>) =
                        pad.chars().enumerate().partition(|(index, _)| *index < left);
                    let text_of = |part: Vec<(usize, char)>| -> String {
                        part.into_iter().map(|(_, c)| c).collect()
                    };
                    format!("{}{text}{}", text_of(left), text_of(right)).into()
                }
            }
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// `str.rsplit(sep=None, maxsplit=-1)`.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(value) => Some(value),
        None => kwargs.get::<Option<Value>>("sep")?,
    };
    let limit = match limit {
        Some(limit) => limit,
        None => kwargs.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
    };
    kwargs.assert_all_used()?;
    let pieces = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let separator = separator.filter(|value| !value.is_none());
    let mut parts: Vec<Value> = match &separator {
        Some(value) => {
            let separator = value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "rsplit needs a non-empty separator")
            })?;
            text.rsplitn(pieces, separator).map(Value::from).collect()
        }
        None => {
            let mut rest = text.trim_end();
            let mut parts = Vec::new();
            while !rest.is_empty() {
                let cut =
                    if parts.len() + 1 < pieces { rest.rfind(char::is_whitespace) } else { None };
                let Some(cut) = cut else {
                    parts.push(Value::from(rest.trim_start()));
                    break;
                };
                let (before, word) = rest.split_at(cut);
                parts.push(Value::from(word.trim_start()));
                rest = before.trim_end();
            }
            parts
        }
    };
    parts.reverse();
    Ok(Value::from(parts))
}

/// What `width` lacks in characters.
fn padding(text: &str, width: i64, fill: char) -> Result<String, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    if missing > MAX_WIDTH {
        let message = format!("a width of {width} is more than {MAX_WIDTH}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(std::iter::repeat_n(fill, missing).collect())
}

fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            match list.try_iter()?.position(|item| item == wanted) {
                Some(index) => Ok(Value::from(index)),
                None => Err(Error::new(ErrorKind::InvalidOperation, "value is not in the list")),
            }
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(list.clone())
        }
        // The sandbox of transformers does not let templates change values.
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("list.{name} is not allowed")))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// `repr(float)`: the shortest digits, in scientific notation below 1e-4 and
/// from 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

#[cfg(test)]
mod tests {
    use super::float_repr;

    #[test]
    fn floats_as_python_writes_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (21.5, "21.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e22, "1.5e+22"),
            (1e-4, "0.0001"),
            (1.2e-5, "1.2e-05"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(float_repr(value), expected);
        }
    }
}
