//! The storage options of a read-write layer: which limits are asked for.

use super::Limits;
use crate::error::{Error, Kind, Result};
use crate::options;

/// The smallest limit: one page, below which not even a layer's own directories fit.
const SMALLEST: u64 = 4096;

/// Reads `size` and `inodes` (in any case; the last of several wins). Where one is not given, or is 0, the default stands in,
/// and one that was not given at all is appended to `given`, so that the caller sees what is in force.
///
/// # Errors
/// An unknown option or a bad value, with the sentence for the user.
pub fn limits(given: &mut Vec<(String, String)>, defaults: Limits) -> Result<Limits> {
    let (mut bytes, mut inodes) = (None, None);
    for (name, value) in given.iter() {
        match name.to_ascii_lowercase().as_str() {
            "size" => bytes = Some(size(value)?),
            "inodes" => inodes = Some(count(value)?),
            _ => return Err(refused(format!("Unknown storage option {name}"))),
        }
    }
    for (name, asked, default) in [("size", bytes, defaults.bytes), ("inodes", inodes, defaults.inodes)] {
        if asked.is_none() && default != 0 {
            given.push((name.to_owned(), default.to_string()));
        }
    }
    let or_default = |asked: Option<u64>, default| asked.filter(|&n| n != 0).unwrap_or(default);
    Ok(Limits { bytes: or_default(bytes, defaults.bytes), inodes: or_default(inodes, defaults.inodes) })
}

/// Refuses a limit in bytes that is too small to hold anything.
///
/// # Errors
/// It is not 0 and below 4096, with the sentence for the user.
pub fn check_size(bytes: u64) -> Result<u64> {
    match bytes {
        1..SMALLEST => Err(refused(format!("Illegal storage quota size {bytes}, {SMALLEST} at least"))),
        _ => Ok(bytes),
    }
}

fn size(value: &str) -> Result<u64> {
    check_size(options::size(value).map_err(|e| e.user(format!("Invalid quota size: '{value}'")))?)
}

fn count(value: &str) -> Result<u64> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { value.parse().ok() } else { None };
    number.ok_or_else(|| refused(format!("Invalid quota inodes: '{value}'")))
}

fn refused(sentence: String) -> Error {
    Error::new(Kind::Invalid, sentence.clone()).user(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits { bytes: 0, inodes: 0 };

    fn parse(given: &[(&str, &str)], defaults: Limits) -> (Result<Limits>, Vec<(String, String)>) {
        let mut options = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        (limits(&mut options, defaults), options)
    }

    #[test]
    fn the_users_options_come_before_the_defaults() {
        let defaults = Limits { bytes: 1 << 30, inodes: 0 };
        for (given, expected) in [
            (&[][..], defaults),
            (&[("size", "0")], defaults),
            (&[("SIZE", "4096")], Limits { bytes: 4096, inodes: 0 }),
            (&[("size", "1M"), ("Size", "2M")], Limits { bytes: 2 << 20, inodes: 0 }),
            (&[("inodes", "77")], Limits { bytes: 1 << 30, inodes: 77 }),
        ] {
            assert_eq!(parse(given, defaults).0.unwrap(), expected, "{given:?}");
        }
        assert_eq!(parse(&[("size", "0")], NONE).0.unwrap(), NONE);
        assert!(parse(&[], NONE).1.is_empty());
    }

    #[test]
    fn a_default_in_force_is_shown_to_the_caller() {
        let both = Limits { bytes: 8192, inodes: 9 };
        let pairs = |given: &[(&str, &str)]| {
            let shown = parse(given, both).1;
            shown.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
        };
        assert_eq!(pairs(&[]), "size=8192,inodes=9");
        assert_eq!(pairs(&[("Size", "1M")]), "Size=1M,inodes=9");
        assert_eq!(pairs(&[("size", "0"), ("INODES", "1")]), "size=0,INODES=1");
    }

    #[test]
    fn the_users_sentences_are_those_of_the_c_module() {
        for (given, sentence) in [
            (("sizes", "1M"), "Unknown storage option sizes"),
            (("size", "lots"), "Invalid quota size: 'lots'"),
            (("size", ""), "Invalid quota size: ''"),
            (("size", "-1"), "Invalid quota size: '-1'"),
            (("size", "1"), "Illegal storage quota size 1, 4096 at least"),
            (("size", "4095"), "Illegal storage quota size 4095, 4096 at least"),
            (("inodes", "1k"), "Invalid quota inodes: '1k'"),
            (("inodes", "99999999999999999999"), "Invalid quota inodes: '99999999999999999999'"),
        ] {
            let error = parse(&[given], NONE).0.unwrap_err();
            assert_eq!((error.kind(), error.message().as_str()), (Kind::Invalid, sentence));
        }
    }
}
