//! What the tests of project quota share: filesystems that have it, a store on one, and what the system's own tools say about it.
#![allow(dead_code)] // each test program uses a part of it

use super::common::subject::{Outcome, Rust, Subject};
use super::common::{Store, run};
use graphdriver::driver::Access;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a filesystem with project quota is made and mounted.
pub struct Kind {
    pub name: &'static str,
    pub mkfs: &'static str,
    pub args: &'static [&'static str],
    pub options: &'static str,
    /// What a process hears that runs into a limit.
    pub refusal: i32,
}

pub const EXT4: Kind = Kind {
    name: "extfs",
    mkfs: "mkfs.ext4",
    args: &["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota,lazy_itable_init=1,lazy_journal_init=1"],
    options: "loop,prjquota",
    refusal: libc::EDQUOT,
};
pub const XFS: Kind =
    Kind { name: "xfs", mkfs: "mkfs.xfs", args: &["-q", "-f"], options: "loop,prjquota", refusal: libc::ENOSPC };

/// The block of both filesystems, bytes.
pub const BLOCK: u64 = 4096;
pub const QUICK: &str = "overlay2.sync=none";

#[allow(unused_macros)]
macro_rules! on_both {
    ($($test:ident)+) => {
        mod ext4 { $(#[test] fn $test() { super::$test(&crate::ground::EXT4) })+ }
        mod xfs { $(#[test] fn $test() { super::$test(&crate::ground::XFS) })+ }
    };
}

#[allow(unused_imports)]
pub(crate) use on_both;

/// A name of the driver's for something half made (`stage`) or half deleted (`trash`).
pub fn half(kind: &str, number: u32) -> String {
    format!(".{kind}-{number:026x}")
}

pub struct World {
    pub subject: Rust,
    pub store: Store,
}

impl World {
    pub fn new(kind: &Kind, options: &[&str]) -> World {
        let world = World { subject: Rust::default(), store: Store::with(kind.mkfs, kind.args, kind.options) };
        world.init(options).unwrap();
        world
    }

    pub fn init(&self, options: &[&str]) -> Outcome<()> {
        let options: Vec<&str> = options.iter().copied().chain([QUICK]).collect();
        self.subject.init("overlay", &self.store.root(), &options)
    }

    /// What a crash of the daemon and its restart amount to.
    pub fn restarted(self, options: &[&str]) -> World {
        let World { subject, store } = self;
        drop(subject); // one driver at a time
        let world = World { subject: Rust::default(), store };
        world.init(options).unwrap();
        let half = |name: &String| name.starts_with(".stage-") || name.starts_with(".trash-");
        super::common::eventually("what a crash left is deleted", || !names(&world.home()).iter().any(half));
        world
    }

    pub fn home(&self) -> PathBuf {
        self.store.root().join("overlay")
    }

    pub fn diff(&self, id: &str) -> PathBuf {
        self.home().join(id).join("diff")
    }

    pub fn create(&self, id: &str, storage: &[(&str, &str)]) -> Outcome<Vec<(String, String)>> {
        self.subject.create(id, None, Access::ReadWrite, storage)
    }

    /// The limits of a layer, see [`limits`].
    pub fn limits(&self, id: &str) -> [u64; 4] {
        limits(&self.store.root(), self.project(id))
    }

    pub fn set_limits(&self, id: &str, limits: [u64; 4]) {
        set_limits(&self.store.root(), self.project(id), limits);
    }

    pub fn project(&self, id: &str) -> u32 {
        project(&self.home().join(id))
    }

    /// The quota of a layer as `repquota` sees it.
    pub fn quota(&self, id: &str) -> Row {
        repquota(&self.store.root()).remove(&self.project(id)).unwrap_or_default()
    }
}

/// The project id of a directory, as `lsattr` tells.
pub fn project(dir: &Path) -> u32 {
    let output = Command::new("lsattr").args(["-p", "-d"]).arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap_or_else(|| panic!("lsattr {}", dir.display())).parse().unwrap()
}

/// A line of `repquota`, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub bytes: u64,
    pub byte_limit: u64,
    pub inodes: u64,
    pub inode_limit: u64,
}

/// The fields of every line of `repquota`: after three others bytes in use, their soft and hard limit (KiB), a grace, and the
/// same for inodes.
fn rows(mount: &Path) -> BTreeMap<u32, Vec<u64>> {
    run(Command::new("sync").arg("-f").arg(mount));
    let output = Command::new("repquota").args(["-P", "-n", "-v", "-O", "csv"]).arg(mount).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let fields = |line: &str| line.split(',').map(|field| field.parse().unwrap_or(0)).collect::<Vec<u64>>();
    let rows = text.lines().filter_map(|line| line.strip_prefix('#').map(fields));
    rows.map(|fields| (u32::try_from(fields[0]).unwrap(), fields)).collect()
}

/// Every project that has usage or limits, which are hard and soft ones alike, as the library makes them.
pub fn repquota(mount: &Path) -> BTreeMap<u32, Row> {
    let row = |fields: Vec<u64>| {
        assert_eq!((fields[4], fields[8]), (fields[5], fields[9]), "soft and hard limits differ: {fields:?}");
        Row { bytes: fields[3] << 10, byte_limit: fields[5] << 10, inodes: fields[7], inode_limit: fields[9] }
    };
    let rows = rows(mount).into_iter().map(|(id, fields)| (id, row(fields)));
    rows.filter(|(_, row)| *row != Row::default()).collect()
}

/// The limits of a project as `setquota` takes them: bytes soft and hard (KiB), inodes soft and hard.
pub fn limits(mount: &Path, id: u32) -> [u64; 4] {
    rows(mount).get(&id).map_or([0; 4], |fields| [fields[4], fields[5], fields[8], fields[9]])
}

/// An administrator sets the limits of a project.
pub fn set_limits(mount: &Path, id: u32, limits: [u64; 4]) {
    run(Command::new("setquota").args(["-P", &id.to_string()]).args(limits.map(|n| n.to_string())).arg(mount));
}

/// The projects with limits.
pub fn limited(mount: &Path) -> BTreeSet<u32> {
    let has_limits = |fields: &Vec<u64>| [4, 5, 8, 9].iter().any(|&field| fields[field] > 0);
    rows(mount).into_iter().filter(|(_, fields)| has_limits(fields)).map(|(id, _)| id).collect()
}

/// Whether a process that is bound by limits can write so many blocks into a new file.
pub fn writes(file: &Path, blocks: u64) -> bool {
    let script = r#"dd if=/dev/zero of="$1" bs=4096 count="$2" status=none && sync -f "$1""#;
    let mut dd = Command::new("setpriv");
    dd.args(["--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource", "sh", "-c", script, "sh"]);
    dd.arg(file).arg(blocks.to_string()).output().unwrap().status.success()
}

/// Makes a directory the project of someone else.
pub fn give(dir: &Path, id: u32) {
    fs::create_dir_all(dir).unwrap();
    run(Command::new("chattr").args(["-p", &id.to_string(), "+P"]).arg(dir));
}

pub fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
