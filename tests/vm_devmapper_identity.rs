//! The devicemapper driver and what is not what it seems: other pools, other devices, other files, what a crash left behind.
//! Run by `vm/test`.

mod common;
#[path = "devmapper/cookie.rs"]
mod cookie;
#[path = "devmapper/crash.rs"]
mod crash;
#[path = "devmapper/ground.rs"]
mod ground;
#[path = "devmapper/pool.rs"]
mod pool;

use common::Tar;
use crash::{Deadly, End, From};
use graphdriver::devmapper::{DeviceMapper, Moment, Observer};
use graphdriver::driver::{Driver, Inspect, MountOptions};
use graphdriver::error::Kind;
use graphdriver::graph::Graph;
use ground::{Ground, Short, devices, eventually, filesystem_size, id, output};
use pool::ForeignPool;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Opens a driver, works with it, and ends it in an orderly way.
fn session<T>(ground: &Ground, work: impl FnOnce(&DeviceMapper) -> T) -> T {
    let driver = ground.open();
    let result = work(&driver);
    driver.cleanup().unwrap();
    result
}

fn write(driver: &DeviceMapper, layer: &str, content: &str) {
    std::fs::write(driver.up(layer).unwrap().join("file"), content).unwrap();
    driver.down(layer).unwrap();
}

fn read(driver: &DeviceMapper, layer: &str) -> String {
    let text = std::fs::read_to_string(driver.up(layer).unwrap().join("file")).unwrap();
    driver.down(layer).unwrap();
    text
}

/// The last transaction of the first home deleted device 2; in the other pool that is somebody's layer. And then a pool that is
/// empty, by mistake.
#[test]
fn a_start_with_a_wrong_pool_changes_nothing() {
    let mut ours = Ground::with(&["dm.thinpooldev=test-ours", "dm.basesize=64M"]);
    let theirs = ours.beside(&["dm.thinpooldev=test-theirs", "dm.basesize=64M"]);
    let pools = ["test-ours", "test-theirs", "test-empty"].map(|name| ForeignPool::new(&ours.dir, name));
    session(&ours, |driver| {
        driver.rw("gone", None).unwrap();
        driver.rw("kept", None).unwrap();
        write(driver, "kept", "ours");
        driver.rm("gone").unwrap();
    });
    session(&theirs, |driver| {
        driver.rw("layer", None).unwrap();
        write(driver, "layer", "theirs");
    });
    let before = (ours.files(), theirs.files(), pools[1].transaction(), pools[1].data());
    for (wrong, why) in [("test-theirs", "UUID"), ("test-empty", "has no device 1")] {
        ours.option("dm.thinpooldev", wrong);
        let refused = ours.try_open().map(drop).unwrap_err();
        assert!(refused.kind() == Kind::Corrupt && refused.to_string().contains(why), "{refused}");
        assert_eq!((ours.files(), theirs.files(), pools[1].transaction(), pools[1].data()), before);
        assert_eq!(devices().len(), 3, "{wrong}");
    }
    assert!(pools[2].transaction() == "0" && pools[2].data().starts_with("0/"));
    assert_eq!(session(&theirs, |driver| read(driver, "layer")), "theirs");
    ours.option("dm.thinpooldev", "test-ours");
    assert_eq!(session(&ours, |driver| read(driver, "kept")), "ours");
    pools.into_iter().for_each(ForeignPool::remove);
    ours.check();
    theirs.check();
}

