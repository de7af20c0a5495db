//! From the bytes of a tar stream to entries: v7, ustar, pax and GNU archives with their extension records put together.

use super::extension::{Extensions, Sparse};
use super::header::{self, BLOCK, Header};
use super::limits::Limits;
use crate::error::{Error, Kind, Result};
use crate::sys::place::Time;
use std::collections::BTreeMap;
use std::io::BufRead;

/// What an entry makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    #[default]
    File,
    /// A second name of a file.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// One entry as the archive states it; nothing in it has been judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What it makes.
    pub kind: Type,
    /// The name, any bytes.
    pub path: Vec<u8>,
    /// The text of a symlink, the target of a hard link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Access time, where stated.
    pub atime: Option<Time>,
    /// Length of a regular file, bytes.
    pub length: u64,
    /// Where the data that follow go in a sparse file: offset and length of each extent, ascending, none overlapping.
    pub extents: Option<Vec<(u64, u64)>>,
    /// Major and minor number of a device.
    pub device: (u64, u64),
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// POSIX access ACL, as text.
    pub acl: Option<Vec<u8>>,
    /// POSIX default ACL, as text.
    pub default_acl: Option<Vec<u8>>,
}

/// Reads entries and their data from a stream.
pub struct Reader<'l, S> {
    source: S,
    limits: &'l Limits,
    global: Extensions,
    global_bytes: usize,
    /// Bytes of the current entry's data still to come, and of the padding behind them.
    data: u64,
    padding: u64,
    entries: u64,
    taken: u64,
    ended: bool,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Archive, what)
}

