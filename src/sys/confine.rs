//! Locks the calling thread, and only it, out of every directory tree.
//!
//! Everything here is per thread in Linux: root and working directory and umask once `CLONE_FS` is unshared, the signal
//! mask, the capabilities, and "no new privileges". The rest of the process notices nothing.
//!
//! The thread's root is a directory that has been removed: no path leads anywhere from there, and nobody can make anything in
//! it. Files are reached by names in directories that the thread holds open. A root inside the layer would be the weaker guard:
//! libc opens `/proc/sys/vm/overcommit_memory` when it gives memory back, and Rust's panic message looks for debug files. Those
//! would be the image's, and a fifo in their place would be waited for without end. A seccomp filter could forbid it, but while
//! a thread has one of its own the host program cannot install its own for all threads (`SECCOMP_FILTER_FLAG_TSYNC`).
//!
//! **Changes of ids.** glibc carries set*id(2) of any thread to all of them, by a signal, and aborts the process where the results
//! differ. So the call is made here as well, with the same outcome: the thread keeps the capabilities that decide about it, as
//! far as it has them. What the change does to the files being made must not depend on the moment: the signal is let in only
//! while the thread waits ([`waiting`]), and then owner and capabilities are what they were. No thread may be started or joined
//! with the signal kept out, since whoever changes ids holds glibc's list of threads until all have answered.

use crate::error::{Error, Kind, Result};
use crate::sys::caps::{self, Set};
use crate::sys::fs::check;
use nix::errno::Errno;
use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

/// All signals. Through the system call: glibc's function leaves out the two that it uses itself.
const ALL: u64 = u64::MAX;
/// All but glibc's signal for set*id(2) (`SIGSETXID`, number 33).
const ALL_BUT_IDS: u64 = ALL & !(1 << (33 - 1));

/// What a confined thread has again after it has waited.
#[derive(Clone, Copy)]
struct State {
    effective: Set,
    /// User and group that files are made with, if the thread makes any.
    ids: Option<(u32, u32)>,
}

thread_local! {
    static STATE: Cell<Option<State>> = const { Cell::new(None) };
}

/// The confinement of the thread that has entered it. It lasts as long as the thread; dropping this only lets the host's changes
/// of ids in again, which has to happen before the thread ends.
#[must_use]
pub struct Confined {
    here: PhantomData<*const ()>,
}

impl Drop for Confined {
    fn drop(&mut self) {
        STATE.set(None);
        let _ = set_mask(ALL_BUT_IDS);
    }
}

/// Confines the calling thread for the rest of its life: takes away root, working directory and umask, blocks its signals (a
/// handler of the host program must not run in here), and leaves it `permitted` capabilities, of which those in `permitted` but
/// not in `held_back` are effective. `nowhere` is an open directory that has been removed (`fs::make_nowhere`).
pub fn enter(nowhere: BorrowedFd<'_>, permitted: Set, held_back: Set) -> Result<Confined> {
    set_mask(ALL)?;
    let confined = Confined { here: PhantomData };
    check(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS), || "unshare(CLONE_FS)")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    leave_for(nowhere)?;
    no_new_privileges()?;
    let effective = caps::reduce(permitted, permitted.without(held_back))?;
    STATE.set(Some(State { effective, ids: Some((fs_user(NOBODY), fs_group(NOBODY))) }));
    Ok(confined)
}

/// Takes further capabilities away from a thread that a confined one has started, and that makes no files.
pub fn enter_further(permitted: Set) -> Result<Confined> {
    set_mask(ALL)?;
    let confined = Confined { here: PhantomData };
    let effective = caps::reduce(permitted, permitted)?;
    STATE.set(Some(State { effective, ids: None }));
    Ok(confined)
}

/// Runs what may wait for other threads. If the calling thread is confined, the host program's changes of ids take place
/// meanwhile.
///
/// # Errors
/// The host program has given up the privileges that unpacking takes.
pub fn waiting<T>(wait: impl FnOnce() -> T) -> Result<T> {
    let Some(state) = STATE.get() else { return Ok(wait()) };
    set_mask(ALL_BUT_IDS)?;
    let outcome = wait();
    set_mask(ALL)?;
    resume(state).map(|()| outcome)
}

fn resume(state: State) -> Result<()> {
    caps::resume(state.effective)?;
    let Some((user, group)) = state.ids else { return Ok(()) };
    for (set, id) in [(fs_user as fn(u32) -> u32, user), (fs_group, group)] {
        if set(NOBODY) != id {
            set(id);
            if set(NOBODY) != id {
                return Err(Error::sys("make files as before the host program changed its ids", libc::EPERM));
            }
        }
    }
    Ok(())
}

/// No id: changes nothing.
const NOBODY: u32 = u32::MAX;

/// Sets the user that the calling thread makes files as, and returns the one before.
fn fs_user(id: u32) -> u32 {
    // SAFETY: takes a number.
    unsafe { libc::setfsuid(id) }.cast_unsigned()
}

/// As [`fs_user`], for the group.
fn fs_group(id: u32) -> u32 {
    // SAFETY: takes a number.
    unsafe { libc::setfsgid(id) }.cast_unsigned()
}

fn set_mask(mask: u64) -> Result<()> {
    // SAFETY: the kernel reads the 8 bytes of `mask`, which is its own size of a set of signals.
    let rc = unsafe {
        let old = std::ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, old, size_of_val(&mask))
    };
    // The arguments are constant: it cannot fail.
    if rc == 0 { Ok(()) } else { Err(Error::new(Kind::Internal, "rt_sigprocmask failed")) }
}

/// Makes a directory that has been removed the thread's root and working directory.
fn leave_for(nowhere: BorrowedFd<'_>) -> Result<()> {
    check(nix::unistd::fchdir(nowhere), || "fchdir to an empty directory")?;
    check(nix::unistd::chroot("."), || "chroot to an empty directory")
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
