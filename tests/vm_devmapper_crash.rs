//! The devicemapper driver killed, and failing, at each step of what it does; and what the steps cost. Run by `vm/test`.

mod common;
#[path = "devmapper/crash.rs"]
mod crash;
#[path = "devmapper/ground.rs"]
mod ground;

use crash::{End, From};
use graphdriver::devmapper::{DeviceMapper, Moment};
use graphdriver::driver::{Driver, Inspect};
use graphdriver::error::{Error, Kind, Result};
use ground::{Ground, Short, filesystem_size, id};
use std::sync::{Arc, Mutex};

/// Kills a process at every moment of an operation. After each death the next start must find the layer whole or not at all,
/// and pool and files must agree.
fn kill_at_every_moment(
    ground: &Ground,
    from: From,
    operation: impl Fn(&DeviceMapper) -> Result<()>,
    after: impl Fn(&DeviceMapper),
) {
    for at in 0.. {
        let end = crash::child(ground, at, from, &operation);
        let driver = ground.open();
        after(&driver);
        driver.cleanup().unwrap();
        drop(driver);
        // With a layer mounted, the pool stays, and its metadata cannot be read.
        if common::mounts_below(&ground.home()).is_empty() {
            ground.check_nothing_is_left();
            assert_eq!(ground.thins(), ground.recorded(), "after moment {at}");
        }
        if end == End::Succeeded {
            println!("{at} moments");
            assert!(at >= 6, "only {at} moments");
            break;
        }
    }
    if common::mounts_below(&ground.home()).is_empty() {
        ground.check();
    }
}

#[test]
fn killed_at_every_moment_of_the_first_start() {
    for at in 0.. {
        let ground = Ground::with(&["dm.loopdatasize=256M", "dm.loopmetadatasize=4M", "dm.basesize=16M"]);
        let end = crash::child(&ground, at, From::Open, |_| Ok(()));
        let driver = ground.open();
        driver.rw("l1", None).unwrap();
        driver.up("l1").unwrap();
        driver.down("l1").unwrap();
        driver.cleanup().unwrap();
        drop(driver);
        ground.check();
        assert_eq!(ground.thins(), ground.recorded(), "after moment {at}");
        if end == End::Succeeded {
            println!("{at} moments");
            assert!(at >= 20, "only {at} moments");
            return;
        }
    }
}

/// A start that has everything to do: a transaction to undo, a layer to take off, a base to grow.
#[test]
fn killed_at_every_moment_of_a_start_that_tidies_and_grows() {
    for at in 0.. {
        let mut ground = Ground::with(&["dm.loopdatasize=256M", "dm.loopmetadatasize=4M", "dm.basesize=16M"]);
        ground.option("dm.mountopt", "noatime,data=ordered");
        let driver = ground.open();
        driver.rw("kept", None).unwrap();
        std::fs::write(driver.up("kept").unwrap().join("file"), "content").unwrap();
        driver.down("kept").unwrap();
        driver.cleanup().unwrap();
        drop(driver);
        let archive = common::Tar::new().file("a", "1").file("b", &"2".repeat(9 << 20)).done();
        crash::child(&ground, usize::MAX, From::Operation, |driver| {
            driver.create_read_only("half")?;
            driver.apply_diff(&id("half"), &mut crash::Deadly(&archive[..archive.len() - 1024]), None)
        });
        crash::child(&ground, 3, From::Operation, |driver| driver.rw("new", None));
        ground.option("dm.basesize", "24M");
        ground.option("dm.loopdatasize", "320M");
        let end = crash::child(&ground, at, From::Open, |_| Ok(()));
        let driver = ground.open();
        assert!(driver.has("kept") && !driver.has("half") && !driver.has("new"), "after moment {at}");
        driver.rw("child", Some("kept")).unwrap();
        assert!(driver.up("child").unwrap().join("file").exists());
        driver.down("child").unwrap();
        driver.rw("fresh", None).unwrap();
        assert!(filesystem_size(&driver.up("fresh").unwrap()) > 17 << 20, "after moment {at}");
        driver.down("fresh").unwrap();
        ground::eventually("what is left is deleted", || !ground.metadata("half").exists());
        driver.cleanup().unwrap();
        drop(driver);
        ground.check();
        assert_eq!(ground.thins(), ground.recorded(), "after moment {at}");
        if end == End::Succeeded {
            println!("{at} moments");
            assert!(at >= 20, "only {at} moments");
            return;
        }
    }
}

#[test]
fn killed_at_every_moment_of_a_creation() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("parent", None).unwrap();
    let root = driver.up("parent").unwrap();
    drop(driver);
    let create = |driver: &DeviceMapper| driver.rw("l1", Some("parent"));
    kill_at_every_moment(&ground, From::Operation, create, |driver| {
        // It would hang if the parent had been left frozen.
        std::fs::write(root.join("alive"), "x").unwrap();
        if driver.has("l1") {
            driver.up("l1").unwrap();
            driver.rm("l1").unwrap();
        }
        assert!(!ground.home().join("mnt/l1").exists() && !ground.metadata("l1").exists());
    });
    let driver = ground.open();
    driver.down("parent").unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    ground.check();
    assert_eq!(ground.thins(), ground.recorded());
}

