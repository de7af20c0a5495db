//! A kernel that seems to lack newer system calls.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // prctl(2)

/// `getxattrat(2)` of Linux 6.13, which the libc crate does not have: `asm-generic/unistd.h`.
pub const GETXATTRAT: libc::c_long = 464;

/// `fchmodat2(2)` of Linux 6.6, which it has for some architectures only.
pub const FCHMODAT2: libc::c_long = 452;

/// Makes these system calls fail with ENOSYS for the calling thread and all that it starts.
pub fn without(calls: &[libc::c_long]) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let (load, equal, ret) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET);
    let mut program = vec![op(load, 0, 0, 0)]; // the number is the first member of struct seccomp_data
    for call in calls {
        program.push(op(equal, 0, 1, u32::try_from(*call).unwrap()));
        program.push(op(ret, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
    }
    program.push(op(ret, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}