/// A home whose base was not finished, and pools in which there is something in its place.
#[test]
fn an_unfinished_base_takes_no_other_s_place() {
    let mut ours = Ground::with(&["dm.thinpooldev=test-theirs", "dm.basesize=64M"]);
    let theirs = ours.beside(&["dm.thinpooldev=test-theirs", "dm.basesize=64M"]);
    let pools = ["test-theirs", "test-ours"].map(|name| ForeignPool::new(&ours.dir, name));
    session(&theirs, |_| ());
    std::fs::create_dir_all(ours.home().join("metadata")).unwrap();
    let record =
        "{\n    \"hash\": \"base\",\n    \"device_id\": 1,\n    \"size\": 67108864,\n    \"transaction_id\": 1\n}\n";
    std::fs::write(ours.metadata("base"), record).unwrap();
    // A base of which nothing tells that it is ours; then one that others were made from.
    for _ in 0..2 {
        let refused = ours.try_open().map(drop).unwrap_err();
        assert!(refused.kind() == Kind::Exists && refused.to_string().contains("not finished"), "{refused}");
        session(&theirs, |driver| driver.rw("layer", None)).ok();
        assert!(session(&theirs, |driver| driver.has("layer")));
    }
    ours.option("dm.thinpooldev", "test-ours");
    session(&ours, |driver| driver.rw("layer", None).unwrap());
    // Layers without a base: whatever the pool is, it is not theirs.
    std::fs::remove_file(ours.metadata("base")).unwrap();
    let before = ours.files();
    assert_eq!(ours.try_open().map(drop).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(ours.files(), before);
    pools.into_iter().for_each(ForeignPool::remove);
    ours.check();
    theirs.check();
}

#[test]
fn what_a_crash_left_mounted_blocks_nothing() {
    let ground = Ground::new();
    let archive = Tar::new().file("first", "1").file("second", &"2".repeat(12 << 20)).done();
    session(&ground, |driver| driver.rw("container", None).unwrap());
    for name in ["image", "container"] {
        let end = crash::child(&ground, usize::MAX, From::Operation, |driver| {
            if name == "image" {
                driver.create_read_only(name)?;
            }
            driver.apply_diff(&id(name), &mut Deadly(&archive[..archive.len() - 1024]), None)
        });
        assert_eq!(end, End::Killed);
        assert_eq!(common::mounts_below(&ground.home()).len(), 1, "it died with the layer mounted");
        let driver = ground.open();
        assert_eq!(common::mounts_below(&ground.home()), [""; 0], "{name}");
        assert_eq!(driver.has(name), name == "container", "{name}");
        assert_eq!(devices().len(), 1, "{name}: {:?}", devices());
        if name == "container" {
            assert_eq!(driver.up(name).unwrap_err().kind(), Kind::Corrupt);
            driver.rm(name).unwrap();
        }
        driver.create_read_only(name).unwrap();
        driver.fill(name, &archive).unwrap();
        assert!(driver.up(name).unwrap().join("first").exists());
        driver.down(name).unwrap();
        driver.rm(name).unwrap();
        driver.cleanup().unwrap();
    }
    ground.check();
    assert_eq!(ground.thins(), ground.recorded());
}

/// Holds a thin device of a layer open under the name that the driver would give it.
fn hold(name: &str, sectors: u64, pool: &str, thin: &str) -> File {
    output("dmsetup", &["create", name, "--table", &format!("0 {sectors} thin /dev/mapper/{pool} {thin}")]);
    File::open(Path::new("/dev/mapper").join(name)).unwrap()
}

#[test]
fn a_device_in_use_gets_its_length_or_is_refused() {
    let mut ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=64M"]);
    let pool = ForeignPool::new(&ground.dir, "test-pool");
    let (name, base) = session(&ground, |driver| {
        driver.rw("l1", None).unwrap();
        let name = driver.device("l1");
        let base = name.replace("-l1", "-base");
        (name, base)
    });
    let holder = hold(&base, (64 << 20) / 512, "test-pool", "1");
    ground.option("dm.basesize", "200M");
    let driver = ground.open();
    driver.rw("l2", None).unwrap();
    assert!(filesystem_size(&driver.up("l2").unwrap()) > 150 << 20);
    assert_eq!(driver.layer_metadata(&id("l2")).unwrap()[1].1, (200_u64 << 20).to_string().as_str());
    driver.down("l2").unwrap();
    drop(holder);
    eventually("the base goes when it is let go", || !devices().contains(&base));

    // One that is too long and in use; and one that is too long and is not.
    let holder = hold(&name, (96 << 20) / 512, "test-pool", "2");
    let refused = driver.up("l1").unwrap_err();
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains("100663296"), "{refused}");
    drop(holder);
    assert!(filesystem_size(&driver.up("l1").unwrap()) < 64 << 20);
    driver.down("l1").unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    pool.remove();
    ground.check();
}

