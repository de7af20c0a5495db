//! A check of a devicemapper store, and of quota projects: what is sound has no findings, each damage has its own. Run by `vm/test`.

mod common;
#[path = "devmapper/ground.rs"]
mod ground;
#[allow(unused_macros, unused_imports)] // its tests, run over both filesystems by a macro, are elsewhere
#[path = "quota/ground.rs"]
mod quota;

use common::subject::{Subject, findings, listed};
use common::{Tar, run};
use graphdriver::devmapper::DeviceMapper;
use graphdriver::driver::Severity::{Busy, Hand, Loss, Note};
use graphdriver::driver::{Access, Condition, Driver, Finding, Inspect, Listed, Severity};
use graphdriver::error::Kind;
use graphdriver::graph::Graph;
use ground::{Ground, Short, checked, output};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

type Brief = Vec<(String, Severity, bool)>;

fn brief(found: &[Finding]) -> Brief {
    let layer = |finding: &Finding| finding.layer.as_ref().map_or(String::new(), |id| id.to_string());
    found.iter().map(|finding| (layer(finding), finding.severity, finding.mended)).collect()
}

fn one(layer: &str, severity: Severity, mended: bool) -> Brief {
    vec![(layer.to_owned(), severity, mended)]
}

/// An image layer `i` and a container `c` made from it.
fn laid() -> (Ground, DeviceMapper) {
    let ground = Ground::new();
    let driver = ground.open();
    driver.create_read_only("i").unwrap();
    driver.fill("i", &Tar::new().file("f", "x").done()).unwrap();
    driver.rw("c", Some("i")).unwrap();
    (ground, driver)
}

fn list(driver: &DeviceMapper) -> Vec<Listed> {
    let mut layers = Vec::new();
    let told = driver.layers(&mut |layer| {
        layers.push(layer.clone());
        Ok(())
    });
    told.unwrap();
    layers
}

#[test]
fn a_sound_devicemapper_store_has_no_findings() {
    let (ground, driver) = laid();
    for mounted in [false, true] {
        if mounted {
            driver.up("c").unwrap();
        }
        assert_eq!(checked(&driver, true), []);
        let layers = list(&driver);
        let seen: Vec<_> =
            layers.iter().map(|l| (l.id.as_str(), l.parent.as_ref().map(|id| id.as_str()), l.access)).collect();
        assert_eq!(seen, [("c", Some("i"), Some(Access::ReadWrite)), ("i", None, Some(Access::ReadOnly))]);
        assert!(layers.iter().all(|layer| layer.condition == Condition::Whole));
    }
    driver.down("c").unwrap();
    driver.rm("i").unwrap();
    assert_eq!(brief(&checked(&driver, false)), one("c", Note, false), "its parent is no more");
    ground.finish(driver);
}

/// Changes the file of a layer while there is no driver, and opens another.
fn changed(ground: &Ground, driver: DeviceMapper, change: impl FnOnce()) -> DeviceMapper {
    driver.cleanup().unwrap();
    drop(driver);
    change();
    ground.open()
}

