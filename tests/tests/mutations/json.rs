//! Damage to JSON that stays JSON, mostly: fields removed, retyped, swapped,
//! set to values at and beyond every limit.

use serde_json::Value;

use crate::random::Random;

/// A text that stands for a value until the document is written.
const PLACE: &str = "\u{e000}place\u{e000}";

/// Most members of one object or array that are visited.
const VISITED: usize = 24;

/// Values that fit nowhere, or everywhere.
fn hostile(random: &mut Random) -> String {
    const VALUES: [&str; 26] = [
        "null",
        "true",
        "false",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "64",
        "1000003",
        "2147483648",
        "4294967296",
        "1099511627776",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "0.5",
        "-0.0",
        "1e308",
        "1e999",
        "NaN",
        "\"\"",
        "\"x\"",
        "\"\\u0000\\uffff\"",
    ];
    match random.below(VALUES.len() + 8) {
        0 => "[]".to_owned(),
        1 => "{}".to_owned(),
        2 => format!("{}{}", "[".repeat(300), "]".repeat(300)),
        3 => format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100)),
        4 => format!("[{}0]", "0,".repeat(100_000)),
        5 => format!("\"{}\"", "long ".repeat(50_000)),
        6 => format!("[{}[]]", "[],".repeat(50_000)),
        7 => "\"\\ud800\"".to_owned(),
        index => VALUES[index - 8].to_owned(),
    }
}

/// Every place of the document, as JSON pointers; of large collections only
/// some members.
fn places(value: &Value, at: &str, random: &mut Random, found: &mut Vec<String>) {
    let mut visit = |members: Vec<(String, &Value)>| {
        let all = members.len() <= VISITED;
        let count = members.len().min(VISITED);
        for index in 0..count {
            let (name, member) = if all { &members[index] } else { random.of(&members) };
            let name = name.replace('~', "~0").replace('/', "~1");
            let place = format!("{at}/{name}");
            found.push(place.clone());
            places(member, &place, random, found);
        }
    };
    match value {
        Value::Object(map) => visit(map.iter().map(|(name, v)| (name.clone(), v)).collect()),
        Value::Array(items) => {
            visit(items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect());
        }
        _ => {}
    }
}

/// A damaged copy of the document, and what was done to it.
pub(crate) fn damage(document: &Value, random: &mut Random) -> (String, String) {
    let mut found = Vec::new();
    places(document, "", random, &mut found);
    if found.is_empty() {
        found.push(String::new());
    }
    let place = random.of(&found).clone();
    let mut copy = document.clone();
    let (parent, name) = place.rsplit_once('/').unwrap_or(("", ""));
    let name = name.replace("~1", "/").replace("~0", "~");
    let other = random.of(&found).clone();
    let value = hostile(random);
    let mut put = value.clone();
    let done = match (random.below(8), copy.pointer_mut(parent)) {
        (0, Some(Value::Object(map))) => {
            map.shift_remove(&name);
            format!("{place} removed")
        }
        (0, Some(Value::Array(items))) => {
            items.pop();
            format!("the last of {parent} removed")
        }
        (1, Some(Value::Object(map))) => {
            let value = map.shift_remove(&name).unwrap_or(Value::Null);
            map.insert(format!("{name}s"), value);
            format!("{place} renamed")
        }
        // A key twice.
        (2, Some(Value::Object(map))) => {
            put = format!("{value},{}:{value}", Value::from(name.as_str()));
            map.insert(name, PLACE.into());
            format!("{place} twice")
        }
        (3, _) => {
            let theirs = copy.pointer(&other).cloned().unwrap_or(Value::Null);
            let ours = copy.pointer_mut(&place).map(|ours| std::mem::replace(ours, theirs));
            if let (Some(theirs), Some(ours)) = (copy.pointer_mut(&other), ours) {
                *theirs = ours;
            }
            format!("{place} and {other} swapped")
        }
        _ => {
            if let Some(value) = copy.pointer_mut(&place) {
                *value = PLACE.into();
            }
            let short: String = value.chars().take(24).collect();
            format!("{place} set to {short}")
        }
    };
    let text = copy.to_string().replace(&Value::from(PLACE).to_string(), &put);
    (text, done)
}
