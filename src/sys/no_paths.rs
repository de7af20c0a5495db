//! Keeps the calling thread from opening anything by a path of its own (a seccomp filter, seccomp(2)).
//!
//! Not against this library, which names everything from an open directory, but against what libc and Rust's runtime read when
//! they please: how memory may be given back, how many processors there are, debug information for a panic. In a chroot these
//! files are an image's; glibc waits for ever where one is a fifo.

use crate::error::{Error, Result};
use nix::errno::Errno;

/// `seccomp_data` of linux/seccomp.h: the number of the call (4 bytes), the architecture (4), the instruction (8), six
/// arguments of 8 bytes. Of the first argument the low half is wanted: a descriptor.
const NUMBER: u32 = 0;
const DESCRIPTOR: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// Makes `open`, and `openat` from the working directory, fail with `ENOENT` for the calling thread and those that it starts.
/// The thread must have given up gaining privileges. A kernel without seccomp filters is left as it is.
pub fn open_nothing_by_path() -> Result<()> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    #[allow(clippy::cast_possible_truncation)] // codes have 16 bits
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    #[cfg(target_arch = "x86_64")]
    let open = number(libc::SYS_open);
    #[cfg(not(target_arch = "x86_64"))] // newer architectures never had it
    let open = u32::MAX;
    let mut program = [
        op(LOAD, NUMBER, 0, 0),
        op(EQUAL, open, 4, 0),
        op(EQUAL, number(libc::SYS_openat), 1, 0),
        op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        op(LOAD, DESCRIPTOR, 0, 0),
        op(EQUAL, libc::AT_FDCWD.cast_unsigned(), 0, 1),
        op(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOENT.unsigned_abs(), 0, 0),
        op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // Without the flag (Linux 4.17) kernels before 5.16 slow the thread down for fear of speculation.
    for flags in [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0] {
        // SAFETY: `filter` describes `program`, both outlive the call, and the kernel copies them.
        let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
        match Errno::result(rc) {
            Ok(_) => return Ok(()),
            Err(Errno::EINVAL | Errno::ENOSYS) => {}
            Err(errno) => return Err(Error::sys("seccomp", errno as i32)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs;

    #[test]
    fn paths_open_nothing_and_names_in_directories_do() {
        std::thread::spawn(|| {
            let root = fs::open_dir(std::path::Path::new("/")).unwrap();
            // SAFETY: this prctl takes numbers only.
            assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
            open_nothing_by_path().unwrap();
            for path in ["/", "/proc/self/maps", "."] {
                assert_eq!(std::fs::File::open(path).unwrap_err().raw_os_error(), Some(libc::ENOENT), "{path}");
                let path = std::ffi::CString::new(path).unwrap();
                // SAFETY: the path is NUL-terminated.
                assert_eq!(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }, -1);
            }
            fs::open_dir_at(&root, "proc").unwrap();
        })
        .join()
        .unwrap();
        std::fs::File::open("/").unwrap();
    }
}