#[test]
fn damage_of_the_metadata_files_is_found() {
    let (ground, mut driver) = laid();
    let file = ground.metadata("c");
    let whole = fs::read_to_string(&file).unwrap();
    let with = |members: &str| whole.replacen('{', &format!("{{{members},"), 1);
    let damages = [
        ("{".to_owned(), Hand, "cannot be read"),
        (with("\"incomplete\": true"), Loss, "cannot be trusted"),
        (with("\"parent\": \"nobody\"").replace("\"parent\": \"i\"", "\"x\": 1"), Note, "'nobody', is no more"),
    ];
    for (text, severity, says) in damages {
        driver = changed(&ground, driver, || fs::write(&file, text).unwrap());
        let found = checked(&driver, true);
        assert_eq!(brief(&found), one("c", severity, false), "{found:#?}");
        assert!(found[0].what.contains(says), "{found:#?}");
        let usable = list(&driver).iter().find(|layer| layer.id.as_str() == "c").unwrap().condition == Condition::Whole;
        assert_eq!(usable, severity == Note);
        // Only the files are needed for these; but whether an unpacking was interrupted, the driver alone knows.
        let outside = if severity == Loss { Busy } else { severity };
        assert_eq!(brief(&past(&ground)), one("c", outside, false));
    }

    // A copy.
    driver = changed(&ground, driver, || {
        fs::write(&file, &whole).unwrap();
        fs::write(ground.metadata("copy"), whole.replace("\"c\"", "\"copy\"")).unwrap();
    });
    let twice: Brief = ["c", "copy"].map(|layer| (layer.to_owned(), Hand, false)).into();
    assert_eq!(brief(&checked(&driver, true)), twice);
    assert_eq!(brief(&past(&ground)), twice);
    driver.rm("copy").unwrap();

    for name in ["README~", ".tmp-c-0123456789"] {
        fs::write(ground.metadata(name), "x").unwrap();
        assert_eq!(brief(&checked(&driver, false)), one("", Note, false));
        fs::remove_file(ground.metadata(name)).unwrap();
    }

    // Behind the driver's back, and after the next start.
    fs::remove_file(&file).unwrap();
    assert_eq!(brief(&checked(&driver, true)), one("c", Hand, false));
    driver = changed(&ground, driver, || ());
    let found = checked(&driver, true);
    assert!(brief(&found) == one("", Hand, false) && found[0].what.contains("no metadata file"), "{found:#?}");
    driver = changed(&ground, driver, || fs::write(&file, &whole).unwrap());
    assert_eq!(checked(&driver, false), []);
    ground.finish(driver);
}

/// What a check past the driver finds.
fn past(ground: &Ground) -> Vec<Finding> {
    findings(&Graph::new(), Some(("devicemapper", &ground.dir)), false).unwrap()
}

#[test]
fn damage_of_the_pool_and_of_active_devices_is_found() {
    let (ground, driver) = laid();
    let device = driver.device("c");
    let place = driver.up("c").unwrap();
    output("dmsetup", &["suspend", &device]);
    assert_eq!(brief(&checked(&driver, false)), one("c", Hand, false));
    assert_eq!(brief(&checked(&driver, true)), one("c", Hand, true));
    fs::write(place.join("file"), "it goes on").unwrap();
    assert_eq!(checked(&driver, false), []);
    driver.down("c").unwrap();

    let point = ground.home().join("mnt/c");
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&point));
    assert_eq!(brief(&checked(&driver, true)), one("c", Hand, false));
    run(Command::new("umount").arg(&point));

    let pool = ground::devices().into_iter().find(|name| name.ends_with("@pool")).unwrap();
    let number = driver.layer_metadata(&ground::id("c")).unwrap()[0].1.clone().into_string().unwrap();
    output("dmsetup", &["message", &pool, "0", &format!("delete {number}")]);
    let found = checked(&driver, true);
    assert!(brief(&found) == one("c", Loss, false) && found[0].what.contains("is not in pool"), "{found:#?}");
    driver.rm("c").unwrap();
    ground.finish(driver);
}

#[test]
fn a_check_of_devicemapper_goes_on_beside_other_operations() {
    let (ground, driver) = laid();
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|number| {
                let driver = &driver;
                scope.spawn(move || {
                    for _ in 0..4 {
                        let name = format!("c{number}");
                        driver.rw(&name, Some("i")).unwrap();
                        driver.up(&name).unwrap();
                        driver.down(&name).unwrap();
                        driver.rm(&name).unwrap();
                    }
                })
            })
            .collect();
        let checker = scope.spawn(|| {
            while running.load(Ordering::SeqCst) {
                let found = checked(&driver, true);
                // A device may be deleted a moment after its layer.
                let is_news =
                    |finding: &&Finding| finding.severity > Note || finding.layer.is_some() && finding.severity > Busy;
                assert_eq!(found.iter().find(is_news), None, "{found:#?}");
                assert!(!list(&driver).iter().any(|layer| matches!(layer.condition, Condition::Unusable(_))));
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        running.store(false, Ordering::SeqCst);
        checker.join().unwrap();
    });
    ground.finish(driver);
}

