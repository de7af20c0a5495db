//! How long each operation on layers takes, by the depth of the chain, the number of layers in the store, the filesystem, and with
//! and without forcing it to disk; beside each the floor (`floor.c`), and how many system calls either makes.

use crate::figures::{Figures, median};
use crate::ground::{Driver, Fresh, Scratch, settled};
use crate::{Settings, calls};
use graphdriver::driver::Access;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

pub(crate) const TABLE: &str = "Operations";
pub(crate) const DEPTHS: [usize; 6] = [1, 30, 127, 128, 300, 490];
/// Those depths are measured in a store of so many layers.
const USUAL: usize = 1_000;
/// The numbers of layers in the store with which the first of these depths are measured.
const STORES: [(usize, &[usize]); 3] = [(10, &[1]), (USUAL, &DEPTHS), (10_000, &[1, 128])];
pub(crate) const NAMES: [&str; 11] =
    ["create_ro", "create_rw", "mount", "umount", "exists", "metadata", "usage", "status", "repair", "rm", "init"];
/// Of the whole store, for each number of layers once.
pub(crate) const CHECK: &str = "check of the store";

/// Microseconds of each operation, or its system calls, by name.
pub(crate) type Costs = BTreeMap<String, Vec<f64>>;

/// The layer of the chain at a depth.
pub(crate) fn at_depth(depth: usize) -> String {
    format!("{depth:064}")
}

/// Makes the chain longer.
pub(crate) fn grow_chain(driver: &Driver, from: usize, to: usize) {
    for depth in from + 1..=to {
        let parent = (depth > 1).then(|| at_depth(depth - 1));
        driver.create(&at_depth(depth), parent.as_deref(), Access::ReadOnly);
    }
}

/// Goes once through all operations on a layer upon `parent`; `around` is called with each of them.
pub(crate) fn go_through(
    driver: &Driver,
    root: &Path,
    sync: &str,
    parent: &str,
    around: &mut dyn FnMut(&str, &mut dyn FnMut()),
) {
    around("create_ro", &mut || driver.create("image", Some(parent), Access::ReadOnly));
    driver.remove("image");
    around("create_rw", &mut || driver.create("c", Some(parent), Access::ReadWrite));
    around("mount", &mut || drop(driver.mount("c")));
    around("umount", &mut || driver.umount("c"));
    around("exists", &mut || driver.exists("c"));
    around("metadata", &mut || driver.metadata("c"));
    around("usage", &mut || driver.usage("c"));
    around("status", &mut || driver.status());
    around("repair", &mut || driver.repair("c", Some(parent)));
    around("rm", &mut || driver.remove("c"));
    driver.cleanup();
    around("init", &mut || driver.init(root, sync));
    settled();
}

fn timed(operation: impl FnOnce()) -> f64 {
    let start = Instant::now();
    operation();
    start.elapsed().as_secs_f64() * 1e6
}

fn ours(driver: &Driver, root: &Path, sync: &str, depth: usize, rounds: usize) -> Costs {
    let mut costs = Costs::new();
    let parent = at_depth(depth);
    for _ in 0..rounds {
        go_through(driver, root, sync, &parent, &mut |name, operation| {
            costs.entry(name.to_owned()).or_default().push(timed(operation));
        });
    }
    costs
}

/// What the C program prints, by operation; what it calls create_rw is that of any layer.
pub(crate) fn floors(output: &str) -> Costs {
    let mut costs = Costs::new();
    for line in output.lines() {
        let (name, time) = line.rsplit_once(' ').unwrap();
        costs.entry(name.to_owned()).or_default().push(time.parse().unwrap());
    }
    if let Some(create) = costs.get("create_rw").cloned() {
        costs.insert("create_ro".to_owned(), create);
    }
    costs
}

pub(crate) fn run(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    let floor = scratch.program("floor.c");
    for filesystem in settings.filesystems() {
        let fresh = Fresh::new(filesystem, scratch);
        let mut driver = Driver::start(&fresh.0, "none");
        let (mut deep, mut layers) = (0, 0);
        for (count, depths) in STORES {
            let deepest = depths[depths.len() - 1].max(deep);
            grow_chain(&driver, deep, deepest);
            (deep, layers) = (deepest, layers + deepest - deep);
            for layer in layers..count {
                driver.create(&format!("other{layer}"), None, Access::ReadOnly);
            }
            layers = count;
            for sync in ["none", "full"] {
                driver.cleanup();
                driver = Driver::start(&fresh.0, sync);
                settled();
                for &depth in depths {
                    let costs = ours(&driver, &fresh.0, sync, depth, settings.rounds);
                    let home = fresh.0.join(format!("floor-{count}-{sync}-{depth}"));
                    let least = Command::new(&floor)
                        .arg(&home)
                        .args([depth.to_string(), settings.rounds.to_string(), sync.to_owned()])
                        .output()
                        .unwrap();
                    let least = floors(&String::from_utf8(least.stdout).unwrap());
                    for name in NAMES {
                        add(figures, [name, filesystem, sync], count, depth, &costs[name], least.get(name));
                    }
                    if depth == depths[0] {
                        let costs: Vec<f64> = (0..5).map(|_| timed(|| driver.check())).collect();
                        add(figures, [CHECK, filesystem, sync], count, depth, &costs, None);
                    }
                    if count == USUAL && depth == 1 {
                        let costs = remove_files(&driver, &fresh.0);
                        let name = "rm of 20,000 files";
                        add(figures, [name, filesystem, sync], count, depth, &costs, least.get(name));
                    }
                }
            }
            driver.cleanup();
            driver = Driver::start(&fresh.0, "none");
        }
        driver.cleanup();
    }
    calls::run(figures, scratch, &floor);
}

fn add(
    figures: &mut Figures,
    [name, filesystem, sync]: [&str; 3],
    layers: usize,
    depth: usize,
    costs: &[f64],
    floor: Option<&Vec<f64>>,
) {
    let (ours, floor) = (median(costs), floor.map_or(f64::NAN, |floor| median(floor)));
    figures.add(
        TABLE,
        [
            ("operation", name.to_owned()),
            ("on", filesystem.to_owned()),
            ("sync", sync.to_owned()),
            ("layers", layers.to_string()),
            ("depth", depth.to_string()),
        ],
        [("µs", ours), ("floor µs", floor), ("ratio", ours / floor)],
    );
}

/// Removals of a layer with 20,000 empty files in 20 directories.
fn remove_files(driver: &Driver, root: &Path) -> Vec<f64> {
    let remove = |_| {
        driver.create("c", None, Access::ReadWrite);
        for dir in 0..20 {
            let dir = root.join(format!("overlay2/c/diff/{dir}"));
            std::fs::create_dir(&dir).unwrap();
            (0..1000).for_each(|file| drop(std::fs::File::create(dir.join(file.to_string())).unwrap()));
        }
        timed(|| driver.remove("c"))
    };
    (0..3).map(remove).collect()
}
