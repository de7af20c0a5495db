//! Why a filesystem has no project quota, and what to do about it. The kernel only says that it has none.

use crate::error::errno::EPERM;
use crate::error::{Error, Kind, Result};
use crate::sys::{fs, fsxattr, quota};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::OnceLock;

/// Magic numbers of the filesystems that have project quota here (`linux/magic.h`).
const EXT: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;

/// An error unless the filesystem that holds `home` is one that can have project quota.
pub(super) fn check_filesystem(home: BorrowedFd<'_>) -> Result<()> {
    match fs::filesystem_magic(home)? {
        EXT | XFS => Ok(()),
        _ => Err(off("project quota works on ext4 and XFS only, not on this filesystem")),
    }
}

/// An error unless project quota is counted and enforced on the ext4 or XFS that holds `home`.
pub(super) fn check_switches(home: BorrowedFd<'_>, node: &Path) -> Result<()> {
    let magic = fs::filesystem_magic(home)?;
    match quota::switches(home, node)? {
        Some(on) if on.accounted && on.enforced => match quota::get(home, node, 0) {
            Err(e) if e.errno() == EPERM => Err(e
                .context("project quota is on but may not be used")
                .hint("CAP_SYS_ADMIN in the initial user namespace is needed")),
            got => got.map(drop),
        },
        Some(on) if on.accounted => Err(off("project quota is counted but not enforced").hint(if magic == EXT {
            "run quotaon -P on its mount point; to keep it so, mount it with -o prjquota"
        } else {
            "run xfs_quota -x -c 'enable -p' on its mount point; to keep it so, mount it with -o prjquota, not with pqnoenforce"
        })),
        _ if magic == XFS => Err(why_not_on_xfs()),
        _ => Err(why_not_on_ext(home)),
    }
}

fn off(why: &str) -> Error {
    Error::new(Kind::Unsupported, why)
}

/// XFS needs nothing but the mount option, which cannot be given with a remount.
fn why_not_on_xfs() -> Error {
    // Made by XFS when it is built with quota, mounted with it or not.
    if Path::new("/proc/fs/xfs/xqm").exists() {
        off("XFS is mounted without project quota").hint("unmount it and mount it with -o prjquota")
    } else {
        off("this kernel's XFS is built without quota (CONFIG_XFS_QUOTA)").hint("use another kernel")
    }
}

fn why_not_on_ext(home: BorrowedFd<'_>) -> Error {
    if !kernel_has_quota_files() {
        return off("this kernel has no quota for ext4 (CONFIG_QUOTA and CONFIG_QFMT_V2)").hint("use another kernel");
    }
    match has_project_feature(home) {
        Ok(true) => off("this ext4 was made without the feature 'quota', or not with quota for projects")
            .hint("unmount it, run tune2fs -O quota -Q prjquota on its device, and mount it with -o prjquota"),
        Ok(false) => off("this ext4 was made without the features 'quota' and 'project'")
            .hint("unmount it, run tune2fs -O project,quota -Q prjquota on its device, and mount it with -o prjquota"),
        Err(e) => off("ext4 has no project quota here").and_also(e),
    }
}

/// Only with the feature can a file be given to a project. The file has no name and is gone at once.
fn has_project_feature(home: BorrowedFd<'_>) -> Result<bool> {
    let file = fsxattr::nameless_file(home)?;
    match fsxattr::set_project(file, fsxattr::Project { id: 1, inherited: false }) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == Kind::Unsupported => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether the kernel can read ext4's quota files: built in, or in a module, which it loads when it mounts such a filesystem.
fn kernel_has_quota_files() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Some(release) = read("/proc/sys/kernel/osrelease") else { return true };
        let modules = format!("/lib/modules/{}", release.trim());
        let listed = ["modules.dep", "modules.builtin"].map(|list| read(&format!("{modules}/{list}")));
        if listed.iter().flatten().any(|list| list.contains("/quota_v2.ko")) || Path::new("/sys/module/quota_v2").exists() {
            return true;
        }
        // A kernel without modules lists nothing; its table of symbols (0.1 s to read) tells. Without one, believe the best.
        match read("/proc/kallsyms") {
            Some(symbols) if !symbols.is_empty() => symbols.contains(" v2_check_quota_file"),
            _ => true,
        }
    })
}

fn read(path: &str) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
