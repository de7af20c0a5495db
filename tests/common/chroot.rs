//! What differs for a test that runs in a chroot(2), as in a build root of a distribution.
#![allow(dead_code)] // each test binary uses a part of it

use std::path::PathBuf;

/// The path of the running test program, as it was started. `current_exe` is no answer: once a thread has a mount namespace of
/// its own, the link in /proc tells the program's path outside the chroot.
pub fn this_program() -> PathBuf {
    std::path::absolute(std::env::args_os().next().unwrap()).unwrap()
}

/// Gives the calling thread a mount namespace of its own. Needs root; a test that lacks it fails.
pub fn own_namespace() {
    use nix::mount::MsFlags;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("this test needs root");
    let private = |path: &str| {
        let none = None::<&str>;
        nix::mount::mount(none, path, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
    };
    match private("/") {
        // The root of a chroot(2) is no mount point: that of the whole namespace is made private instead.
        Err(nix::errno::Errno::EINVAL) => at_the_top(|| private(".").unwrap()),
        made => made.unwrap(),
    }
}

/// Does something in the root directory of the mount namespace, wherever the thread's own root is. Above that one it gets
/// while its root lies deeper for the moment.
fn at_the_top(job: impl FnOnce()) {
    use std::os::unix::fs::MetadataExt;
    let [root, cwd] = ["/", "."].map(|path| std::fs::File::open(path).unwrap());
    nix::unistd::chdir("/").unwrap();
    nix::unistd::chroot("tmp").unwrap();
    let place = || std::fs::metadata(".").map(|seen| (seen.dev(), seen.ino())).unwrap();
    loop {
        let before = place();
        nix::unistd::chdir("..").unwrap();
        if place() == before {
            break;
        }
    }
    job();
    nix::unistd::fchdir(&root).unwrap();
    nix::unistd::chroot(".").unwrap();
    nix::unistd::fchdir(&cwd).unwrap();
}
