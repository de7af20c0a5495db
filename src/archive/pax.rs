//! The records of a PAX extended header (POSIX `pax`, "Extended Header"): `length keyword=value\n`.

use crate::error::{Error, Kind, Result};
use crate::sys::place::Time;

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Archive, what)
}

/// Calls `each` for the keyword and value of every record.
pub fn records(mut bytes: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        // Some programs fill the last block with NULs inside the stated size.
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let blank = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(|| bad("a PAX record has no length"))?;
        let length = decimal(&bytes[..blank]).and_then(|n| usize::try_from(n).ok());
        let length = length.filter(|n| *n > blank + 1 && *n <= bytes.len());
        let length = length.ok_or_else(|| bad("a PAX record's length is wrong"))?;
        let (record, rest) = bytes.split_at(length);
        let record =
            record[blank + 1..].strip_suffix(b"\n").ok_or_else(|| bad("a PAX record does not end with its line"))?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(|| bad("a PAX record has no '='"))?;
        each(&record[..equals], &record[equals + 1..])?;
        bytes = rest;
    }
    Ok(())
}

/// Digits only, without a sign.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A decimal number in a record, or an error that names the keyword.
pub fn number(keyword: &str, value: &[u8]) -> Result<u64> {
    decimal(value).ok_or_else(|| bad(format!("PAX {keyword} is not a number")))
}

/// A time: seconds with an optional sign and fraction. Digits beyond nanoseconds are cut towards the past.
pub fn time(keyword: &str, value: &[u8]) -> Result<Time> {
    let wrong = || bad(format!("PAX {keyword} is not a time"));
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let whole = if whole.is_empty() { 0 } else { decimal(whole).ok_or_else(wrong)? };
    let seconds = i64::try_from(whole).map_err(|_| wrong())?;
    let nanos = (0..9).fold(0, |n, i| n * 10 + u32::from(fraction.get(i).map_or(0, |digit| digit - b'0')));
    let beyond = fraction.iter().skip(9).any(|digit| *digit != b'0');
    Ok(match (negative, nanos + u32::from(negative && beyond)) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, NANOS_PER_SECOND) => Time { seconds: -seconds - 1, nanos: 0 },
        (true, nanos) => Time { seconds: -seconds - 1, nanos: NANOS_PER_SECOND - nanos },
    })
}

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// The bytes of a base64 text (RFC 4648, padding optional), as libarchive writes attribute values.
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for symbol in group {
            let value = match symbol {
                b'A'..=b'Z' => symbol - b'A',
                b'a'..=b'z' => symbol - b'a' + 26,
                b'0'..=b'9' => symbol - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, high, middle, low] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        bytes.extend_from_slice(&[high, middle, low][..group.len().checked_sub(1).filter(|n| *n > 0)?]);
    }
    Some(bytes)
}

/// A text with `%xx` for bytes, as libarchive writes attribute names.
pub fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        records(bytes, |key, value| {
            all.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn records_may_hold_any_bytes() {
        let one = |key: &str, value: &[u8]| (key.as_bytes().to_vec(), value.to_vec());
        assert_eq!(collect(b"11 path=ab\n12 k=\n\0 = =\n").unwrap(), [one("path", b"ab"), one("k", b"\n\0 = =")]);
        assert_eq!(collect(b"5 k=\n\0\0\0").unwrap(), [one("k", b"")]);
        for wrong in [&b"11 path=abc\n"[..], b"4 k=", b"99 k=v\n", b"path=ab\n", b"6 kv \n", b"+6 k=v\n", b"0 k=v\n", b"6"] {
            assert!(collect(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times_before_and_after_1970() {
        for (text, seconds, nanos) in [
            ("1.5", 1, 500_000_000),
            ("-1.5", -2, 500_000_000),
            ("-1", -1, 0),
            ("-0.000000001", -1, 999_999_999),
            ("-0.9999999999", -1, 0),
            ("253402300800.1234567899", 253_402_300_800, 123_456_789),
            (".25", 0, 250_000_000),
            ("7.", 7, 0),
        ] {
            assert_eq!(time("mtime", text.as_bytes()).unwrap(), Time { seconds, nanos }, "{text}");
        }
        for text in ["", ".", "-", "1e3", "1.-5", "99999999999999999999"] {
            assert!(time("mtime", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn libarchive_encodings() {
        assert_eq!(base64(b"AQIDBA").unwrap(), [1, 2, 3, 4]);
        assert_eq!(base64(b"AQIDBA==").unwrap(), [1, 2, 3, 4]);
        assert!(base64(b"").unwrap().is_empty());
        assert!(base64(b"A").is_none() && base64(b"A*==").is_none());
        assert_eq!(percent(b"user.a%3db").unwrap(), b"user.a=b");
        assert!(percent(b"%4").is_none() && percent(b"%zz").is_none());
    }
}
