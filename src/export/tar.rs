//! Writes a tar archive in the one form that this library gives a layer: ustar headers, and PAX records for what they cannot
//! hold. The same entries become the same bytes.

use super::stream::Stream;
use crate::archive::decode::Sink;
use crate::archive::entry::Type;
use crate::error::Result;

/// Bytes of a block; everything in a tar stream is a multiple of it.
pub(super) const BLOCK: usize = 512;
/// Lengths of the fields of a ustar header (POSIX, `pax`, "ustar Interchange Format").
const NAME: usize = 100;
const PREFIX: usize = 155;
/// The largest numbers of its octal fields.
const MOST_ID: u32 = 0o7_777_777;
const MOST_SIZE: u64 = 0o77_777_777_777;
const MOST_DEVICE: u64 = 0o7_777_777;

/// What an entry says beside its data.
#[derive(Default)]
pub(super) struct Item<'a> {
    pub(super) kind: Type,
    /// Without a slash at either end; empty for the layer's root.
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds into that second.
    pub(super) mtime: (i64, i64),
    pub(super) size: u64,
    /// Offset and length of what of a sparse file follows; the size is the whole file's.
    pub(super) map: Option<&'a [(u64, u64)]>,
    pub(super) device: (u64, u64),
    /// Attributes by name, the ACLs not among them.
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// ACLs as text.
    pub(super) acl: Option<&'a [u8]>,
    pub(super) default_acl: Option<&'a [u8]>,
}

impl Item<'_> {
    /// The path as it stands in the archive.
    fn name(&self) -> Vec<u8> {
        match self.kind {
            Type::Dir if self.path.is_empty() => b"./".to_vec(),
            Type::Dir => [self.path, b"/"].concat(),
            _ => self.path.to_vec(),
        }
    }
}

/// Writes the headers of an entry; its data, for a sparse file those of its map, are to follow, and then [`pad`].
pub(super) fn header<S: Sink>(item: &Item<'_>, out: &mut Stream<S>) -> Result<()> {
    let mut name = item.name();
    let map = item.map.map(map_text);
    let size = match (&map, item.map) {
        (Some(text), Some(map)) => text.len() as u64 + map.iter().map(|(_, length)| length).sum::<u64>(),
        _ => item.size,
    };
    let mut records = Vec::new();
    if map.is_some() {
        // Programs that know nothing of sparse files unpack what is in the archive under a name that says so.
        record(&mut records, b"GNU.sparse.major", b"1");
        record(&mut records, b"GNU.sparse.minor", b"0");
        record(&mut records, b"GNU.sparse.name", &name);
        record(&mut records, b"GNU.sparse.realsize", item.size.to_string().as_bytes());
        name = [&b"GNUSparseFile.0/"[..], last(&name)].concat();
    }
    let cut = cut(&name);
    if cut.is_none() {
        record(&mut records, b"path", &name);
    }
    if item.link.len() > NAME {
        record(&mut records, b"linkpath", item.link);
    }
    if size > MOST_SIZE {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (keyword, id) in [(&b"uid"[..], item.uid), (b"gid", item.gid)] {
        if id > MOST_ID {
            record(&mut records, keyword, id.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(item.mtime.0).ok().filter(|seconds| *seconds <= MOST_SIZE);
    if seconds.is_none() || item.mtime.1 != 0 {
        record(&mut records, b"mtime", time(item.mtime).as_bytes());
    }
    for (keyword, text) in [(&b"SCHILY.acl.access"[..], item.acl), (b"SCHILY.acl.default", item.default_acl)] {
        if let Some(text) = text {
            record(&mut records, keyword, text);
        }
    }
    for (key, value) in item.xattrs {
        xattr(&mut records, key, value);
    }
    if !records.is_empty() {
        let own = Block { kind: b'x', mode: 0o644, size: records.len() as u64, ..Block::default() };
        out.write(&own.bytes(&[&b"PaxHeaders/"[..], &last(&name)[..last(&name).len().min(NAME - 11)]].concat(), 0))?;
        out.write(&records)?;
        pad(records.len() as u64, out)?;
    }
    let block = Block {
        kind: kind(item.kind),
        mode: item.mode & 0o7777,
        uid: if item.uid > MOST_ID { 0 } else { item.uid },
        gid: if item.gid > MOST_ID { 0 } else { item.gid },
        size: if size > MOST_SIZE { 0 } else { size },
        mtime: seconds.unwrap_or(0),
        link: &item.link[..item.link.len().min(NAME)],
        device: item.device,
    };
    match cut {
        Some(cut) => out.write(&block.bytes(&name, cut))?,
        None => out.write(&block.bytes(&name[..NAME], 0))?,
    }
    map.map_or(Ok(()), |text| out.write(&text))
}

/// Fills up to a block what had `length` bytes.
pub(super) fn pad<S: Sink>(length: u64, out: &mut Stream<S>) -> Result<()> {
    // At most one block, so it fits.
    #[allow(clippy::cast_possible_truncation)]
    out.write(&[0; BLOCK][..(length.next_multiple_of(BLOCK as u64) - length) as usize])
}

/// Ends the archive.
pub(super) fn end<S: Sink>(out: &mut Stream<S>) -> Result<()> {
    out.write(&[0; 2 * BLOCK])
}

const fn kind(kind: Type) -> u8 {
    match kind {
        Type::File => b'0',
        Type::Hardlink => b'1',
        Type::Symlink => b'2',
        Type::Char => b'3',
        Type::Block => b'4',
        Type::Dir => b'5',
        Type::Fifo => b'6',
    }
}

/// How much of the name goes into the prefix field, with the slash that is left out; `None` if it does not fit.
fn cut(name: &[u8]) -> Option<usize> {
    if name.len() <= NAME {
        return Some(0);
    }
    let least = name.len() - NAME - 1;
    let slash = name.iter().enumerate().skip(least.max(1)).find(|(_, byte)| **byte == b'/').map(|(at, _)| at)?;
    (slash <= PREFIX && slash + 1 < name.len()).then_some(slash + 1)
}

/// The last name of a path, whatever slash follows it.
fn last(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty()).unwrap_or(path)
}

/// A header block's numbers.
#[derive(Default)]
struct Block<'a> {
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    link: &'a [u8],
    device: (u64, u64),
}

impl Block<'_> {
    fn bytes(&self, name: &[u8], cut: usize) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block, 0, &name[cut..]);
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], self.uid.into());
        octal(&mut block[116..124], self.gid.into());
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.mtime);
        block[156] = self.kind;
        put(&mut block, 157, self.link);
        put(&mut block, 257, b"ustar\x0000");
        octal(&mut block[329..337], self.device.0.min(MOST_DEVICE));
        octal(&mut block[337..345], self.device.1.min(MOST_DEVICE));
        put(&mut block, 345, &name[..cut.saturating_sub(1)]);
        put(&mut block, 148, b"        "); // as which the field itself counts
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum);
        block
    }
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A number in digits that fill the field but for the NUL at its end.
fn octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    for (place, digit) in field[..digits].iter_mut().rev().enumerate() {
        *digit = b'0' + ((number >> (3 * place)) & 7) as u8;
    }
    field[digits] = 0;
}

