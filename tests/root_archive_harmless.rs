//! Nothing outside the layer is touched and nothing grows, whatever the archive holds. Needs root.

mod archive_support;
#[path = "common/chroot.rs"]
mod chroot;

use archive_support::*;
use graphdriver::archive::Whiteouts;
use graphdriver::error::Kind;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as make_symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What must not change: a directory beside the target, with everything that a write, chmod, chown, link or utime would show.
struct Sentinel {
    dir: PathBuf,
    before: Vec<String>,
}

impl Sentinel {
    fn new(scratch: &Scratch) -> Sentinel {
        let dir = scratch.dir("outside");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("secret"), "untouched").unwrap();
        std::fs::set_permissions(dir.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(dir.join("sub/deep"), "untouched").unwrap();
        let before = Self::look(&dir);
        Sentinel { dir, before }
    }

    fn look(dir: &Path) -> Vec<String> {
        let mut seen = Vec::new();
        for path in [dir.to_owned(), dir.join("secret"), dir.join("sub"), dir.join("sub/deep")] {
            let st = std::fs::symlink_metadata(&path);
            seen.push(match st {
                Err(e) => format!("{}: {e}", path.display()),
                Ok(st) => format!(
                    "{}: {:o} {}:{} size {} links {} mtime {}.{} ctime {}.{}",
                    path.display(),
                    st.mode(),
                    st.uid(),
                    st.gid(),
                    st.size(),
                    st.nlink(),
                    st.mtime(),
                    st.mtime_nsec(),
                    st.ctime(),
                    st.ctime_nsec()
                ),
            });
        }
        seen
    }

    fn check(&self, case: &str) {
        assert_eq!(Self::look(&self.dir), self.before, "{case}");
    }
}

fn fifo(path: &str) -> Item {
    item(b'6', path)
}

/// Each archive is run against a target beside the sentinel; OUT stands for the sentinel's absolute path.
fn breakouts(out: &str) -> Vec<(&'static str, Vec<Item>)> {
    let up = "../outside";
    let far = "../../../../../../../../../../../..";
    let abs = |rest: &str| format!("{out}{rest}");
    vec![
        ("write through a relative symlink", vec![symlink("l", up), file("l/new", "x"), file("l/secret", "x")]),
        ("write through an absolute symlink", vec![symlink("l", out), file("l/new", "x"), file("l/secret", "x")]),
        ("write through a chain", vec![symlink("a", ".."), symlink("b", "a/outside"), file("b/secret", "x")]),
        (
            "chain with a directory between",
            vec![dir("d"), symlink("d/up", "../.."), symlink("e", "d/up/outside"), file("e/secret", "x")],
        ),
        ("a symlink that points at itself by ..", vec![symlink("l", "../target/../outside"), file("l/secret", "x")]),
        (
            "climbing names",
            vec![file(&format!("{far}{out}/new"), "x"), file("../outside/secret", "x"), dir("../outside").mode(0o777)],
        ),
        ("climbing in the middle", vec![dir("a"), file("a/../../outside/secret", "x")]),
        ("absolute names", vec![file(&abs("/secret"), "x"), dir(out).mode(0o777), symlink(&abs("/new"), "x")]),
        ("file over a symlink to a file", vec![symlink("l", &abs("/secret")), file("l", "x").mode(0o777)]),
        ("file over a relative symlink", vec![symlink("l", "../outside/secret"), file("l", "x").mode(0o777)]),
        ("hard link upwards", vec![hardlink("h", "../outside/secret"), file("h", "x")]),
        ("hard link to an absolute path", vec![hardlink("h", &abs("/secret")), file("h", "x")]),
        ("hard link through a symlink", vec![symlink("l", up), hardlink("h", "l/secret"), file("h", "x")]),
        ("hard link to a symlink", vec![symlink("l", &abs("/secret")), hardlink("h", "l"), file("h", "x").mode(0o777)]),
        (
            "hard link, then more data",
            vec![symlink("l", &abs("/secret")), hardlink("h", "l"), file("h", "x"), file("l", "y")],
        ),
        ("hard link placed through a symlink", vec![file("f", "x"), symlink("l", up), hardlink("l/new", "f")]),
        ("directory over a symlink, chmod", vec![symlink("l", up), dir("l").mode(0o777).owner(7, 7)]),
        ("directory through a symlink", vec![symlink("l", out), dir("l/sub").mode(0o777).owner(7, 7).mtime(1)]),
        (
            "symlink over a directory in use",
            vec![file("d/f", "x"), symlink("d", up), file("d/secret", "x"), dir("d/sub").mode(0)],
        ),
        (
            "times and attributes through links",
            vec![symlink("l", &abs("/secret")).pax("SCHILY.xattr.user.x", b"y").mtime(1)],
        ),
        (
            "fifo and device over links",
            vec![symlink("l", &abs("/secret")), fifo("l"), symlink("m", up), item(b'3', "m").device(1, 3)],
        ),
        ("whiteouts through links", vec![symlink("l", up), file("l/.wh.secret", ""), file("l/.wh.sub", "")]),
        ("opaque through links", vec![symlink("l", out), file("l/.wh..wh..opq", "")]),
        ("whiteout of the parent", vec![file(".wh...", ""), file("a/.wh..", "")]),
        ("whiteout that climbs", vec![file("../outside/.wh.secret", ""), file("../.wh.outside", "")]),
        ("the root as a symlink", vec![symlink(".", up), file("secret", "x")]),
        ("the root as a symlink, slash", vec![symlink("/", up), file("secret", "x")]),
        ("ends in ..", vec![dir("d"), dir("d/..").mode(0o777), dir("..").mode(0o777), symlink("d/../..", up)]),
        (
            "proc links",
            vec![symlink("p", "/proc/self/root"), file(&format!("p{out}/secret"), "x"), symlink("q", "/proc/self/cwd/..")],
        ),
        ("loops", vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "")]),
        ("long names", vec![file(&format!("{}{out}/secret", "../".repeat(200)), "x")]),
        (
            "sparse stand-in name",
            vec![
                Item { data: b"1\n0\n1\n".to_vec(), ..file("x", "") }
                    .pax("GNU.sparse.major", b"1")
                    .pax("GNU.sparse.minor", b"0")
                    .pax("GNU.sparse.realsize", b"1")
                    .pax("GNU.sparse.name", b"../outside/secret"),
            ],
        ),
        (
            "pax path and link path",
            vec![
                file("ok", "").pax("path", b"../outside/secret"),
                hardlink("h", "ok").pax("linkpath", b"../outside/secret"),
            ],
        ),
    ]
}

