//! How fast layers are unpacked, side by side with what a user would take instead and with what cannot be beaten.
//!
//! Seconds: minimum and median of several rounds, in which the contestants take turns, the ratio of the minima to ours, the least
//! processor time, and each one's peak memory. Every run unpacks into a fresh filesystem. `UNPACK_KINDS`, `UNPACK_FORMATS` and
//! `UNPACK_FILESYSTEMS` choose less. Durability is off for all, except where it says "on disk": then the time includes a `syncfs`.

mod export;
mod layers;
mod peers;

use crate::Settings;
use crate::figures::{Figures, median};
use crate::ground::{Fresh, Scratch, shell};
pub(crate) use export::{ONE as EXPORT, export_one};
use graphdriver::archive::{self, Below, Digests, Limits, Options, Whiteouts};
use graphdriver::cancel::Cancel;
pub(crate) use layers::layer;
use layers::{FORMATS, KINDS};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The first argument that makes this program unpack one archive instead: `ONE ARCHIVE DIRECTORY sync|async|digests`.
pub(crate) const ONE: &str = "unpack-one";
/// The one that makes it make the layers: in a process of its own, because a child's peak memory counts what its parent had at
/// the fork.
pub(crate) const MAKE: &str = "make-layers";

struct Contestant {
    name: &'static str,
    command: Vec<String>,
    /// Reads only: has no use for a file system.
    floor: bool,
    /// Scripts that start and end a daemon which does the work; empty where there is none.
    daemon: [String; 2],
}

impl Contestant {
    fn run(&self) -> (f64, f64, i64) {
        let [start, end] = &self.daemon;
        if start.is_empty() {
            return run_command(&self.command);
        }
        shell(start);
        let (seconds, _, _) = run_command(&self.command);
        shell(end);
        (seconds, f64::NAN, 0) // what the daemon took is not known
    }
}

#[derive(Default)]
struct Measured {
    seconds: Vec<f64>,
    processor: Vec<f64>,
    peak: f64,
}

impl Measured {
    fn add(&mut self, (seconds, processor, peak): (f64, f64, i64)) {
        self.seconds.push(seconds);
        self.processor.push(processor);
        self.peak = self.peak.max(peak as f64 / 1024.0);
    }
}

fn contestants(archive_path: &Path, format: &str, filesystem: &str, target_path: &Path, place: &Path) -> Vec<Contestant> {
    let (archive, target) = (archive_path.display().to_string(), target_path.display().to_string());
    let me = std::env::current_exe().unwrap().display().to_string();
    let make = |name, command: &str, floor| {
        let command = command.split(' ').map(|word| word.replace("@A", &archive).replace("@T", &target).replace("@ME", &me));
        Contestant { name, command: command.collect(), floor, daemon: Default::default() }
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
    all.extend(peers::contestants(archive_path, format, target_path));
    if filesystem == "ext4" && format == "tar" {
        all.push(make("libgraphdriver, on disk", &format!("@ME {ONE} @A @T sync"), false));
        let script = format!("@ME {ONE} @A @T async && sync -f @T")
            .replace("@ME", &me)
            .replace("@A", &archive)
            .replace("@T", &target);
        let command = vec!["sh".into(), "-ec".into(), script];
        all.push(Contestant { name: "same, one syncfs", command, floor: false, daemon: Default::default() });
    }
    all
}

/// Runs a command to its end: seconds, seconds of processor time, and peak memory in KiB.
#[allow(clippy::zombie_processes)] // wait4 waits for it
fn run_command(command: &[String]) -> (f64, f64, i64) {
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

pub(crate) fn unpack_one(archive: &str, target: &str, how: &str) {
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

/// Every layer that may be asked for, made where it is missing.
pub(crate) fn make_layers() {
    each_layer(&choice("UNPACK_KINDS", &KINDS), &choice("UNPACK_FORMATS", &FORMATS), |_, _, _| ());
}

fn made_in_another_process() {
    assert!(Command::new(std::env::current_exe().unwrap()).arg(MAKE).status().unwrap().success());
}

/// Calls `each` for the layers that were asked for.
fn each_layer(kinds: &[String], formats: &[String], mut each: impl FnMut(&str, &str, &Path)) {
    for kind in kinds {
        for format in formats {
            each(kind, format, &layer(kind, format));
        }
    }
}

pub(crate) fn run(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    let place = scratch.program("unpack/place.c");
    made_in_another_process();
    let (kinds, formats) = if settings.quick { (&KINDS[..2], &FORMATS[..2]) } else { (&KINDS[..], &FORMATS[..]) };
    let filesystems = choice("UNPACK_FILESYSTEMS", if settings.quick { &["ext4"] } else { &["tmpfs", "ext4"] });
    each_layer(&choice("UNPACK_KINDS", kinds), &choice("UNPACK_FORMATS", formats), |kind, format, archive| {
        for filesystem in &filesystems {
            table(figures, [kind, format, filesystem], archive, scratch, &place, settings.unpacks);
        }
    });
}

pub(crate) fn run_export(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    made_in_another_process();
    let kinds = choice("UNPACK_KINDS", &KINDS);
    each_layer(&kinds, &choice("UNPACK_FORMATS", &FORMATS), |kind, format, _| {
        for filesystem in choice("UNPACK_FILESYSTEMS", &["tmpfs", "ext4"]) {
            export::table(figures, [kind, format, &filesystem], &layer(kind, "tar"), scratch, settings.unpacks);
        }
    });
}

fn table(
    figures: &mut Figures,
    [kind, format, filesystem]: [&str; 3],
    archive: &Path,
    scratch: &Scratch,
    place: &Path,
    rounds: usize,
) {
    let target = scratch.0.join("target");
    let all = contestants(archive, format, filesystem, &target, place);
    let mut measured: Vec<Measured> = all.iter().map(|_| Measured::default()).collect();
    // Into the page cache, and not into this process: a child's peak memory counts what its parent had at the fork.
    shell(&format!("cat {} > /dev/null", archive.display()));
    for _ in 0..rounds {
        for (contestant, measured) in all.iter().zip(&mut measured) {
            let fresh = (!contestant.floor).then(|| Fresh::new(filesystem, scratch));
            measured.add(contestant.run());
            drop(fresh);
        }
    }
    let names: Vec<&str> = all.iter().map(|contestant| contestant.name).collect();
    report(figures, "Unpacking", [kind, format, filesystem], &names, &measured);
}

/// The lines of one table; the first contestant is ours.
fn report(figures: &mut Figures, table: &'static str, what: [&str; 3], names: &[&str], measured: &[Measured]) {
    let least = |times: &[f64]| times.iter().copied().reduce(f64::min).unwrap();
    let ours = least(&measured[0].seconds);
    for (name, measured) in names.iter().zip(measured) {
        let labels = [("layer", what[0]), ("format", what[1]), ("on", what[2]), ("who", *name)];
        let seconds = least(&measured.seconds);
        figures.add(
            table,
            labels.map(|(label, text)| (label, text.to_owned())),
            [
                ("min s", seconds),
                ("median s", median(&measured.seconds)),
                ("ratio", seconds / ours),
                ("CPU s", least(&measured.processor)),
                ("peak MB", if measured.peak > 0.0 { measured.peak } else { f64::NAN }),
            ],
        );
    }
}
