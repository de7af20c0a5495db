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

const EXT4: &[&str] = &["dm.loopdatasize=512M", "dm.loopmetadatasize=4M", "dm.basesize=64M"];
/// XFS is told more after it was mounted.
const XFS: &[&str] =
    &["dm.loopdatasize=1G", "dm.loopmetadatasize=4M", "dm.basesize=320M", "dm.fs=xfs", "dm.xfs_nospace_max_retries=3"];

/// Tries something at so many points at least of a pool with these options, which is sound afterwards.
fn on_a_pool(what: &'static str, options: &[&str], step: usize, least: usize, attempt: impl FnOnce(&Ground, &mut Report)) {
    let pool = devmapper::Ground::with(options);
    let (root, options) = (pool.dir.clone(), pool.options.clone());
    let ground = Ground { driver: "devicemapper", root, options, step, leaks: left_of_a_pool };
    let mut report = Report::new(what);
    attempt(&ground, &mut report);
    assert_eq!(pool.thins(), pool.recorded(), "thin devices that no layer has");
    pool.check();
    report.end(least);
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
    let some = of_devicemapper(&["create_rw", "apply_diff, empty", "rm"]);
    on_a_pool("crash, devicemapper", EXT4, 32, 1, |ground, report| {
        crash::each_step(ground, &some, Extent::wanted(), report);
    });
}

#[test]
fn every_call_fails_of_devicemapper() {
    on_a_pool("fault, devicemapper", EXT4, 32, 1, |ground, report| {
        fault::each_call(ground, &of_devicemapper(&["create_rw"]), Extent::wanted(), report);
    });
}

#[test]
fn every_call_fails_of_devicemapper_with_xfs() {
    let mounts: Vec<&Operation> = OPERATIONS.iter().filter(|operation| operation.name == "mount").collect();
    on_a_pool("fault, devicemapper with XFS", XFS, 1, 20, |ground, report| {
        fault::each_call(ground, &mounts, Extent::wanted(), report);
    });
}

#[test]
fn without_each_capability_of_devicemapper() {
    on_a_pool("capabilities, devicemapper", EXT4, 32, 13, |ground, report| {
        fault::each_capability(ground, &of_devicemapper(&["create_rw"]), report);
    });
}

#[test]
fn operations_of_devicemapper_meet() {
    on_a_pool("pairs, devicemapper", EXT4, 32, 4, |ground, report| pairs::each(ground, Extent::wanted(), report));
}
