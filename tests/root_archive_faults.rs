//! Every system call of the placing thread fails in turn, and how many there are. Needs root, strace, and seccomp.
#![allow(unsafe_code)] // installs seccomp filters

mod archive_support;
#[path = "common/chroot.rs"]
mod chroot;

use archive_support::*;
use graphdriver::archive::Whiteouts;
use graphdriver::error::Kind;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

/// A call, and what its arguments must be for it to fail: argument number, mask, wanted bits.
struct Fault {
    name: &'static str,
    number: libc::c_long,
    only: Option<(u32, u32, u32)>,
    errno: u16,
}

const fn fault(name: &'static str, number: libc::c_long, errno: i32) -> Fault {
    Fault { name, number, only: None, errno: errno as u16 }
}

const fn fault_if(name: &'static str, number: libc::c_long, only: (u32, u32, u32), errno: i32) -> Fault {
    Fault { name, number, only: Some(only), errno: errno as u16 }
}

const CREATE: u32 = libc::O_CREAT as u32;
const DIRECTORY: u32 = libc::O_DIRECTORY as u32;

/// The libc crate has it for some architectures only.
const FCHMODAT2: libc::c_long = 452;

/// All calls that the thread makes for the layer.
const FAULTS: &[Fault] = &[
    fault("rt_sigprocmask", libc::SYS_rt_sigprocmask, libc::EINVAL),
    fault("unshare", libc::SYS_unshare, libc::EPERM),
    fault("chroot", libc::SYS_chroot, libc::EPERM),
    fault("chdir", libc::SYS_chdir, libc::EIO),
    fault("fchdir", libc::SYS_fchdir, libc::EIO),
    fault_if("prctl", libc::SYS_prctl, (0, 0xffff, libc::PR_SET_NO_NEW_PRIVS as u32), libc::EINVAL),
    fault_if("prctl", libc::SYS_prctl, (0, 0xffff, libc::PR_GET_NO_NEW_PRIVS as u32), libc::EINVAL),
    fault("capget", libc::SYS_capget, libc::EPERM),
    fault("capset", libc::SYS_capset, libc::EPERM),
    fault("clone3", libc::SYS_clone3, libc::EAGAIN),
    fault("clone", libc::SYS_clone, libc::EAGAIN),
    fault("openat2", libc::SYS_openat2, libc::EIO),
    fault_if("openat", libc::SYS_openat, (2, CREATE, CREATE), libc::ENOSPC),
    fault_if("openat", libc::SYS_openat, (2, CREATE | DIRECTORY, DIRECTORY), libc::EMFILE),
    fault("mkdirat", libc::SYS_mkdirat, libc::ENOSPC),
    fault("mknodat", libc::SYS_mknodat, libc::EPERM),
    fault("symlinkat", libc::SYS_symlinkat, libc::ENOSPC),
    fault("linkat", libc::SYS_linkat, libc::EMLINK),
    fault("unlinkat", libc::SYS_unlinkat, libc::EIO),
    fault("newfstatat", libc::SYS_newfstatat, libc::EIO),
    fault("fstat", libc::SYS_fstat, libc::EIO),
    fault("readlinkat", libc::SYS_readlinkat, libc::EIO),
    fault("getdents64", libc::SYS_getdents64, libc::EIO),
    fault("write", libc::SYS_write, libc::ENOSPC),
    fault("pwrite64", libc::SYS_pwrite64, libc::EIO),
    fault("ftruncate", libc::SYS_ftruncate, libc::EFBIG),
    fault("fchown", libc::SYS_fchown, libc::EPERM),
    fault("fchownat", libc::SYS_fchownat, libc::EPERM),
    fault("fchmod", libc::SYS_fchmod, libc::EPERM),
    fault("fchmodat2", FCHMODAT2, libc::EIO),
    fault_if("utimensat", libc::SYS_utimensat, (1, u32::MAX, 0), libc::EPERM),
    fault("utimensat", libc::SYS_utimensat, libc::EPERM),
    fault("fsetxattr", libc::SYS_fsetxattr, libc::ENOSPC),
    fault("lsetxattr", libc::SYS_lsetxattr, libc::ENOSPC),
    fault("fgetxattr", libc::SYS_fgetxattr, libc::EIO),
    fault("flistxattr", libc::SYS_flistxattr, libc::EIO),
    fault("fremovexattr", libc::SYS_fremovexattr, libc::EPERM),
    fault("lremovexattr", libc::SYS_lremovexattr, libc::EPERM),
    fault("sync_file_range", libc::SYS_sync_file_range, libc::EIO),
    fault("syncfs", libc::SYS_syncfs, libc::EIO),
];