#[test]
fn breakouts_do_not_break_out() {
    let scratch = Scratch::new("breakout");
    let sentinel = Sentinel::new(&scratch);
    let out = sentinel.dir.to_str().unwrap().to_owned();
    for (case, items) in breakouts(&out) {
        for whiteouts in [Whiteouts::Overlay, Whiteouts::Delete] {
            // Item by item too: one that is refused must not hide what the next would do.
            let target = scratch.dir("target");
            let _ = unpack_with(&tar(&items), &target, &options(whiteouts));
            sentinel.check(case);
            std::fs::remove_dir_all(&target).unwrap();
            let target = scratch.dir("target");
            for item in &items {
                let _ = unpack_with(&tar(std::slice::from_ref(item)), &target, &options(whiteouts));
                sentinel.check(case);
            }
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
}

#[test]
fn links_swapped_meanwhile_lead_nowhere() {
    let scratch = Scratch::new("swap");
    let sentinel = Sentinel::new(&scratch);
    let target = scratch.dir("target");
    std::fs::create_dir(target.join("d")).unwrap();
    make_symlink("../outside", target.join("evil")).unwrap();
    make_symlink(&sentinel.dir, target.join("absolute")).unwrap();
    let mut items = Vec::new();
    for n in 0..300 {
        // Directories between, so that no descriptor of `d` stays cached.
        items.extend((0..8).map(|k| dir(&format!("other{}/x{k}", n % 4))));
        items.extend([file("d/secret", "x"), dir("d/sub").mode(0o777), file("d/sub/deep", "y"), file("d/.wh.secret", "")]);
        items.push(hardlink(&format!("h{n}"), "d/sub/deep"));
    }
    let archive = tar(&items);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for other in ["evil", "absolute"] {
                    let (d, o) = (target.join("d"), target.join(other));
                    let _ = nix::fcntl::renameat2(
                        nix::fcntl::AT_FDCWD,
                        &d,
                        nix::fcntl::AT_FDCWD,
                        &o,
                        nix::fcntl::RenameFlags::RENAME_EXCHANGE,
                    );
                }
            }
        });
        for whiteouts in [Whiteouts::Overlay, Whiteouts::Delete] {
            for _ in 0..5 {
                let _ = unpack_with(&archive, &target, &options(whiteouts));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    sentinel.check("swap");
}

#[test]
fn refused_entries_are_named() {
    let scratch = Scratch::new("refused");
    for (item, text) in [
        (item(b'3', "c").device(4096, 0), "unpack 'c': device number 4096:0 is out of range"),
        (item(b'4', "b").device(0, 1 << 20), "unpack 'b': device number 0:1048576 is out of range"),
        (item(b'M', "m"), "unpack 'm': entries of type 'M' are not supported"),
        (file("f", "").owner(u64::from(u32::MAX), 0), "unpack 'f': uid 4294967295 is out of range"),
        (file("f", "").pax("path", b"a\0b"), "unpack 'a\\0b': a NUL byte in a name"),
        (file("f", "x").pax("size", b"99999"), "unpack 'f': the archive is cut off"),
        (file("d/..", ""), "unpack 'd/..': a name that ends in '..'"),
        (hardlink("h", "/"), "unpack 'h': a hard link to the layer's root"),
        (hardlink("h", "h"), "unpack 'h': a hard link to 'h', which this layer does not hold"),
    ] {
        assert_eq!(unpack(&tar(&[item]), &scratch.0).unwrap_err().to_string(), text);
    }
    let e = unpack(&tar(&[dir("d"), hardlink("h", "d")]), &scratch.0).unwrap_err();
    assert_eq!(e.to_string(), "unpack 'h': a hard link to the directory 'd'");
    let e = unpack(&tar(&[file("f", ""), file("f/below", "")]), &scratch.0).unwrap_err();
    assert!(e.to_string().starts_with("unpack 'f/below': open directory 'f': Not a directory"), "{e}");
}

/// The size that a PAX record states is the one that counts, for what is written and for where the next header is looked for.
#[test]
fn pax_and_header_disagree_about_the_size() {
    let scratch = Scratch::new("desync");
    let smuggled = file("smuggled", "evil").blocks();
    let outer = Item { data: smuggled.clone(), ..file("outer", "") };
    let mut blocks = outer.clone().pax("size", smuggled.len().to_string().as_bytes()).blocks();
    // The header itself claims to be empty, so that a reader which believes it finds the smuggled entry.
    let header = blocks.len() - padded(&smuggled).len() - 512;
    blocks[header + 124..header + 136].copy_from_slice(b"00000000000\0");
    checksum(&mut blocks[header..header + 512]);
    unpack(&[blocks, vec![0; 1024]].concat(), &scratch.0).unwrap();
    assert_eq!(std::fs::read(scratch.0.join("outer")).unwrap(), smuggled);
    assert!(!scratch.0.join("smuggled").exists());
}

#[test]
fn each_limit_says_which_it_is() {
    let scratch = Scratch::new("limits");
    let mut small = options(Whiteouts::Overlay);
    small.limits.extensions = 4096;
    small.limits.xattrs = 4;
    small.limits.path = 64;
    small.limits.entries = 3;
    small.limits.stream = 1 << 20;
    small.limits.window = 1 << 20;
    let long = "a/".repeat(40);
    let big = vec![b'x'; 5000];
    let many: Vec<Item> = (0..4).map(|n| file(&n.to_string(), "")).collect();
    let xattrs = (0..300).fold(file("f", ""), |f, n| f.pax(&format!("SCHILY.xattr.user.{n}"), b"v"));
    let few = (0..5).fold(file("f", ""), |f, n| f.pax(&format!("SCHILY.xattr.user.{n}"), b"v"));
    let sparse_lines: String =
        std::iter::once("100000\n".to_owned()).chain((0..100_000).map(|n| format!("{n}\n0\n"))).collect();
    let sparse = Item { data: sparse_lines.into_bytes(), ..file("s", "") };
    let sparse = sparse.pax("GNU.sparse.major", b"1").pax("GNU.sparse.realsize", b"9999999");
    let mut global = raw_header(b'g', b"g", &[], 0, 0, 0, 5000, 0, (0, 0));
    global.extend(padded(&record("comment", &big[..4985])));
    for (archive, name) in [
        (tar(&[file("f", "").pax("comment", &big)]), "extensions"),
        (tar(&[xattrs]), "extensions"),
        (tar(&[few]), "xattrs"),
        (tar(&[sparse]), "extensions"),
        ([global, tar(&[])].concat(), "extensions"),
        (tar(&[dir(&long)]), "path"),
        (tar(&[symlink("l", &long)]), "path"),
        (tar(&many), "entries"),
        (tar(&[Item { data: vec![0; 2 << 20], ..file("f", "") }]), "stream"),
        (run("zstd -q --ultra -22 --long=24 -c", &vec![7; 20 << 20]), "window"),
        (run("xz -c --lzma2=dict=64MiB", &tar(&[])), "window"),
    ] {
        let e = unpack_with(&archive, &scratch.0, &small).unwrap_err();
        assert_eq!(e.kind(), Kind::Limit, "{name}: {e}");
        assert!(e.to_string().contains(&format!("limit '{name}'")), "{name}: {e}");
    }
    let e = unpack(&tar(&[dir(&"d/".repeat(10_000))]), &scratch.0).unwrap_err();
    assert!(e.to_string().contains("limit 'path'"), "{e}");
    unpack(&tar(&[dir(&"d/".repeat(2000))]), &scratch.0).unwrap();
    unpack_with(&tar(&[file(".wh.d", "")]), &scratch.0, &options(Whiteouts::Delete)).unwrap();
    assert!(!scratch.0.join("d").exists());
}

fn run(command: &str, input: &[u8]) -> Vec<u8> {
    let mut words = command.split(' ');
    let mut child = std::process::Command::new(words.next().unwrap())
        .args(words)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, input));
        let mut out = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        assert!(child.wait().unwrap().success(), "{command}");
        out
    })
}

