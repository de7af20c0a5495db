//! A place for one test of the devicemapper driver: a home, a thin pool on loop files, and the proof at the end that the pool
//! is sound and that nothing is left.
#![allow(dead_code)] // each test binary uses a part of it

use graphdriver::devmapper::{DeviceMapper, Observer};
use graphdriver::driver::{Access, CreateOptions, Driver, Finding, Inspect, MountOptions, Severity};
use graphdriver::error::Result;
use graphdriver::id::LayerId;
use graphdriver::lease::Lease;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub fn id(name: &str) -> LayerId {
    LayerId::parse(name.as_bytes()).unwrap()
}

/// Waits for what the kernel does in its own time. The bound only ends a test that would never end.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the devices whose kernel name starts with `kind` say in a file of sysfs. Starts no program.
fn sysfs(kind: &str, file: &str) -> Vec<String> {
    let blocks = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap());
    let ours = blocks.filter(|entry| entry.file_name().to_str().unwrap().starts_with(kind));
    let read = ours.filter_map(|entry| std::fs::read_to_string(entry.path().join(file)).ok());
    read.map(|text| text.trim_end().to_owned()).collect()
}

/// Names of all device-mapper devices.
pub fn devices() -> Vec<String> {
    sysfs("dm-", "dm/name")
}

/// What a check finds.
pub fn checked(driver: &DeviceMapper, mend: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let told = driver.check(mend, &mut |finding| {
        found.push(finding.clone());
        Ok(())
    });
    told.unwrap();
    found
}

pub struct Ground {
    pub dir: PathBuf,
    pub options: Vec<String>,
    /// Whether the test has ended with [`Ground::check`].
    checked: Cell<bool>,
    /// Whether it leaves a store that is not sound.
    damaged: Cell<bool>,
}

impl Ground {
    /// A loop-backed pool of 1 GiB, base devices of 64 MiB ext4.
    pub fn new() -> Ground {
        Ground::with(&["dm.loopdatasize=1G", "dm.loopmetadatasize=16M", "dm.basesize=64M"])
    }

    pub fn with(options: &[&str]) -> Ground {
        super::common::own_namespace();
        assert_eq!(devices(), [""; 0], "an earlier test left devices");
        Ground::lay(options)
    }

    /// Another home, on the same machine.
    pub fn beside(&self, options: &[&str]) -> Ground {
        Ground::lay(options)
    }

    fn lay(options: &[&str]) -> Ground {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("graphdriver-dm-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        if !options.iter().any(|option| option.starts_with("dm.thinpooldev") || option.starts_with("dm.loopdata=")) {
            options.push(format!("dm.loopdata={}", dir.join("pool").display()));
        }
        Ground { dir, options, checked: Cell::new(false), damaged: Cell::new(false) }
    }

    pub fn home(&self) -> PathBuf {
        self.dir.join("devicemapper")
    }

    pub fn metadata(&self, name: &str) -> PathBuf {
        self.home().join("metadata").join(name)
    }

    pub fn option(&mut self, name: &str, value: &str) {
        let prefix = format!("{name}=");
        self.options.retain(|option| !option.starts_with(&prefix));
        self.options.push(format!("{name}={value}"));
    }

    pub fn try_open(&self) -> Result<DeviceMapper> {
        self.observed(None)
    }

