//! Layers as they arrive: from a slow source, and several of one image at once.

use crate::Settings;
use crate::figures::{Figures, median};
use crate::ground::{Driver, Fresh, Scratch, shell};
use crate::unpack::layer;
use graphdriver::driver::Access;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Layers of one image.
const PARTS: usize = 8;

pub(crate) fn run(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    slow_source(figures, scratch, settings);
    side_by_side(figures, scratch, settings);
}

/// A file that yields no more than so many bytes per second, as a network does.
struct Throttled {
    file: std::fs::File,
    per_second: f64,
    begun: Instant,
    read: usize,
    ended: Option<Instant>,
}

impl Read for Throttled {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(64 << 10);
        let count = self.file.read(&mut buffer[..length])?;
        self.read += count;
        let due = self.begun + Duration::from_secs_f64(self.read as f64 / self.per_second);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if count > 0 {
            self.ended = Some(Instant::now());
        }
        Ok(count)
    }
}

/// How long after its last byte a layer is ready.
fn slow_source(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    for (kind, format) in [("os", "tar.gz"), ("small", "tar.gz"), ("os", "tar.zst")] {
        let archive = layer(kind, format);
        for per_second in [100e6, 20e6] {
            for sync in ["none", "full"] {
                let (mut whole, mut late) = (Vec::new(), Vec::new());
                for _ in 0..if settings.quick { 1 } else { 3 } {
                    let fresh = Fresh::new("ext4", scratch);
                    let driver = Driver::start(&fresh.0, sync);
                    driver.create("layer", None, Access::ReadOnly);
                    let file = std::fs::File::open(&archive).unwrap();
                    let begun = Instant::now();
                    let mut source = Throttled { file, per_second, begun, read: 0, ended: None };
                    driver.unpack("layer", &mut source);
                    whole.push(begun.elapsed().as_secs_f64());
                    late.push(source.ended.unwrap().elapsed().as_secs_f64() * 1e3);
                    driver.cleanup();
                }
                figures.add(
                    "A slow source",
                    [
                        ("layer", kind.to_owned()),
                        ("format", format.to_owned()),
                        ("MB/s", (per_second / 1e6).to_string()),
                        ("sync", sync.to_owned()),
                    ],
                    [("whole s", median(&whole)), ("ready after the last byte ms", median(&late))],
                );
            }
        }
    }
}

/// The eight layers of an image, made first, and unpacked one after another or all at once.
fn side_by_side(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    let parts = parts(scratch);
    for filesystem in ["tmpfs", "ext4"] {
        for sync in if filesystem == "tmpfs" { ["none"].as_slice() } else { &["none", "full"] } {
            let (mut turns, mut at_once) = (Vec::new(), Vec::new());
            for _ in 0..settings.unpacks {
                turns.push(unpack_parts(filesystem, sync, scratch, &parts, false));
                at_once.push(unpack_parts(filesystem, sync, scratch, &parts, true));
            }
            let (turns, at_once) = (median(&turns), median(&at_once));
            figures.add(
                "Eight layers",
                [("on", filesystem.to_owned()), ("sync", (*sync).to_owned())],
                [("one after another s", turns), ("at once s", at_once), ("ratio", turns / at_once)],
            );
        }
    }
}

fn unpack_parts(filesystem: &str, sync: &str, scratch: &Scratch, parts: &[PathBuf], at_once: bool) -> f64 {
    let fresh = Fresh::new(filesystem, scratch);
    let driver = Driver::start(&fresh.0, sync);
    for n in 0..parts.len() {
        let parent = n.checked_sub(1).map(|below| below.to_string());
        driver.create(&n.to_string(), parent.as_deref(), Access::ReadOnly);
    }
    let unpack = |(n, part): (usize, &PathBuf)| driver.unpack(&n.to_string(), &mut std::fs::File::open(part).unwrap());
    let start = Instant::now();
    if at_once {
        std::thread::scope(|scope| {
            for numbered in parts.iter().enumerate() {
                scope.spawn(move || unpack(numbered));
            }
        });
    } else {
        parts.iter().enumerate().for_each(unpack);
    }
    let seconds = start.elapsed().as_secs_f64();
    driver.cleanup();
    seconds
}

/// The files of the layer `small`, in parts, compressed.
fn parts(scratch: &Scratch) -> Vec<PathBuf> {
    let small = layer("small", "tar");
    let tree = scratch.0.join("parts");
    let part = |n: usize| tree.with_file_name(format!("part-{n}.tar.gz"));
    shell(&format!("mkdir -p {0} && tar -xf {1} -C {0}", tree.display(), small.display()));
    let dirs = std::fs::read_dir(&tree).unwrap().count().div_ceil(PARTS);
    for n in 0..PARTS {
        let names = format!("ls | sort | tail -n +{} | head -n {dirs}", n * dirs + 1);
        let (tree, part) = (tree.display(), part(n));
        let part: &Path = &part;
        shell(&format!("cd {tree}; {names} | tar -cz -f {} -T -", part.display()));
    }
    (0..PARTS).map(part).collect()
}
