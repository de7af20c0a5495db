//! Mounting and unmounting with the calls that every kernel has, and asking what is mounted.

use crate::error::{Error, Result};
use crate::sys::fs::{c_string, check, shown};
use nix::errno::Errno;
use nix::mount::MntFlags;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Mount flags, `MS_*` of `mount(2)`.
pub use nix::mount::MsFlags as Flags;

/// `mount(2)`. Empty `source`, `fstype` or `data` are passed as NULL.
pub fn mount(source: &OsStr, target: &Path, fstype: &str, flags: Flags, data: &OsStr) -> Result<()> {
    let given = |text| Some(text).filter(|text: &&OsStr| !text.is_empty());
    let outcome = nix::mount::mount(given(source), target, given(OsStr::new(fstype)), flags, given(data));
    check(outcome, || {
        format!("mount '{}' on '{}' type '{fstype}' flags {flags:?} data '{}'", shown(source), shown(target), shown(data))
    })
}

/// Takes the topmost mount off `target`, as soon as nobody uses it (`MNT_DETACH`). False if nothing is mounted there.
pub fn umount_detach(target: &Path) -> Result<bool> {
    umount_with(target, MntFlags::MNT_DETACH)
}

/// Takes the topmost mount off `target` unless it is in use (`EBUSY`). False if nothing is mounted there.
pub fn umount(target: &Path) -> Result<bool> {
    umount_with(target, MntFlags::empty())
}

fn umount_with(target: &Path, flags: MntFlags) -> Result<bool> {
    match nix::mount::umount2(target, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // not a mount point (umount(2)); no such directory
        Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
        Err(errno) => Err(Error::sys(format!("umount '{}'", shown(target)), errno as i32)),
    }
}

/// Whether something is mounted on the directory `name` of `dir`; `None` where the kernel (before 5.8) does not tell.
pub fn is_mount_root(dir: impl AsFd, name: &OsStr) -> Result<Option<bool>> {
    let Some(stx) = statx(dir.as_fd().as_raw_fd(), name, libc::STATX_TYPE)? else { return Ok(None) };
    #[allow(clippy::cast_sign_loss)]
    let bit = libc::STATX_ATTR_MOUNT_ROOT as u64;
    Ok((stx.stx_attributes_mask & bit != 0).then_some(stx.stx_attributes & bit != 0))
}

/// The number of the topmost mount on `path` that no other mount ever gets; `None` where the kernel (before 6.8) has none.
pub fn unique_number(path: &Path) -> Result<Option<u64>> {
    /// `linux/stat.h`.
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    let stx = statx(libc::AT_FDCWD, path.as_os_str(), STATX_MNT_ID_UNIQUE)?;
    Ok(stx.filter(|stx| stx.stx_mask & STATX_MNT_ID_UNIQUE != 0).map(|stx| stx.stx_mnt_id))
}

/// `None` where the kernel has no such call (before 4.11).
fn statx(dir: libc::c_int, name: &OsStr, mask: u32) -> Result<Option<libc::statx>> {
    let name_c = c_string(name)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let mut stx = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // Not libc's statx: where the kernel has none, it imitates one that knows nothing of mounts.
    // SAFETY: the name is NUL-terminated and the buffer has the size of struct statx; both outlive the call.
    let rc = unsafe { libc::syscall(libc::SYS_statx, dir, name_c.as_ptr(), flags, mask, stx.as_mut_ptr()) };
    match Errno::result(rc) {
        // SAFETY: zeroed, which is a valid value for a struct of integers, and then filled in by the kernel.
        Ok(_) => Ok(Some(unsafe { stx.assume_init() })),
        Err(Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(Error::sys(format!("statx '{}'", shown(name)), errno as i32)),
    }
}

/// The mount table of the calling thread's namespace, as the kernel writes it (`proc(5)`, `mountinfo`).
pub fn table() -> Result<Vec<u8>> {
    /// The file does not tell its size, and is read by the page where there is room for one.
    const ROOM: usize = 1 << 16;
    let path = "/proc/thread-self/mountinfo";
    let mut table = Vec::with_capacity(ROOM);
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut table))
        .map_err(|e| Error::io(format!("read {path}"), &e).hint("is /proc mounted?"))?;
    Ok(table)
}
