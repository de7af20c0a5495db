//! A disk that remembers every request, and what was on it at each moment.

use super::log::{What, parse};
use crate::common::run;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a filesystem is made and looked through. It is mounted as a distribution does: without options.
pub struct Kind {
    pub name: &'static str,
    pub bytes: u64,
    pub mkfs: &'static [&'static str],
    pub fsck: &'static [&'static str],
}

/// What is written to the log at most; a sparse file.
const LOG_BYTES: u64 = 1 << 30;

pub const EXT4: Kind = Kind {
    name: "ext4",
    bytes: 96 << 20,
    // Else the kernel writes the rest in the background.
    mkfs: &["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    fsck: &["e2fsck", "-fn"],
};
pub const XFS: Kind = Kind { name: "xfs", bytes: 320 << 20, mkfs: &["mkfs.xfs", "-q", "-f"], fsck: &["xfs_repair", "-n"] };

/// When the power is cut.
pub struct Moment<'a> {
    /// The last mark before.
    pub mark: Option<&'a str>,
    /// That mark is being set: the next call has not begun.
    pub is_mark: bool,
}

/// The files of one filesystem, in a directory that is removed at the end.
pub struct Disk {
    kind: &'static Kind,
    dir: PathBuf,
}

impl Disk {
    /// A disk with an empty filesystem.
    pub fn new(kind: &'static Kind) -> Disk {
        let dir = std::env::temp_dir().join(format!("power-cut-{}", kind.name));
        fs::create_dir(&dir).unwrap();
        let disk = Disk { kind, dir };
        File::create(disk.image()).unwrap().set_len(kind.bytes).unwrap();
        run(Command::new(kind.mkfs[0]).args(&kind.mkfs[1..]).arg(disk.image()));
        // Zeros that are none need not be copied.
        run(Command::new("fallocate").arg("--dig-holes").arg(disk.image()));
        disk
    }

    /// The state of the disk from which the log starts, and to which it is replayed.
    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Mounts the filesystem, has `work` done there, and returns the log of it. `work` is told where the filesystem is, and the
    /// name of the device that takes marks.
    pub fn recorded(&self, work: impl FnOnce(&Path, &str)) -> Vec<u8> {
        let (used, log, mount) = (self.dir.join("used"), self.dir.join("log"), self.dir.join("mnt"));
        copy(&self.image(), &used);
        File::create(&log).unwrap().set_len(LOG_BYTES).unwrap();
        let device = format!("power-cut-{}", self.kind.name);
        {
            let (used, log) = (Loop::new(&used), Loop::new(&log));
            let table = format!("0 {} log-writes {} {}", self.kind.bytes / 512, used.0, log.0);
            run(Command::new("dmsetup").args(["create", &device, "--table", &table]));
            fs::create_dir(&mount).unwrap();
            run(Command::new("mount").arg(format!("/dev/mapper/{device}")).arg(&mount));
            work(&mount, &device);
            run(Command::new("umount").arg("-R").arg(&mount));
            run(Command::new("dmsetup").args(["remove", &device]));
        }
        fs::remove_file(&used).unwrap();
        let recorded = fs::read(&log).unwrap();
        fs::remove_file(&log).unwrap();
        recorded
    }

    /// Replays the log. At each moment when the disk has promised something, and at each mark, `look` is shown what a power cut
    /// would have left, mounted, and `judge` what that has seen. Returns how many moments there were.
    pub fn replayed<T>(&self, log: &[u8], mut look: impl FnMut(&Path) -> T, mut judge: impl FnMut(&Moment, &T)) -> usize {
        let image = File::options().write(true).open(self.image()).unwrap();
        let (mut mark, mut seen, mut points) = (None, None, 0);
        for entry in parse(log).unwrap() {
            if entry.replay(&image) {
                seen = None;
            }
            let is_mark = matches!(entry.what, What::Mark(_));
            if let What::Mark(text) = entry.what {
                mark = Some(text);
            } else if !entry.is_durable || seen.is_some() {
                continue; // not promised yet, or the same moment as before
            }
            judge(&Moment { mark, is_mark }, seen.get_or_insert_with(|| self.cut(points, &mut look)));
            points += 1;
        }
        points
    }

    /// Has `look` look at the filesystem as it is in the image, without changing that; then looks whether it is sound.
    fn cut<T>(&self, number: usize, look: impl FnOnce(&Path) -> T) -> T {
        let (copied, mount) = (self.dir.join("copy"), self.dir.join(format!("point-{number}")));
        copy(&self.image(), &copied);
        fs::create_dir(&mount).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&copied).arg(&mount));
        let seen = look(&mount);
        run(Command::new("umount").arg("-R").arg(&mount));
        run(Command::new(self.kind.fsck[0]).args(&self.kind.fsck[1..]).arg(&copied));
        fs::remove_dir(&mount).unwrap();
        fs::remove_file(&copied).unwrap();
        seen
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Copies a file without its holes.
fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to));
}

/// A loop device on a file, let go of at the end.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Loop {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(Command::new("losetup").args(["--detach", &self.0]));
    }
}
