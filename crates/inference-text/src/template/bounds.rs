//! Bounds on what one call in a template may allocate.
//!
//! Fuel bounds how many steps a template takes, not what a step costs. These
//! are the steps whose result can be far larger than what they are given.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::MAX_OUTPUT;

/// Largest width, count or precision that a call may ask for.
pub(super) const MAX_WIDTH: usize = 1 << 16;

/// Most levels by which one rendering may nest values, one assignment after
/// another. Nested values are dropped and printed recursively.
const MAX_LEVELS: usize = 50_000;
/// Most bytes of text that one rendering prints, captured blocks included.
const MAX_PRINTED: usize = 4 * MAX_OUTPUT;

/// What one rendering has used up.
#[derive(Clone, Debug, Default)]
struct Used {
    levels: usize,
    printed: usize,
    arguments: usize,
}

/// Checks a value that is assigned; `levels` is how many levels the expression
/// may have added.
pub(super) fn assigned(
    state: &mut State<'_, '_>,
    value: Value,
    levels: usize,
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String if value.as_str().is_some_and(|text| text.len() > MAX_OUTPUT) => {
            return Err(too_long());
        }
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain => {
            let used = state.get_or_insert_extension(Used::default());
            used.levels = used.levels.saturating_add(levels);
            if used.levels > MAX_LEVELS {
                let message = format!("values nested by more than {MAX_LEVELS} levels");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        _ => {}
    }
    Ok(value)
}

/// Counts long texts that are passed to macros: a macro that calls itself could
/// double one at every call, and holds them all.
pub(super) fn argument(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    const LONG: usize = 64 << 10;
    let len = value.as_str().map_or(0, str::len);
    if len > LONG {
        let used = state.get_or_insert_extension(Used::default());
        used.arguments = used.arguments.saturating_add(len);
        if used.arguments > MAX_OUTPUT {
            return Err(too_long());
        }
    }
    Ok(value)
}

/// Counts text that is printed.
pub(super) fn printed(state: &mut State<'_, '_>, text: &str) -> Result<(), Error> {
    let used = state.get_or_insert_extension(Used::default());
    used.printed = used.printed.saturating_add(text.len());
    if used.printed > MAX_PRINTED { Err(too_long()) } else { Ok(()) }
}

pub(super) fn too_long() -> Error {
    let message = format!("a text of more than {MAX_OUTPUT} bytes");
    Error::new(ErrorKind::InvalidOperation, message)
}

type FilterResult = Result<Value, Error>;

/// Puts bounded filters in place of the built-in ones.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("__indent", filters::indent);
    environment.add_filter("__batch", filters::batch);
    environment.add_filter("__slice", filters::slice);
    environment.add_filter("__format", filters::format);
    environment.add_filter("__truncate", minijinja_contrib::filters::truncate);
    environment.add_filter("__replace", filters::replace);
    environment.add_filter("__join", filters::join);
    let with_widths: [(&'static str, &'static str); 4] = [
        ("indent", "__indent"),
        ("batch", "__batch"),
        ("slice", "__slice"),
        ("truncate", "__truncate"),
    ];
    for (name, inner) in with_widths {
        let call = move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> FilterResult {
            let args = args.into_values();
            args.iter().skip(1).try_for_each(check_width)?;
            state.apply_filter(inner, &args)
        };
        environment.add_filter(name, call);
    }
    let format = |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> FilterResult {
        let args = args.into_values();
        if let Some((format, rest)) = args.split_first() {
            check_format(format, rest)?;
        }
        state.apply_filter("__format", &args)
    };
    environment.add_filter("format", format);
    let replace = |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> FilterResult {
        let args = args.into_values();
        if let Some((text, rest)) = args.split_first() {
            check_replace(text, rest)?;
        }
        state.apply_filter("__replace", &args)
    };
    environment.add_filter("replace", replace);
    let join = |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> FilterResult {
        let mut args = args.into_values();
        if let Some((items, rest)) = args.split_first_mut()
            && !items.is_none()
        {
            // An iterator may give its items only once.
            let list: Vec<Value> = items.try_iter()?.collect();
            check_join(&list, rest.first())?;
            *items = Value::from(list);
        }
        state.apply_filter("__join", &args)
    };
    environment.add_filter("join", join);
}

/// Checks a call of a string's method before it is made.
pub(super) fn check_string_method(text: &Value, name: &str, args: &[Value]) -> Result<(), Error> {
    match (name, args.first()) {
        ("format", _) => check_format(text, args),
        ("replace", _) => check_replace(text, args),
        ("join", Some(items)) if items.kind() == ValueKind::Seq => {
            let list: Vec<Value> = items.try_iter()?.collect();
            check_join(&list, Some(text))
        }
        _ => Ok(()),
    }
}

/// Refuses a large number, also among keyword arguments.
fn check_width(value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(width) if usize::try_from(width).is_ok_and(|width| width > MAX_WIDTH) => {
                let message = format!("{width} is more than {MAX_WIDTH}");
                Err(Error::new(ErrorKind::InvalidOperation, message))
            }
            _ => Ok(()),
        },
        ValueKind::Map => value.try_iter()?.try_for_each(|key| check_width(&value.get_item(&key)?)),
        _ => Ok(()),
    }
}

/// Refuses large widths and precisions: written out, or taken from arguments.
fn check_format(format: &Value, args: &[Value]) -> Result<(), Error> {
    let text = format.as_str().unwrap_or_default();
    let mut runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    if runs.any(|run| run.parse::<usize>().map_or(true, |width| width > MAX_WIDTH)) {
        let message = format!("a width of the format is more than {MAX_WIDTH}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    if text.contains('*') || text.contains(":{") || text.contains(".{") {
        args.iter().try_for_each(check_width)?;
    }
    Ok(())
}

fn check_replace(text: &Value, args: &[Value]) -> Result<(), Error> {
    let (Some(text), [from, to, ..]) = (text.as_str(), args) else { return Ok(()) };
    let (Some(from), Some(to)) = (from.as_str(), to.as_str()) else { return Ok(()) };
    if to.len() > from.len() {
        let grown = text.matches(from).count().saturating_mul(to.len());
        if grown.saturating_add(text.len()) > MAX_OUTPUT {
            return Err(too_long());
        }
    }
    Ok(())
}

fn check_join(items: &[Value], separator: Option<&Value>) -> Result<(), Error> {
    let len = |value: &Value| value.as_str().map_or(0, str::len);
    let separators = items.len().saturating_mul(separator.map_or(0, len));
    let total = items.iter().fold(separators, |total, item| total.saturating_add(len(item)));
    if total > MAX_OUTPUT { Err(too_long()) } else { Ok(()) }
}
