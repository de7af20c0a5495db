//! One 512-byte header block: layout by the `tar` crate, numbers and names by us, because real archives hold negative times,
//! ids beyond octal and names of any bytes.

use crate::error::{Error, Kind, Result};
use std::ops::Range;

/// Bytes of a block; everything in a tar stream is a multiple of it.
pub(super) const BLOCK: usize = 512;

/// Fields of the POSIX formats (`pax`, "ustar Interchange Format"); GNU's has the first two as well.
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;

/// A header whose checksum is right.
pub(super) struct Header<'a>(&'a tar::Header);

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Archive, what)
}

impl<'a> Header<'a> {
    /// Checks the checksum. `None`: the block is all zeros, which marks the end.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Option<Header<'a>>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(block);
        let stated = number("checksum", &header.as_old().cksum)?;
        // The field itself counts as blanks (POSIX, pax). Some old programs summed the bytes as signed ones.
        let counted = |i: usize, byte: u8| if (148..156).contains(&i) { b' ' } else { byte };
        let unsigned: i64 = block.iter().enumerate().map(|(i, b)| i64::from(counted(i, *b))).sum();
        let signed: i64 = block.iter().enumerate().map(|(i, b)| i64::from(counted(i, *b).cast_signed())).sum();
        if stated == unsigned || stated == signed {
            Ok(Some(Header(header)))
        } else {
            Err(bad("a tar header's checksum is wrong"))
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0.as_old().linkflag[0]
    }

    /// Whether it is of the POSIX formats. By the magic alone: the version behind it is not "00" in some archives, and no
    /// other was ever given out.
    fn is_ustar(&self) -> bool {
        self.0.as_bytes()[257..].starts_with(b"ustar\0")
    }

    /// The name, with the prefix field of the formats that have one.
    pub(super) fn name(&self, into: &mut Vec<u8>) {
        into.clear();
        if self.is_ustar() {
            let field = &self.0.as_bytes()[PREFIX];
            // star keeps times behind a shorter prefix and says so at the end of the block.
            let star = self.0.as_bytes().ends_with(b"tar\0");
            let prefix = text(if star { &field[..131] } else { field });
            if !prefix.is_empty() {
                into.extend_from_slice(prefix);
                into.push(b'/');
            }
        }
        into.extend_from_slice(text(&self.0.as_old().name));
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.0.as_old().linkname)
    }

    pub(super) fn mode(&self) -> Result<u32> {
        // The upper bits repeat the file type in some archives.
        Ok((number("mode", &self.0.as_old().mode)? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32> {
        id("uid", number("uid", &self.0.as_old().uid)?)
    }

    pub(super) fn gid(&self) -> Result<u32> {
        id("gid", number("gid", &self.0.as_old().gid)?)
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        number("mtime", &self.0.as_old().mtime)
    }

    pub(super) fn size(&self) -> Result<u64> {
        size("size", number("size", &self.0.as_old().size)?)
    }

    /// Major and minor of a device node.
    pub(super) fn device(&self) -> Result<(u64, u64)> {
        if !self.is_ustar() && self.0.as_gnu().is_none() {
            return Err(bad("a device node in a tar format that has no device numbers"));
        }
        let number = |field| size("device", number("device", &self.0.as_bytes()[field])?);
        Ok((number(MAJOR)?, number(MINOR)?))
    }

    /// The map of an old GNU sparse file as far as it stands in this header, its whole length, and whether more follows.
    pub(super) fn sparse(&self, map: &mut Vec<(u64, u64)>) -> Result<(u64, bool)> {
        let gnu = self.0.as_gnu().ok_or_else(|| bad("a sparse file in a tar format that has none"))?;
        sparse_fields(gnu.sparse.iter().map(|field| (&field.offset, &field.numbytes)), map)?;
        Ok((size("sparse size", number("sparse size", &gnu.realsize)?)?, gnu.isextended[0] != 0))
    }
}

/// Adds the 21 fields of a block that continues an old GNU sparse map; says whether yet another follows.
pub(super) fn sparse_continued(block: &[u8; BLOCK], map: &mut Vec<(u64, u64)>) -> Result<bool> {
    let fields = block[..504].chunks_exact(24).filter_map(|field| field.split_first_chunk::<12>());
    let fields = fields.filter_map(|(offset, rest)| Some((offset, rest.first_chunk::<12>()?)));
    sparse_fields(fields, map)?;
    Ok(block[504] != 0)
}

fn sparse_fields<'f>(fields: impl Iterator<Item = (&'f [u8; 12], &'f [u8; 12])>, map: &mut Vec<(u64, u64)>) -> Result<()> {
    for (offset, length) in fields {
        if offset[0] == 0 || length[0] == 0 {
            break; // unused
        }
        let (offset, length) = (number("sparse map", offset)?, number("sparse map", length)?);
        map.push((size("sparse map", offset)?, size("sparse map", length)?));
    }
    Ok(())
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// An octal number in blanks and NULs, or a big-endian two's complement one marked by the field's top bit ("base-256").
/// An empty field is 0.
pub(super) fn number(what: &str, field: &[u8]) -> Result<i64> {
    let out_of_range = || bad(format!("the {what} in a tar header is out of range"));
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            let negative = first & 0x40 != 0;
            let start: i128 = if negative { -1 } else { 0 };
            let lead = if negative { *first } else { first & 0x7f };
            let bytes = std::iter::once(lead).chain(field[1..].iter().copied());
            let mut value = start;
            for byte in bytes {
                value = (value << 8) | i128::from(byte);
                i64::try_from(value).map_err(|_| out_of_range())?;
            }
            i64::try_from(value).map_err(|_| out_of_range())
        }
        _ => {
            let trimmed = text(field).trim_ascii();
            trimmed.iter().try_fold(0_i64, |value, digit| match digit {
                b'0'..=b'7' => {
                    value.checked_mul(8).and_then(|v| v.checked_add(i64::from(digit - b'0'))).ok_or_else(out_of_range)
                }
                _ => Err(bad(format!("the {what} in a tar header is not a number"))),
            })
        }
    }
}

/// A user or group id; the highest number means "none" to the kernel.
pub(super) fn id(what: &str, value: i64) -> Result<u32> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| bad(format!("{what} {value} is out of range")))
}

/// A length or an offset.
pub(super) fn size(what: &str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| bad(format!("{what} {value} is negative")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_octal_and_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b" 644 \0\0\0", 0o644),
            (b"77777777", 0o77_777_777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"\x80\0\0\0\0\x20\0\0", 0x20_0000),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
        ] {
            assert_eq!(number("x", field).unwrap(), value, "{field:?}");
        }
        for field in [&b"0000648\0"[..], b"-1\0", b"0x10\0", b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", b"12 34\0"] {
            assert!(number("x", field).is_err(), "{field:?}");
        }
    }

    #[test]
    fn ids_and_sizes_have_their_range() {
        assert!(id("uid", -1).is_err() && id("uid", i64::from(u32::MAX)).is_err());
        assert_eq!(id("uid", i64::from(u32::MAX) - 1).unwrap(), u32::MAX - 1);
        assert!(size("size", -1).is_err());
    }
}