impl<'l, S: BufRead> Reader<'l, S> {
    /// Starts at the beginning of a stream.
    pub fn new(source: S, limits: &'l Limits) -> Reader<'l, S> {
        let global = Extensions::default();
        Reader { source, limits, global, global_bytes: 0, data: 0, padding: 0, entries: 0, taken: 0, ended: false }
    }

    /// Entries read so far.
    pub fn count(&self) -> u64 {
        self.entries
    }

    /// Bytes of the stream that are at hand; empty at its end.
    fn peek(&mut self) -> Result<&[u8]> {
        let bytes = loop {
            match self.source.fill_buf() {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match bytes {
            // Borrowed anew: the loop above must not hold on to the borrow.
            Ok(_) => self.source.fill_buf().map_err(stopped),
            Err(e) => Err(stopped(e)),
        }
    }

    fn take(&mut self, amount: usize) -> Result<()> {
        self.source.consume(amount);
        self.taken += amount as u64;
        if self.taken > self.limits.stream {
            return Err(Error::new(Kind::Limit, format!("limit 'stream': more than {} bytes", self.limits.stream)));
        }
        Ok(())
    }

    fn skip(&mut self, mut amount: u64) -> Result<()> {
        while amount > 0 {
            let available = self.peek()?.len();
            if available == 0 {
                return Err(bad("the archive is cut off"));
            }
            let step = usize::try_from(amount).unwrap_or(usize::MAX).min(available);
            self.take(step)?;
            amount -= step as u64;
        }
        Ok(())
    }

    /// Fills `into`; `false` when the stream ends before its first byte.
    fn exact(&mut self, into: &mut [u8]) -> Result<bool> {
        let mut got = 0;
        while got < into.len() {
            let available = self.peek()?;
            let step = available.len().min(into.len() - got);
            into[got..got + step].copy_from_slice(&available[..step]);
            if step == 0 {
                return if got == 0 { Ok(false) } else { Err(bad("the archive is cut off")) };
            }
            self.take(step)?;
            got += step;
        }
        Ok(true)
    }

    /// The next block of something that has begun.
    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        if self.exact(&mut block)? { Ok(block) } else { Err(bad("the archive is cut off")) }
    }

    /// The next bytes of the current entry's data; empty when there are no more. To be followed by [`Reader::consume`].
    pub fn data(&mut self) -> Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let most = usize::try_from(self.data).unwrap_or(usize::MAX);
        let available = self.peek()?;
        if available.is_empty() {
            return Err(bad("the archive is cut off"));
        }
        let count = available.len().min(most);
        Ok(&available[..count])
    }

    /// Goes past bytes that [`Reader::data`] returned.
    pub fn consume(&mut self, amount: usize) -> Result<()> {
        self.data -= amount as u64;
        self.take(amount)
    }

    /// Reads the next entry, going past what is left of the one before. `false`: there is none.
    ///
    /// # Errors
    /// The archive is malformed or cut off, or a limit is exceeded. `entry.path` then names the entry if it was known.
    pub fn next(&mut self, entry: &mut Entry) -> Result<bool> {
        entry.path.clear();
        if self.ended {
            return Ok(false);
        }
        self.skip(self.data + self.padding)?;
        (self.data, self.padding) = (0, 0);
        let mut own = self.global.clone();
        let mut budget = self.limits.extensions;
        let mut pending = false;
        loop {
            let mut block = [0; BLOCK];
            let first = self.taken == 0;
            let whole = self.exact(&mut block).map_err(|e| if first { foreign(&block).unwrap_or(e) } else { e })?;
            let header = if whole { Header::parse(&block) } else { Ok(None) };
            let Some(header) = header.map_err(|e| if first { foreign(&block).unwrap_or(e) } else { e })? else {
                if pending {
                    return Err(bad("the archive ends after an extension record"));
                }
                self.finish(&block)?;
                return Ok(false);
            };
            match header.kind() {
                b'x' | b'X' => own.pax(&self.extension(&header, &mut budget)?, false)?,
                b'g' => {
                    let content = self.global_record(&header)?;
                    self.global.pax(&content, true)?;
                    own.pax(&content, true)?;
                }
                b'L' => own.long_name(self.extension(&header, &mut budget)?),
                b'K' => own.long_link(self.extension(&header, &mut budget)?),
                // A volume label, and Solaris ACLs: nothing to make of them.
                b'V' | b'A' => {
                    let size = header.size()?;
                    self.skip(padded(size)?)?;
                    continue;
                }
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.entries {
                        let text = format!("limit 'entries': more than {} entries", self.limits.entries);
                        return Err(Error::new(Kind::Limit, text));
                    }
                    self.describe(&header, own, budget, entry)?;
                    return Ok(true);
                }
            }
            pending |= header.kind() != b'g';
        }
    }

    /// Checks that an archive may end here, and reads the stream to its end, so that the decompressor sees its checksum.
    fn finish(&mut self, last: &[u8; BLOCK]) -> Result<()> {
        debug_assert!(last.iter().all(|byte| *byte == 0));
        let mut block = [0; BLOCK];
        // Two blocks of zeros end an archive; so does the end of the stream. One alone hides what follows from some programs.
        if self.exact_or_short_zeros(&mut block)? && block.iter().any(|byte| *byte != 0) {
            return Err(bad("a block of zeros stands alone inside the archive"));
        }
        self.ended = true;
        loop {
            let available = self.peek()?.len();
            if available == 0 {
                return Ok(());
            }
            self.take(available)?;
        }
    }

    fn exact_or_short_zeros(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut got = 0;
        while got < BLOCK {
            let available = self.peek()?;
            let step = available.len().min(BLOCK - got);
            if step == 0 {
                return Ok(false);
            }
            block[got..got + step].copy_from_slice(&available[..step]);
            self.take(step)?;
            got += step;
        }
        Ok(true)
    }

    /// The content of an extension record, within what the entry may still use.
    fn extension(&mut self, header: &Header<'_>, budget: &mut usize) -> Result<Vec<u8>> {
        let size = header.size()?;
        let length = usize::try_from(size).ok().filter(|n| *n <= *budget).ok_or_else(|| self.too_long())?;
        *budget -= length;
        let mut content = vec![0; length];
        if length > 0 && !self.exact(&mut content)? {
            return Err(bad("the archive is cut off"));
        }
        self.skip(padded(size)? - size)?;
        Ok(content)
    }