/// Calls whose failure loses nothing of the layer, or which cannot fail: `close` (nothing is written back by it on a local
/// file system, and `syncfs` reports what is), the umask, the ids that files are made with (which are looked at again, and what a
/// file got is too), and what the thread library does for itself.
/// `lseek` is made in deep trees only, and has a test of its own.
const HARMLESS: &[&str] = &[
    "close",
    "umask",
    "setfsuid",
    "setfsgid",
    "futex",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "brk",
    "sigaltstack",
    "rseq",
    "set_robust_list",
    "exit",
    "sched_getaffinity",
    "gettid",
    "getrandom",
    "sched_yield",
    "fcntl",
    "mremap",
    "lseek",
];

fn filter(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Makes a call fail for the calling thread and the threads it will start.
fn install(fault: &Fault) {
    let load = |offset| filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let ret = |action| filter(libc::BPF_RET | libc::BPF_K, action, 0, 0);
    let equal = |k, jf| filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, jf);
    let (fail, allow) = (ret(libc::SECCOMP_RET_ERRNO | u32::from(fault.errno)), ret(libc::SECCOMP_RET_ALLOW));
    let number = u32::try_from(fault.number).unwrap();
    let mut program = match fault.only {
        None => vec![load(0), equal(number, 1), fail, allow],
        Some((argument, mask, bits)) => {
            let and = filter(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0);
            // struct seccomp_data: the arguments start at byte 16, eight bytes each, the low half first (little endian).
            vec![load(0), equal(number, 4), load(16 + 8 * argument), and, equal(bits, 1), fail, allow]
        }
    };
    let program = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    let rc = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(rc, 0, "seccomp: {}", std::io::Error::last_os_error());
}

/// An archive whose unpacking makes every call: links on the way, things in the way, odd parents, attributes, holes.
fn everything() -> Vec<u8> {
    let big = Item { data: vec![7; 9 << 20], ..file("big", "") };
    tar(&[
        dir("./").mode(0o755),
        dir("d"),
        file("d/f", "content").owner(1, 2).mode(0o4755).pax("SCHILY.xattr.user.a", b"b"),
        file("old/dir", "replaces a directory"),
        file("old/file", "replaces a file"),
        symlink("way", "real"),
        dir("real"),
        file("way/through", "x"),
        symlink("dangling", "made/later"),
        file("dangling/x", "x"),
        dir("made").mtime(5),
        dir("made/later").mtime(6),
        symlink("s", "text").owner(3, 4),
        hardlink("h", "d/f"),
        item(b'3', "node").device(1, 3).owner(5, 5).mode(0o4666),
        item(b'6', "fifo").pax("SCHILY.acl.access", b"user::rw-,user:7:r--,group::r--,mask::r--,other::---"),
        dir("sgid").mode(0o2775).owner(0, 50),
        file("sgid/f", ""),
        item(b'6', "sgid/p"),
        file("sparse", "abc").pax("GNU.sparse.map", b"0,1,5000,2").pax("GNU.sparse.size", b"9000"),
        file("opq/.wh..wh..opq", ""),
        dir("opq").mtime(7),
        file(".wh.hidden", ""),
        big,
    ])
}

