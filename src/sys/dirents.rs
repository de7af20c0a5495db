//! Reading directories (`getdents64(2)`), without what libc's `readdir` does around it.

use crate::error::{Error, Result};
use crate::sys::fs::{Entry, FileKind};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

/// As much as libc reads at a time.
const BUFFER: usize = 32 << 10;

/// Calls `each` for every name from the descriptor's position on, but not for `.` and `..`. Names made or removed meanwhile may
/// or may not be seen (readdir(3)).
pub fn each_from_here(dir: impl AsFd, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        let fd = dir.as_fd().as_raw_fd();
        // SAFETY: pointer and length describe `buffer`; the borrow keeps the descriptor open.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) };
        let got = match Errno::result(got) {
            Err(Errno::ENOENT) => 0, // the directory was removed meanwhile, and is empty
            got => got.map_err(|e| Error::sys("list directory", e as i32))?,
        };
        let mut rest = &buffer[..usize::try_from(got).unwrap_or(0)];
        if rest.is_empty() {
            return Ok(());
        }
        while let Some((entry, after)) = parse(rest) {
            rest = after;
            if entry.name != "." && entry.name != ".." {
                each(entry)?;
            }
        }
    }
}

/// Takes one record off the front: inode (8 bytes), offset (8), length of the record (2), type (1), name ending in NUL
/// (`struct linux_dirent64`, getdents(2)).
fn parse(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let name = bytes.get(19..length)?.split(|&b| b == 0).next()?;
    let kind = match *bytes.get(18)? {
        libc::DT_REG => Some(FileKind::File),
        libc::DT_DIR => Some(FileKind::Dir),
        libc::DT_LNK => Some(FileKind::Symlink),
        libc::DT_CHR => Some(FileKind::Char),
        libc::DT_BLK => Some(FileKind::Block),
        libc::DT_FIFO | libc::DT_SOCK => Some(FileKind::Other),
        _ => None,
    };
    Some((Entry { name: OsStr::from_bytes(name).to_owned(), kind }, &bytes[length..]))
}