    fn too_long(&self) -> Error {
        let text = format!("limit 'extensions': more than {} bytes of extension records", self.limits.extensions);
        Error::new(Kind::Limit, text)
    }

    fn global_record(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let mut budget = self.limits.extensions - self.global_bytes;
        let content = self.extension(header, &mut budget)?;
        self.global_bytes = self.limits.extensions - budget;
        Ok(content)
    }

    /// Puts header and extensions together.
    fn describe(&mut self, header: &Header<'_>, own: Extensions, budget: usize, entry: &mut Entry) -> Result<()> {
        header.name(&mut entry.path);
        let Extensions { path, link, size, uid, gid, mtime, atime, xattrs, acl, default_acl, sparse } = own;
        if let Some(path) = path {
            entry.path = path;
        }
        entry.link.clear();
        match link {
            Some(link) => entry.link = link,
            None => entry.link.extend_from_slice(header.link()),
        }
        let limit = self.limits.path;
        if entry.path.len() > limit || entry.link.len() > limit {
            entry.path.truncate(limit);
            return Err(Error::new(Kind::Limit, format!("limit 'path': a path of more than {limit} bytes")));
        }
        if xattrs.len() > self.limits.xattrs {
            let text = format!("limit 'xattrs': more than {} extended attributes", self.limits.xattrs);
            return Err(Error::new(Kind::Limit, text));
        }
        entry.mode = header.mode()?;
        entry.uid = uid.map_or_else(|| header.uid(), Ok)?;
        entry.gid = gid.map_or_else(|| header.gid(), Ok)?;
        entry.mtime = mtime.map_or_else(|| Ok(Time { seconds: header.mtime()?, nanos: 0 }), Ok)?;
        entry.atime = atime;
        (entry.xattrs, entry.acl, entry.default_acl) = (xattrs, acl, default_acl);
        entry.device = (0, 0);
        let stated = size.map_or_else(|| header.size(), Ok)?;
        let slash = entry.path.ends_with(b"/");
        let (kind, data) = match header.kind() {
            // v7 has no type for directories.
            0 | b'0' | b'7' if slash => (Type::Dir, stated),
            0 | b'0' | b'7' | b'S' => (Type::File, stated),
            // What has no content has no data in the stream, whatever size is stated: so GNU tar and Go, for links.
            b'1' => (Type::Hardlink, 0),
            b'2' => (Type::Symlink, 0),
            b'3' => (Type::Char, 0),
            b'4' => (Type::Block, 0),
            b'5' => (Type::Dir, 0),
            b'6' => (Type::Fifo, 0),
            // A directory of a GNU incremental archive: the data list its names.
            b'D' => (Type::Dir, stated),
            other => return Err(bad(format!("entries of type '{}' are not supported", [other].escape_ascii()))),
        };
        entry.kind = kind;
        (self.data, self.padding) = (data, padded(data)? - data);
        entry.length = if kind == Type::File { data } else { 0 };
        entry.extents = None;
        if matches!(kind, Type::Char | Type::Block) {
            entry.device = header.device()?;
        }
        if kind == Type::File {
            self.sparse_map(header, sparse, budget, entry)?;
        }
        Ok(())
    }