/// A reader that makes up its bytes.
struct MadeUp<F: FnMut(u64, &mut [u8]) -> std::io::Result<usize>>(u64, F);

impl<F: FnMut(u64, &mut [u8]) -> std::io::Result<usize>> Read for MadeUp<F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let got = (self.1)(self.0, into)?;
        self.0 += got as u64;
        Ok(got)
    }
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

const ALONE: &str = "ARCHIVE_MEMORY_ALONE";

/// Archives that would need 2 GiB if anything were kept of them. In a process of its own: the peak counts what the tests beside
/// it take.
#[test]
fn memory_does_not_grow_with_the_archive() {
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(chroot::this_program());
        alone.args(["--exact", "memory_does_not_grow_with_the_archive", "--nocapture"]).env(ALONE, "1");
        let out = alone.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    let scratch = Scratch::new("memory");
    let target = std::fs::File::open(&scratch.0).unwrap();
    let before = peak_memory();
    let size = 2_u64 << 30;
    for kind in [b'0', b'x', b'L', b'g'] {
        let head = raw_header(kind, b".wh.bomb", &[], 0o644, 0, 0, size, 0, (0, 0));
        let mut content = MadeUp(0, |at, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            if at < head.len() {
                into[0] = head[at];
                return Ok(1);
            }
            let left = (size + 512 - at as u64).min(into.len() as u64);
            into[..usize::try_from(left).unwrap()].fill(0);
            Ok(usize::try_from(left).unwrap())
        });
        let outcome = archive_support::unpack_from(&mut content, target.as_fd(), &options(Whiteouts::Overlay));
        assert_eq!(outcome.is_ok(), kind == b'0', "{outcome:?}");
    }
    assert!(peak_memory() - before < 48 << 20, "{} MiB more", (peak_memory() - before) >> 20);
    // 2 GiB of zeros as gzip: a member of 64 MiB of them, 32 times.
    let head = run("gzip -c", &raw_header(b'0', b".wh.bomb", &[], 0o644, 0, 0, size, 0, (0, 0)));
    let zeros = run("gzip -9c", &vec![0; 64 << 20]);
    let before_bomb = peak_memory().max(before);
    let mut bomb = Vec::new();
    bomb.extend(head);
    for _ in 0..size >> 26 {
        bomb.extend_from_slice(&zeros);
    }
    unpack(&bomb, &scratch.0).unwrap();
    assert!(peak_memory() - before_bomb < 16 << 20, "{} MiB more", (peak_memory() - before_bomb) >> 20);
}

