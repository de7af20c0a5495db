//! Semaphores as libdevmapper's protocol has them: one for each event that somebody waits for.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // no crate has them in a safe form

/// `DM_COOKIE_MAGIC` of `libdevmapper.h`, in the upper half of a key.
pub const MAGIC: i32 = 0x0d4d << 16;

/// Makes a semaphore with this key; its value is 0.
pub fn make(key: i32) -> i32 {
    let made = unsafe { libc::semget(key, 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
    assert!(made >= 0, "{}", std::io::Error::last_os_error());
    made
}

pub fn exists(semaphore: i32) -> bool {
    unsafe { libc::semctl(semaphore, 0, libc::GETVAL) >= 0 }
}

pub fn remove(semaphore: i32) {
    unsafe { libc::semctl(semaphore, 0, libc::IPC_RMID) };
}