/// Adds a record, whose length counts its own digits too.
fn record(records: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3; // a blank, an equals sign, a newline
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(keyword);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

const fn digits(number: usize) -> usize {
    number.ilog10() as usize + 1
}

/// An attribute's record. In the usual form a name ends at its first equals sign; libarchive's has a way round that.
fn xattr(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if key.contains(&b'=') {
        record(records, &[&b"LIBARCHIVE.xattr."[..], &percent(key)].concat(), &base64(value));
    } else {
        record(records, &[b"SCHILY.xattr.", key].concat(), value);
    }
}

fn percent(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for byte in text {
        match byte {
            b'=' | b'%' | 0..=0x20 | 0x7f.. => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

/// Without the padding, as libarchive writes it.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            out.push(SYMBOLS[(bits >> (18 - 6 * place) & 63) as usize]);
        }
    }
    out
}

/// Seconds with as much of a fraction as there is. Before 1970 the fraction counts down from zero as well.
fn time((seconds, nanos): (i64, i64)) -> String {
    let (sign, whole, nanos) = match (seconds, nanos) {
        (0.., _) => ("", i128::from(seconds), nanos),
        (_, 0) => ("-", -i128::from(seconds), 0),
        _ => ("-", -(i128::from(seconds) + 1), 1_000_000_000 - nanos),
    };
    let text = format!("{sign}{whole}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The map of a sparse file (format 1.0): decimal lines, filled up to a block.
fn map_text(map: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, length) in map {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK), 0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Limits;
    use crate::archive::entry::{Entry, Reader};
    use crate::export::stream::collected;
    use crate::sys::place::Time;

    /// What our own reader makes of an item with these data.
    fn read_back(item: &Item<'_>, data: &[u8]) -> (Entry, Vec<u8>) {
        let bytes = collected(|out| {
            header(item, out)?;
            out.write(data)?;
            pad(data.len() as u64, out)?;
            end(out)
        });
        assert_eq!(bytes.len() % BLOCK, 0);
        let limits = Limits::default();
        let mut reader = Reader::new(&bytes[..], &limits);
        let mut entry = Entry::default();
        assert!(reader.next(&mut entry).unwrap());
        let mut read = Vec::new();
        loop {
            let some = reader.data().unwrap().to_vec();
            if some.is_empty() {
                break;
            }
            reader.consume(some.len()).unwrap();
            read.extend_from_slice(&some);
        }
        assert!(!reader.next(&mut Entry::default()).unwrap());
        (entry, read)
    }

    #[test]
    fn names_of_any_length_and_bytes() {
        for length in [1, 99, 100, 101, 102, 155, 156, 200, 255, 256, 257, 1000, 4094] {
            for pattern in [&b"a"[..], b"ab/", b"\xff\xc3", b"dir-with-a-long-name-of-forty-characters-/"] {
                let path: Vec<u8> = pattern.iter().copied().cycle().take(length).collect();
                let path = path.trim_ascii().strip_suffix(b"/").unwrap_or(&path);
                for kind in [Type::File, Type::Dir, Type::Symlink] {
                    let link = if kind == Type::Symlink { path } else { b"" };
                    let (entry, _) = read_back(&Item { kind, path, link, ..Item::default() }, b"");
                    let slash = if kind == Type::Dir { &b"/"[..] } else { b"" };
                    assert_eq!(entry.path, [path, slash].concat(), "{kind:?} {length}");
                    assert_eq!((entry.kind, &entry.link[..]), (kind, link));
                }
            }
        }
    }

    #[test]
    fn numbers_beyond_the_fields() {
        for (id, mtime) in [
            (0, (0, 0)),
            (2_097_151, (8_589_934_591, 0)),
            (2_097_152, (8_589_934_592, 1)),
            (u32::MAX - 1, (-2, 500_000_000)),
            (7, (-1, 0)),
            (7, (i64::MIN + 1, 999_999_999)),
            (7, (i64::MAX, 123_456_780)),
        ] {
            let item = Item { path: b"f", uid: id, gid: id, mtime, mode: 0o6755, size: 3, ..Item::default() };
            let (entry, data) = read_back(&item, b"abc");
            let nanos = u32::try_from(mtime.1).unwrap();
            assert_eq!((entry.uid, entry.gid, entry.mtime), (id, id, Time { seconds: mtime.0, nanos }));
            assert_eq!((entry.mode, &data[..]), (0o6755, &b"abc"[..]));
        }
        let big = Item { path: b"f", size: 1 << 40, ..Item::default() };
        let bytes = collected(|out| header(&big, out));
        let limits = Limits::default();
        let mut entry = Entry::default();
        assert!(Reader::new(&bytes[..], &limits).next(&mut entry).unwrap());
        assert_eq!(entry.length, 1 << 40);
    }

    #[test]
    fn attributes_of_any_name_and_value() {
        let xattrs: Vec<(Vec<u8>, Vec<u8>)> = [
            (&b"user.plain"[..], &b"value"[..]),
            (b"user.a=b%c", b"\x00\xff=\n"),
            (b"user.empty", b""),
            (b"user.bytes\xff=", b"12"),
            (b"security.capability", &[1, 0, 0, 2]),
        ]
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .into();
        let item = Item { path: b"f", xattrs: &xattrs, acl: Some(b"user::rw-"), ..Item::default() };
        let (entry, _) = read_back(&item, b"");
        assert_eq!(entry.xattrs.into_iter().collect::<Vec<_>>(), {
            let mut sorted = xattrs;
            sorted.sort();
            sorted
        });
        assert_eq!(entry.acl.as_deref(), Some(&b"user::rw-"[..]));
    }

    #[test]
    fn the_root_devices_and_sparse_files() {
        assert_eq!(read_back(&Item { kind: Type::Dir, ..Item::default() }, b"").0.path, b"./");
        let device = Item { kind: Type::Block, path: b"d", device: (4095, 1_048_575), ..Item::default() };
        assert_eq!(read_back(&device, b"").0.device, (4095, 1_048_575));
        let map = [(4096, 3), (1 << 20, 2), (1 << 30, 0)];
        let sparse = Item { path: b"dir/s", size: 1 << 30, map: Some(&map), ..Item::default() };
        let (entry, data) = read_back(&sparse, b"abcde");
        assert_eq!((&entry.path[..], entry.length, &data[..]), (&b"dir/s"[..], 1 << 30, &b"abcde"[..]));
        assert_eq!(entry.extents.as_deref(), Some(&map[..]));
    }
}
