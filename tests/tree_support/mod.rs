//! Whole trees for tests: what is in them, and a container that works in one at random.
#![allow(dead_code)] // each test binary uses a part of it
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // attributes and times of names, not followed

pub use super::common::random::Random;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// All that an archive says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: u64,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of all names of the same file, the first.
    pub same_as: PathBuf,
}

pub type Tree = BTreeMap<PathBuf, Node>;

fn c(bytes: impl AsRef<OsStr>) -> CString {
    CString::new(bytes.as_ref().as_bytes()).unwrap()
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (path, mut names) = (c(path), vec![0_u8; 1 << 16]);
    let got = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(got).unwrap_or(0));
    let ours = |name: &&[u8]| {
        name.starts_with(b"user.") || name.starts_with(b"system.posix_acl") || *name == b"security.capability"
    };
    let value = |name: &[u8]| {
        let (key, mut value) = (c(OsStr::from_bytes(name)), vec![0_u8; 1 << 16]);
        let got = unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(got).unwrap());
        value
    };
    names.split(|b| *b == 0).filter(ours).map(|name| (name.to_vec(), value(name))).collect()
}

pub fn set_xattr(path: &Path, key: &[u8], value: &[u8]) -> bool {
    let (path, key) = (c(path), c(OsStr::from_bytes(key)));
    unsafe { libc::lsetxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) == 0 }
}

pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let times =
        [libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT }, libc::timespec { tv_sec: seconds, tv_nsec: nanos }];
    let rc = unsafe { libc::utimensat(libc::AT_FDCWD, c(path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    assert_eq!(rc, 0, "{}", path.display());
}

/// Everything in a tree, its root under the empty path.
pub fn look(root: &Path) -> Tree {
    let (mut tree, mut first) = (Tree::new(), BTreeMap::new());
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let st = full.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        if st.is_dir() {
            pending.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        let content = match st.file_type() {
            t if t.is_file() => fs::read(&full).unwrap(),
            t if t.is_symlink() => fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        let node = Node {
            mode: st.mode(),
            owner: (st.uid(), st.gid()),
            mtime: (st.mtime(), st.mtime_nsec()),
            device: if st.file_type().is_char_device() || st.file_type().is_block_device() { st.rdev() } else { 0 },
            content,
            xattrs: if st.is_symlink() { BTreeMap::new() } else { xattrs(&full) },
            same_as: PathBuf::new(),
        };
        if !st.is_dir() {
            let name: &mut PathBuf = first.entry((st.dev(), st.ino())).or_insert_with(|| path.clone());
            if path < *name {
                name.clone_from(&path);
            }
        }
        tree.insert(path.clone(), node);
    }
    for (path, node) in &mut tree {
        let st = root.join(path).symlink_metadata().unwrap();
        node.same_as = first.get(&(st.dev(), st.ino())).unwrap_or(path).clone();
    }
    tree
}

/// Asserts that two trees are the same.
pub fn assert_same(what: &str, got: &Tree, want: &Tree) {
    for (path, node) in want {
        let found = got.get(path).unwrap_or_else(|| panic!("{what}: '{}' is missing", path.display()));
        let short = |n: &Node| Node { content: n.content.iter().take(100).copied().collect(), ..n.clone() };
        assert!(found == node, "{what}: '{}'\n got {:?}\nwant {:?}", path.display(), short(found), short(node));
    }
    let more: Vec<_> = got.keys().filter(|path| !want.contains_key(*path)).collect();
    assert!(more.is_empty(), "{what}: there is more: {more:?}");
}

/// Names that a container has no reason to spare us.
const NAMES: [&[u8]; 9] = [
    b"a",
    b"b",
    b"c",
    b"Data",
    b"with blank",
    b"new\nline",
    b"\xff\xfe",
    "f\u{fc}r".as_bytes(),
    b"a-name-of-sixty-characters-so-that-paths-soon-get-beyond-100-bytes",
];

const VALUES: [&[u8]; 4] = [b"", b"value", b"\0\xff=\n", b"another, longer value of an attribute"];

/// An ACL for a user with a number.
pub const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xe8, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255,
    255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// Does `steps` things in the tree below `root` that a container might do. Without regard to what they come to.
pub fn work(random: &mut Random, root: &Path, steps: usize) {
    for _ in 0..steps {
        step(random, root);
    }
}

fn paths(root: &Path, wanted: impl Fn(&fs::Metadata) -> bool) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = pending.pop() {
        let mut names: Vec<OsString> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for path in names.iter().map(|name| dir.join(name)) {
            let st = path.symlink_metadata().unwrap();
            if st.is_dir() {
                pending.push(path.clone());
            }
            if wanted(&st) {
                found.push(path);
            }
        }
    }
    found
}

fn new_path(random: &mut Random, root: &Path) -> PathBuf {
    let dirs = paths(root, fs::Metadata::is_dir);
    let dir = random.pick(&dirs).filter(|dir| dir.components().count() < 12).cloned().unwrap_or_else(|| root.to_owned());
    dir.join(OsStr::from_bytes(random.pick(&NAMES).unwrap()))
}

fn step(random: &mut Random, root: &Path) {
    let all = paths(root, |_| true);
    let some = random.pick(&all).cloned();
    let file = random.pick(&paths(root, fs::Metadata::is_file)).cloned();
    let path = new_path(random, root);
    let nanos = i64::try_from(random.next(1_000_000_000)).unwrap();
    // Nobody waits for the other end of a fifo, or writes to a device of this machine.
    let writable = path.symlink_metadata().map_or(true, |st| st.is_file());
    match (random.next(20), some, file) {
        (0..=3, ..) if writable => {
            let content = vec![u8::try_from(random.next(256)).unwrap(); usize::try_from(random.next(9000)).unwrap()];
            let _ = fs::write(&path, content);
        }
        (4 | 5, ..) => drop(fs::create_dir(&path)),
        (6, ..) => drop(symlink(OsStr::from_bytes(&b"target/".repeat(1 + nanos as usize % 40)), &path)),
        (7, ..) => {
            let (kind, device) =
                [(libc::S_IFIFO, 0), (libc::S_IFCHR, libc::makedev(1, 3)), (libc::S_IFBLK, libc::makedev(7, 300))]
                    [usize::try_from(random.next(3)).unwrap()];
            unsafe { libc::mknod(c(&path).as_ptr(), kind | 0o640, device) };
        }
        (8, ..) if writable => {
            // Holes and data in turn.
            if let Ok(file) = fs::File::create(&path) {
                use std::os::unix::fs::FileExt;
                file.set_len(100_000 + random.next(1 << 20)).unwrap();
                for _ in 0..random.next(4) {
                    file.write_at(b"data", random.next(1 << 20)).unwrap();
                }
            }
        }
        (9, _, Some(file)) => drop(fs::hard_link(file, &path)),
        (10, Some(old), _) => drop(fs::rename(old, &path)),
        (11, Some(old), _) if old.symlink_metadata().unwrap().is_dir() => drop(fs::remove_dir_all(old)),
        (11 | 12, Some(old), _) => drop(fs::remove_file(old)),
        (13, Some(old), _) if !old.is_symlink() => {
            let mode = [0o755, 0o700, 0o4755, 0o2775, 0o1777, 0o000][usize::try_from(random.next(6)).unwrap()];
            fs::set_permissions(old, fs::Permissions::from_mode(mode)).unwrap();
        }
        (14, Some(old), _) => {
            let ids = [0, 1, 1000, 65_534, 3_000_000];
            std::os::unix::fs::lchown(old, random.pick(&ids).copied(), random.pick(&ids).copied()).unwrap();
        }
        (15, Some(old), _) if !old.is_symlink() => {
            let key: &[u8] = random.pick(&[&b"user.plain"[..], b"user.a=b", b"user.\xff%"]).unwrap();
            set_xattr(&old, key, random.pick(&VALUES).unwrap());
        }
        (16, Some(old), _) if !old.is_symlink() => drop(set_xattr(&old, b"system.posix_acl_access", &ACL)),
        (17, Some(old), _) if old.is_dir() => drop(set_xattr(&old, b"system.posix_acl_default", &ACL)),
        (18, Some(old), _) => set_mtime(&old, nanos - 400_000_000, nanos),
        (19, _, Some(file)) => {
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
            file.write_all(b"more").unwrap();
        }
        _ => {}
    }
}
