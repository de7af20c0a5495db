//! How fast layers are unpacked, side by side with what a user would take instead and with what cannot be beaten.
//!
//! `cargo bench --bench unpack` (as root; needs tar, bsdtar, gzip, igzip, zstd, a C compiler, and packages from Debian 12
//! the first time) prints a table of seconds: minimum and median of several rounds, in which the contestants take turns, the
//! ratio of the minima to ours, the least processor time, and each one's peak memory. Every run unpacks into a fresh tmpfs or a fresh ext4 on a loop device, in a mount namespace of its
//! own. `UNPACK_ROUNDS`, `UNPACK_KINDS`, `UNPACK_FORMATS`, `UNPACK_FILESYSTEMS` and `UNPACK_TABLES` choose less. Durability is off for all, except where it says
//! "on disk": then the time includes a `syncfs`.
#![allow(unsafe_code)] // wait4, for the peak memory of a child

mod export;
mod layers;

use graphdriver::archive::{self, Below, Digests, Limits, Options, Whiteouts};
use graphdriver::cancel::Cancel;
use layers::{FORMATS, KINDS, layer};
use nix::mount::{MsFlags, umount};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The first argument that makes this program unpack one archive instead: `ONE ARCHIVE DIRECTORY sync|async|digests`.
const ONE: &str = "unpack-one";
/// The one that makes it make the layers: in a process of its own, because a child's peak memory counts what its parent had at
/// the fork.
const MAKE: &str = "make-layers";

struct Contestant {
    name: &'static str,
    command: Vec<String>,
    /// Reads only: has no use for a file system.
    floor: bool,
}

#[derive(Default)]
struct Measured {
    seconds: Vec<f64>,
    processor: Vec<f64>,
    peak: i64,
}

impl Measured {
    fn add(&mut self, (seconds, processor, peak): (f64, f64, i64)) {
        self.seconds.push(seconds);
        self.processor.push(processor);
        self.peak = self.peak.max(peak);
    }
}

fn contestants(archive: &Path, format: &str, filesystem: &str, target: &Path, place: &Path) -> Vec<Contestant> {
    let (archive, target) = (archive.display().to_string(), target.display().to_string());
    let me = std::env::current_exe().unwrap().display().to_string();
    let make = |name, command: &str, floor| {
        let command = command.split(' ').map(|word| word.replace("@A", &archive).replace("@T", &target).replace("@ME", &me));
        Contestant { name, command: command.collect(), floor }
    };
    let gnu = match format {
        "tar.gz" => "tar --gzip",
        "tar.zst" => "tar --zstd",
        _ => "tar",
    };
    let mut all = vec![
        make("libgraphdriver", &format!("@ME {ONE} @A @T async"), false),
        make("same, with digests", &format!("@ME {ONE} @A @T digests"), false),
        make("GNU tar", &format!("{gnu} --numeric-owner --xattrs --xattrs-include=* -xpf @A -C @T"), false),
        make("bsdtar", "bsdtar --numeric-owner -xpf @A -C @T", false),
    ];
    match format {
        "tar.gz" => all.extend([make("gzip -dc", "gzip -dc @A", true), make("igzip -dc", "igzip -dc @A", true)]),
        "tar.zst" => all.push(make("zstd -dc", "zstd -qdc @A", true)),
        _ => all.push(make("place floor", &format!("{} @A @T", place.display()), false)),
    }
    if filesystem == "ext4" && format == "tar" {
        all.push(make("libgraphdriver, on disk", &format!("@ME {ONE} @A @T sync"), false));
        let script = format!("@ME {ONE} @A @T async && sync -f @T")
            .replace("@ME", &me)
            .replace("@A", &archive)
            .replace("@T", &target);
        let command = vec!["sh".into(), "-ec".into(), script];
        all.push(Contestant { name: "same, one syncfs", command, floor: false });
    }
    all
}

/// Runs a command to its end: seconds, seconds of processor time, and peak memory in KiB.
#[allow(clippy::zombie_processes)] // wait4 waits for it
fn run(command: &[String]) -> (f64, f64, i64) {
    let start = Instant::now();
    let child = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to live memory of the right types; the child is ours and nobody else waits for it.
    let got = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    let seconds = start.elapsed().as_secs_f64();
    assert!(got == pid && status == 0, "{command:?}: {status:#x}");
    // SAFETY: zeroes are a valid rusage, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    let total = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds, total(usage.ru_utime) + total(usage.ru_stime), usage.ru_maxrss)
}

fn shell(script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A fresh filesystem on `target`; gone when dropped.
struct Fresh<'a>(&'a Path);

impl<'a> Fresh<'a> {
    fn new(filesystem: &str, scratch: &Path, target: &'a Path) -> Fresh<'a> {
        if filesystem == "tmpfs" {
            nix::mount::mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("size=3g,nr_inodes=200k"))
                .unwrap();
        } else {
            let image = scratch.join("image").display().to_string();
            let make = format!("rm -f {image}; truncate -s 4G {image}; mkfs.ext4 -q -E lazy_itable_init=1 {image}");
            shell(&format!("{make}; mount -o loop {image} {}", target.display()));
        }
        Fresh(target)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        umount(self.0).unwrap();
    }
}