/// After a move to another pool, devices of the old one may still be active under our names.
#[test]
fn a_device_of_another_pool_is_neither_used_nor_taken_away() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=64M"]);
    let pools = ["test-pool", "test-old"].map(|name| ForeignPool::new(&ground.dir, name));
    pools[1].message("create_thin 2");
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.rw("l2", None).unwrap();
    let name = driver.device("l1");
    drop(hold(&name, (64 << 20) / 512, "test-old", "2"));
    let refused = driver.up("l1").unwrap_err();
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains("another pool"), "{refused}");
    assert_eq!(driver.layer_usage(&id("l1")).unwrap_err().kind(), Kind::Busy);
    driver.down("l1").unwrap();
    driver.rw("child", Some("l1")).unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    let driver = ground.open();
    assert!(devices().contains(&name), "a start, a clean-up, an umount leave it");
    driver.rm("l1").unwrap();
    assert!(!driver.has("l1") && devices().contains(&name), "a removal too");
    output("dmsetup", &["remove", &name]);
    driver.cleanup().unwrap();
    drop(driver);
    pools.into_iter().for_each(ForeignPool::remove);
    ground.check();
}

/// A layer's file that is of another time than the pool.
#[test]
fn a_device_with_another_filesystem_is_not_mounted() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=64M"]);
    let pool = ForeignPool::new(&ground.dir, "test-pool");
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    let name = driver.device("l1");
    drop(hold(&name, (64 << 20) / 512, "test-pool", "2"));
    output("mkfs.ext4", &["-q", "-F", &format!("/dev/mapper/{name}")]);
    let refused = driver.up("l1").unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.to_string().contains("UUID"), "{refused}");
    assert_eq!(common::mounts_below(&ground.home()), [""; 0]);
    driver.rm("l1").unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    pool.remove();
    ground.check();
}

#[test]
fn files_that_cannot_be_read_stop_nobody_else() {
    let ground = Ground::new();
    session(&ground, |driver| {
        for name in ["whole", "long", "empty", "junk"] {
            driver.rw(name, None).unwrap();
        }
    });
    std::fs::write(ground.metadata("long"), " ".repeat(70_000)).unwrap();
    std::fs::write(ground.metadata("empty"), "{}").unwrap();
    std::fs::write(ground.metadata("junk"), "").unwrap();
    std::fs::create_dir(ground.metadata("directory")).unwrap();
    std::fs::write(ground.metadata("NOTES~"), "mine").unwrap();
    let driver = ground.open();
    driver.rw("child", Some("whole")).unwrap();
    for name in ["long", "empty", "junk", "directory"] {
        assert!(driver.has(name), "{name}: a daemon would delete what it is told does not exist");
        let refused = driver.up(name).unwrap_err();
        assert!(refused.kind() == Kind::Corrupt && refused.to_string().contains(name), "{refused}");
        assert_eq!(driver.rw("child2", Some(name)).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(driver.rw(name, None).unwrap_err().kind(), Kind::Exists, "{name}");
        driver.down(name).unwrap();
        driver.rm(name).unwrap();
        assert!(!driver.has(name) && !ground.metadata(name).exists());
        driver.rw(name, None).unwrap();
        write(&driver, name, name);
    }
    assert_eq!(std::fs::read_dir(ground.home().join("metadata-corrupt")).unwrap().count(), 4);
    assert!(ground.metadata("NOTES~").exists());
    let ids: Vec<_> = ["long", "empty"].iter().map(|name| driver.layer_metadata(&id(name)).unwrap()[0].1.clone()).collect();
    assert!(
        ids.iter().all(|id| id.to_str().unwrap().parse::<u32>().unwrap() > 6),
        "their old ids are in use still: {ids:?}"
    );
    ground.leaves_damage(); // devices that only the set-aside files told of
    ground.finish(driver);
}

/// What cannot be read for a moment is not taken for damaged, nor for a layer that nobody knows: its device would stay.
#[test]
fn an_umount_that_cannot_read_now_which_device_it_is_changes_nothing() {
    let ground = Ground::new();
    session(&ground, |driver| {
        driver.rw("l1", None).unwrap();
        driver.up("l1").unwrap();
    });
    let record = std::fs::read(ground.metadata("l1")).unwrap();
    std::fs::write(ground.metadata("l1"), "").unwrap();
    let driver = ground.open();
    std::fs::write(ground.metadata("l1"), record).unwrap(); // from a backup; nothing has read it yet
    let mounted = || common::mounts_below(&ground.home()).iter().any(|point| point.ends_with("mnt/l1"));
    let descriptors: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let outcome = driver.down("l1");
    drop(descriptors);
    assert_eq!(outcome.unwrap_err().errno(), nix::errno::Errno::EMFILE as i32);
    assert!(mounted());
    driver.down("l1").unwrap();
    assert!(!mounted() && devices().len() == 1, "{:?}", devices());
    ground.finish(driver);
}

/// A layer whose device somebody deleted has nothing to lose; one whose device is there does.
#[test]
fn a_layer_without_a_device_gives_way() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=64M"]);
    let pool = ForeignPool::new(&ground.dir, "test-pool");
    let driver = ground.open();
    for name in ["l1", "l2"] {
        driver.rw(name, None).unwrap();
        write(&driver, name, name);
    }
    pool.message("delete 2");
    assert!(driver.has("l1") && driver.up("l1").is_err());
    for name in ["l1", "l2"] {
        assert_eq!(
            driver.rw(name, Some("l2")).map_err(|e| e.kind()),
            if name == "l1" { Ok(()) } else { Err(Kind::Invalid) }
        );
    }
    assert_eq!(driver.rw("l2", None).unwrap_err().kind(), Kind::Exists);
    assert_eq!((read(&driver, "l1"), read(&driver, "l2")), ("l2".to_owned(), "l2".to_owned()));
    driver.cleanup().unwrap();
    drop(driver);
    pool.remove();
    ground.check();
}

