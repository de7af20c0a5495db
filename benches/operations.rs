//! How long the operations on layers take, by the depth of the chain, with and without forcing them to disk.
//!
//! `cargo bench --bench operations` (as root) prints a table of medians in microseconds on a fresh ext4 loop filesystem. It
//! compares our own variants in one run; absolute numbers are this machine's.

#[path = "../tests/common/mod.rs"]
mod common;

use common::Store;
use common::subject::{Outcome, Rust, Subject};
use std::time::Instant;

const ROUNDS: usize = 30;
const DEPTHS: [usize; 4] = [1, 60, 128, 490];

fn median(mut times: Vec<u128>) -> f64 {
    times.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let micros = times[times.len() / 2] as f64 / 1000.0;
    micros
}

fn timed<T>(times: &mut Vec<u128>, operation: impl FnOnce() -> Outcome<T>) -> T {
    let start = Instant::now();
    let outcome = operation();
    times.push(start.elapsed().as_nanos());
    outcome.unwrap_or_else(|e| panic!("{e:?}"))
}

fn measure(sync: &str) {
    let store = Store::new();
    let subject = Rust::default();
    subject.init("overlay2", &store.root(), &[sync]).unwrap();
    let mut parent: Option<String> = None;
    for depth in 1..=DEPTHS[DEPTHS.len() - 1] {
        let id = format!("{depth:064}");
        subject.create_ro(&id, parent.as_deref()).unwrap();
        parent = Some(id);
        if !DEPTHS.contains(&depth) {
            continue;
        }
        let parent = parent.as_deref();
        let mut times: [Vec<u128>; 6] = Default::default();
        for _ in 0..ROUNDS {
            let [create, mount, umount, metadata, exists, remove] = &mut times;
            timed(create, || subject.create_rw("c", parent));
            timed(mount, || subject.mount("c", &[]));
            timed(umount, || subject.umount("c"));
            timed(metadata, || subject.metadata("c"));
            timed(exists, || Ok(subject.exists("c")));
            timed(remove, || subject.remove("c"));
        }
        let cells: Vec<String> = times.into_iter().map(|t| format!("{:>9.1}", median(t))).collect();
        println!("{sync:<22} {depth:>5} {}", cells.join(" "));
    }
    subject.cleanup().unwrap();
}

fn main() {
    println!(
        "{:<22} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "µs, median of 30", "depth", "create_rw", "mount", "umount", "metadata", "exists", "remove"
    );
    for sync in ["overlay2.sync=none", "overlay2.sync=full"] {
        measure(sync);
    }
    start_with_many_layers();
    start_with_much_to_delete();
}

/// Start with 10,000 layers: it must not walk their content.
fn start_with_many_layers() {
    const LAYERS: usize = 10_000;
    let store = Store::with("mkfs.ext4", &["-q", "-F", "-N", "100000"], "loop");
    let subject = Rust::default();
    subject.init("overlay2", &store.root(), &["overlay2.sync=none"]).unwrap();
    for i in 0..LAYERS {
        subject.create_ro(&format!("layer{i}"), None).unwrap();
    }
    subject.cleanup().unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        timed(&mut times, || subject.init("overlay2", &store.root(), &["overlay2.sync=none"]));
        subject.cleanup().unwrap();
    }
    println!("init with {LAYERS} layers: {:.1} µs, {:.2} µs per layer", median(times.clone()), median(times) / 10_000.0);
}

/// Start, and clean-up, while half a million files are left to delete: neither must wait for them.
fn start_with_much_to_delete() {
    const FILES: usize = 500_000;
    let store = Store::with("mkfs.ext4", &["-q", "-F", "-N", "600000"], "loop");
    let subject = Rust::default();
    let init = || subject.init("overlay2", &store.root(), &["overlay2.sync=none"]);
    init().unwrap();
    subject.create_ro("layer", None).unwrap();
    subject.cleanup().unwrap();
    let starts = |rounds| {
        let (mut start, mut end) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            timed(&mut start, init);
            timed(&mut end, || subject.cleanup());
        }
        [median(start), median(end)]
    };
    let [start, end] = starts(30);
    println!("init with nothing to delete: {start:.1} µs, cleanup {end:.1} µs");
    let trash = store.root().join("overlay2/.trash-0123456789abcdef0123456789");
    for dir in 0..FILES / 1000 {
        let dir = trash.join(format!("diff/{dir}"));
        std::fs::create_dir_all(&dir).unwrap();
        (0..1000).for_each(|file| drop(std::fs::File::create(dir.join(file.to_string())).unwrap()));
    }
    let [start, end] = starts(30);
    println!("init with {FILES} files to delete: {start:.1} µs, cleanup {end:.1} µs; left: {}", trash.exists());
    init().unwrap();
    let begun = Instant::now();
    while trash.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    println!("after one more start the rest was gone in {:.1} s", begun.elapsed().as_secs_f64());
    subject.cleanup().unwrap();
}
