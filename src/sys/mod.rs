//! The kernel's door: system calls and ioctls as safe functions with errors that say what was asked.
//!
//! Only this folder names `nix`, `libc` and `devicemapper`, and only here and in `capi` may `unsafe` stand. Nothing in here
//! decides anything: a function makes one call, or one call with its fallback for older kernels, which then has a file of its
//! own that names the kernel version.
#![allow(unsafe_code)]

// Some ioctl numbers stand in here as `asm-generic/ioctl.h` makes them.
#[cfg(any(
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "mips",
    target_arch = "mips32r6",
    target_arch = "mips64",
    target_arch = "mips64r6",
    target_arch = "sparc",
    target_arch = "sparc64"
))]
compile_error!("ioctl numbers are other ones on this architecture: sys::grow and sys::dm_event have to be ported first");

pub mod caps;
pub mod cmem;
pub mod confine;
pub mod dirents;
pub mod dm;
pub mod dm_event;
pub mod dm_node;
pub mod fs;
pub mod fsxattr;
pub mod grow;
pub mod inode_flags;
pub mod loopdev;
pub mod mount;
pub mod newmount;
mod node_mode;
pub mod openat2;
pub mod own_cwd;
pub mod own_mounts;
pub mod place;
pub mod process;
pub mod quota;
mod quota_node;
pub mod reading;
pub mod rename;
pub mod room;
pub mod subdir;
pub mod threads;
pub mod view;
pub mod xattr;
