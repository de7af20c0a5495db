//! How throughput grows with the number of threads, alone and while a layer is being unpacked.

use crate::Settings;
use crate::figures::Figures;
use crate::ground::{Driver, Fresh, Scratch, settled};
use graphdriver::driver::Access;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub(crate) const TABLE: &str = "Threads";
pub(crate) const THREADS: [usize; 5] = [1, 2, 4, 8, 16];
/// Layers below the ones that are made.
const DEPTH: usize = 30;

/// Something that each thread does with its own layers.
struct Work {
    name: &'static str,
    before: fn(&Driver, &str),
    measured: fn(&Driver, &str),
    after: fn(&Driver, &str),
}

fn nothing(_: &Driver, _: &str) {}

fn upon_one(driver: &Driver, id: &str) {
    driver.create(id, Some(&parent(0)), Access::ReadWrite);
}

/// Each thread's layers are upon the parent that has the thread's number.
fn upon_many(driver: &Driver, id: &str) {
    let thread = id.split('-').next().unwrap().parse().unwrap();
    driver.create(id, Some(&parent(thread)), Access::ReadWrite);
}

fn remove(driver: &Driver, id: &str) {
    driver.remove(id);
}

fn mount_and_umount(driver: &Driver, id: &str) {
    driver.mount(id);
    driver.umount(id);
}

const WORKS: [Work; 4] = [
    Work { name: "create upon one parent", before: nothing, measured: upon_one, after: remove },
    Work { name: "create upon a parent each", before: nothing, measured: upon_many, after: remove },
    Work { name: "mount and umount", before: upon_many, measured: mount_and_umount, after: remove },
    Work { name: "rm", before: upon_many, measured: remove, after: nothing },
];

fn parent(thread: usize) -> String {
    format!("parent-{thread}-{DEPTH}")
}

pub(crate) fn run(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    let archive = archive(scratch);
    for (filesystem, sync) in [("tmpfs", "none"), ("ext4", "none"), ("ext4", "full")] {
        let fresh = Fresh::new(filesystem, scratch);
        let driver = Driver::start(&fresh.0, "none");
        for thread in 0..THREADS[THREADS.len() - 1] {
            let mut below: Option<String> = None;
            for depth in 1..=DEPTH {
                let id = format!("parent-{thread}-{depth}");
                driver.create(&id, below.as_deref(), Access::ReadOnly);
                below = Some(id);
            }
        }
        driver.cleanup();
        let driver = Driver::start(&fresh.0, sync);
        settled();
        for beside in ["nothing", "an unpack"] {
            for work in &WORKS {
                let mut one = f64::NAN;
                for threads in THREADS {
                    let rate = beside_it(&driver, &archive, beside == "an unpack", || {
                        rate(&driver, work, threads, settings.operations_per_thread)
                    });
                    if threads == 1 {
                        one = rate;
                    }
                    figures.add(
                        TABLE,
                        [
                            ("work", work.name.to_owned()),
                            ("on", filesystem.to_owned()),
                            ("sync", sync.to_owned()),
                            ("beside", beside.to_owned()),
                            ("threads", threads.to_string()),
                        ],
                        [("per second", rate), ("of one thread", rate / one)],
                    );
                }
            }
        }
        driver.cleanup();
    }
}

/// Operations per second of all threads together, each of which has so many to do.
fn rate(driver: &Driver, work: &Work, threads: usize, each: usize) -> f64 {
    let all = |step: fn(&Driver, &str)| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || (0..each).for_each(|n| step(driver, &format!("{thread}-{n}"))));
            }
        });
        start.elapsed().as_secs_f64()
    };
    all(work.before);
    let seconds = all(work.measured);
    all(work.after);
    (threads * each) as f64 / seconds
}

/// Runs something, if wanted while one thread makes a layer, unpacks into it and removes it, over and over.
fn beside_it(driver: &Driver, archive: &[u8], unpacks: bool, measured: impl FnOnce() -> f64) -> f64 {
    let done = AtomicBool::new(!unpacks);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                driver.create("unpacked", None, Access::ReadOnly);
                driver.unpack("unpacked", &mut &*archive);
                driver.remove("unpacked");
            }
        });
        let rate = measured();
        done.store(true, Ordering::Relaxed);
        rate
    })
}

/// A layer of 2,000 files of 4 KiB.
fn archive(scratch: &Scratch) -> Vec<u8> {
    let tree = scratch.0.join("tree");
    for file in 0..2000 {
        let dir = tree.join((file / 100).to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(file.to_string()), [b'x'; 4096]).unwrap();
    }
    packed(&tree)
}

fn packed(tree: &Path) -> Vec<u8> {
    let out = std::process::Command::new("tar").args(["-c", "-C"]).arg(tree).arg(".").output().unwrap();
    assert!(out.status.success());
    out.stdout
}
