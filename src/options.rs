//! The grammar of option values: sizes, booleans, percentages. Text in, value out; no driver and no system is asked.

use crate::error::{Error, Kind, Result};

/// Splits `name=value` at the first `=`.
///
/// # Errors
/// There is no `=`.
pub fn split(option: &str) -> Result<(&str, &str)> {
    option.split_once('=').ok_or_else(|| {
        Error::new(Kind::Invalid, format!("option '{}' is not of the form name=value", option.escape_debug()))
    })
}

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional fraction.
    #[error("a size is digits, optionally with a fraction as in 1.5, and a unit")]
    Number,
    /// Not one of the units.
    #[error("the unit is one of B, K, M, G, T, P, also written KB or KiB (powers of 1024)")]
    Unit,
    /// Beyond `i64::MAX` bytes, the most that a filesystem and its quota can count.
    #[error("the size is larger than 8 EiB")]
    TooLarge,
}

/// Parses a size into bytes: `64M`, `1.5GiB`, `4096`. Units are binary and case does not matter; numbers are decimal, also
/// with leading zeros.
///
/// # Errors
/// [`Kind::Invalid`], saying which part is wrong.
pub fn size(text: &str) -> Result<u64> {
    parse_size(text).map_err(|why| Error::new(Kind::Invalid, format!("invalid size '{}': {why}", text.escape_debug())))
}

fn parse_size(text: &str) -> Result<u64, SizeError> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return Err(SizeError::Number);
    }
    let unit = u128::from(unit_bytes(unit).ok_or(SizeError::Unit)?);
    let whole: u128 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let bytes = whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(fraction_of(fraction.unwrap_or("0"), unit)));
    match bytes.map(i64::try_from) {
        Some(Ok(bytes)) => Ok(bytes.unsigned_abs()),
        _ => Err(SizeError::TooLarge),
    }
}

/// `0.fraction` of a unit, rounded down. Digits beyond the eighteenth are worth less than a byte of the largest unit.
fn fraction_of(fraction: &str, unit: u128) -> u128 {
    let kept = &fraction[..fraction.len().min(18)];
    let value: u128 = kept.parse().unwrap_or(0);
    let scale = (0..kept.len()).fold(1_u128, |scale, _| scale * 10);
    value * unit / scale
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_uppercase();
    let prefix = unit.strip_suffix("IB").or_else(|| unit.strip_suffix(['B', 'I'])).unwrap_or(&unit);
    let power = match prefix {
        // A bare "I" stands for bytes, but "KI" stands for nothing.
        _ if unit.len() == 2 && unit.ends_with('I') => return None,
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        _ => return None,
    };
    Some(1 << (10 * power))
}

/// Parses a boolean as Go's `strconv.ParseBool` does, which the options' documentation follows.
///
/// # Errors
/// [`Kind::Invalid`].
pub fn boolean(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::new(Kind::Invalid, format!("invalid boolean '{}'", text.escape_debug())).hint("use true or false")),
    }
}

/// Parses a percentage of 0 to 99 with its `%` sign.
///
/// # Errors
/// [`Kind::Invalid`].
pub fn percent(text: &str) -> Result<u8> {
    let number = text.strip_suffix('%').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|n| n.parse::<u8>().ok()) {
        Some(value) if value < 100 => Ok(value),
        _ => Err(Error::new(Kind::Invalid, format!("invalid percentage '{}'", text.escape_debug())).hint("use 0% to 99%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_decimal_and_case_blind() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("010", 10),
            ("08", 8),
            ("1b", 1),
            ("1i", 1),
            ("1iB", 1),
            ("1k", 1 << 10),
            ("1Kb", 1 << 10),
            ("1KiB", 1 << 10),
            ("128M", 128 << 20),
            ("1.5G", 3 << 29),
            ("0.5k", 512),
            ("1.9999", 1),
            ("2T", 2 << 40),
            ("3PiB", 3 << 50),
            ("9223372036854775807", i64::MAX.unsigned_abs()),
            ("0.0000000000000000000000001G", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_is_wrong() {
        use SizeError::{Number, TooLarge, Unit};
        for (text, why) in [
            ("", Number),
            ("-1", Number),
            (" 1", Number),
            ("M", Number),
            (".5M", Number),
            ("1.M", Number),
            ("1.2.3M", Number),
            ("1 M", Unit),
            ("1X", Unit),
            ("1KI", Unit),
            ("1MM", Unit),
            ("1E", Unit),
            ("1\u{e9}", Unit),
            ("9223372036854775808", TooLarge),
            ("8192P", TooLarge),
            ("99999999999999999999999999999999999999999999", TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(why), "{text}");
        }
    }

    #[test]
    fn booleans_and_percentages() {
        assert!(boolean("True").unwrap() && !boolean("f").unwrap());
        assert!(boolean("yes").is_err() && boolean("").is_err() && boolean("TrUe").is_err());
        assert_eq!(percent("10%").unwrap(), 10);
        assert_eq!(percent("0%").unwrap(), 0);
        for bad in ["", "%", "10", "100%", "5%5%", "-1%", "1.5%", "999%", "+5%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
        assert_eq!(split("a=b=c").unwrap(), ("a", "b=c"));
        assert!(split("ab").is_err());
    }
}