    fn sparse_map(&mut self, header: &Header<'_>, mut sparse: Sparse, budget: usize, entry: &mut Entry) -> Result<()> {
        if let Some(name) = sparse.name.take() {
            if name.len() > self.limits.path {
                return Err(Error::new(
                    Kind::Limit,
                    format!("limit 'path': a path of more than {} bytes", self.limits.path),
                ));
            }
            entry.path = name;
        }
        let (map, length) = if header.kind() == b'S' {
            let mut map = Vec::new();
            let (length, mut more) = header.sparse(&mut map)?;
            while more {
                if map.len() * BYTES_OF_EXTENT > budget {
                    return Err(self.too_long());
                }
                more = header::sparse_continued(&self.block()?, &mut map)?;
            }
            (map, length)
        } else if sparse.is_version_1() {
            let map = self.map_in_data(budget)?;
            (map, sparse.length.ok_or_else(|| bad("a sparse file without its real size"))?)
        } else if let Some(map) = sparse.map()? {
            (map, sparse.length.ok_or_else(|| bad("a sparse file without its real size"))?)
        } else {
            return Ok(());
        };
        check_map(&map, length, self.data)?;
        entry.length = length;
        entry.extents = Some(map);
        Ok(())
    }

    /// The map of PAX sparse format 1.0: decimal lines before the data, filled up to a block.
    fn map_in_data(&mut self, budget: usize) -> Result<Vec<(u64, u64)>> {
        let mut numbers = Lines::default();
        let mut left = None;
        let mut map = Vec::new();
        let mut offset = None;
        while left != Some(0) {
            if map.len() * BYTES_OF_EXTENT > budget {
                return Err(self.too_long());
            }
            if self.data < BLOCK as u64 {
                return Err(bad("a sparse map does not fit its file's data"));
            }
            let block = self.block()?;
            self.data -= BLOCK as u64;
            for byte in block {
                let Some(number) = numbers.push(byte)? else { continue };
                match (left, offset.take()) {
                    (None, _) => left = Some(number),
                    (Some(_), None) => offset = Some(number),
                    (Some(count), Some(start)) => {
                        map.push((start, number));
                        left = Some(count - 1);
                    }
                }
                if left == Some(0) {
                    break;
                }
            }
        }
        Ok(map)
    }
}

/// Bytes of memory that one extent of a sparse map takes, counted against the limit of extension records.
const BYTES_OF_EXTENT: usize = std::mem::size_of::<(u64, u64)>();

/// Decimal numbers, each on a line.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, byte: u8) -> Result<Option<u64>> {
        if byte != b'\n' {
            self.0.push(byte);
            return if self.0.len() > 20 { Err(bad("a number in a sparse map is too long")) } else { Ok(None) };
        }
        let number = super::pax::number("sparse map", &self.0)?;
        self.0.clear();
        Ok(Some(number))
    }
}

fn check_map(map: &[(u64, u64)], length: u64, data: u64) -> Result<()> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for (offset, count) in map {
        let next = offset.checked_add(*count).filter(|next| *next <= length && *offset >= end);
        end = next.ok_or_else(|| bad("a sparse map is out of order or goes beyond its file"))?;
        total += count; // at most `length`, because the extents do not overlap
    }
    if total == data { Ok(()) } else { Err(bad("a sparse map does not fit its file's data")) }
}

/// What a stream is that does not begin as a tar archive does, where that can be told.
fn foreign(start: &[u8; BLOCK]) -> Option<Error> {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!", "a rar archive"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"LZIP", "compressed with lzip"),
        (b"\x1f\x9d", "compressed with compress"),
        (b"{", "a JSON text"),
        (b"<", "an HTML or XML text"),
    ];
    let (_, what) = KNOWN.iter().find(|(magic, _)| start.starts_with(magic))?;
    Some(bad(format!("this is not a tar archive but {what}")).hint("layers are tar, plain or as gzip, zstd, xz or bzip2"))
}

/// A size rounded up to blocks.
fn padded(size: u64) -> Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| bad("a size is out of range"))
}

/// `EPIPE` of `asm-generic/errno-base.h`: the errno of an error that says that the stream was broken off.
pub(super) const BROKEN_OFF: i32 = 32;

fn stopped(e: std::io::Error) -> Error {
    e.downcast().unwrap_or_else(|e| Error::sys(format!("the archive broke off ({e})"), BROKEN_OFF))
}