fn target(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let target = scratch.dir(name);
    std::fs::create_dir_all(target.join("old/dir/sub")).unwrap();
    std::fs::create_dir_all(target.join("hidden/sub")).unwrap();
    std::fs::create_dir_all(target.join("opq/sub")).unwrap();
    std::fs::write(target.join("old/file"), "old").unwrap();
    std::fs::write(target.join("hidden/sub/x"), "old").unwrap();
    let set = Command::new("find").args([".", "-exec", "touch", "-d", "@5", "{}", "+"]).current_dir(&target).status();
    assert!(set.unwrap().success());
    target
}

fn dump(dir: &Path) -> String {
    let script = "find . -printf '%p %y %m %U:%G %T@ %l\\n' | sort; find . -type f -exec md5sum {} + | sort; \
                  getfattr -R -h -d -m - . | sort; getfacl -R -n . | sort";
    let out = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn run(whiteouts: Whiteouts, target: &Path, fault: Option<&Fault>) -> graphdriver::error::Result<()> {
    run_on(&everything(), whiteouts, target, fault)
}

fn run_on(archive: &[u8], whiteouts: Whiteouts, target: &Path, fault: Option<&Fault>) -> graphdriver::error::Result<()> {
    let mut how = options(whiteouts);
    how.sync = true;
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let (opened, nowhere) = (std::fs::File::open(target).unwrap(), archive_support::nowhere());
            fault.map(install);
            graphdriver::archive::unpack(&mut &*archive, opened.as_fd(), nowhere.as_fd(), &how, &|| Ok(()), None).map(drop)
        });
        run.join().unwrap()
    })
}

#[test]
fn every_failing_call_is_an_error_or_changes_nothing() {
    let scratch = Scratch::new("faults");
    let forms = [Whiteouts::Overlay, Whiteouts::Delete];
    let good = forms.map(|form| {
        let target = target(&scratch, "good");
        run(form, &target, None).unwrap();
        let good = dump(&target);
        std::fs::remove_dir_all(&target).unwrap();
        good
    });
    let mut threads_refused = 0;
    for fault in FAULTS {
        let mut failed = 0;
        for (form, good) in forms.into_iter().zip(&good) {
            let target = target(&scratch, "bad");
            match run(form, &target, Some(fault)) {
                Ok(()) => assert!(dump(&target) == *good, "{} failed unnoticed", fault.name),
                Err(e) => {
                    failed += 1;
                    // "Internal": a check of ours found that the call had no effect.
                    assert!(e.errno() == i32::from(fault.errno) || e.kind() == Kind::Internal, "{}: {e:?}", fault.name);
                }
            }
            std::fs::remove_dir_all(&target).unwrap();
        }
        // glibc before 2.37 has `fstat` made of `newfstatat`. Which one starts a thread is looked at below.
        let may_be_unused = ["fstat", "clone", "clone3"].contains(&fault.name);
        assert!(failed > 0 || may_be_unused, "{}: never called, or never an error", fault.name);
        threads_refused += usize::from(failed > 0 && fault.name.starts_with("clone"));
    }
    assert!(threads_refused > 0, "neither clone3 nor clone starts a thread");
}

