//! What the kernel that the tests run on can do, found out by trying, past the library.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // fsopen(2)

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether an overlay can be told of its lowers one by one (`lowerdir+`, Linux 6.8): up to 500 then, with paths of any length,
/// else what fits into a page. Says which. Makes two directories in `dir`.
pub fn stacks_one_by_one(dir: &Path) -> bool {
    let lowers = ["kernel-a", "kernel-b"].map(|name| dir.join(name));
    let can = one_by_one(&lowers.each_ref().map(|lower| {
        std::fs::create_dir_all(lower).unwrap();
        CString::new(lower.as_os_str().as_bytes()).unwrap()
    }));
    println!("this kernel takes lowers {}", if can { "one by one" } else { "in one page of options" });
    can
}

fn one_by_one(lowers: &[CString]) -> bool {
    let fd = unsafe {
        libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), 1 /* FSOPEN_CLOEXEC */)
    };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return false };
    let context = unsafe { OwnedFd::from_raw_fd(fd) };
    let config = |command: u32, key: *const libc::c_char, value: *const libc::c_char| unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) == 0
    };
    // FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE: before Linux 6.5 overlayfs looks at its options at the end only.
    lowers.iter().all(|lower| config(1, c"lowerdir+".as_ptr(), lower.as_ptr()))
        && config(6, std::ptr::null(), std::ptr::null())
}
