//! Doing something without a capability that the process has.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // capget, capset

/// Those that a daemon may have been started without.
pub const ALL: &[(&str, u32)] = &[
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_RESOURCE", 24),
    ("CAP_MKNOD", 27),
    ("CAP_SETFCAP", 31),
];

/// Version 3 of the interface, the calling thread.
const HEADER: [u32; 2] = [0x2008_0522, 0];

/// Two words each of effective, permitted and inheritable ones, for the lower and the higher numbers.
type Sets = [u32; 6];

/// Runs something without one in effect.
pub fn without(number: u32, work: impl FnOnce()) {
    let mut header = HEADER;
    let mut sets: Sets = [0; 6];
    let all = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    assert_eq!(all, 0);
    let mut less = sets;
    less[0] &= !(1 << number);
    set(&less);
    work();
    set(&sets);
}

fn set(sets: &Sets) {
    let mut header = HEADER;
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}
