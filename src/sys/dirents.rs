//! Reading directories (`getdents64(2)`), without what libc's `readdir` does around it.

use crate::error::Result;
use crate::sys::fs::{Entry, FileKind, check};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

/// As much as libc reads at a time.
pub const BUFFER: usize = 32 << 10;

/// One record of a directory, in the buffer that it was read into.
#[derive(Debug)]
pub struct Record<'b> {
    /// The name; `.` and `..` are among them.
    pub name: &'b OsStr,
    /// Its kind, where the directory tells (`d_type`); `None` otherwise.
    pub kind: Option<FileKind>,
    /// The inode number that the directory states: that of what a mount on the name hides.
    pub inode: u64,
    /// Where the directory goes on behind it, for [`seek`].
    pub next: i64,
    /// Bytes of the record.
    pub length: usize,
}

/// Reads records from the descriptor's position on and returns their bytes: 0 at the end. Names made or removed meanwhile may or
/// may not be among them (readdir(3)).
pub fn fill(dir: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    let fd = dir.as_fd().as_raw_fd();
    // SAFETY: pointer and length describe `buffer`; the borrow keeps the descriptor open.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) };
    match Errno::result(got) {
        Err(Errno::ENOENT) => Ok(0), // the directory was removed meanwhile, and is empty
        got => Ok(usize::try_from(check(got, || "list directory")?).unwrap_or(0)),
    }
}

/// Moves the descriptor's position to one that a record has stated, or to the start: 0.
pub fn seek(dir: impl AsFd, position: i64) -> Result<()> {
    let to = nix::unistd::Whence::SeekSet;
    check(nix::unistd::lseek64(dir, position, to).map(drop), || format!("seek in a directory to {position}"))
}

/// The record at the front of these bytes: inode (8 bytes), offset (8), length of the record (2), type (1), name ending in NUL
/// (`struct linux_dirent64`, getdents(2)).
pub fn first(bytes: &[u8]) -> Option<Record<'_>> {
    let inode = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let next = i64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let name = OsStr::from_bytes(bytes.get(19..length)?.split(|&b| b == 0).next()?);
    let kind = match *bytes.get(18)? {
        libc::DT_REG => Some(FileKind::File),
        libc::DT_DIR => Some(FileKind::Dir),
        libc::DT_LNK => Some(FileKind::Symlink),
        libc::DT_CHR => Some(FileKind::Char),
        libc::DT_BLK => Some(FileKind::Block),
        libc::DT_FIFO | libc::DT_SOCK => Some(FileKind::Other),
        _ => None,
    };
    Some(Record { name, kind, inode, next, length })
}

/// The first name from the descriptor's position on that is not `.` or `..`, with one call where the directory is not empty.
pub fn one_from_here(dir: impl AsFd) -> Result<Option<Entry>> {
    /// Enough for the record of the longest name after those two.
    const SMALL: usize = 512;
    let mut buffer = [0_u8; SMALL];
    loop {
        let got = fill(&dir, &mut buffer)?;
        if got == 0 {
            return Ok(None);
        }
        let mut rest = &buffer[..got];
        while let Some(record) = first(rest) {
            if !is_dots(&record) {
                return Ok(Some(record.into()));
            }
            rest = &rest[record.length..];
        }
    }
}

fn is_dots(record: &Record<'_>) -> bool {
    record.name == "." || record.name == ".."
}

impl From<Record<'_>> for Entry {
    fn from(record: Record<'_>) -> Entry {
        Entry { name: record.name.to_owned(), kind: record.kind }
    }
}

/// Calls `each` for every name from the descriptor's position on, but not for `.` and `..`.
pub fn each_from_here(dir: impl AsFd, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        let got = fill(&dir, &mut buffer)?;
        let mut rest = &buffer[..got];
        if rest.is_empty() {
            return Ok(());
        }
        while let Some(record) = first(rest) {
            rest = &rest[record.length..];
            if !is_dots(&record) {
                each(record.into())?;
            }
        }
    }
}