#[test]
fn devicemapper_files_are_checked_on_a_read_only_mount() {
    let (ground, driver) = laid();
    let elsewhere = ground.dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    run(Command::new("mount").arg("--bind").arg(&ground.dir).arg(&elsewhere));
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&elsewhere));
    let (graph, past) = (Graph::new(), Some(("devicemapper", elsewhere.as_path())));
    assert_eq!(findings(&graph, past, false).unwrap(), []);
    assert_eq!(listed(&graph, past).unwrap(), list(&driver));
    let parts = graph.inspect(past, |store| store.layer_metadata(&ground::id("c"))).unwrap();
    let place = elsewhere.join("devicemapper/mnt/c/rootfs").into_os_string();
    assert_eq!(parts[..2], driver.layer_metadata(&ground::id("c")).unwrap()[..2]);
    assert_eq!(parts[2..], [("MergedDir", place)], "the name of the block device has that of the pool in it");
    let usage = graph.inspect(past, |store| store.layer_usage(&ground::id("c")));
    assert_eq!(usage.unwrap_err().kind(), Kind::Unsupported, "the pool counts it");
    let absent = graph.inspect(past, |store| store.layer_metadata(&ground::id("nobody")));
    assert_eq!(absent.unwrap_err().kind(), Kind::NotFound);
    run(Command::new("umount").arg(&elsewhere));
    ground.finish(driver);
}

#[test]
fn quota_projects_are_compared() {
    for kind in [&quota::EXT4, &quota::XFS] {
        let world = quota::World::new(kind, &[]);
        let found = |mend| world.subject.check(mend).unwrap();
        for id in ["a", "b"] {
            world.create(id, &[("size", "20M")]).unwrap();
        }
        world.create("n", &[]).unwrap();
        assert_eq!(found(true), [], "{}", kind.name);

        let (a, b) = (world.project("a"), world.project("b"));
        let give = |path: &str, id: u32| {
            run(Command::new("chattr").args(["-R", "-p", &id.to_string()]).arg(world.home().join(path)));
        };
        give("a/diff", 0);
        assert_eq!(brief(&found(true)), one("a", Hand, false), "{}", kind.name);
        give("a/diff", a);
        give("b", a);
        let both = found(true);
        assert_eq!(brief(&both), [("".to_owned(), Hand, false), ("".to_owned(), Note, false)], "{both:#?}");
        assert!(both[0].what.contains("'a', 'b'") && both[1].what.contains("nobody has the project"), "{both:#?}");
        give("b", b);

        quota::set_limits(&world.store.root(), 4242, [100, 100, 0, 0]);
        let leaked = found(true);
        assert!(brief(&leaked) == one("", Note, false) && leaked[0].what.contains("4242"), "{leaked:#?}");
        quota::set_limits(&world.store.root(), 4242, [0; 4]);

        let note = world.home().join(format!(".room-{a}"));
        std::os::unix::fs::symlink("1 1 1 1 0 0 2 2 2 2", &note).unwrap();
        assert_eq!(brief(&found(false)), one("", Note, false));
        assert_eq!(brief(&found(true)), one("", Note, true));
        assert!(note.symlink_metadata().is_err());
        assert_eq!(found(false), [], "{}", kind.name);
    }
}

/// Home hands its own project on, and a crash came while a layer's directory was lent to it.
#[test]
fn a_directory_that_was_lent_is_given_back() {
    let world = quota::World::new(&quota::EXT4, &[]);
    quota::give(&world.home(), 77);
    world.create("a", &[("size", "20M")]).unwrap();
    let own = world.project("a");
    assert_ne!(own, 77);
    quota::give(&world.home().join("a"), 77);
    assert_eq!(brief(&world.subject.check(false).unwrap()), one("a", Note, false));
    assert_eq!(brief(&world.subject.check(true).unwrap()), one("a", Note, true));
    assert_eq!((world.project("a"), world.subject.check(false).unwrap()), (own, Vec::new()));
}
