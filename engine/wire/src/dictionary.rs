//! Dictionaries: `key=value` lines with escapes. Knows the encoding and its typed readings, never what a key means.
// spec: wire, "Dictionary"

use std::borrow::Cow;

use crate::address::Address;
use crate::read::Malformed;

/// Capacity of the metadata dictionary in a configuration request, a terminating NUL included.
pub const METADATA_DICT: usize = 1024;
/// Capacity of a network configuration dictionary.
pub const CONFIG_DICT: usize = 484_520;
/// Capacity of an ERROR's dictionary.
pub const ERROR_DICT: usize = 8192;
/// Longest dictionary of a REMOTE_TRACE.
pub const TRACE_MAX: usize = 10_000;
/// Lines with a key that one dictionary may have; the reference's configurations have about 30. Ours, no protocol limit.
pub const MAX_KEYS: usize = 1024;

/// A dictionary over the bytes it came in. Of lines with the same key the first counts; lines without `=` are skipped;
/// a NUL ends it.
#[derive(Clone, Debug, Default)]
pub struct Dictionary<'a> {
    /// Sorted by key, each key once; values still escaped.
    entries: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Dictionary<'a> {
    /// Indexes the lines of a dictionary. Malformed only if it has more than [`MAX_KEYS`].
    pub fn parse(bytes: &'a [u8]) -> Result<Dictionary<'a>, Malformed> {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let mut entries = Vec::new();
        for line in bytes[..end].split(|&b| b == b'\n' || b == b'\r') {
            let Some(equals) = line.iter().position(|&b| b == b'=') else { continue };
            if entries.len() == MAX_KEYS {
                return Err(Malformed { what: "dictionary with too many keys" });
            }
            entries.push((&line[..equals], &line[equals + 1..]));
        }
        entries.sort_by_key(|&(key, _)| key);
        entries.dedup_by_key(|&mut (key, _)| key);
        Ok(Dictionary { entries })
    }

    /// Number of distinct keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No key at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every key once, in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.entries.iter().map(|&(key, _)| key)
    }

    /// The unescaped value of `key`.
    pub fn get(&self, key: &str) -> Option<Cow<'a, [u8]>> {
        self.escaped(key.as_bytes()).map(unescape)
    }

    /// Hexadecimal, up to the first other character; sign and `0x` tolerated; saturates at 2^64 - 1; 0 if there is no
    /// digit.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key).map(|value| {
            let (negative, magnitude) = hex_number(&value);
            match magnitude {
                Some(m) if negative => m.wrapping_neg(),
                Some(m) => m,
                None => u64::MAX,
            }
        })
    }

    /// As [`Dictionary::u64`], signed: a leading `-` is honoured; saturates at both ends.
    pub fn i64(&self, key: &str) -> Option<i64> {
        self.get(key).map(|value| {
            let (negative, magnitude) = hex_number(&value);
            let magnitude = magnitude.unwrap_or(u64::MAX);
            if negative {
                0i64.checked_sub_unsigned(magnitude).unwrap_or(i64::MIN)
            } else {
                i64::try_from(magnitude).unwrap_or(i64::MAX)
            }
        })
    }

    /// True if the first character is `1`, `t` or `T`.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| matches!(value.first(), Some(b'1' | b't' | b'T')))
    }

    /// An address in hexadecimal, 10 or 16 digits; the low 40 bits count.
    pub fn address(&self, key: &str) -> Option<Address> {
        self.u64(key).map(Address::from_u64)
    }

    /// Text; bytes that are not UTF-8 become replacement characters.
    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    fn escaped(&self, key: &[u8]) -> Option<&'a [u8]> {
        let at = self.entries.binary_search_by_key(&key, |&(k, _)| k).ok()?;
        self.entries.get(at).map(|&(_, value)| value)
    }
}

fn unescape(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'\\') {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&b) = bytes.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match bytes.next() {
            Some(b'0') => out.push(0),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b'e') => out.push(b'='),
            Some(&other) => out.push(other),
            None => {}
        }
    }
    Cow::Owned(out)
}

/// Sign and magnitude, the way C's `strtoull` reads base 16; no magnitude if it takes more than 64 bits.
fn hex_number(value: &[u8]) -> (bool, Option<u64>) {
    let mut digits = value.trim_ascii_start();
    let negative = digits.first() == Some(&b'-');
    if let Some(unsigned) = digits.strip_prefix(b"-").or_else(|| digits.strip_prefix(b"+")) {
        digits = unsigned;
    }
    if let Some(rest) = digits.strip_prefix(b"0x").or_else(|| digits.strip_prefix(b"0X")) {
        digits = rest;
    }
    let magnitude = digits
        .iter()
        .map_while(|&b| char::from(b).to_digit(16))
        .try_fold(0u64, |n, digit| n.checked_mul(16).map(|n| n | u64::from(digit)));
    (negative, magnitude)
}

/// Writes a dictionary line by line, in the order of the calls. Keys must be free of NUL, CR, LF and `=`.
#[derive(Clone, Debug, Default)]
pub struct DictionaryWriter {
    out: Vec<u8>,
}

impl DictionaryWriter {
    /// An empty dictionary.
    pub fn new() -> DictionaryWriter {
        DictionaryWriter::default()
    }

    /// A binary value, escaped.
    pub fn bytes(&mut self, key: &str, value: &[u8]) -> &mut DictionaryWriter {
        self.key(key);
        for &b in value {
            match b {
                0 => self.out.extend_from_slice(b"\\0"),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                b'=' => self.out.extend_from_slice(b"\\e"),
                b'\\' => self.out.extend_from_slice(b"\\\\"),
                other => self.out.push(other),
            }
        }
        self
    }

    /// A text value, escaped.
    pub fn text(&mut self, key: &str, value: &str) -> &mut DictionaryWriter {
        self.bytes(key, value.as_bytes())
    }

    /// 16 lower-case hex digits.
    pub fn u64(&mut self, key: &str, value: u64) -> &mut DictionaryWriter {
        self.bytes(key, format!("{value:016x}").as_bytes())
    }

    /// 16 hex digits of the absolute value: the protocol loses the sign here.
    pub fn i64(&mut self, key: &str, value: i64) -> &mut DictionaryWriter {
        self.u64(key, value.unsigned_abs())
    }

    /// `1` or `0`.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut DictionaryWriter {
        self.bytes(key, if value { b"1" } else { b"0" })
    }

    /// An address in typed form: 16 hex digits. Some keys want 10-digit text instead: [`DictionaryWriter::text`].
    pub fn address(&mut self, key: &str, value: Address) -> &mut DictionaryWriter {
        self.u64(key, value.to_u64())
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Nothing written so far.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The dictionary, without a terminating NUL.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn key(&mut self, key: &str) {
        debug_assert!(!key.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r' | b'=')), "{key:?} is no dictionary key");
        if !self.out.is_empty() {
            self.out.push(b'\n');
        }
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
    }
}
