//! Reading single JSON values the way ZeroTier's tools write them: a number may come as text, a boolean as a number.
//! What is not plainly one of these forms is refused with the name of the field; nothing is guessed or left out.
// spec: controller, "Saving"

use std::net::IpAddr;

use serde_json::Value;
use wire::Prefix;

/// A JSON value that cannot be taken over. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Where, e.g. `routes[2].via`.
    pub field: String,
    /// Why, in words for an operator.
    pub reason: String,
}

impl Invalid {
    /// `reason` applies to `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), reason: reason.into() }
    }

    /// The same error seen from outside: its field lies within `outer`.
    pub fn within(self, outer: &str) -> Invalid {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Invalid { field: format!("{outer}{dot}{}", self.field), reason: self.reason }
    }
}

/// Gives a bare reason its field.
pub(crate) trait At<T> {
    fn at(self, field: &str) -> Result<T, Invalid>;
}

impl<T> At<T> for Result<T, String> {
    fn at(self, field: &str) -> Result<T, Invalid> {
        self.map_err(|reason| Invalid::new(field, reason))
    }
}

impl<T> At<T> for Result<T, Invalid> {
    fn at(self, field: &str) -> Result<T, Invalid> {
        self.map_err(|e| e.within(field))
    }
}

/// What stands there, shortened, for an error message.
fn shown(v: &Value) -> String {
    const MOST: usize = 40;
    let text = v.to_string();
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

/// A number, a decimal number as text, or a boolean.
pub(crate) fn integer(v: &Value) -> Result<i64, String> {
    let number = match v {
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Number(n) => {
            n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64))
        }
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| format!("{} is not an integer", shown(v)))
}

/// An integer from 0 to `most`.
pub(crate) fn unsigned(v: &Value, most: u64) -> Result<u64, String> {
    let n = integer(v)?;
    u64::try_from(n).ok().filter(|&n| n <= most).ok_or_else(|| format!("{n} is not in 0..{most}"))
}

/// A boolean, a number (true above 0), or text that begins like one of true, 1, false, 0.
pub(crate) fn boolean(v: &Value) -> Result<bool, String> {
    let known = match v {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => n.as_f64().map(|f| f > 0.0),
        // The reference takes any other text as false; "yes" would then switch something off.
        Value::String(s) => match s.bytes().next() {
            Some(b't' | b'T' | b'1') => Some(true),
            Some(b'f' | b'F' | b'0') | None => Some(false),
            _ => None,
        },
        _ => None,
    };
    known.ok_or_else(|| format!("{} is not a boolean", shown(v)))
}

/// Text, a number or a boolean, of at most `most` bytes.
pub(crate) fn text(v: &Value, most: usize) -> Result<String, String> {
    let text = match v {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        _ => return Err(format!("{} is not text", shown(v))),
    };
    if text.len() > most {
        return Err(format!("{} bytes, at most {most} are possible", text.len()));
    }
    Ok(text)
}

/// An array of at most `most` entries.
pub(crate) fn array(v: &Value, most: usize) -> Result<&[Value], String> {
    let entries = v.as_array().ok_or_else(|| format!("{} is not an array", shown(v)))?;
    if entries.len() > most {
        return Err(format!("{} entries, at most {most} are possible", entries.len()));
    }
    Ok(entries)
}

/// An object.
pub(crate) fn object(v: &Value) -> Result<&serde_json::Map<String, Value>, String> {
    v.as_object().ok_or_else(|| format!("{} is not an object", shown(v)))
}

/// An IP address; a prefix length behind it is dropped.
pub(crate) fn ip(v: &Value) -> Result<IpAddr, String> {
    v.as_str().and_then(parse_ip).ok_or_else(|| format!("{} is not an IP address", shown(v)))
}

/// An IP address without its prefix length, if `text` is one.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.split_once('/').map_or(text, |(ip, _)| ip).parse().ok()
}

/// `ip/bits`. The reference reads a missing length as 0, which is everything: refused.
// spec: controller, "Traps"
pub(crate) fn prefix(v: &Value) -> Result<Prefix, String> {
    v.as_str().and_then(|s| s.parse().ok()).ok_or_else(|| format!("{} is not an IP address with /bits", shown(v)))
}
