//! Single values of the file: what is taken for a number, a boolean, a list, and how one that is not is named.

use std::net::SocketAddr;

use serde_json::{Map, Value};

use super::{MAX_ENTRIES, Problem};

/// `ip/port`, as everywhere in this protocol.
pub fn parse_endpoint(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once('/')?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

/// The known name that looks most like `name`, if any looks like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score = |k: &str| strsim::jaro_winkler(&k.to_lowercase(), &name.to_lowercase());
    let nearest = known.into_iter().map(|k| (score(k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.filter(|(score, _)| *score > 0.75).map(|(_, k)| k)
}

pub(super) fn unknown(key: &str, place: &str, known: &[&'static str]) -> Problem {
    Problem::Unknown { key: key.to_owned(), place: place.to_owned(), nearest: nearest(key, known.iter().copied()) }
}

pub(super) fn wrong(key: &str, value: &Value, expected: &'static str) -> Problem {
    let mut value = value.to_string();
    if value.len() > 60 {
        let end = value.char_indices().map(|(i, _)| i).take_while(|i| *i <= 60).last().unwrap_or(0);
        value.truncate(end);
        value.push('…');
    }
    Problem::Value { key: key.to_owned(), value, expected }
}

pub(super) fn bounded(key: &str, count: usize, max: usize) -> Result<(), Problem> {
    if count > max {
        return Err(Problem::TooMany { key: key.to_owned(), count, max });
    }
    Ok(())
}

pub(super) fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

pub(super) fn object<'a>(v: &'a Value, key: &str) -> Result<&'a Map<String, Value>, Problem> {
    v.as_object().ok_or_else(|| wrong(key, v, "an object"))
}

// spec: service, "local.conf" (scalar coercion): an integer may be a number, a decimal string or a boolean
pub(super) fn integer(v: &Value, key: &str, max: u64) -> Result<u64, Problem> {
    let n = match v {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.parse().ok(),
        Value::Bool(b) => Some(u64::from(*b)),
        _ => None,
    };
    let expected = if max == u64::from(u16::MAX) { "a number from 0 to 65535" } else { "a number from 0 upwards" };
    n.filter(|n| *n <= max).ok_or_else(|| wrong(key, v, expected))
}

/// As [`integer`], but it may be negative.
pub(super) fn signed(v: &Value, key: &str) -> Result<i64, Problem> {
    let n = match v {
        Value::Number(n) => n.as_i64(),
        Value::String(s) => s.parse().ok(),
        Value::Bool(b) => Some(i64::from(*b)),
        _ => None,
    };
    n.ok_or_else(|| wrong(key, v, "a whole number"))
}

// spec: service, "local.conf" (scalar coercion): a boolean may be a number or a string that starts with t, T or 1
pub(super) fn boolean(v: &Value, key: &str) -> Result<bool, Problem> {
    match v {
        Value::Bool(b) => Ok(*b),
        Value::Number(n) => Ok(n.as_f64() != Some(0.0)),
        Value::String(s) if s.starts_with(['t', 'T', '1']) => Ok(true),
        Value::String(s) if s.is_empty() || s.starts_with(['f', 'F', '0']) => Ok(false),
        _ => Err(wrong(key, v, "true or false")),
    }
}

pub(super) fn texts<T>(
    v: &Value,
    key: &str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Problem> {
    let list = v.as_array().ok_or_else(|| wrong(key, v, "an array"))?;
    bounded(key, list.len(), MAX_ENTRIES)?;
    list.iter().map(|item| item.as_str().and_then(&parse).ok_or_else(|| wrong(key, item, expected))).collect()
}
