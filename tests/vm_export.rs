//! Layers of devicemapper exported and unpacked again, also by overlay2: run by `vm/test`.

mod common;
#[path = "devmapper/ground.rs"]
mod ground;
mod tree_support;

use common::Store;
use graphdriver::driver::{Access, Against, CreateOptions, Driver, Form, MountOptions};
use graphdriver::graph::Graph;
use ground::{Ground, Short, id, output};
use std::path::Path;
use tree_support::{Random, Tree, assert_same, look, work};

fn diff(driver: &dyn Driver, name: &str, base: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    driver.diff(&id(name), &base.map(id).into(), Form::default(), &mut bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    bytes
}

fn image(driver: &dyn Driver, name: &str, parent: Option<&str>, archive: &[u8]) {
    let parent = parent.map(id);
    driver.create(&id(name), parent.as_ref(), Access::ReadOnly, &mut CreateOptions::default()).unwrap();
    driver.apply_diff(&id(name), &mut &archive[..], None).unwrap_or_else(|e| panic!("{name}: {e}"));
}

fn see(driver: &dyn Driver, name: &str) -> Tree {
    let tree = look(&driver.mount(&id(name), &MountOptions::default()).unwrap());
    driver.umount(&id(name)).unwrap();
    tree
}

/// Everything that the pool and the store say about themselves: an export changes none of it.
fn state(ground: &Ground) -> (String, Vec<(String, Vec<u8>)>) {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(ground.home().join("metadata"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    (output("dmsetup", &["ls"]), files)
}

fn round_trips(options: &[&str], seeds: std::ops::RangeInclusive<u64>) {
    let store = Store::new(); // first: each of them has a mount namespace of its own
    let ground = Ground::with(options);
    let driver = ground.open();
    let graph = Graph::new();
    graph.init("overlay2", &store.root(), &["overlay2.sync=none"]).unwrap();
    for seed in seeds {
        let random = &mut Random::new(seed);
        let (mut parent, mut before): (Option<String>, Option<String>) = (None, None);
        for number in 0..3 {
            let (container, layer) = (format!("{seed}c{number}"), format!("{seed}i{number}"));
            let what = format!("{options:?}, seed {seed}, layer {number}");
            driver.rw(&container, parent.as_deref()).unwrap();
            let root = driver.up(&container).unwrap();
            work(random, &root, 40);
            let want = look(&root);
            let running = diff(&driver, &container, None);
            driver.down(&container).unwrap();
            let before_it = state(&ground);
            let archive = diff(&driver, &container, None);
            assert_eq!(state(&ground), before_it, "{what}: nothing changed");
            assert!(archive == running, "{what}: the same mounted or not");

            image(&driver, &layer, parent.as_deref(), &archive);
            assert_same(&format!("{what}, unpacked"), &see(&driver, &layer), &want);
            assert!(diff(&driver, &layer, None) == archive, "{what}: exported again");
            graph
                .with(|overlay| {
                    image(overlay, &layer, parent.as_deref(), &archive);
                    assert_same(&format!("{what}, unpacked by overlay2"), &see(overlay, &layer), &want);
                    Ok(())
                })
                .unwrap();
            if let (Some(base), true) = (&before, number > 1) {
                let two = diff(&driver, &container, Some(base));
                image(&driver, &format!("{seed}two"), Some(base), &two);
                assert_same(&format!("{what}, with the layer below"), &see(&driver, &format!("{seed}two")), &want);
            }
            (before, parent) = (parent, Some(layer));
        }
    }
    graph.cleanup().unwrap();
    ground.finish(driver);
}

const POOL: [&str; 2] = ["dm.loopdatasize=2G", "dm.loopmetadatasize=16M"];

#[test]
fn whatever_containers_do_comes_back_from_ext4() {
    round_trips(&[&POOL[..], &["dm.basesize=64M"]].concat(), 1..=3);
}

#[test]
fn whatever_containers_do_comes_back_from_xfs() {
    round_trips(&[&POOL[..], &["dm.basesize=320M", "dm.fs=xfs"]].concat(), 4..=5);
}

/// Files that parent and child share are not read: the child's export costs what the child changed.
#[test]
fn what_is_shared_is_not_read() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("below", None).unwrap();
    let root = driver.up("below").unwrap();
    std::fs::write(root.join("large"), vec![7; 20 << 20]).unwrap();
    driver.down("below").unwrap();
    driver.rw("above", Some("below")).unwrap();
    let root = driver.up("above").unwrap();
    std::fs::write(root.join("small"), "x").unwrap();
    driver.down("above").unwrap();
    let read = || {
        let text = std::fs::read_to_string("/proc/self/io").unwrap();
        text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let start = read();
    let archive = diff(&driver, "above", None);
    assert!(read() - start < 2 << 20, "{} bytes were read", read() - start);
    assert!(archive.len() < 20_000, "{}", archive.len());
    assert_eq!(driver.diff_size(&id("above"), &Against::default()).unwrap(), 1);
    assert_eq!(driver.diff_size(&id("below"), &Against::default()).unwrap(), 20 << 20);
    assert!(driver.diff_size(&id("below"), &Some(id("above")).into()).is_err(), "a child is no ancestor");
    // A layer that was never mounted has nothing to tell.
    driver.rw("empty", Some("above")).unwrap();
    assert!(Path::new(&ground.home()).exists() && diff(&driver, "empty", None).len() == 1024);
    ground.finish(driver);
}
