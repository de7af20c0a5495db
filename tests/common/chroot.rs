//! What differs for a test that runs in a chroot(2), as in a build root of a distribution.
#![allow(dead_code)] // each test binary uses a part of it

use nix::mount::{MntFlags, MsFlags};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The path of the running test program, as it was started. `current_exe` is no answer: once a thread has a mount namespace of
/// its own, the link in /proc tells the program's path outside the chroot.
pub fn this_program() -> PathBuf {
    std::path::absolute(std::env::args_os().next().unwrap()).unwrap()
}

/// Gives the calling thread a mount namespace of its own. Needs root; a test that lacks it fails.
pub fn own_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("this test needs root");
    match make_private() {
        Err(nix::errno::Errno::EINVAL) => leave_the_chroot(),
        made => made.unwrap(),
    }
}

fn make_private() -> nix::Result<()> {
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// The root of a chroot is no mount point, and who is in one gets no user namespace. So its root becomes that of the mount
/// namespace, which is this thread's alone.
fn leave_the_chroot() {
    let here = std::env::current_dir().unwrap();
    let root = File::open("/").unwrap();
    go_to_the_top();
    make_private().unwrap();
    fchdir(&root).unwrap();
    chroot(".").unwrap();
    nix::mount::mount(Some("/"), "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_BIND, None::<&str>).unwrap();
    // The way up from a root leads to what is mounted on it.
    let mounted = File::open("/..").unwrap();
    go_to_the_top();
    fchdir(&mounted).unwrap();
    pivot_root(".", ".").unwrap();
    nix::mount::umount2(".", MntFlags::MNT_DETACH).unwrap();
    chdir(&here).unwrap();
}

/// Makes the root directory of the mount namespace the thread's own, wherever that was. Above it one gets while it lies deeper
/// for a moment.
fn go_to_the_top() {
    chdir("/").unwrap();
    chroot("tmp").unwrap();
    let place = || std::fs::metadata(".").map(|seen| (seen.dev(), seen.ino())).unwrap();
    loop {
        let before = place();
        chdir("..").unwrap();
        if place() == before {
            break;
        }
    }
    chroot(".").unwrap();
}