fn choice(variable: &str, all: &[&str]) -> Vec<String> {
    let chosen = std::env::var(variable).unwrap_or_else(|_| all.join(" "));
    chosen.split(' ').map(str::to_owned).collect()
}

/// A directory that has been removed, for the root of the threads that unpack.
fn nowhere() -> std::fs::File {
    let path =
        std::env::temp_dir().join(format!("graphdriver-nowhere-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir(&path).unwrap();
    let open = std::fs::File::open(&path).unwrap();
    std::fs::remove_dir(&path).unwrap();
    open
}

fn unpack_one(archive: &str, target: &str, how: &str) {
    let options = Options {
        whiteouts: Whiteouts::Overlay,
        shift: None,
        limits: Limits::default(),
        sync: how == "sync",
        below: Below::default(),
        cancel: Cancel::default(),
        digests: Digests { wanted: how == "digests", ..Digests::default() },
    };
    let (mut content, target) = (std::fs::File::open(archive).unwrap(), std::fs::File::open(target).unwrap());
    archive::unpack(&mut content, target.as_fd(), nowhere().as_fd(), &options, &|| Ok(()), None).unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, ONE, archive, target, how] => return unpack_one(archive, target, how),
        [_, export::ONE, tree, format, how] => return export::export_one(tree, format, how),
        [_, MAKE] => return each_layer(|_, _, _| ()),
        _ => {}
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("needs root");
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let rounds: usize = std::env::var("UNPACK_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let scratch = std::env::temp_dir().join(format!("unpack-bench-{}", std::process::id()));
    std::fs::create_dir_all(scratch.join("target")).unwrap();
    let place = scratch.join("place");
    shell(&format!("cc -O2 -o {} {}/benches/unpack/place.c", place.display(), env!("CARGO_MANIFEST_DIR")));
    println!("kernel {}, {} processors, {} rounds, seconds", shell("uname -r"), shell("nproc"), rounds);
    println!(
        "| {:<5} | {:<7} | {:<5} | {:<23} | {:>6} | {:>6} | {:>5} | {:>6} | {:>5} |",
        "layer", "format", "on", "who", "min s", "median", "ratio", "CPU s", "MB"
    );
    assert!(Command::new(std::env::current_exe().unwrap()).arg(MAKE).status().unwrap().success());
    each_layer(|kind, format, archive| {
        for filesystem in choice("UNPACK_FILESYSTEMS", &["tmpfs", "ext4"]) {
            for what in choice("UNPACK_TABLES", &["unpack", "export"]) {
                if what == "unpack" {
                    table(kind, format, &filesystem, archive, &scratch, &place, rounds);
                } else {
                    let plain = layer(kind, "tar");
                    export::table(kind, format, &filesystem, &plain, &scratch, rounds);
                }
            }
        }
    });
    std::fs::remove_dir_all(&scratch).unwrap();
}

/// Calls `each` for every layer that was asked for, after making what is missing.
fn each_layer(each: impl Fn(&str, &str, &Path)) {
    for kind in choice("UNPACK_KINDS", &KINDS) {
        for format in choice("UNPACK_FORMATS", &FORMATS) {
            each(&kind, &format, &layer(&kind, &format));
        }
    }
}

fn table(kind: &str, format: &str, filesystem: &str, archive: &Path, scratch: &Path, place: &Path, rounds: usize) {
    let target = scratch.join("target");
    let all = contestants(archive, format, filesystem, &target, place);
    let mut measured: Vec<Measured> = all.iter().map(|_| Measured::default()).collect();
    // Into the page cache, and not into this process: a child's peak memory counts what its parent had at the fork.
    shell(&format!("cat {} > /dev/null", archive.display()));
    for _ in 0..rounds {
        for (contestant, measured) in all.iter().zip(&mut measured) {
            let fresh = (!contestant.floor).then(|| Fresh::new(filesystem, scratch, &target));
            measured.add(run(&contestant.command));
            drop(fresh);
        }
    }
    let names: Vec<&str> = all.iter().map(|contestant| contestant.name).collect();
    report(kind, format, filesystem, &names, &measured);
}

/// The lines of one table; the first contestant is ours.
fn report(kind: &str, format: &str, on: &str, names: &[&str], measured: &[Measured]) {
    let sorted = |seconds: &[f64]| {
        let mut seconds = seconds.to_vec();
        seconds.sort_by(f64::total_cmp);
        (seconds[0], seconds[seconds.len() / 2])
    };
    let (ours, _) = sorted(&measured[0].seconds);
    for (name, measured) in names.iter().zip(measured) {
        let ((least, middle), (processor, _)) = (sorted(&measured.seconds), sorted(&measured.processor));
        let (ratio, peak) = (least / ours, measured.peak >> 10);
        println!(
            "| {kind:<5} | {format:<7} | {on:<5} | {name:<23} | {least:>6.2} | {middle:>6.2} | {ratio:>5.2} | {processor:>6.2} | {peak:>5} |"
        );
    }
}
