//! Names that are parsed once, at the border, and trusted afterwards.

use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::fmt;

/// A layer's id: 1–255 bytes, first `[A-Za-z0-9]`, then `[A-Za-z0-9_.-]`. Each driver refuses the few names that it keeps for itself.
///
/// Such a name is a single path component that is neither hidden, `.` nor `..`, and holds none of the characters that mean
/// something in mount options (`,`, `:`, `\`) or in device-mapper tables (blank).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(String);

/// Longest id: `NAME_MAX` of `limits.h`.
const MAX_LEN: usize = 255;

impl LayerId {
    /// Parses an id that came from a caller.
    ///
    /// # Errors
    /// [`Kind::Invalid`], with the rule that was broken.
    pub fn parse(bytes: &[u8]) -> Result<LayerId> {
        let refuse = |rule: &str| {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).escape_debug().to_string();
            Err(Error::new(Kind::Invalid, format!("layer id '{shown}' {rule}")))
        };
        let [first, rest @ ..] = bytes else { return refuse("is empty") };
        if bytes.len() > MAX_LEN {
            return refuse("is longer than 255 bytes");
        }
        if !first.is_ascii_alphanumeric() {
            return refuse("does not start with a letter or digit");
        }
        if !rest.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b)) {
            return refuse("has a character other than letters, digits, '_', '.' and '-'");
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(LayerId(text.to_owned())),
            Err(_) => refuse("is not ASCII"),
        }
    }

    /// An error if the id is one of the names that a driver keeps for itself.
    ///
    /// # Errors
    /// [`Kind::Invalid`].
    pub fn check_free(&self, reserved: &[&str]) -> Result<()> {
        if reserved.contains(&self.as_str()) {
            return Err(Error::new(Kind::Invalid, format!("layer id '{self}' is a name that the driver keeps for itself")));
        }
        Ok(())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<OsStr> for LayerId {
    fn as_ref(&self) -> &OsStr {
        self.0.as_ref()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_daemons_use() {
        for good in ["a", "0", "9c27e219663c25e0f28493790cc0b88bc973ba3b1686355f221c38a36978ac63", "a.b_c-d", "l", "base"] {
            assert_eq!(LayerId::parse(good.as_bytes()).unwrap().as_str(), good);
        }
        assert!(LayerId::parse(&[b'a'; 255]).is_ok());
    }

    #[test]
    fn refuses_what_could_address_something_else() {
        let bad: [&[u8]; 16] = [
            b"",
            b".",
            b"..",
            b"../x",
            b"a/b",
            b"/a",
            b"a/",
            b".hidden",
            b"-a",
            b"_a",
            b"a b",
            b"a:b",
            b"a,b",
            b"a\\b",
            b"a\n",
            "\u{e9}".as_bytes(),
        ];
        for id in bad {
            assert_eq!(LayerId::parse(id).unwrap_err().kind(), Kind::Invalid, "{id:?}");
        }
        assert!(LayerId::parse(&[b'a'; 256]).is_err());
    }

    #[test]
    fn what_a_driver_keeps_is_refused_exactly() {
        let id = LayerId::parse(b"l").unwrap();
        assert_eq!(id.check_free(&["RO", "l"]).unwrap_err().kind(), Kind::Invalid);
        id.check_free(&["L", "ll"]).unwrap();
    }
}
