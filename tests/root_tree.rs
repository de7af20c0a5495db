//! Deleting and measuring trees: any depth and width in constant memory, on the filesystems that stores are on, and past what
//! cannot be deleted. Needs root.
#![allow(unsafe_code)] // gives a capability up

mod archive_support;
mod common;

use archive_support::{file, options, symlink, tar, unpack_with};
use common::{Store, this_program};
use graphdriver::archive::Whiteouts;
use graphdriver::error::Kind;
use graphdriver::tree;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn stores() -> Vec<(&'static str, Store)> {
    let ext4 = ["-q", "-F", "-O", "^has_journal"];
    let small = ["-q", "-F", "-b", "1024", "-O", "^has_journal,^dir_index"];
    vec![
        ("ext4", Store::with("mkfs.ext4", &ext4, "loop")),
        ("ext4 without index", Store::with("mkfs.ext4", &small, "loop")),
        ("xfs", Store::with("mkfs.xfs", &["-q"], "loop")),
        ("tmpfs", tmpfs()),
    ]
}

/// A tmpfs upon a store.
fn tmpfs() -> Store {
    let store = Store::with("mkfs.ext4", &["-q", "-F", "-O", "^has_journal"], "loop");
    mount(Some("tmpfs"), &store.root(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    store
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Fills a directory: files, links of both kinds, empty directories, wide ones, and ways down of up to `depth`.
fn fill(dir: &Path, depth: u64, dice: &mut Dice, linked: &Path) {
    let names = if dice.throw(40) == 0 { 900 } else { dice.throw(6) };
    for n in 0..names {
        let path = dir.join(format!("{n}-{}", "name".repeat(usize::try_from(dice.throw(30)).unwrap())));
        match dice.throw(5) {
            0 => fs::create_dir(path).unwrap(),
            1 => std::os::unix::fs::symlink("/etc", path).unwrap(),
            2 => fs::hard_link(linked, path).unwrap(),
            _ => fs::write(path, vec![0; usize::try_from(dice.throw(9000)).unwrap()]).unwrap(),
        }
    }
    if depth > 0 {
        let below = dir.join("d");
        fs::create_dir(&below).unwrap();
        fill(&below, depth - 1, dice, linked);
        if dice.throw(12) == 0 {
            let other = dir.join("e");
            fs::create_dir(&other).unwrap();
            fill(&other, depth / 2, dice, linked);
        }
    }
}

/// Bytes and inodes as `du` would count them, and the sum of the sizes of what is no directory.
fn counted(dir: &Path, seen: &mut HashSet<u64>) -> (u64, u64, u64) {
    let meta = fs::symlink_metadata(dir).unwrap();
    if !meta.is_dir() {
        return if seen.insert(meta.ino()) { (meta.blocks() * 512, 1, meta.size()) } else { (0, 0, 0) };
    }
    let mut sum = (meta.blocks() * 512, 1, 0);
    for entry in fs::read_dir(dir).unwrap() {
        let (bytes, inodes, size) = counted(&entry.unwrap().path(), seen);
        sum = (sum.0 + bytes, sum.1 + inodes, sum.2 + size);
    }
    sum
}

const SEEDS: u64 = 4;

#[test]
fn random_trees_are_measured_exactly_and_deleted_whole() {
    for (name, store) in stores() {
        let root = store.root();
        fs::write(root.join("linked"), [0; 5000]).unwrap();
        let top = |seed| format!("top-{seed}");
        // All before the first is deleted: ext4 is slow to make files soon after others were deleted.
        for seed in 0..SEEDS {
            fs::create_dir(root.join(top(seed))).unwrap();
            fill(&root.join(top(seed)), 90, &mut Dice(seed), &root.join("linked"));
            // XFS takes more than it needs for what is not written back: most of this disk.
            nix::unistd::syncfs(open(&root)).unwrap();
        }
        for seed in 0..SEEDS {
            let dir = root.join(top(seed));
            let (bytes, inodes, size) = counted(&dir, &mut HashSet::new());
            let usage = tree::usage(open(&dir).as_fd()).unwrap();
            assert_eq!((usage.bytes, usage.inodes), (bytes, inodes), "{name}, {seed}");
            assert_eq!(tree::size(open(&dir).as_fd()).unwrap(), size, "{name}, {seed}");
            if seed % 2 == 0 {
                tree::empty(open(&dir).as_fd()).unwrap();
                assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{name}, {seed}");
            }
            tree::remove(open(&root).as_fd(), OsStr::new(&top(seed))).unwrap();
            assert!(!dir.exists(), "{name}, {seed}");
        }
        assert_eq!(fs::metadata(root.join("linked")).unwrap().nlink(), 1);
    }
}

#[test]
fn a_purge_deletes_whole_trees_and_keeps_what_the_layer_placed() {
    for (name, store) in stores() {
        let top = store.root().join("top");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("linked"), "x").unwrap();
        fill(&top, 80, &mut Dice(7), &top.join("linked"));
        let mut way: Vec<String> = ["d"; 70].map(str::to_owned).into();
        way.push("placed".to_owned());
        let placed = way.join("/");
        let layer = tar(&[file(&placed, "new"), file(".wh..wh..opq", "")]);
        unpack_with(&layer, &top, &options(Whiteouts::Delete)).unwrap();
        let (_, inodes, size) = counted(&top, &mut HashSet::new());
        assert_eq!((inodes, size), (72, 3), "{name}");
        assert_eq!(fs::read_to_string(top.join(&placed)).unwrap(), "new");
    }
}

/// What is left below a directory, sorted.
fn listed(dir: &Path) -> Vec<String> {
    let out = Command::new("find").arg(".").arg("-mindepth").arg("1").current_dir(dir).output().unwrap();
    let mut all: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(|line| line[2..].to_owned()).collect();
    all.sort();
    all
}

/// A tree with things in it that cannot be deleted: a mount point on a directory, one on a file, and an immutable file for whoever
/// may not change that.
fn obstructed(root: &Path) -> PathBuf {
    let top = root.join("top");
    let deep = top.join("deep/".to_owned() + &["d"; 60].join("/"));
    fs::create_dir_all(&deep).unwrap();
    for dir in [&top, &top.join("deep"), &deep] {
        (0..200).for_each(|n| fs::write(dir.join(format!("f{n}")), "x").unwrap());
        fs::create_dir(dir.join("empty")).unwrap();
    }
    fs::create_dir_all(top.join("a/busy")).unwrap();
    fs::create_dir(root.join("elsewhere")).unwrap();
    fs::write(root.join("elsewhere/kept"), "x").unwrap();
    fs::write(deep.join("busy-file"), "x").unwrap();
    let none = None::<&str>;
    mount(Some(&root.join("elsewhere")), &top.join("a/busy"), none, MsFlags::MS_BIND, none).unwrap();
    mount(Some(&root.join("elsewhere/kept")), &deep.join("busy-file"), none, MsFlags::MS_BIND, none).unwrap();
    fs::write(top.join("locked"), "x").unwrap();
    common::run(Command::new("chattr").arg("+i").arg(top.join("locked")));
    top
}

/// Takes `CAP_LINUX_IMMUTABLE` from the calling thread's effective set, or gives it back.
fn may_unlock(may: bool) {
    const CAP_LINUX_IMMUTABLE: u32 = 9;
    let mut header = [0x2008_0522_u32, 0]; // _LINUX_CAPABILITY_VERSION_3, the calling thread
    let mut sets = [0_u32; 6];
    // SAFETY: both arrays are as large as the version says.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) }, 0);
    let bit = 1 << CAP_LINUX_IMMUTABLE;
    sets[0] = if may { sets[0] | bit } else { sets[0] & !bit };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) }, 0);
}