#[test]
fn a_copy_of_a_file_costs_no_layer() {
    let ground = Ground::new();
    session(&ground, |driver| {
        driver.rw("l1", None).unwrap();
        write(driver, "l1", "content");
    });
    let text = std::fs::read_to_string(ground.metadata("l1")).unwrap();
    std::fs::write(ground.metadata("copy"), text.replace("\"hash\": \"l1\",\n    ", "")).unwrap();
    let driver = ground.open();
    for name in ["l1", "copy"] {
        assert!(driver.has(name));
        let refused = driver.up(name).unwrap_err();
        assert!(refused.kind() == Kind::Corrupt && refused.to_string().contains("claim the same device"), "{refused}");
        assert_eq!(driver.rw("child", Some(name)).unwrap_err().kind(), Kind::Corrupt);
    }
    driver.rm("copy").unwrap();
    assert_eq!(read(&driver, "l1"), "content");
    driver.rm("l1").unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    ground.check();
    assert_eq!(ground.thins(), ground.recorded());
}

#[test]
fn a_log_that_calls_the_driver_is_answered() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=64M"]);
    let pool = ForeignPool::new(&ground.dir, "test-pool");
    let driver = Arc::new(ground.open());
    driver.rw("l1", None).unwrap();
    pool.message("create_thin 3");
    let (tell, told) = std::sync::mpsc::channel();
    let (calling, tell) = (Arc::clone(&driver), Mutex::new(tell));
    graphdriver::log::set_sink(Some(Arc::new(move |_, line: &str| {
        if line.contains("exists but is not known") {
            let made = calling.rw("from-the-log", None);
            let _ = tell.lock().unwrap().send((made, calling.has("l1"), calling.status().is_ok()));
        }
    })));
    let creating = Arc::clone(&driver);
    let thread = std::thread::spawn(move || creating.rw("l2", None));
    // The bound only ends a test that would never end.
    let answer = told.recv_timeout(std::time::Duration::from_secs(60));
    graphdriver::log::set_sink(None);
    let (made, l1, status) = answer.expect("the callback hangs");
    // In a callback nobody waits for a layer that others hold; none is held alone here but by the caller.
    made.unwrap();
    assert!(l1 && status);
    thread.join().unwrap().unwrap();
    assert!(driver.has("l2") && driver.has("from-the-log"));
    driver.cleanup().unwrap();
    drop(driver);
    pool.remove();
    ground.check();
}