/// Stops the calling thread, and those it will start, at every call of `FAULTS` until somebody answers; returns who is asked.
fn listen() -> OwnedFd {
    let mut program = vec![filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for number in FAULTS.iter().map(|fault| u32::try_from(fault.number).unwrap()) {
        program.push(filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1));
        program.push(filter(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    }
    program.push(filter(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the program outlives the call, which copies it; what it returns is a descriptor of ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program);
        assert!(fd >= 0, "seccomp: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
    }
}

/// Answers until nobody is left who could ask: call number `fail` fails, all others go on. Returns how many there were, and
/// what failed.
fn answer(listener: &OwnedFd, fail: usize) -> (usize, Option<&'static Fault>) {
    let (mut calls, mut failed) = (0, None);
    loop {
        let mut poll = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut poll, nix::poll::PollTimeout::NONE).unwrap();
        if !poll[0].revents().unwrap().contains(nix::poll::PollFlags::POLLIN) {
            return (calls, failed);
        }
        // SAFETY: plain numbers, for which zeros are values; the kernel wants them cleared.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes what the pointer describes.
        let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        let mut answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        if calls == fail {
            failed = FAULTS.iter().find(|fault| fault.number == libc::c_long::from(asked.data.nr));
            (answer.error, answer.flags) = (-i32::from(failed.unwrap().errno), 0);
        }
        calls += 1;
        // SAFETY: the request reads what the pointer describes.
        let sent = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }
}

/// Does something while call number `fail` fails. Returns also how many calls there were, and what failed.
fn failing_once<T: Send>(fail: usize, job: impl FnOnce() -> T + Send) -> (T, usize, Option<&'static Fault>) {
    std::thread::scope(|scope| {
        let (send, listener) = std::sync::mpsc::channel();
        let run = scope.spawn(move || {
            send.send(listen()).unwrap();
            job()
        });
        let (calls, failed) = answer(&listener.recv().unwrap(), fail);
        (run.join().unwrap(), calls, failed)
    })
}

/// Whatever call fails once: a deletion goes past it, leaves no more than what it failed at, and can be done again.
#[test]
fn a_deletion_goes_past_every_single_failing_call() {
    let scratch = Scratch::new("deletion");
    let (dir, name) = (std::fs::File::open(&scratch.0).unwrap(), std::ffi::OsStr::new("top"));
    let left =
        || Command::new("find").arg(scratch.0.join("top")).output().unwrap().stdout.split(|b| *b == b'\n').count() - 1;
    let mut errors = BTreeSet::new();
    for fail in 0.. {
        for below in ["a/x/y", "a/z", "b"] {
            std::fs::create_dir_all(scratch.0.join("top").join(below)).unwrap();
            for n in ["1", "2"] {
                std::fs::write(scratch.0.join("top").join(below).join(n), "").unwrap();
            }
        }
        let (outcome, _, failed) = failing_once(fail, || graphdriver::tree::remove(dir.as_fd(), name));
        match (outcome, failed) {
            (Ok(()), failed) => {
                assert_eq!(left(), 0, "{:?}", failed.map(|fault| fault.name));
                if failed.is_none() {
                    break;
                }
            }
            (Err(e), Some(fault)) => {
                assert_eq!(e.errno(), i32::from(fault.errno), "{e}");
                // One name and the way to it; a directory that cannot be read keeps its content.
                assert!(left() <= 5 || fault.name != "unlinkat", "{e}: {}", left());
                assert!(left() > 0, "{e}");
                errors.insert(fault.name);
                graphdriver::tree::remove(dir.as_fd(), name).unwrap();
            }
            (Err(e), None) => panic!("nothing failed, and yet {e:?}"),
        }
    }
    assert!(["unlinkat", "openat2", "getdents64"].iter().all(|name| errors.contains(name)), "{errors:?}");
}

/// A kind of call that fails always hides all but the first place that makes it: here each single call fails once.
#[test]
fn every_single_failing_call_is_an_error_or_changes_nothing() {
    let (scratch, archive) = (Scratch::new("single"), everything());
    for form in [Whiteouts::Overlay, Whiteouts::Delete] {
        let mut good = None;
        let mut kinds = BTreeSet::new();
        // None fails at first; then each in turn.
        for fail in std::iter::once(usize::MAX).chain(0..) {
            let target = target(&scratch, "t");
            let mut how = options(form);
            how.sync = true;
            let opened = std::fs::File::open(&target).unwrap();
            let nowhere = archive_support::nowhere();
            let (outcome, calls, failed) = failing_once(fail, || {
                let (opened, nowhere) = (opened.as_fd(), nowhere.as_fd());
                graphdriver::archive::unpack(&mut archive.as_slice(), opened, nowhere, &how, &|| Ok(()), None).map(drop)
            });
            let what = |failed: &Fault| format!("{form:?}, call {fail} of {calls}: {}", failed.name);
            match (outcome, failed) {
                (Ok(()), None) if good.is_none() => good = Some(dump(&target)),
                (Ok(()), None) => {
                    std::fs::remove_dir_all(&target).unwrap();
                    break;
                }
                (Ok(()), Some(failed)) => assert!(Some(dump(&target)) == good, "{} failed unnoticed", what(failed)),
                (Err(e), Some(failed)) => {
                    kinds.insert(failed.name);
                    let errno = i32::from(failed.errno);
                    assert!(e.errno() == errno || e.kind() == Kind::Internal, "{}: {e:?}", what(failed));
                }
                (Err(e), None) => panic!("{form:?}: nothing failed, and yet {e:?}"),
            }
            std::fs::remove_dir_all(&target).unwrap();
        }
        assert!(kinds.len() > 25, "{kinds:?}");
    }
}

#[test]
fn a_kernel_without_openat2_or_fchmodat2_gives_the_same_layer() {
    let scratch = Scratch::new("old-kernel");
    for form in [Whiteouts::Overlay, Whiteouts::Delete] {
        // EPERM: how filters of container runtimes that are older than the call refuse it.
        let calls = [("openat2", libc::SYS_openat2), ("fchmodat2", FCHMODAT2)];
        let lacking = calls.iter().flat_map(|call| [libc::ENOSYS, libc::EPERM].map(|errno| Some((call, errno))));
        let results: Vec<String> = std::iter::once(None)
            .chain(lacking)
            .map(|lacking| {
                let fault = lacking.map(|((name, number), errno)| fault(name, *number, errno));
                let target = target(&scratch, "t");
                run(form, &target, fault.as_ref()).unwrap();
                let result = dump(&target);
                std::fs::remove_dir_all(&target).unwrap();
                result
            })
            .collect();
        // Without fchmodat2 the setuid bit of a node is lost with the change of its owner; getfacl shows such bits once more.
        let shown = |line: &&str| !line.is_empty() && !line.starts_with("# flags: ");
        let results: Vec<String> =
            results.iter().map(|result| result.lines().filter(shown).collect::<Vec<_>>().join("\n")).collect();
        let without_setuid = results[0].replace("./node c 4666 ", "./node c 666 ");
        assert_ne!(without_setuid, results[0]);
        for (other, right) in results[1..].iter().zip([&results[0], &results[0], &without_setuid, &without_setuid]) {
            assert!(right == other, "{right}\n---\n{other}");
        }
    }
}

/// A walk that cannot find its place again has not deleted everything.
#[test]
fn a_place_that_is_lost_in_a_deep_tree_is_an_error() {
    let scratch = Scratch::new("place");
    let archive = tar(&[file(".wh.deep", "")]);
    let lost = fault("lseek", libc::SYS_lseek, libc::EIO);
    let deep = scratch.0.join("deep");
    for fault in [Some(&lost), None] {
        std::fs::create_dir_all(deep.join(["d"; 40].join("/"))).unwrap();
        let outcome = run_on(&archive, Whiteouts::Delete, &scratch.0, fault);
        assert_eq!(outcome.map_err(|e| e.errno()), fault.map_or(Ok(()), |_| Err(libc::EIO)));
        assert_eq!(deep.exists(), fault.is_some());
    }
}

/// With fs.protected_symlinks the kernel follows no link of somebody else in a sticky directory, not even for root.
#[test]
fn links_that_the_kernel_does_not_follow_are_read() {
    let scratch = Scratch::new("sticky");
    let links = [dir("./").mode(0o1777), dir("real"), symlink("link", "real").owner(5, 5)];
    let through = [file("link/made", ""), dir("link/sub/deep"), file("link/sub/again", "")];
    let archive = tar(&[&links[..], &through].concat());
    let refused = fault("openat2", libc::SYS_openat2, libc::EACCES);
    for form in [Whiteouts::Overlay, Whiteouts::Delete] {
        run_on(&archive, form, &scratch.0, Some(&refused)).unwrap();
        assert!(scratch.0.join("real/made").exists() && scratch.0.join("real/sub/again").exists());
    }
}

const CHILD: &str = "ARCHIVE_FAULTS_CHILD";

/// Not a test of its own: what the tests below run under strace.
#[test]
fn child() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let (files, target) = job.split_once(' ').unwrap();
    let archive = match files.parse::<usize>() {
        Err(_) => everything(),
        Ok(count) => {
            let files = (0..count).map(|n| Item { data: vec![b'x'; 1024], ..file(&format!("d/{n}"), "") });
            tar(&std::iter::once(dir("d")).chain(files).collect::<Vec<_>>())
        }
    };
    let form = if files == "delete" { Whiteouts::Delete } else { Whiteouts::Overlay };
    let mut how = options(form);
    how.sync = files.parse::<usize>().is_err();
    unpack_with(&archive, Path::new(target), &how).unwrap();
}

/// The names of the calls that the placing threads make, from when the first is confined.
fn traced(scratch: &Scratch, job: &str, target: &Path) -> Vec<String> {
    let log = scratch.0.join("strace");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&log)
        .arg(chroot::this_program())
        .args(["--exact", "child", "--test-threads", "1"])
        .env(CHILD, format!("{job} {}", target.display()))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let log = std::fs::read_to_string(log).unwrap();
    let thread = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    let chroot = log.lines().position(|line| line.contains(" chroot(")).expect("no chroot in the trace");
    let mut threads = vec![thread(log.lines().nth(chroot).unwrap())];
    let mut calls = Vec::new();
    for line in log.lines().skip(chroot).filter(|line| !line.contains(" <... exit")) {
        if !threads.contains(&thread(line)) {
            continue;
        }
        // A thread that one of them starts is one of them.
        if line.contains("clone") && line.contains(" = ") {
            threads.push(line.rsplit(" = ").next().unwrap().trim().to_owned());
        }
        let rest = line[thread(line).len()..].trim_start();
        let name = rest.split_once('(').filter(|_| !rest.starts_with("<...")).map(|(name, _)| name);
        // strace may be older than the call.
        let name = name.map(|name| if name == "syscall_0x1c4" { "fchmodat2" } else { name });
        calls.extend(name.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).map(str::to_owned));
    }
    assert_eq!(threads.len(), 2, "{threads:?}");
    calls
}

#[test]
fn the_list_of_faults_is_complete() {
    let scratch = Scratch::new("complete");
    let mut seen = BTreeSet::new();
    for job in ["overlay", "delete"] {
        let target = target(&scratch, job);
        seen.extend(traced(&scratch, job, &target));
    }
    let known: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).chain(HARMLESS.iter().copied()).collect();
    let unknown: Vec<&String> = seen.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "calls that no fault is injected into: {unknown:?}");
}

/// `docs/performance.md` states the number.
#[test]
fn at_most_five_calls_for_a_small_file() {
    let scratch = Scratch::new("count");
    let calls = |files: usize| {
        let target = scratch.dir(&files.to_string());
        let calls = traced(&scratch, &files.to_string(), &target);
        // The standard library looks whether a descriptor is open before it closes it, in debug builds only.
        calls.iter().filter(|name| !(cfg!(debug_assertions) && *name == "fcntl")).count()
    };
    let (few, many) = (calls(500), calls(2500));
    let each = (many - few) as f64 / 2000.0;
    println!("{each} system calls for each small file");
    assert!(each <= 5.0, "{each} system calls for each small file");
}