    pub fn observed(&self, observer: Option<Arc<Observer>>) -> Result<DeviceMapper> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let lease = Arc::new(Lease::take(&self.home())?);
        DeviceMapper::open_observed(&self.home(), &options, lease, observer)
    }

    pub fn open(&self) -> DeviceMapper {
        self.try_open().unwrap()
    }

    /// The test leaves damage on purpose.
    pub fn leaves_damage(&self) {
        self.damaged.set(true);
    }

    /// Checks the store, and cleans the driver up; then nothing may be left, and the pool's metadata must be sound.
    pub fn finish(self, driver: DeviceMapper) {
        let mut found = checked(&driver, false);
        found.retain(|finding| finding.severity > Severity::Note);
        assert!(self.damaged.get() || found.is_empty(), "the test left a store that is not sound: {found:#?}");
        driver.cleanup().unwrap();
        drop(driver);
        self.check();
    }

    pub fn check(&self) {
        self.checked.set(true);
        self.check_nothing_is_left();
        if self.dir.join("pool/metadata").exists() {
            self.on_metadata("thin_check");
        }
    }

    /// No mount, device, loop device or node.
    pub fn check_nothing_is_left(&self) {
        self.check_nothing_is_left_but(0);
    }

    /// The same, with so many mounts that the test made itself.
    pub fn check_nothing_is_left_but(&self, mounts: usize) {
        assert_eq!(super::common::mounts_below(&self.dir).len(), mounts, "mounts are left");
        eventually("no device is left", || devices().is_empty());
        let pool = self.dir.join("pool");
        let ours = pool.to_str().unwrap();
        eventually("no loop device is left", || {
            !sysfs("loop", "loop/backing_file").iter().any(|file| file.starts_with(ours))
        });
        // udev removes them in its own time.
        let nodes = || std::fs::read_dir("/dev/mapper").unwrap().map(|entry| entry.unwrap().file_name());
        eventually("no node is left", || nodes().eq(["control"]));
    }

    /// The ids of the thin devices that the pool of a closed driver holds.
    pub fn thins(&self) -> Vec<u64> {
        let dump = self.on_metadata("thin_dump");
        let ids = dump.lines().filter_map(|line| line.trim().strip_prefix("<device dev_id=\""));
        let mut ids: Vec<u64> = ids.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    }

    /// Runs one of the thin-provisioning tools on the metadata of a closed driver's pool. They read with `O_DIRECT`, which a
    /// file on tmpfs does not have and a loop device has.
    fn on_metadata(&self, program: &str) -> String {
        let file = self.dir.join("pool/metadata");
        let device = output("losetup", &["-f", "--show", "-r", file.to_str().unwrap()]);
        let device = device.trim();
        let found = Command::new(program).arg(device).output().unwrap();
        output("losetup", &["-d", device]);
        assert!(found.status.success(), "{program}: {}", String::from_utf8_lossy(&found.stderr));
        String::from_utf8(found.stdout).unwrap()
    }

    /// All metadata files with their content.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.home().join("metadata")).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
    }

    /// The device ids in the metadata files.
    pub fn recorded(&self) -> Vec<u64> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(self.home().join("metadata")).unwrap() {
            let entry = entry.unwrap();
            if ["deviceset-metadata", "transaction-metadata"].contains(&entry.file_name().to_str().unwrap()) {
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            ids.push(value["device_id"].as_u64().unwrap_or_else(|| panic!("{text}")));
        }
        ids.sort_unstable();
        ids
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.checked.get(), "a test must end with a check of what it left");
        } else {
            // Leave the next test a clean machine.
            for mounted in super::common::mounts_below(&self.dir) {
                let _ = nix::mount::umount2(Path::new(&mounted), nix::mount::MntFlags::MNT_DETACH);
            }
            for _ in 0..3 {
                let _ = Command::new("dmsetup").args(["remove_all", "--force", "--deferred"]).output();
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = Command::new("sh").arg("-c").arg("rm -f /dev/mapper/container-* /dev/mapper/test-*").output();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The driver's operations with short arguments.
pub trait Short {
    fn rw(&self, name: &str, parent: Option<&str>) -> Result<()>;
    fn create_read_only(&self, name: &str) -> Result<()>;
    fn sized(&self, name: &str, parent: Option<&str>, size: &str) -> Result<()>;
    fn up(&self, name: &str) -> Result<PathBuf>;
    fn down(&self, name: &str) -> Result<()>;
    fn rm(&self, name: &str) -> Result<()>;
    fn has(&self, name: &str) -> bool;
    fn line(&self, name: &str) -> String;
    /// The name of a layer's block device.
    fn device(&self, name: &str) -> String;
    fn fill(&self, name: &str, archive: &[u8]) -> Result<()>;
}

impl Short for DeviceMapper {
    fn rw(&self, name: &str, parent: Option<&str>) -> Result<()> {
        self.create(&id(name), parent.map(id).as_ref(), Access::ReadWrite, &mut CreateOptions::default())
    }
    fn create_read_only(&self, name: &str) -> Result<()> {
        self.create(&id(name), None, Access::ReadOnly, &mut CreateOptions::default())
    }
    fn sized(&self, name: &str, parent: Option<&str>, size: &str) -> Result<()> {
        let mut options = CreateOptions { mount_label: None, storage_opt: vec![("size".to_owned(), size.to_owned())] };
        self.create(&id(name), parent.map(id).as_ref(), Access::ReadWrite, &mut options)
    }
    fn up(&self, name: &str) -> Result<PathBuf> {
        self.mount(&id(name), &MountOptions::default())
    }
    fn down(&self, name: &str) -> Result<()> {
        self.umount(&id(name))
    }
    fn rm(&self, name: &str) -> Result<()> {
        self.remove(&id(name))
    }
    fn has(&self, name: &str) -> bool {
        self.exists(&id(name)).unwrap()
    }
    fn device(&self, name: &str) -> String {
        self.layer_metadata(&id(name)).unwrap()[2].1.to_str().unwrap().to_owned()
    }
    fn fill(&self, name: &str, mut archive: &[u8]) -> Result<()> {
        self.apply_diff(&id(name), &mut archive, None)
    }
    fn line(&self, name: &str) -> String {
        let text = self.status().unwrap().text;
        let prefix = format!("{name}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no '{name}' in {text}")).to_owned()
    }
}

/// Size of the filesystem at a path, bytes.
pub fn filesystem_size(path: &Path) -> u64 {
    let found = nix::sys::statvfs::statvfs(path).unwrap();
    found.blocks() * found.fragment_size()
}