#[test]
fn readers_of_every_kind() {
    let scratch = Scratch::new("readers");
    let archive = tar(&[file("a", "content"), Item { data: vec![7; 600_000], ..file("b", "") }]);
    let target = std::fs::File::open(&scratch.0).unwrap();
    let caller = std::thread::current().id();
    let unpack = |read: &mut dyn Read| archive_support::unpack_from(read, target.as_fd(), &options(Whiteouts::Overlay));
    let give = |most: usize, fail_at: usize, errno: i32| {
        let archive = archive.clone();
        MadeUp(0, move |at, into: &mut [u8]| {
            assert_eq!(std::thread::current().id(), caller);
            let at = usize::try_from(at).unwrap();
            if at >= fail_at {
                return Err(std::io::Error::from_raw_os_error(errno));
            }
            let count = most.min(into.len()).min(archive.len() - at);
            into[..count].copy_from_slice(&archive[at..at + count]);
            Ok(count)
        })
    };
    for most in [1, 7, 10_240, usize::MAX] {
        unpack(&mut give(most, usize::MAX, 0)).unwrap();
        assert_eq!(std::fs::read(scratch.0.join("b")).unwrap(), vec![7; 600_000]);
    }
    for fail_at in [0, 1, 511, 1500, 300_000] {
        let e = unpack(&mut give(500, fail_at, 5)).unwrap_err();
        assert_eq!(e.errno(), 5, "{e}");
        assert!(e.to_string().contains("read the archive"), "{e}");
    }
    let e = unpack(&mut MadeUp(0, |_, into: &mut [u8]| Ok(into.len() + 1))).unwrap_err();
    assert!(e.to_string().contains("more than it was asked for"), "{e}");
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        unpack(&mut MadeUp(0, |_, _: &mut [u8]| panic!("callback")))
    }));
    assert!(panics.is_err());
}

