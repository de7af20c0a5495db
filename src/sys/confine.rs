//! Locks the calling thread, and only it, into a directory.
//!
//! Everything here is per thread in Linux: root and working directory and umask once `CLONE_FS` is unshared, the signal
//! mask, the capabilities, and "no new privileges". The rest of the process notices nothing.

use crate::error::{Error, Kind, Result};
use crate::sys::caps::{self, Set};
use crate::sys::fs::check;
use crate::sys::no_paths;
use nix::errno::Errno;
use std::os::fd::BorrowedFd;

/// Makes `root` the calling thread's root and working directory for the rest of its life, takes away its umask, blocks its
/// signals (a handler of the host program must not run in here), lets it open nothing but names in directories it holds, and leaves
/// it `permitted` capabilities, of which those in `permitted` but not in `held_back` are effective.
pub fn enter(root: BorrowedFd<'_>, permitted: Set, held_back: Set) -> Result<()> {
    block_signals()?;
    check(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS), || "unshare(CLONE_FS)")?;
    check(nix::unistd::fchdir(root), || "fchdir to the layer")?;
    check(nix::unistd::chroot("."), || "chroot to the layer")?;
    check(nix::unistd::chdir("/"), || "chdir to the layer's root")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    no_new_privileges()?;
    no_paths::open_nothing_by_path()?;
    caps::reduce(permitted, permitted.without(held_back))
}

/// Blocks all signals of the calling thread: a handler of the host program is not to run on it.
pub fn block_signals() -> Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given; pthread_sigmask only reads it, and a null third argument is allowed.
    let rc = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut())
    };
    if rc == 0 { Ok(()) } else { Err(Error::sys("pthread_sigmask", rc)) }
}

fn no_new_privileges() -> Result<()> {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: this prctl takes numbers only (prctl(2): the last three must be 0).
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, unused, unused, unused) };
    check(Errno::result(rc).map(drop), || "prctl(PR_SET_NO_NEW_PRIVS)")?;
    // SAFETY: as above.
    let got = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, unused, unused, unused, unused) };
    if got == 1 { Ok(()) } else { Err(Error::new(Kind::Internal, "the thread can still gain privileges")) }
}
