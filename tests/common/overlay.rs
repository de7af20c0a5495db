//! An overlay2 store and ways to look at it, past the interface.

use super::process::Process;
use super::subject::{Rust, Subject};
use super::{Store, Tar, names, run, text};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const QUICK: &[&str] = &["overlay2.sync=none"];

/// What the tests count on when they look at the disk.
pub const UNFINISHED: &str = "trusted.graphdriver.unfinished";

/// A driver of this process on a store of its own.
pub struct World {
    pub subject: Rust,
    pub store: Store,
}

impl World {
    /// Initialised.
    pub fn new() -> World {
        let world = World { subject: Rust::default(), store: Store::new() };
        world.start();
        world
    }

    /// A store in which another process, which is no more, has made something before this driver was initialised.
    pub fn after(work: impl FnOnce(&Before)) -> World {
        let world = World { subject: Rust::default(), store: Store::new() };
        world.another_process(work);
        world.start();
        world
    }

    pub fn start(&self) {
        self.subject.init("overlay", &self.store.root(), QUICK).unwrap();
    }

    /// What another process does with the store while this one has no driver.
    pub fn another_process<T>(&self, work: impl FnOnce(&Before) -> T) -> T {
        let process = Process::start("rust");
        process.init("overlay", &self.store.root(), QUICK).unwrap();
        let before = Before { process, home: self.home() };
        let result = work(&before);
        if before.process.is_alive() {
            before.process.end();
        }
        result
    }

    pub fn home(&self) -> PathBuf {
        self.store.root().join("overlay")
    }

    pub fn layer(&self, id: &str) -> PathBuf {
        self.home().join(id)
    }

    pub fn fill(&self, id: &str, parent: Option<&str>, archive: Tar) {
        fill(&self.subject, id, parent, archive);
    }

    /// What a mount of the layer shows at its root.
    pub fn shows(&self, id: &str) -> Vec<String> {
        shows(&self.subject, id)
    }

    pub fn is_unfinished(&self, id: &str) -> bool {
        has_xattr(&self.layer(id), UNFINISHED)
    }
}

/// Another process at work on the store.
pub struct Before {
    pub process: Process,
    pub home: PathBuf,
}

impl Before {
    pub fn fill(&self, id: &str, parent: Option<&str>, archive: Tar) {
        fill(&self.process, id, parent, archive);
    }
}

pub fn fill(subject: &dyn Subject, id: &str, parent: Option<&str>, archive: Tar) {
    subject.create_ro(id, parent).unwrap();
    subject.apply(id, &archive.done()).unwrap();
}

pub fn one(file: &str) -> Tar {
    Tar::new().file(file, "x")
}

pub fn shows(subject: &dyn Subject, id: &str) -> Vec<String> {
    let root = subject.mount(id, &[]).unwrap_or_else(|e| panic!("{id}: {e:?}"));
    let shown = names(&root);
    subject.umount(id).unwrap();
    shown
}

pub fn has_xattr(path: &Path, name: &str) -> bool {
    let output = Command::new("getfattr").args(["-h", "--absolute-names", "-d", "-m", "-"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().any(|line| line.split('=').next() == Some(name))
}

pub fn set_xattr(path: &Path, name: &str, value: &str) {
    run(Command::new("setfattr").args(["-n", name, "-v", value]).arg(path));
}

/// Everything below a directory and itself, as text: names, kinds, modes, owners, times, attributes and content.
pub fn everything(dir: &Path) -> String {
    let script = "find . -printf '%P %y %m %U:%G %T@ %s %l\\n' | LC_ALL=C sort
        getfattr -hR -d -m - . | LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0r md5sum";
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", dir.display());
    String::from_utf8(output.stdout).unwrap()
}

/// Every name in `l/` that leads to this layer.
pub fn links_to(home: &Path, id: &str) -> Vec<String> {
    let target = PathBuf::from(format!("../{id}/diff"));
    let links = home.join("l");
    names(&links).into_iter().filter(|link| std::fs::read_link(links.join(link)).is_ok_and(|t| t == target)).collect()
}

/// The name of a layer in `l/`.
pub fn link(home: &Path, id: &str) -> String {
    text(&home.join(id).join("link"))
}

/// How often something is mounted on the layer.
pub fn mounts_of(home: &Path, id: &str) -> usize {
    let merged = home.join(id).join("merged");
    super::mounts_below(home).iter().filter(|point| Path::new(point) == merged).count()
}

/// The name of the thread that deletes, as the kernel shows it.
const WORKER: &str = "overlay-deleter";

/// What the thread that deletes is about, from its `status`; `None` where a process has none.
pub fn worker_of(pid: u32) -> Option<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    statuses.into_iter().find(|status| status.starts_with(&format!("Name:\t{WORKER}\n")))
}

/// The program that is killed and traced: an example of this package, so that cargo builds it with the tests.
pub fn victim() -> PathBuf {
    let here = super::this_program();
    let program = here.parent().unwrap().parent().unwrap().join("examples/victim");
    assert!(program.exists(), "{} is missing: cargo test builds it unless told to build one test only", program.display());
    program
}

/// How the victim ended, of whose system calls some failed.
pub struct Faulted {
    pub succeeded: bool,
    /// Whether it made that many calls at all.
    pub failed_one: bool,
    pub errors: String,
    /// The calls that were traced, with the paths of their descriptors.
    pub calls: String,
}

/// Runs the victim, traces these system calls of it, and does to them what strace is to inject.
pub fn victim_with_faults(root: &Path, operations: &[&str], syscalls: &str, faults: &[&str]) -> Faulted {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("graphdriver-strace-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let log = std::env::temp_dir().join(name);
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-e", &format!("trace={syscalls}"), "-o"]).arg(&log);
    for fault in faults {
        command.args(["-e", &format!("inject={fault}")]);
    }
    let output = command.arg(victim()).arg(root).args(operations).output().unwrap();
    let calls = std::fs::read_to_string(&log).unwrap();
    let _ = std::fs::remove_file(&log);
    Faulted {
        succeeded: output.status.success(),
        failed_one: calls.contains("(INJECTED)"),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        calls,
    }
}