#[test]
fn killed_at_every_moment_of_a_creation_with_growth() {
    let ground = Ground::new();
    drop(ground.open());
    let create = |driver: &DeviceMapper| driver.sized("l1", None, "80M");
    kill_at_every_moment(&ground, From::Operation, create, |driver| {
        match driver.up("l1") {
            Ok(root) => assert!(filesystem_size(&root) > (66 << 20), "a layer whose growth was cut short can be mounted"),
            Err(e) => {
                assert_eq!(e.kind(), Kind::NotFound, "{e}");
                assert_eq!(common::mounts_below(&ground.home()), [""; 0]);
                driver.sized("l1", None, "80M").unwrap();
            }
        }
        driver.rm("l1").unwrap();
    });
}

/// A leftover gives its place to a layer that is built first. Whatever the moment, one of the two is there, and whole.
#[test]
fn killed_at_every_moment_of_a_replacement() {
    let ground = Ground::new();
    let old = common::Tar::new().file("old", "1").done();
    let make_old = |driver: &DeviceMapper| {
        driver.create_read_only("l1")?;
        driver.fill("l1", &old)
    };
    // In a process that tells this one nothing.
    assert_eq!(crash::child(&ground, usize::MAX, From::Operation, make_old), End::Succeeded);
    for at in 0.. {
        let end = crash::child(&ground, at, From::Operation, |driver| driver.sized("l1", None, "80M"));
        // Nor does this one say anything.
        let seen = crash::child(&ground, usize::MAX, From::Operation, |driver| {
            let root = driver.up("l1")?;
            assert_eq!(root.join("old").exists(), filesystem_size(&root) < 66 << 20, "after moment {at}");
            driver.down("l1")?;
            driver.cleanup()
        });
        assert_eq!(seen, End::Succeeded);
        ground.check_nothing_is_left();
        assert_eq!(ground.thins(), ground.recorded(), "after moment {at}");
        if end == End::Succeeded {
            assert!(at >= 20, "only {at} moments");
            break;
        }
        if !std::fs::read_to_string(ground.metadata("l1")).unwrap().contains("read_only") {
            let again = |driver: &DeviceMapper| driver.rm("l1").and_then(|()| make_old(driver));
            assert_eq!(crash::child(&ground, usize::MAX, From::Operation, again), End::Succeeded);
        }
    }
    ground.check();
}

#[test]
fn killed_at_every_moment_of_a_removal() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    let remove = |driver: &DeviceMapper| {
        driver.up("l1")?;
        driver.rm("l1")
    };
    kill_at_every_moment(&ground, From::Operation, remove, |driver| {
        if driver.has("l1") {
            driver.up("l1").unwrap();
            driver.down("l1").unwrap();
        } else {
            driver.rm("l1").unwrap();
            driver.rw("l1", None).unwrap();
        }
    });
}

#[test]
fn killed_at_every_moment_of_filling_a_layer() {
    let ground = Ground::new();
    drop(ground.open());
    let archive = common::Tar::new().file("a", "1").file("b", "2").done();
    let apply = |driver: &DeviceMapper| {
        driver.create_read_only("l1")?;
        driver.apply_diff(&id("l1"), &mut &archive[..], None)
    };
    kill_at_every_moment(&ground, From::Operation, apply, |driver| {
        assert_eq!(common::mounts_below(&ground.home()), [""; 0], "a start takes off what was being filled");
        match driver.up("l1") {
            Ok(root) => {
                assert_eq!(root.join("a").exists(), root.join("b").exists(), "half a layer");
                driver.down("l1").unwrap();
                assert_eq!(driver.create_read_only("l1").unwrap_err().kind(), Kind::Exists, "the caller knows of it");
                driver.rm("l1").unwrap();
            }
            Err(e) => assert_eq!(e.kind(), Kind::NotFound, "{e}"),
        }
        // What a daemon does after a crash: it pulls again.
        driver.create_read_only("l1").unwrap();
        driver.apply_diff(&id("l1"), &mut &archive[..], None).unwrap();
        driver.rm("l1").unwrap();
    });
}

/// An observer that lets one step fail: the `at`-th after it was armed.
struct Failing {
    armed: Mutex<Option<usize>>,
}

impl Failing {
    fn observer(self: &Arc<Failing>) -> Arc<graphdriver::devmapper::Observer> {
        let this = Arc::clone(self);
        Arc::new(move |step| {
            let mut armed = this.armed.lock().unwrap();
            let left = armed.filter(|_| step.moment == Moment::Before);
            match left {
                Some(0) => {
                    *armed = None;
                    Err(Error::sys(format!("injected into {}", step.what), libc::EIO))
                }
                Some(left) => {
                    *armed = Some(left - 1);
                    Ok(())
                }
                None => Ok(()),
            }
        })
    }
}

