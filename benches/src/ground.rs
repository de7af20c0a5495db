//! What the benches stand on: fresh filesystems in a mount namespace of their own, C programs, and a driver.

use graphdriver::driver::{Access, CreateOptions, MountOptions};
use graphdriver::error::Result;
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use nix::mount::{MntFlags, MsFlags};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory for everything, below the system's directory for temporary files; gone when dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let dir = std::env::temp_dir().join(format!("graphdriver-bench-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("target")).unwrap();
        Scratch(dir)
    }

    /// The C program of that name, compiled.
    pub(crate) fn program(&self, source: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let program = self.0.join(source.file_stem().unwrap());
        shell(&format!("cc -O2 -Wall -o {} {}", program.display(), source.display()));
        program
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Nothing that is mounted from here on is seen by anybody else.
pub(crate) fn own_namespace() {
    let none = None::<&str>;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("needs root");
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

pub(crate) fn shell(script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A fresh filesystem on a directory; gone when dropped.
pub(crate) struct Fresh(pub(crate) PathBuf);

impl Fresh {
    /// In memory or in a sparse file of 16 GiB, with room for two million files.
    pub(crate) fn new(filesystem: &str, scratch: &Scratch) -> Fresh {
        let target = scratch.0.join("target");
        if filesystem == "tmpfs" {
            let options = Some("size=6g,nr_inodes=2m");
            nix::mount::mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), options).unwrap();
            return Fresh(target);
        }
        let image = scratch.0.join("image").display().to_string();
        let mkfs = match filesystem {
            "xfs" => "mkfs.xfs -q -f",
            _ => "mkfs.ext4 -q -F -N 2000000 -E lazy_itable_init=1,lazy_journal_init=1",
        };
        shell(&format!(
            "rm -f {image}; truncate -s 16G {image}; {mkfs} {image}; mount -o loop {image} {}",
            target.display()
        ));
        std::fs::remove_file(&image).unwrap(); // the loop device keeps it
        Fresh(target)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// A driver, with names instead of ids and nothing that fails.
pub(crate) struct Driver(Graph);

impl Driver {
    /// Starts overlay2 in a directory; `sync` is `full` or `none`.
    pub(crate) fn start(root: &Path, sync: &str) -> Driver {
        let driver = Driver(Graph::default());
        driver.init(root, sync);
        driver
    }

    pub(crate) fn init(&self, root: &Path, sync: &str) {
        self.0.init("overlay2", root, &[&format!("overlay2.sync={sync}")]).unwrap();
    }

    pub(crate) fn cleanup(&self) {
        self.0.cleanup().unwrap();
    }

    fn on<T>(&self, id: &str, operation: impl FnOnce(&dyn graphdriver::driver::Driver, &LayerId) -> Result<T>) -> T {
        let id = LayerId::parse(id.as_bytes()).unwrap();
        self.0.with(|driver| operation(driver, &id)).unwrap_or_else(|e| panic!("{id}: {e}"))
    }

    pub(crate) fn create(&self, id: &str, parent: Option<&str>, access: Access) {
        let parent = parent.map(|parent| LayerId::parse(parent.as_bytes()).unwrap());
        let mut options = CreateOptions { mount_label: None, storage_opt: Vec::new() };
        self.on(id, |driver, id| driver.create(id, parent.as_ref(), access, &mut options));
    }

    pub(crate) fn mount(&self, id: &str) -> PathBuf {
        self.on(id, |driver, id| driver.mount(id, &MountOptions { mount_label: None, options: Vec::new() }))
    }

    pub(crate) fn umount(&self, id: &str) {
        self.on(id, |driver, id| driver.umount(id));
    }

    pub(crate) fn exists(&self, id: &str) {
        assert!(self.on(id, |driver, id| driver.exists(id)));
    }

    pub(crate) fn metadata(&self, id: &str) {
        self.on(id, |driver, id| driver.layer_metadata(id).map(drop));
    }

    pub(crate) fn usage(&self, id: &str) {
        self.on(id, |driver, id| driver.layer_usage(id).map(drop));
    }

    pub(crate) fn status(&self) {
        self.0.with(|driver| driver.status().map(drop)).unwrap();
    }

    pub(crate) fn check(&self) {
        self.0.inspect(None, |store| store.check(false, &mut |_| Ok(()))).unwrap();
    }

    pub(crate) fn repair(&self, id: &str, parent: Option<&str>) {
        let parent = parent.map(|parent| LayerId::parse(parent.as_bytes()).unwrap());
        self.on(id, |driver, id| driver.repair_lowers(id, parent.as_ref()));
    }

    pub(crate) fn remove(&self, id: &str) {
        self.on(id, |driver, id| driver.remove(id));
    }

    pub(crate) fn unpack(&self, id: &str, content: &mut dyn Read) {
        self.on(id, |driver, id| driver.apply_diff(id, content, None));
    }
}

/// How many threads this process has.
pub(crate) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Waits until what a start or a removal leaves to a thread in the background is done.
pub(crate) fn settled() {
    while threads() > 1 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