/// What is frozen must not take long: others wait.
#[test]
fn a_parent_is_written_out_before_it_is_frozen() {
    let ground = Ground::with(&["dm.loopdatasize=1G", "dm.loopmetadatasize=16M", "dm.basesize=256M"]);
    // Sectors written to each device, from its /sys/block/dm-N/stat.
    let written = || -> u64 {
        let dms = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
        let of =
            |path: &Path| std::fs::read_to_string(path.join("stat")).unwrap().split_whitespace().nth(6).unwrap().parse();
        let parents = dms.filter(|path| {
            std::fs::read_to_string(path.join("dm/name")).is_ok_and(|name| name.trim_end().ends_with("-parent"))
        });
        parents.map(|path| of(&path).unwrap_or(0)).sum()
    };
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let copy = Arc::clone(&seen);
    let observer: Arc<Observer> = Arc::new(move |step| {
        if ["begin", "suspend"].contains(&step.what) || (step.what == "resume" && step.on.ends_with("-parent")) {
            copy.lock().unwrap().push(written());
        }
        Ok(())
    });
    let driver = ground.observed(Some(observer)).unwrap();
    driver.rw("parent", None).unwrap();
    let root = driver.up("parent").unwrap();
    std::fs::write(root.join("dirty"), vec![7; 96 << 20]).unwrap();
    seen.lock().unwrap().clear();
    driver.rw("child", Some("parent")).unwrap();
    let seen = seen.lock().unwrap().clone();
    let under_the_ledger = seen.last().unwrap() - seen[0];
    assert!(seen.len() >= 6 && seen[0] >= (96 << 20) / 512, "{seen:?}");
    assert!(
        under_the_ledger < (4 << 20) / 512,
        "{under_the_ledger} sectors were written while others had to wait: {seen:?}"
    );
    let child = driver.up("child").unwrap();
    assert_eq!(std::fs::metadata(child.join("dirty")).unwrap().len(), 96 << 20);
    for name in ["child", "parent"] {
        driver.down(name).unwrap();
    }
    ground.finish(driver);
}

#[test]
fn files_of_a_pool_that_is_active_are_not_attached_again() {
    let mut ours = Ground::new();
    let dir = ours.dir.join("pool");
    let shared = format!("dm.loopdata={}", dir.display());
    let theirs = ours.beside(&[&shared, "dm.basesize=64M"]);
    let driver = ours.open();
    driver.rw("l1", None).unwrap();
    write(&driver, "l1", "content");
    driver.up("l1").unwrap();
    let refuse = |ground: &Ground, why: &str| {
        let refused = ground.try_open().map(drop).unwrap_err();
        assert!(refused.kind() == Kind::Busy && refused.to_string().contains(why), "{refused}");
    };
    refuse(&theirs, "in use already");
    driver.cleanup().unwrap();
    drop(driver);
    refuse(&theirs, "in use already");
    // Our pool is active; it is not on the files that are named now.
    ours.option("dm.loopdata", ours.dir.join("elsewhere").to_str().unwrap());
    refuse(&ours, "not on");
    ours.option("dm.loopdata", dir.to_str().unwrap());
    session(&ours, |driver| driver.down("l1").unwrap());
    eventually("the pool is gone", || devices().is_empty());

    // Attached by somebody who locks nothing.
    let held = output("losetup", &["-f", "--show", "-r", dir.join("metadata").to_str().unwrap()]).trim().to_owned();
    refuse(&ours, &held);
    // Its node may be missing, or something that cannot be asked.
    let away = format!("{held}-away");
    std::fs::rename(&held, &away).unwrap();
    refuse(&ours, &held);
    std::fs::create_dir(&held).unwrap();
    refuse(&ours, &held);
    std::fs::remove_dir(&held).unwrap();
    std::fs::rename(&away, &held).unwrap();
    output("losetup", &["-d", &held]);
    assert_eq!(session(&ours, |driver| read(driver, "l1")), "content");
    ours.check();
    theirs.check();
}

#[test]
fn the_embedded_pool_goes_with_its_last_mounted_layer() {
    let ground = Ground::new();
    let driver = ground.open();
    for name in ["l1", "l2"] {
        driver.rw(name, None).unwrap();
        driver.up(name).unwrap();
    }
    driver.cleanup().unwrap();
    drop(driver);
    assert_eq!(devices().len(), 3);
    for name in ["l1", "l2"] {
        nix::mount::umount2(&ground.home().join("mnt").join(name), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
    ground.check();
    // And found again in between, it stays for as long as it is used.
    let driver = ground.open();
    driver.up("l1").unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    let driver = ground.open();
    write(&driver, "l1", "content");
    driver.rw("l3", Some("l1")).unwrap();
    assert_eq!(read(&driver, "l3"), "content");
    ground.finish(driver);
}

#[test]
fn looking_at_a_device_leaves_it_as_it_was() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.up("l1").unwrap();
    let name = driver.device("l1");
    let holder = File::open(Path::new("/dev/mapper").join(&name)).unwrap();
    driver.down("l1").unwrap();
    driver.layer_usage(&id("l1")).unwrap();
    drop(holder);
    eventually("it still goes away", || !devices().contains(&name));
    driver.layer_usage(&id("l1")).unwrap();
    eventually("nothing but the pool is active", || devices().len() == 1);
    ground.finish(driver);
}

#[test]
fn a_read_only_layer_shows_an_empty_tree_until_it_is_filled() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.create_read_only("image").unwrap();
    driver.rw("container", None).unwrap();
    let read_only = MountOptions { mount_label: None, options: vec!["ro".into()] };
    for (name, options) in [("image", MountOptions::default()), ("container", read_only)] {
        let root = driver.mount(&id(name), &options).unwrap();
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "{name}");
        assert!(std::fs::write(root.join("file"), "x").is_err(), "{name}");
        assert_eq!(driver.up(name).unwrap(), root);
        driver.down(name).unwrap();
    }
    driver.fill("image", &Tar::new().file("file", "x").done()).unwrap();
    let root = driver.up("image").unwrap();
    assert!(root.join("file").exists() && std::fs::write(root.join("more"), "x").is_err());
    let refused = driver.fill("image", &Tar::new().file("more", "x").done()).unwrap_err();
    assert!(refused.kind() == Kind::Busy && driver.has("image"), "{refused}");
    driver.down("image").unwrap();
    ground.finish(driver);
}

