//! The devicemapper driver on real thin pools, under a kernel that has them. Run by `vm/test`.

mod common;
#[path = "devmapper/ground.rs"]
mod ground;

use common::scenarios::{SCENARIOS, World};
use common::subject::{C, Rust, Subject};
use graphdriver::driver::{Driver, MountOptions};
use graphdriver::error::Kind;
use ground::{Ground, Short, devices, eventually, filesystem_size, id, output};
use std::path::Path;

#[test]
fn a_layer_lives_from_create_to_remove() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    assert!(driver.has("l1") && !driver.has("l2"));
    let root = driver.up("l1").unwrap();
    assert_eq!(root, ground.home().join("mnt/l1/rootfs"));
    assert_eq!(driver.up("l1").unwrap(), root);
    assert_eq!(common::mounts_below(&ground.home()).len(), 1, "mounted once");
    std::fs::write(root.join("file"), "content").unwrap();
    assert_eq!(std::fs::read_to_string(root.join("../id")).unwrap(), "l1");

    let told = driver.layer_metadata(&id("l1")).unwrap();
    let names: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["DeviceId", "DeviceSize", "DeviceName", "MergedDir"]);
    assert_eq!((told[0].1.to_str(), told[1].1.to_str()), (Some("2"), Some("67108864")));
    let name = told[2].1.to_str().unwrap();
    assert!(name.starts_with("container-") && name.ends_with("-l1") && devices().contains(&name.to_owned()));
    assert!(Path::new("/dev/mapper").join(name).exists());
    assert_eq!(told[3].1, *root.as_os_str());

    // A child of a mounted layer sees what was written before, and nothing after.
    driver.rw("l2", Some("l1")).unwrap();
    std::fs::write(root.join("later"), "x").unwrap();
    let child = driver.up("l2").unwrap();
    assert_eq!(std::fs::read_to_string(child.join("file")).unwrap(), "content");
    assert!(!child.join("later").exists());
    assert_eq!(std::fs::read_to_string(child.join("../id")).unwrap(), "l1", "inherited, as with the C module");

    driver.down("l1").unwrap();
    assert!(!devices().contains(&name.to_owned()), "inactive after umount");
    driver.down("l1").unwrap();
    driver.rm("l1").unwrap();
    driver.rm("l1").unwrap();
    assert!(!driver.has("l1") && !ground.home().join("mnt/l1").exists() && !ground.metadata("l1").exists());
    assert_eq!(std::fs::read_to_string(child.join("file")).unwrap(), "content");
    driver.rm("l2").unwrap();
    assert_eq!(common::mounts_below(&ground.home()), [""; 0], "rm unmounts");
    ground.finish(driver);
}

#[test]
fn a_restart_finds_everything() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.rw("l2", Some("l1")).unwrap();
    let root = driver.up("l2").unwrap();
    std::fs::write(root.join("file"), "content").unwrap();
    let files: Vec<String> = ["base", "l1", "deviceset-metadata"]
        .iter()
        .map(|name| std::fs::read_to_string(ground.metadata(name)).unwrap())
        .collect();
    driver.cleanup().unwrap();
    drop(driver);
    assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "content", "mounted layers stay mounted");

    let driver = ground.open();
    assert!(driver.has("l1") && driver.has("l2"));
    assert_eq!(driver.up("l2").unwrap(), root);
    assert_eq!(common::mounts_below(&ground.home()).len(), 1, "mounted once");
    for (name, text) in ["base", "l1"].iter().zip(&files) {
        assert_eq!(std::fs::read_to_string(ground.metadata(name)).unwrap(), *text);
    }
    driver.rw("l3", Some("l2")).unwrap();
    assert_eq!(std::fs::read_to_string(driver.up("l3").unwrap().join("file")).unwrap(), "content");
    for name in ["l3", "l2"] {
        driver.down(name).unwrap();
    }
    ground.finish(driver);
}

