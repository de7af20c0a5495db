//! Growing a mounted filesystem to the size of its device: what `resize2fs` and `xfs_growfs` ask the kernel for. And giving back what
//! a device occupies.

use crate::error::{Error, Result};
use nix::errno::Errno;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// `_IOW('f', 16, __u64)`, `EXT4_IOC_RESIZE_FS` of `linux/ext4.h` (in the kernel since 3.3): the new size in blocks.
const EXT4_IOC_RESIZE_FS: u64 = 1 << 30 | 8 << 16 | (b'f' as u64) << 8 | 16;
/// `_IOW('X', 110, struct xfs_growfs_data)`, `XFS_IOC_FSGROWFSDATA` of xfsprogs' `xfs_fs.h`.
const XFS_IOC_FSGROWFSDATA: u64 = 1 << 30 | 16 << 16 | (b'X' as u64) << 8 | 110;

/// `_IO(0x12, 119)`, `BLKDISCARD` of `linux/fs.h`: an offset and a length, bytes.
const BLKDISCARD: u64 = 0x12 << 8 | 119;

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    max_inode_percent: u32,
}

const _: () = assert!(size_of::<XfsGrow>() == 16);

/// Grows the ext4 filesystem that holds the open directory to `blocks` blocks of its own size.
pub fn ext4(mounted: impl AsFd, blocks: u64) -> Result<()> {
    request(mounted, EXT4_IOC_RESIZE_FS, &blocks)
        .map_err(|errno| Error::sys(format!("EXT4_IOC_RESIZE_FS to {blocks} blocks"), errno as i32))
}

/// Grows the XFS filesystem that holds the open directory to `blocks` blocks; the share of inodes (percent) stays.
pub fn xfs(mounted: impl AsFd, blocks: u64, max_inode_percent: u8) -> Result<()> {
    let grow = XfsGrow { blocks, max_inode_percent: max_inode_percent.into() };
    request(mounted, XFS_IOC_FSGROWFSDATA, &grow)
        .map_err(|errno| Error::sys(format!("XFS_IOC_FSGROWFSDATA to {blocks} blocks"), errno as i32))
}

fn request<T>(fd: impl AsFd, code: u64, argument: &T) -> Result<(), Errno> {
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation)]
    let code = code as libc::Ioctl;
    // SAFETY: the requests read a struct of the size that their number or definition says, which is that of `T` as called here.
    let rc = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), code, std::ptr::from_ref(argument)) };
    Errno::result(rc).map(drop)
}

/// Gives back what a block device occupies; reading it yields anything then.
pub fn discard(path: &Path) -> Result<()> {
    let range = [0_u64, size_of_device(path)?];
    let file = File::options().write(true).open(path);
    let file = file.map_err(|e| Error::io(format!("open '{}'", path.display()), &e))?;
    request(&file, BLKDISCARD, &range).map_err(|errno| Error::sys(format!("BLKDISCARD '{}'", path.display()), errno as i32))
}

/// The size in bytes of a block device or a file.
pub fn size_of_device(path: &Path) -> Result<u64> {
    let size = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    size.map_err(|e| Error::io(format!("size of '{}'", path.display()), &e))
}