#[test]
fn what_others_put_on_a_mount_point_is_theirs() {
    let ground = Ground::new();
    let driver = ground.open();
    let point = ground.home().join("mnt/l1");
    let none = None::<&str>;
    for _ in 0..2 {
        driver.rw("l1", None).unwrap();
        nix::mount::mount(Some("tmpfs"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
        std::fs::write(point.join("stray"), "x").unwrap();
        let refused = driver.up("l1").unwrap_err();
        assert!(refused.kind() == Kind::Busy && refused.to_string().contains("something else"), "{refused}");
        driver.down("l1").unwrap();
        driver.rm("l1").unwrap();
        assert!(!driver.has("l1") && point.join("stray").exists());
        nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
        // A file in the directory itself.
        std::fs::write(point.join("stray"), "x").unwrap();
        driver.rw("l1", None).unwrap();
        write(&driver, "l1", "content");
        driver.rm("l1").unwrap();
        driver.rm("l1").unwrap();
        assert!(!driver.has("l1") && point.join("stray").exists());
        std::fs::remove_file(point.join("stray")).unwrap();
    }
    ground.finish(driver);
}

/// What a process leaves that is killed while it waits for udev; and what looks like it.
#[test]
fn forgotten_cookies_are_removed_at_a_start() {
    let ground = Ground::new();
    let forgotten = [cookie::make(cookie::MAGIC | 0x1234), cookie::make(cookie::MAGIC | 0x1235)];
    let another = cookie::make((0x0d4e << 16) | 0x1234);
    session(&ground, |_| ());
    assert!(forgotten.iter().all(|&semaphore| cookie::exists(semaphore)), "somebody may just be about to wait");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    output("date", &["-s", &format!("@{}", now + 600)]);
    let recent = cookie::make(cookie::MAGIC | 0x1236);
    session(&ground, |_| ());
    assert!(!forgotten.iter().any(|&semaphore| cookie::exists(semaphore)));
    assert!(cookie::exists(another) && cookie::exists(recent));
    [another, recent].into_iter().for_each(cookie::remove);
    ground.check();
}

#[test]
fn a_mount_option_that_another_replaces_is_told() {
    let mut ground = Ground::new();
    ground.options.extend(["dm.mountopt=noatime", "dm.mountopt=nodiratime"].map(str::to_owned));
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let copy = Arc::clone(&lines);
    graphdriver::log::set_sink(Some(Arc::new(move |_, line: &str| copy.lock().unwrap().push(line.to_owned()))));
    session(&ground, |_| ());
    graphdriver::log::set_sink(None);
    let told = lines.lock().unwrap().iter().any(|line| line.contains("nodiratime") && line.contains("'noatime'"));
    assert!(told, "{lines:?}");
    ground.check();
}

#[test]
fn bad_mount_options_are_found_at_the_start() {
    let mut ground = Ground::new();
    for finished in [false, true] {
        for (options, good) in [("nonsense=1", false), ("discard,data=tape", false), ("noatime,data=ordered", true)] {
            ground.option("dm.mountopt", options);
            if good && !finished {
                continue;
            }
            match ground.try_open() {
                Ok(driver) => {
                    assert!(good, "{options}");
                    driver.cleanup().unwrap();
                }
                Err(e) => {
                    let sentence = e.user_message().unwrap();
                    assert!(!good && e.kind() == Kind::Invalid && sentence.contains(options), "{options}: {e}");
                }
            }
        }
        ground.options.retain(|option| !option.starts_with("dm.mountopt"));
        session(&ground, |driver| driver.rw(&format!("l-{finished}"), None).unwrap());
    }
    ground.check();
}

#[test]
fn sizes_of_any_number_of_bytes_fit_disks_with_large_blocks() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=67109376"]);
    let pool = ForeignPool::with_blocks(&ground.dir, "test-pool", "4096");
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.sized("l2", None, "99999999").unwrap();
    for (name, size) in [("l1", "67112960"), ("l2", "100003840")] {
        write(&driver, name, name);
        assert_eq!(driver.layer_metadata(&id(name)).unwrap()[1].1, size);
    }
    driver.cleanup().unwrap();
    drop(driver);
    pool.remove();
    ground.check();
}

/// Home on a filesystem of its own that has no byte left.
#[test]
fn layers_can_be_removed_when_the_disk_of_home_is_full() {
    let mut ground = Ground::new();
    let pool = ground.beside(&["dm.basesize=64M"]);
    ground.option("dm.loopdata", pool.dir.join("pool").to_str().unwrap());
    std::fs::create_dir_all(ground.home()).unwrap();
    let image = pool.dir.join("home-image");
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    output("mkfs.ext4", &["-q", "-F", "-m0", image.to_str().unwrap()]);
    output("mount", &["-o", "loop", image.to_str().unwrap(), ground.home().to_str().unwrap()]);
    let driver = ground.open();
    for name in ["l1", "l2", "l3"] {
        driver.rw(name, None).unwrap();
    }
    driver.up("l3").unwrap();
    let holder = File::open(Path::new("/dev/mapper").join(driver.device("l3"))).unwrap();
    let fill = || {
        let mut file = File::options().create(true).append(true).open(ground.home().join("fill")).unwrap();
        for block in [1 << 16, 1 << 10, 1] {
            while std::io::Write::write_all(&mut file, &vec![7; block]).is_ok() {}
        }
        // No inode either.
        (0..).take_while(|n| File::create(ground.home().join(format!("fill-{n}"))).is_ok()).count();
    };
    fill();
    assert!(driver.rw("more", None).is_err() && !driver.has("more"));
    driver.rm("l1").unwrap();
    assert!(!driver.has("l1") && driver.has("l2"));
    fill();
    // One that is in use is marked.
    driver.rm("l3").unwrap();
    assert!(!driver.has("l3") && std::fs::read_to_string(ground.metadata("l3")).unwrap().contains("\"deleted\": true"));
    driver.cleanup().unwrap();
    drop(driver);
    drop(holder);
    fill();
    // The pool goes with its last user, a moment after that.
    let again = std::cell::RefCell::new(None);
    eventually("the pool has gone, and can be set up again", || {
        again.replace(ground.try_open().ok());
        again.borrow().is_some()
    });
    let driver = again.into_inner().unwrap();
    assert!(!driver.has("l3") && driver.has("l2"));
    eventually("what was marked is deleted", || !ground.metadata("l3").exists());
    driver.rm("l2").unwrap();
    assert!(!driver.has("l2"));
    driver.cleanup().unwrap();
    drop(driver);
    ground.check_nothing_is_left_but(1);
    assert_eq!(pool.thins(), [1], "nothing but the base");
    nix::mount::umount2(&ground.home(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    ground.check();
    pool.check();
}

/// A re-init that fails leaves the driver that was there, with its pool.
#[test]
fn a_failed_start_leaves_the_running_driver_alone() {
    let ground = Ground::new();
    let options: Vec<&str> = ground.options.iter().map(String::as_str).collect();
    let graph = Graph::new();
    graph.init("devicemapper", &ground.dir, &options).unwrap();
    for bad in ["dm.fs=xfs", "dm.basesize=1M", "dm.mountopt=nonsense=1"] {
        let with_bad: Vec<&str> =
            options.iter().copied().filter(|option| !option.starts_with("dm.basesize")).chain([bad]).collect();
        graph.init("devicemapper", &ground.dir, &with_bad).unwrap_err();
        let create = |driver: &dyn Driver| {
            let name = id(&format!("after-{}", bad.len()));
            driver.create(&name, None, graphdriver::driver::Access::ReadWrite, &mut Default::default())?;
            driver.mount(&name, &MountOptions::default())?;
            driver.umount(&name)
        };
        graph.with(create).unwrap();
        assert_eq!(devices().len(), 1, "{bad}");
    }
    graph.cleanup().unwrap();
    ground.check();
}

/// Deleting a layer gives its space back to the filesystem below the embedded pool.
#[test]
fn a_deleted_layer_s_space_is_the_host_s_again() {
    use std::os::unix::fs::MetadataExt;
    let ground = Ground::with(&["dm.loopdatasize=1G", "dm.loopmetadatasize=16M", "dm.basesize=256M"]);
    let occupied = || std::fs::metadata(ground.dir.join("pool/data")).unwrap().blocks() * 512;
    let driver = ground.open();
    driver.rw("parent", None).unwrap();
    std::fs::write(driver.up("parent").unwrap().join("shared"), vec![7; 16 << 20]).unwrap();
    driver.down("parent").unwrap();
    driver.rw("l1", Some("parent")).unwrap();
    let before = occupied();
    std::fs::write(driver.up("l1").unwrap().join("file"), vec![7; 64 << 20]).unwrap();
    driver.down("l1").unwrap();
    assert!(occupied() > before + (60 << 20));
    assert!(driver.line("Host Space Available").ends_with('B'));
    driver.rm("l1").unwrap();
    assert!(occupied() < before + (4 << 20), "{} {before}", occupied());
    assert_eq!(std::fs::read(driver.up("parent").unwrap().join("shared")).unwrap(), vec![7; 16 << 20]);
    driver.down("parent").unwrap();
    ground.finish(driver);
}

/// An unpack says that it succeeded only where the pool can still keep what was written.
#[test]
fn an_unpack_into_a_full_pool_fails() {
    let ground = Ground::with(&["dm.loopdatasize=96M", "dm.loopmetadatasize=4M", "dm.basesize=128M", "dm.mkfsarg=-m0"]);
    let driver = ground.open();
    driver.rw("small", None).unwrap();
    driver.rw("large", None).unwrap();
    // Everything that the unpack will touch has its blocks already.
    let archive = Tar::new().file("f", "x").done();
    driver.fill("small", &archive).unwrap();
    let root = driver.up("large").unwrap();
    let mut file = File::create(root.join("fill")).unwrap();
    while std::io::Write::write_all(&mut file, &vec![7; 1 << 20]).and_then(|()| file.sync_data()).is_ok() {}
    assert_eq!(driver.line("Pool State"), "out_of_data_space");
    let refused = driver.fill("small", &archive).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace, "{refused}");
    drop(file);
    driver.down("large").unwrap();
    driver.rm("large").unwrap();
    driver.rm("small").unwrap();
    ground.finish(driver);
}

/// A step that is watched, to see that nothing is written by a start before the base was looked at.
#[test]
fn a_start_looks_before_it_changes_anything() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool", "dm.basesize=64M"]);
    let pool = ForeignPool::new(&ground.dir, "test-pool");
    // With a transaction that was interrupted and an unused device left active.
    let base = session(&ground, |driver| {
        driver.rw("l1", None).unwrap();
        driver.device("l1")
    });
    crash::child(&ground, 3, From::Operation, |driver| driver.rw("l2", None));
    drop(hold(&base, (64 << 20) / 512, "test-pool", "2"));
    let steps: Arc<Mutex<Vec<String>>> = Arc::default();
    let copy = Arc::clone(&steps);
    let driver = ground
        .observed(Some(Arc::new(move |step| {
            if step.moment == Moment::Before {
                copy.lock().unwrap().push(format!("{} {}", step.what, step.on));
            }
            Ok(())
        })))
        .unwrap();
    let steps = steps.lock().unwrap().clone();
    let looked = steps.iter().position(|step| step.starts_with("remove") && step.contains("@look")).unwrap();
    let changes = |step: &&String| {
        let what = step.split(' ').next().unwrap();
        !["version", "names", "info", "status", "table"].contains(&what) && !step.contains("@look")
    };
    let first = steps.iter().position(|step| changes(&step)).unwrap();
    assert!(looked < first, "{steps:#?}");
    let position =
        |start: &str| steps.iter().position(|step| step.starts_with(start)).unwrap_or_else(|| panic!("{start}: {steps:#?}"));
    assert!(
        position("message delete") < position("remove container") || position("remove container") == looked,
        "{steps:#?}"
    );
    assert!(!driver.has("l2") && driver.has("l1"));
    driver.cleanup().unwrap();
    drop(driver);
    pool.remove();
    ground.check();
}