#[test]
fn status_has_every_line_in_order() {
    let ground = Ground::new();
    let driver = ground.open();
    let status = driver.status().unwrap();
    assert_eq!((status.driver_name.as_str(), status.backing_fs.as_str()), ("devicemapper", "tmpfs"));
    let names: Vec<&str> = status.text.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    let expected = [
        "Pool Name",
        "Pool Blocksize",
        "Base Device Size",
        "Backing Filesystem",
        "Data file",
        "Metadata file",
        "Data Space Used",
        "Data Space Total",
        "Data Space Available",
        "Metadata Space Used",
        "Metadata Space Total",
        "Metadata Space Available",
        "Thin Pool Minimum Free Space",
        "Udev Sync Supported",
        "Deferred Removal Enabled",
        "Deferred Deletion Enabled",
        "Deferred Deleted Device Count",
        "Library Version",
        "Semaphore Set Used",
        "Semaphore Set Total",
    ];
    assert_eq!(names[..20], expected, "{}", status.text);
    assert_eq!(driver.line("Pool Blocksize"), "64.000KB");
    assert_eq!(driver.line("Base Device Size"), "64.000MB");
    assert_eq!(driver.line("Data Space Total"), "1.000GB");
    assert_eq!(driver.line("Data file"), ground.dir.join("pool/data").to_str().unwrap());
    assert_eq!(driver.line("Pool State"), "rw");
    assert!(driver.line("Loop Backed").contains("not for production"));
    ground.finish(driver);
}

#[test]
fn mount_options_and_mkfs_arguments_reach_the_device() {
    let mut ground = Ground::new();
    ground.options.extend(["dm.mkfsarg=-b 1024", "dm.mkfsarg=-I 128", "dm.mountopt=discard,noatime"].map(str::to_owned));
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.up("l1").unwrap();
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains("/mnt/l1 ")).unwrap();
    assert!(line.contains("noatime") && line.contains("discard"), "{line}");
    let name = driver.layer_metadata(&id("l1")).unwrap()[2].1.to_str().unwrap().to_owned();
    let super_block = output("dumpe2fs", &["-h", &format!("/dev/mapper/{name}")]);
    let field = |name: &str| super_block.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("Block size:"), field("Inode size:")), ("1024".to_owned(), "128".to_owned()));
    driver.down("l1").unwrap();

    let own = MountOptions { mount_label: None, options: vec!["nodiscard,nosuid".into()] };
    driver.mount(&id("l1"), &own).unwrap();
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains("/mnt/l1 ")).unwrap();
    assert!(line.contains("nosuid") && !line.contains(",discard"), "{line}");
    driver.down("l1").unwrap();

    let bad = MountOptions { mount_label: None, options: vec!["nonsense=1".into()] };
    assert!(driver.mount(&id("l1"), &bad).is_err());
    assert!(!devices().contains(&name), "a failed mount leaves the device inactive");
    ground.finish(driver);
}

#[test]
fn xfs_layers_are_mounted_side_by_side_and_grown() {
    let ground = Ground::with(&["dm.loopdatasize=2G", "dm.loopmetadatasize=16M", "dm.basesize=320M", "dm.fs=xfs"]);
    let driver = ground.open();
    assert_eq!(driver.line("Backing Filesystem"), "xfs");
    driver.rw("l1", None).unwrap();
    let first = driver.up("l1").unwrap();
    std::fs::write(first.join("file"), "content").unwrap();
    driver.sized("l2", Some("l1"), "400M").unwrap();
    let second = driver.up("l2").unwrap();
    assert_eq!(std::fs::read_to_string(second.join("file")).unwrap(), "content");
    let before = filesystem_size(&first);
    assert!(filesystem_size(&second) > before + (60 << 20));
    for name in ["l1", "l2"] {
        driver.down(name).unwrap();
    }
    driver.cleanup().unwrap();
    drop(driver);
    let mut ground = ground;
    ground.option("dm.basesize", "360M");
    let driver = ground.open();
    driver.rw("l3", None).unwrap();
    assert!(filesystem_size(&driver.up("l3").unwrap()) > before + (30 << 20));
    driver.down("l3").unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    ground.option("dm.fs", "ext4");
    let refused = ground.try_open().map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    ground.check();
}

