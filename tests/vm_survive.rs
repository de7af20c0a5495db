//! devicemapper, and overlay2 with project quota, killed and failing at every step. Run by `vm/test`; see `tests/survive/mod.rs`.

mod common;
#[path = "devmapper/ground.rs"]
mod devmapper;
#[path = "quota/ground.rs"]
mod quota;
mod survive;

use common::Store;
use survive::ground::Ground;
use survive::operations::{LIMITED, OPERATIONS, Operation};
use survive::report::Report;
use survive::{Extent, crash, fault, pairs};

fn with_quota(kind: &quota::Kind) -> (Store, Ground) {
    let store = Store::with(kind.mkfs, kind.args, kind.options);
    let root = store.root();
    // No layer is left: no project may have a limit.
    let leaks =
        |ground: &Ground| quota::limited(&ground.root).into_iter().map(|id| format!("project {id} has a limit")).collect();
    (store, Ground { driver: "overlay2", root, options: Vec::new(), step: 8, leaks })
}

fn limited() -> Vec<&'static Operation> {
    LIMITED.iter().collect()
}

#[test]
fn killed_at_every_step_with_quota() {
    let mut report = Report::new("crash, overlay2 with quota");
    for kind in [&quota::EXT4, &quota::XFS] {
        let (_store, ground) = with_quota(kind);
        crash::each_step(&ground, &limited(), Extent::wanted(), &mut report);
    }
    report.end(8);
}

#[test]
fn every_call_fails_with_quota() {
    let mut report = Report::new("fault, overlay2 with quota");
    for kind in [&quota::EXT4, &quota::XFS] {
        let (_store, ground) = with_quota(kind);
        fault::each_call(&ground, &limited(), Extent::wanted(), &mut report);
    }
    report.end(16);
}

#[test]
fn without_each_capability_with_quota() {
    let mut report = Report::new("capabilities, overlay2 with quota");
    let (_store, ground) = with_quota(&quota::XFS);
    fault::each_capability(&ground, &limited(), &mut report);
    report.end(50);
}

fn pool() -> (devmapper::Ground, Ground) {
    let pool = devmapper::Ground::with(&["dm.loopdatasize=512M", "dm.loopmetadatasize=4M", "dm.basesize=64M"]);
    let (root, options) = (pool.dir.clone(), pool.options.clone());
    let ground = Ground { driver: "devicemapper", root, options, step: 32, leaks: left_of_a_pool };
    (pool, ground)
}

/// With no layer and no driver: no device, no mount point, and no thin device but the base.
fn left_of_a_pool(ground: &Ground) -> Vec<String> {
    let mut left: Vec<String> = devmapper::devices().into_iter().map(|name| format!("device {name}")).collect();
    let nodes = common::names(std::path::Path::new("/dev/mapper")).into_iter().filter(|name| name != "control");
    left.extend(nodes.map(|name| format!("node {name}")));
    let known = ["base", "deviceset-metadata", "transaction-metadata"];
    for (dir, known) in [("metadata", &known[..]), ("mnt", &[])] {
        let names = common::names(&ground.home().join(dir)).into_iter();
        left.extend(names.filter(|name| !known.contains(&name.as_str())).map(|name| format!("{dir}/{name}")));
    }
    left
}

/// In the check some of them: `vm_devmapper_crash` kills at each step as the driver counts them.
fn of_devicemapper(some: &[&str]) -> Vec<&'static Operation> {
    let all = OPERATIONS.iter().chain(LIMITED);
    all.filter(|operation| Extent::wanted() == Extent::All || some.contains(&operation.name)).collect()
}

#[test]
fn killed_at_every_step_of_devicemapper() {
    let (pool, ground) = pool();
    let mut report = Report::new("crash, devicemapper");
    crash::each_step(&ground, &of_devicemapper(&["create_rw", "apply_diff, empty", "rm"]), Extent::wanted(), &mut report);
    assert_eq!(pool.thins(), pool.recorded(), "thin devices that no layer has");
    pool.check();
    report.end(1);
}

#[test]
fn every_call_fails_of_devicemapper() {
    let (pool, ground) = pool();
    let mut report = Report::new("fault, devicemapper");
    fault::each_call(&ground, &of_devicemapper(&["create_rw"]), Extent::wanted(), &mut report);
    assert_eq!(pool.thins(), pool.recorded(), "thin devices that no layer has");
    pool.check();
    report.end(1);
}

/// XFS is told more after it was mounted.
#[test]
fn every_call_fails_of_devicemapper_with_xfs() {
    let pool = devmapper::Ground::with(&[
        "dm.loopdatasize=1G",
        "dm.loopmetadatasize=4M",
        "dm.basesize=320M",
        "dm.fs=xfs",
        "dm.xfs_nospace_max_retries=3",
    ]);
    let (root, options) = (pool.dir.clone(), pool.options.clone());
    let ground = Ground { driver: "devicemapper", root, options, step: 1, leaks: left_of_a_pool };
    let mounts: Vec<&Operation> = OPERATIONS.iter().filter(|operation| operation.name == "mount").collect();
    let mut report = Report::new("fault, devicemapper with XFS");
    fault::each_call(&ground, &mounts, Extent::wanted(), &mut report);
    pool.check();
    report.end(20);
}

#[test]
fn without_each_capability_of_devicemapper() {
    let (pool, ground) = pool();
    let mut report = Report::new("capabilities, devicemapper");
    fault::each_capability(&ground, &of_devicemapper(&["create_rw"]), &mut report);
    assert_eq!(pool.thins(), pool.recorded(), "thin devices that no layer has");
    pool.check();
    report.end(13);
}

#[test]
fn operations_of_devicemapper_meet() {
    let (pool, ground) = pool();
    let mut report = Report::new("pairs, devicemapper");
    pairs::each(&ground, Extent::wanted(), &mut report);
    assert_eq!(pool.thins(), pool.recorded(), "thin devices that no layer has");
    pool.check();
    report.end(4);
}