#[test]
fn each_step_of_a_creation_with_growth_may_fail() {
    let ground = Ground::new();
    let failing = Arc::new(Failing { armed: Mutex::new(None) });
    for at in 0.. {
        let driver = ground.observed(Some(failing.observer())).unwrap();
        *failing.armed.lock().unwrap() = Some(at);
        let made = driver.sized("l1", None, "80M");
        let was_reached = failing.armed.lock().unwrap().take().is_none();
        assert_eq!(made.is_ok(), driver.has("l1"), "step {at}: {made:?}");
        if made.is_ok() {
            assert!(filesystem_size(&driver.up("l1").unwrap()) > (66 << 20));
            driver.rm("l1").unwrap();
        }
        assert!(!ground.home().join("mnt/l1").exists() && !ground.metadata("l1").exists(), "step {at}: {made:?}");
        driver.cleanup().unwrap();
        drop(driver);
        ground.check_nothing_is_left();
        assert_eq!(ground.thins(), ground.recorded(), "step {at}");
        if !was_reached {
            assert!(at >= 12, "only {at} steps");
            break;
        }
    }
    ground.check();
}

/// What operations cost, in steps. `docs/performance.md` has the table.
#[test]
fn operations_cost_what_the_documentation_says() {
    let mut ground = Ground::new();
    ground.option("dm.blkdiscard", "false"); // as with an LVM pool
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let copy = Arc::clone(&seen);
    let driver = ground
        .observed(Some(Arc::new(move |step| {
            if step.moment == Moment::Before {
                copy.lock().unwrap().push(step.what.split(' ').take(2).collect::<Vec<_>>().join(" "));
            }
            Ok(())
        })))
        .unwrap();
    let cost = |operation: &dyn Fn()| -> (usize, usize, usize) {
        seen.lock().unwrap().clear();
        operation();
        let steps = seen.lock().unwrap().clone();
        let count = |what: &str| steps.iter().filter(|step| *step == what).count();
        // A file that is replaced is forced to disk and its directory as well; the others are one or the other.
        let syncs = [("save", 2), ("forget", 1), ("begin", 1), ("end", 1), ("publish", 1), ("sync", 1)];
        let files: usize = syncs.iter().map(|(what, _)| count(what)).sum();
        let forks = count("fork");
        (steps.len() - files - forks, forks, syncs.iter().map(|(what, each)| each * count(what)).sum())
    };
    let archive = common::Tar::new().file("a", "1").done();
    let rows = [
        ("create", cost(&|| driver.rw("l1", None).unwrap())),
        ("mount", cost(&|| drop(driver.up("l1").unwrap()))),
        ("mount again", cost(&|| drop(driver.up("l1").unwrap()))),
        ("create from a mounted parent", cost(&|| driver.rw("l2", Some("l1")).unwrap())),
        ("exists, metadata", cost(&|| drop((driver.has("l1"), driver.layer_metadata(&id("l1")).unwrap())))),
        ("umount", cost(&|| driver.down("l1").unwrap())),
        ("umount again", cost(&|| driver.down("l1").unwrap())),
        ("rm", cost(&|| driver.rm("l2").unwrap())),
        ("create with growth", cost(&|| driver.sized("l3", None, "80M").unwrap())),
        ("apply_diff", cost(&|| driver.apply_diff(&id("l3"), &mut &archive[..], None).unwrap())),
        ("status", cost(&|| drop(driver.status().unwrap()))),
    ];
    for row in &rows {
        println!("{row:?}");
    }
    println!("{}", latencies(&driver));
    let documented = include_str!("../docs/performance.md");
    for (name, (requests, forks, syncs)) in &rows {
        let line = format!("| {name} | {requests} | {forks} | {syncs} |");
        assert!(documented.contains(&line), "docs/performance.md lacks: {line}");
    }
    ground.finish(driver);
}

/// Mean times of the operations, for the documentation; nothing depends on them.
fn latencies(driver: &DeviceMapper) -> String {
    const ROUNDS: u32 = 50;
    let names: Vec<String> = (0..ROUNDS).map(|n| format!("t{n}")).collect();
    let mean = |operation: &dyn Fn(&str)| {
        let start = std::time::Instant::now();
        names.iter().for_each(|name| operation(name));
        start.elapsed() / ROUNDS
    };
    let create = mean(&|name| driver.rw(name, None).unwrap());
    let mount = mean(&|name| drop(driver.up(name).unwrap()));
    let umount = mean(&|name| driver.down(name).unwrap());
    let remove = mean(&|name| driver.rm(name).unwrap());
    format!("create {create:.1?}, mount {mount:.1?}, umount {umount:.1?}, rm {remove:.1?}")
}