#[test]
fn the_base_grows_and_never_shrinks() {
    let mut ground = Ground::new();
    let driver = ground.open();
    driver.rw("old", None).unwrap();
    driver.cleanup().unwrap();
    drop(driver);

    ground.option("dm.basesize", "96M");
    let driver = ground.open();
    assert!(std::fs::read_to_string(ground.metadata("base")).unwrap().contains("\"size\": 100663296"));
    driver.rw("new", None).unwrap();
    let (old, new) = (driver.up("old").unwrap(), driver.up("new").unwrap());
    assert!(filesystem_size(&new) > filesystem_size(&old) + (25 << 20), "only new layers profit");
    driver.rw("child", Some("old")).unwrap();
    assert_eq!(filesystem_size(&driver.up("child").unwrap()), filesystem_size(&old));
    for name in ["old", "new", "child"] {
        driver.down(name).unwrap();
    }
    assert_eq!(driver.line("Base Device Size"), "96.000MB");
    driver.cleanup().unwrap();
    drop(driver);

    ground.option("dm.basesize", "80M");
    assert_eq!(ground.try_open().map(drop).unwrap_err().kind(), Kind::Invalid);
    ground.check();
}

#[test]
fn a_layer_can_be_larger_than_its_parent_and_not_smaller() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.sized("large", None, "128M").unwrap();
    driver.sized("same", None, "64M").unwrap();
    driver.sized("zero", Some("large"), "0").unwrap();
    let refused = driver.sized("small", None, "63M").unwrap_err();
    assert_eq!(refused.user_message(), Some("Container size cannot be smaller than 67108864"));
    assert!(!driver.has("small") && !ground.home().join("mnt/small").exists());
    let sizes = ["large", "same", "zero"].map(|name| {
        let size = filesystem_size(&driver.up(name).unwrap());
        driver.down(name).unwrap();
        size
    });
    assert!(sizes[0] > sizes[1] + (50 << 20) && sizes[2] == sizes[0], "{sizes:?}");
    assert_eq!(driver.layer_metadata(&id("zero")).unwrap()[1].1, "134217728");
    assert!(!std::fs::read_to_string(ground.metadata("large")).unwrap().contains("incomplete"));
    ground.finish(driver);
}

#[test]
fn ids_of_any_allowed_form_survive_a_restart() {
    let ground = Ground::new();
    let driver = ground.open();
    let names = ["a".repeat(255), "a.b_c-D".to_owned(), "README.md".to_owned()];
    for name in &names {
        driver.rw(name, None).unwrap();
        driver.up(name).unwrap();
    }
    for name in &names {
        driver.down(name).unwrap();
    }
    drop(driver);
    let driver = ground.open();
    for name in &names {
        assert!(driver.has(name));
        driver.rm(name).unwrap();
    }
    eventually("only the pool is left", || devices().len() == 1);
    ground.finish(driver);
}

fn run_all(subject: &dyn Subject) {
    for (name, scenario) in SCENARIOS {
        println!("scenario {name}");
        let ground = Ground::new();
        let options: Vec<&str> = ground.options.iter().map(String::as_str).collect();
        subject.init("devicemapper", &ground.dir, &options).unwrap();
        scenario(&World { subject });
        assert_eq!(common::mounts_below(&ground.home()), [""; 0], "{name} left mounts");
        subject.cleanup().unwrap();
        ground.check();
    }
}

#[test]
fn every_scenario_through_rust() {
    run_all(&Rust::default());
}

#[test]
fn every_scenario_through_c() {
    run_all(&C::new());
}
