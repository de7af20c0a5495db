//! What is free on a filesystem (`statvfs(3)`).

use crate::error::Result;
use crate::sys::fs::check;
use std::os::fd::AsFd;

/// What root may still take. Where a directory belongs to a project with limits, of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; `None` where the filesystem has no such number.
    pub inodes: Option<u64>,
}

/// The room where an open file or directory is.
pub fn room(fd: impl AsFd) -> Result<Room> {
    let st = check(nix::sys::statvfs::fstatvfs(fd), || "fstatvfs")?;
    // 32 bits on some architectures.
    #[allow(clippy::unnecessary_cast)]
    let (blocks, size, inodes, all) =
        (st.blocks_free() as u64, st.fragment_size() as u64, st.files_free() as u64, st.files() as u64);
    Ok(Room { bytes: blocks.saturating_mul(size), inodes: (all > 0).then_some(inodes) })
}
