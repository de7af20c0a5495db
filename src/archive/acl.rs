//! POSIX ACLs: from the text that archives hold to the attribute that the kernel takes (`linux/posix_acl_xattr.h`).

/// The attribute of the ACL that is in force.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that a directory's new files get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// `ACL_UNDEFINED_ID`, for the entries that name nobody.
const NOBODY: u32 = u32::MAX;
/// `ACL_USER` and `ACL_GROUP` of `linux/posix_acl.h`: the tags of entries that name somebody.
const NAMED: [u16; 2] = [0x02, 0x08];

/// The attribute's value for entries such as `user::rwx`, `group:50:r-x` or `user:lisa:rw-:1000`, separated by commas or
/// newlines. `None` when an entry is malformed, or names somebody without the number: names are nobody's business here.
pub fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b',' | b'\n')) {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or(line).trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Some(value)
}

fn entry(line: &[u8]) -> Option<(u16, u32, u16)> {
    let mut fields = line.split(|byte| *byte == b':').map(<[u8]>::trim_ascii);
    let (tag, who, permissions, number) = (fields.next()?, fields.next()?, fields.next(), fields.next());
    // `mask:rwx` and `other:r-x` may leave out the empty middle.
    let (who, permissions) = permissions.map_or((&b""[..], who), |permissions| (who, permissions));
    let named = !who.is_empty();
    let tag = match (tag, named) {
        (b"user" | b"u", false) => 0x01,
        (b"user" | b"u", true) => NAMED[0],
        (b"group" | b"g", false) => 0x04,
        (b"group" | b"g", true) => NAMED[1],
        (b"mask" | b"m", false) => 0x10,
        (b"other" | b"o", false) => 0x20,
        _ => return None,
    };
    let id = match (named, number) {
        (false, _) => NOBODY,
        (true, Some(number)) => super::pax::decimal(number)?.try_into().ok()?,
        (true, None) => super::pax::decimal(who)?.try_into().ok()?,
    };
    let permissions = permissions.iter().try_fold(0, |bits, letter| match letter {
        b'r' => Some(bits | 4),
        b'w' => Some(bits | 2),
        b'x' => Some(bits | 1),
        b'-' => Some(bits),
        _ => None,
    })?;
    Some((tag, id, permissions))
}

/// The text of an attribute's value, as [`from_text`] takes it. `None` when the value is malformed.
pub fn to_text(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut lines = Vec::new();
    for entry in entries.chunks_exact(8) {
        let (tag, bits) = (u16::from_le_bytes([entry[0], entry[1]]), u16::from_le_bytes([entry[2], entry[3]]));
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (name, who) = match tag {
            0x01 => ("user", String::new()),
            0x02 => ("user", id.to_string()),
            0x04 => ("group", String::new()),
            0x08 => ("group", id.to_string()),
            0x10 => ("mask", String::new()),
            0x20 => ("other", String::new()),
            _ => return None,
        };
        let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
        lines.push(format!("{name}:{who}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')));
    }
    Some(lines.join(",").into_bytes())
}

/// Rewrites the ids in an attribute's value; `shift` is told whether an id is a group's. `None` when the value is malformed or
/// `shift` refuses an id.
pub fn shifted(value: &[u8], mut shift: impl FnMut(bool, u32) -> Option<u32>) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut out = value.to_vec();
    for entry in out[4..].chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if NAMED.contains(&tag) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&shift(tag == NAMED[1], id)?.to_le_bytes());
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_attribute() {
        let value = from_text(b"user::rwx,user:lisa:rw-:1000,group::r-x\nmask::rwx\nother:r--,group:50:--x").unwrap();
        assert_eq!(value[..4], [2, 0, 0, 0]);
        let tags: Vec<u8> = value[4..].chunks_exact(8).map(|e| e[0]).collect();
        assert_eq!(tags, [1, 2, 4, 8, 16, 32]);
        assert_eq!(value[12..20], [2, 0, 6, 0, 0xe8, 3, 0, 0]);
        let text = to_text(&value).unwrap();
        assert_eq!(text, b"user::rwx,user:1000:rw-,group::r-x,group:50:--x,mask::rwx,other::r--");
        assert_eq!(from_text(&text).unwrap(), value);
        assert!(to_text(&value[..7]).is_none() && to_text(b"").is_none());
        for text in ["user:lisa:rw-", "user:rwz", "owner::rwx", "user"] {
            assert!(from_text(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn ids_are_shifted_where_an_entry_names_somebody() {
        let value = from_text(b"user::rwx,user:7:rw-,other::r--").unwrap();
        let moved = shifted(&value, |_, id| id.checked_add(100_000)).unwrap();
        assert_eq!(moved, from_text(b"user::rwx,user:100007:rw-,other::r--").unwrap());
        assert!(shifted(&value, |_, _| None).is_none() && shifted(&value[..5], |_, id| Some(id)).is_none());
    }
}