#[test]
fn a_deletion_goes_past_what_it_cannot_delete_and_says_what_is_left() {
    let store = Store::new();
    let root = store.root();
    let top = obstructed(&root);
    let deep = format!("deep/{}", ["d"; 60].join("/"));
    may_unlock(false);
    let failed = tree::remove(open(&root).as_fd(), OsStr::new("top")).unwrap_err();
    let emptied = tree::empty(open(&top).as_fd()).unwrap_err();
    may_unlock(true);
    for error in [&failed, &emptied] {
        let text = error.to_string();
        for part in ["3 names are left", "'a/busy'", "'locked'", "busy-file'", "mount point", "not permitted"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!([Kind::Busy, Kind::System].contains(&error.kind()), "{error:?}");
    }
    let mut left: Vec<String> = (1..=60).map(|n| format!("deep/{}", vec!["d"; n].join("/"))).collect();
    left.extend(["a", "a/busy", "a/busy/kept", "deep", "locked"].map(str::to_owned));
    left.push(format!("{deep}/busy-file"));
    left.sort();
    assert_eq!(listed(&top), left);
    umount2(&top.join("a/busy"), MntFlags::MNT_DETACH).unwrap();
    let one = tree::remove(open(&root).as_fd(), OsStr::new("top")).unwrap_err();
    assert_eq!((one.kind(), one.errno()), (Kind::Busy, libc::EBUSY));
    assert!(one.to_string().contains("all but '…/d/"), "{one}");
    umount2(&top.join(deep).join("busy-file"), MntFlags::MNT_DETACH).unwrap();
    tree::remove(open(&root).as_fd(), OsStr::new("top")).unwrap();
    assert_eq!(listed(&root.join("elsewhere")), ["kept"]);
}

/// Mounts of the same filesystem, which have its device number, on the tree and in it.
fn mounts_are_not_entered() {
    let store = Store::new();
    let (root, none) = (store.root(), None::<&str>);
    fs::create_dir_all(root.join("top")).unwrap();
    fs::create_dir_all(root.join("around/inner")).unwrap();
    fs::create_dir_all(root.join("elsewhere/kept")).unwrap();
    for at in ["top", "around/inner"] {
        mount(Some(&root.join("elsewhere")), &root.join(at), none, MsFlags::MS_BIND, none).unwrap();
    }
    for name in ["top", "around"] {
        assert_eq!(tree::remove(open(&root).as_fd(), OsStr::new(name)).unwrap_err().kind(), Kind::Busy);
    }
    assert_eq!(tree::usage(open(&root.join("around")).as_fd()).unwrap().inodes, 1);
    assert!(root.join("elsewhere/kept").exists());
}

#[test]
fn a_mount_is_not_entered() {
    mounts_are_not_entered();
}

#[test]
fn a_mount_is_not_entered_before_linux_5_6_either() {
    std::thread::scope(|scope| {
        let old = scope.spawn(|| {
            common::own_namespace();
            common::old_kernel::without(&[libc::SYS_openat2]);
            mounts_are_not_entered();
        });
        old.join().unwrap();
    });
}

/// What is mounted in a layer is somebody else's, whatever path leads there.
#[test]
fn an_unpack_enters_no_mount() {
    let store = Store::new();
    let (root, none) = (store.root(), None::<&str>);
    fs::create_dir_all(root.join("layer/d/mounted")).unwrap();
    fs::create_dir(root.join("elsewhere")).unwrap();
    mount(Some(&root.join("elsewhere")), &root.join("layer/d/mounted"), none, MsFlags::MS_BIND, none).unwrap();
    for way in ["d/mounted/f", "link/f", "link/made/f", "up/mounted/f"] {
        let links = [symlink("link", "d/mounted"), symlink("up", "d")];
        let layer = tar(&[&links[..], &[file(way, "x")]].concat());
        let error = unpack_with(&layer, &root.join("layer"), &options(Whiteouts::Overlay)).unwrap_err();
        assert_eq!(error.errno(), libc::EXDEV, "{way}: {error}");
    }
    assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_deletion_stops_when_it_is_told_to_and_can_be_taken_up_again() {
    let store = Store::new();
    let (root, name) = (store.root(), OsStr::new("top"));
    fs::create_dir_all(root.join("top/d")).unwrap();
    (0..500).for_each(|n| fs::write(root.join(format!("top/d/{n}")), "").unwrap());
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 100
    };
    let error = tree::remove_unless(open(&root).as_fd(), name, &stop).unwrap_err();
    assert_eq!((error.kind(), error.errno(), asked.get()), (Kind::Cancelled, libc::ECANCELED, 101));
    let left = fs::read_dir(root.join("top/d")).unwrap().count();
    assert!((400..500).contains(&left), "{left}");
    assert_eq!(tree::empty_unless(open(&root.join("top")).as_fd(), &|| true).unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(fs::read_dir(root.join("top/d")).unwrap().count(), left);
    tree::remove(open(&root).as_fd(), name).unwrap();
}

/// Others make, move and delete what is being walked: measuring copes, and a deletion that comes after them is whole.
#[test]
fn trees_that_change_meanwhile() {
    let store = Store::new();
    let top = store.root().join("top");
    fs::create_dir(&top).unwrap();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for turn in 0..40 {
                let deep: PathBuf = (0..50).map(|n| format!("{turn}-{n}")).collect();
                fs::create_dir_all(top.join(deep)).unwrap();
                fs::rename(top.join(format!("{turn}-0/{turn}-1")), top.join(format!("moved-{turn}"))).unwrap();
                if turn % 2 == 0 {
                    fs::remove_dir_all(top.join(format!("moved-{turn}"))).unwrap();
                }
            }
        });
        while !busy.is_finished() {
            match tree::usage(open(&top).as_fd()) {
                Ok(usage) => assert!(usage.inodes < 40 * 52, "{usage:?}"),
                Err(e) => assert_eq!(e.kind(), Kind::Busy, "{e}"),
            }
        }
    });
    assert_eq!(tree::usage(open(&top).as_fd()).unwrap().inodes, 1 + 40 + 20 * 49);
    tree::remove(open(&store.root()).as_fd(), OsStr::new("top")).unwrap();
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Makes directories in each other.
fn nested(top: &Path, depth: usize) {
    let mut dir = open(top);
    for _ in 0..depth {
        nix::sys::stat::mkdirat(&dir, "nested", nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir = nix::fcntl::openat(&dir, "nested", nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
    }
}

const ALONE: &str = "TREE_MEMORY_ALONE";
const WIDE: usize = 400_000;
const DEEP: usize = 10_000;
const MOST: u64 = 16 << 20;

/// In a process of its own: the peak counts what the tests beside it take.
#[test]
fn memory_does_not_grow_with_the_tree() {
    if std::env::var_os(ALONE).is_none() {
        let mut alone = Command::new(this_program());
        alone.args(["--exact", "memory_does_not_grow_with_the_tree", "--nocapture"]).env(ALONE, "1");
        let out = alone.output().unwrap();
        print!("{}", String::from_utf8_lossy(&out.stdout));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    // Small directories in their inodes: 430,000 of them in 120 MB. All are made before one is deleted (see above).
    let features = "^has_journal,inline_data,^metadata_csum";
    let store = Store::with("mkfs.ext4", &["-q", "-F", "-I", "256", "-N", "440000", "-g", "8192", "-O", features], "loop");
    let root = open(&store.root());
    let [wide, deep] = ["wide", "deep"].map(|name| store.root().join(name));
    fs::create_dir(&wide).unwrap();
    fs::create_dir(&deep).unwrap();
    let dir = open(&wide);
    for n in 0..WIDE {
        let name = format!("directory-{n}");
        nix::sys::stat::mkdirat(&dir, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    for name in ["purged", "removed", "emptied"] {
        fs::create_dir(deep.join(name)).unwrap();
        nested(&deep.join(name), DEEP);
    }
    let idle = peak_memory();
    let grown = |what: &str| {
        let more = peak_memory() - idle;
        println!("{what}: {} KiB more than the idle process's {}", more >> 10, idle >> 10);
        assert!(more < MOST, "{what}: {} MiB more", more >> 20);
    };
    let some = || {
        let asked = Cell::new(0);
        move || {
            asked.set(asked.get() + 1);
            asked.get() > WIDE / 8
        }
    };
    assert_eq!(tree::usage(dir.as_fd()).unwrap().inodes, 1 + WIDE as u64);
    grown("measuring a wide directory");
    assert_eq!(tree::remove_unless(root.as_fd(), OsStr::new("wide"), &some()).unwrap_err().kind(), Kind::Cancelled);
    grown("deleting some of it");
    assert_eq!(tree::empty_unless(dir.as_fd(), &some()).unwrap_err().kind(), Kind::Cancelled);
    grown("emptying it of some");
    unpack_with(&tar(&[file(".wh..wh..opq", "")]), &wide, &options(Whiteouts::Delete)).unwrap();
    assert_eq!(fs::read_dir(&wide).unwrap().count(), 0);
    grown("purging it");
    let dir = open(&deep);
    assert_eq!(tree::usage(dir.as_fd()).unwrap().inodes, 4 + 3 * DEEP as u64);
    grown("measuring deep trees");
    unpack_with(&tar(&[file(".wh.purged", "")]), &deep, &options(Whiteouts::Delete)).unwrap();
    grown("purging one");
    tree::remove(dir.as_fd(), OsStr::new("removed")).unwrap();
    grown("deleting one");
    assert_eq!(tree::usage(dir.as_fd()).unwrap().inodes, 2 + DEEP as u64);
    tree::empty(dir.as_fd()).unwrap();
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
    grown("emptying what holds one");
}