/// Looks at the placing threads from the callback, which runs on the caller's.
#[test]
fn the_placing_threads_are_locked_in_and_the_caller_is_not() {
    let scratch = Scratch::new("confined");
    let target = std::fs::File::open(&scratch.0).unwrap();
    for (whiteouts, permitted, effective) in [
        // chown, dac_override, fowner, fsetid, mknod, setfcap, and setgid and setuid, so that the host's changes of ids have the
        // outcome that they have on its own threads; with sys_admin held back for overlay's marks.
        (Whiteouts::Overlay, "00000000882000db", "00000000880000db"),
        (Whiteouts::Delete, "00000000880000db", "00000000880000db"),
    ] {
        let before = own_state();
        let mut looked = false;
        // The thread that finishes files makes no nodes and no marks.
        let finishing = "00000000800000db";
        let mut content = MadeUp(0, |_, _: &mut [u8]| {
            for (permitted, effective) in [(permitted, effective), (finishing, finishing)] {
                let task = thread_inside(effective);
                let status = std::fs::read_to_string(task.join("status")).unwrap();
                let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
                assert_eq!(
                    (field("CapPrm:"), field("CapEff:"), field("CapInh:")),
                    (permitted.into(), effective.into(), "0".repeat(16))
                );
                assert_eq!((field("NoNewPrivs:").as_str(), field("Umask:").as_str()), ("1", "0000"));
                assert_eq!(field("Seccomp:"), "0", "a filter would keep the host from installing its own");
                assert!(field("SigBlk:").starts_with("fffffff"), "{}", field("SigBlk:"));
                // Nothing can be reached from a removed directory, and nothing made in it.
                let root = task.join("root");
                assert!(std::fs::read_dir(&root).unwrap().next().is_none() && std::fs::write(root.join("x"), "").is_err());
            }
            assert_eq!(own_state(), before, "the caller");
            looked = true;
            Ok(0)
        });
        archive_support::unpack_from(&mut content, target.as_fd(), &options(whiteouts)).unwrap();
        assert!(looked);
        assert_eq!(own_state(), before);
        assert!(tasks().iter().all(|task| !is_locked_out(task)), "a thread was left behind");
    }
}

fn tasks() -> Vec<PathBuf> {
    std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path()).collect()
}

/// Whether a thread's root and working directory are the one that the calling thread has removed for those that work for it.
fn is_locked_out(task: &Path) -> bool {
    let made = archive_support::nowhere_path();
    ["root", "cwd"].iter().all(|link| {
        let place = std::fs::read_link(task.join(link)).unwrap_or_default();
        place.to_string_lossy() == format!("{} (deleted)", made.display())
    })
}

/// The thread that works for the calling one, once it has dropped its capabilities.
fn thread_inside(effective: &str) -> PathBuf {
    let wanted = format!("CapEff:\t{effective}");
    let status = |task: &Path| std::fs::read_to_string(task.join("status")).unwrap_or_default();
    loop {
        let mut inside = tasks().into_iter().filter(|task| is_locked_out(task));
        if let Some(task) = inside.find(|task| status(task).contains(&wanted)) {
            return task;
        }
        std::thread::yield_now();
    }
}

/// What of the calling thread must stay as it was.
fn own_state() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let kept = ["Cap", "NoNewPrivs", "Umask", "SigBlk", "SigIgn", "SigCgt"];
    let mut state: Vec<String> =
        status.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect();
    let links = ["root", "cwd"].map(|name| std::fs::read_link(format!("/proc/thread-self/{name}")).unwrap());
    state.extend(links.map(|link| link.display().to_string()));
    state
}
