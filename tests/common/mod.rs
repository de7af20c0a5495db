//! What the privileged tests share: a store of their own that nobody else sees, archives made on the spot, and the public
//! interface in its two forms.
#![allow(dead_code)] // each test binary uses a part of it

pub mod chroot;
pub mod descriptors;
pub mod fixture;
pub mod kernel;
pub mod old_kernel;
pub mod overlay;
pub mod process;
pub mod programs;
pub mod random;
pub mod scenarios;
pub mod subject;

pub use chroot::{own_namespace, this_program};
use graphdriver::driver::{Finding, Severity};
use graphdriver::graph::Graph;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use subject::findings;

/// A fresh filesystem in a mount namespace that belongs to the calling thread alone: what is mounted in it is gone with the
/// thread, and the loop device with the last mount.
///
/// When it goes, the store in it is checked: every test ends with a sound one, unless it says that it leaves damage.
pub struct Store {
    dir: PathBuf,
    is_damaged: AtomicBool,
}

impl Store {
    /// An ext4 filesystem of 512 MiB on a loop file.
    pub fn new() -> Store {
        Store::with("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"], "loop")
    }

    /// A filesystem made by this program and mounted with these options.
    pub fn with(mkfs: &str, args: &[&str], options: &str) -> Store {
        own_namespace();
        let dir = Store::dir();
        std::fs::create_dir_all(dir.join("mnt")).unwrap();
        let image = dir.join("image");
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run(Command::new(mkfs).args(args).arg(&image));
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(dir.join("mnt")));
        // The mount keeps the loop device, the loop device keeps the file: nothing is left if the test is killed.
        std::fs::remove_file(&image).unwrap();
        Store { dir, is_damaged: AtomicBool::new(false) }
    }

    /// A filesystem in memory: the quickest, for what is the same on all of them.
    pub fn in_memory() -> Store {
        own_namespace();
        let dir = Store::dir();
        std::fs::create_dir_all(dir.join("mnt")).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=512M", "tmpfs"]).arg(dir.join("mnt")));
        Store { dir, is_damaged: AtomicBool::new(false) }
    }

    fn dir() -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("graphdriver-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        std::env::temp_dir().join(name)
    }

    /// Where the filesystem is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// The test leaves damage on purpose.
    pub fn leaves_damage(&self) {
        self.is_damaged.store(true, Ordering::SeqCst);
    }

    /// What a check past the driver finds in the overlay homes that somebody would have to see to.
    fn damage(&self) -> Vec<Finding> {
        let roots = [self.root(), self.root().join("storage")];
        let homes = roots.iter().flat_map(|root| ["overlay", "overlay2"].map(|name| (name, root)));
        let homes = homes.filter(|(name, root)| root.join(name).is_dir());
        let found = homes.flat_map(|(name, root)| findings(&Graph::new(), Some((name, root)), false).unwrap());
        found.filter(|finding| finding.severity > Severity::Note).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.is_damaged.load(Ordering::SeqCst) {
            assert_eq!(self.damage(), [], "the test left a store that is not sound");
        }
        let _ = nix::mount::umount2(&self.root(), nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(self.root());
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for what a background worker does.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("never came true: {what}");
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The text of a file.
pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A tar archive under construction.
#[derive(Default)]
pub struct Tar(Option<tar::Builder<Vec<u8>>>);

impl Tar {
    pub fn new() -> Tar {
        Tar(Some(tar::Builder::new(Vec::new())))
    }

    fn add(self, name: &str, kind: tar::EntryType, mode: u32, link: Option<&str>, content: &[u8]) -> Tar {
        self.owned(name, kind, mode, (0, 0), link, content)
    }

    fn owned(
        mut self,
        name: &str,
        kind: tar::EntryType,
        mode: u32,
        owner: (u64, u64),
        link: Option<&str>,
        content: &[u8],
    ) -> Tar {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        if let Some(link) = link {
            header.set_link_name_literal(link).unwrap();
        }
        // Names are set as they are: the crate refuses some that a test needs.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        self.0.as_mut().unwrap().append(&header, content).unwrap();
        self
    }

    pub fn file(self, name: &str, content: &str) -> Tar {
        self.add(name, tar::EntryType::Regular, 0o644, None, content.as_bytes())
    }

    pub fn dir(self, name: &str) -> Tar {
        self.add(name, tar::EntryType::Directory, 0o755, None, b"")
    }

    pub fn dir_of(self, name: &str, mode: u32, owner: (u64, u64)) -> Tar {
        self.owned(name, tar::EntryType::Directory, mode, owner, None, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.add(name, tar::EntryType::Symlink, 0o777, Some(target), b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.add(name, tar::EntryType::Link, 0o644, Some(target), b"")
    }

    pub fn done(mut self) -> Vec<u8> {
        self.0.take().unwrap().into_inner().unwrap()
    }
}

/// The mount points below a directory in the calling thread's namespace.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(dir) && Path::new(point) != dir).map(str::to_owned).collect()
}
