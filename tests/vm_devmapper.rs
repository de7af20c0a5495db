//! The devicemapper driver on real thin pools, under a kernel that has them. Run by `vm/test`.

mod common;
#[path = "devmapper/ground.rs"]
mod ground;

#[path = "devmapper/crash.rs"]
mod crash;
#[path = "devmapper/pool.rs"]
mod pool;

use common::scenarios::{World, run_each};
use common::subject::{C, Rust, Subject};
use crash::{End, From};
use graphdriver::devmapper::{DeviceMapper, Moment};
use graphdriver::driver::{Driver, MountOptions};
use graphdriver::error::{Error, Kind, Result};
use ground::{Ground, Short, devices, eventually, filesystem_size, id, output};
use pool::ForeignPool;
use std::path::Path;
use std::sync::{Arc, Mutex};

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
    let read_only = MountOptions { mount_label: None, options: vec!["remount,ro".into()] };
    let root = driver.mount(&id("l1"), &read_only).unwrap();
    assert!(std::fs::write(root.join("file"), "x").is_err());
    let bad = MountOptions { mount_label: None, options: vec!["remount,nonsense=1".into()] };
    assert!(driver.mount(&id("l1"), &bad).is_err() && root.exists());
    driver.down("l1").unwrap();
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
    assert_eq!(driver.rw("large", Some("large")).unwrap_err().kind(), Kind::Invalid, "its own parent");
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
    run_each(|name, scenario| {
        let ground = Ground::new();
        let options: Vec<&str> = ground.options.iter().map(String::as_str).collect();
        subject.init("devicemapper", &ground.dir, &options).unwrap();
        scenario(&World { subject, driver: "devicemapper", root: &ground.dir, options: &options });
        assert_eq!(common::mounts_below(&ground.home()), [""; 0], "{name} left mounts");
        subject.cleanup().unwrap();
        ground.check();
    });
}

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

#[test]
fn every_scenario_through_rust() {
    run_all(&Rust::default());
}

#[test]
fn every_scenario_through_c() {
    run_all(&C::new());
}

#[test]
fn a_hundred_layers_deep() {
    let ground = Ground::new();
    let driver = ground.open();
    let mut parent: Option<String> = None;
    for depth in 0..100 {
        let name = format!("layer{depth}");
        driver.rw(&name, parent.as_deref()).unwrap();
        std::fs::write(driver.up(&name).unwrap().join(&name), &name).unwrap();
        driver.down(&name).unwrap();
        parent = Some(name);
    }
    let root = driver.up("layer99").unwrap();
    for depth in 0..100 {
        let name = format!("layer{depth}");
        assert_eq!(std::fs::read_to_string(root.join(&name)).unwrap(), name);
    }
    driver.down("layer99").unwrap();
    // From the bottom up: a snapshot does not need its origin.
    for depth in 0..99 {
        driver.rm(&format!("layer{depth}")).unwrap();
    }
    assert!(driver.up("layer99").unwrap().join("layer0").exists());
    driver.down("layer99").unwrap();
    ground.finish(driver);
}

#[test]
fn three_hundred_layers_wide() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("parent", None).unwrap();
    std::fs::write(driver.up("parent").unwrap().join("shared"), "x").unwrap();
    driver.down("parent").unwrap();
    let names: Vec<String> = (0..300).map(|n| format!("child{n}")).collect();
    for name in &names {
        driver.rw(name, Some("parent")).unwrap();
        let root = driver.up(name).unwrap();
        assert!(root.join("shared").exists());
        std::fs::write(root.join("own"), name).unwrap();
    }
    assert_eq!(devices().len(), 301);
    for name in &names {
        let own = ground.home().join("mnt").join(name).join("rootfs/own");
        assert_eq!(std::fs::read_to_string(own).unwrap(), *name);
        driver.down(name).unwrap();
    }
    assert_eq!(devices().len(), 1);
    for name in &names {
        driver.rm(name).unwrap();
    }
    ground.finish(driver);
}

#[test]
fn layers_are_used_while_others_are_filled_made_and_removed() {
    let ground = Ground::new();
    let driver = ground.open();
    let names: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    driver.create_read_only("image").unwrap();
    for name in &names {
        driver.rw(name, Some("image")).unwrap();
    }
    let archive = (0..200).fold(common::Tar::new(), |tar, n| tar.file(&format!("file{n}"), &"x".repeat(20_000))).done();
    std::thread::scope(|scope| {
        let driver = &driver;
        for name in &names {
            scope.spawn(move || {
                for round in 0..15 {
                    let root = driver.up(name).unwrap();
                    std::fs::write(root.join(format!("round{round}")), name).unwrap();
                    driver.rw(&format!("{name}-child"), Some(name)).unwrap();
                    driver.down(name).unwrap();
                    driver.rm(&format!("{name}-child")).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for n in 0..4 {
                let name = format!("filled{n}");
                driver.create_read_only(&name).unwrap();
                let mut size = 0;
                driver.apply_diff(&id(&name), &mut &archive[..], Some(&mut size)).unwrap();
                assert_eq!(size, 200 * 20_000);
            }
        });
        scope.spawn(|| {
            for _ in 0..50 {
                assert!(driver.has("image"));
                driver.status().unwrap();
            }
        });
    });
    for name in &names {
        let root = driver.up(name).unwrap();
        assert_eq!(
            std::fs::read_dir(&root).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "lost+found").count(),
            15
        );
        driver.down(name).unwrap();
    }
    ground.finish(driver);
}

#[test]
fn usage_is_what_a_layer_adds() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.create_read_only("image").unwrap();
    let archive = (0..50).fold(common::Tar::new(), |tar, n| tar.file(&format!("file{n}"), &"x".repeat(100_000))).done();
    driver.apply_diff(&id("image"), &mut &archive[..], None).unwrap();
    let image = driver.layer_usage(&id("image")).unwrap();
    assert!(image.bytes >= 5_000_000 && image.bytes < 12_000_000, "{image:?}");
    assert!((50..60).contains(&image.inodes), "{image:?}");
    driver.rw("c1", Some("image")).unwrap();
    assert_eq!(driver.layer_usage(&id("c1")).unwrap(), graphdriver::driver::Usage::default());
    let root = driver.up("c1").unwrap();
    for n in 0..7 {
        std::fs::write(root.join(format!("new{n}")), "x").unwrap();
    }
    assert_eq!(driver.layer_usage(&id("c1")).unwrap().inodes, 7);
    driver.down("c1").unwrap();
    assert!(driver.layer_usage(&id("c1")).unwrap().bytes > 0);
    ground.finish(driver);
}

fn is_marked(ground: &Ground, name: &str) -> bool {
    std::fs::read_to_string(ground.metadata(name)).is_ok_and(|text| text.contains("\"deleted\": true"))
}

#[test]
fn a_layer_held_open_is_removed_when_it_is_let_go() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.up("l1").unwrap();
    let name = driver.layer_metadata(&id("l1")).unwrap()[2].1.clone();
    let holder = std::fs::File::open(Path::new("/dev/mapper").join(name)).unwrap();
    driver.down("l1").unwrap();
    driver.rm("l1").unwrap();
    assert!(!driver.has("l1") && is_marked(&ground, "l1"));
    assert_eq!(driver.line("Deferred Deleted Device Count"), "1");
    assert_eq!(driver.rw("l1", None).unwrap_err().kind(), Kind::Busy);
    assert_eq!(driver.up("l1").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(driver.layer_metadata(&id("l1")).unwrap_err().kind(), Kind::NotFound);
    drop(holder);
    eventually("the worker deleted it", || !ground.metadata("l1").exists());
    eventually("nothing is counted", || driver.line("Deferred Deleted Device Count") == "0");
    driver.rw("l1", None).unwrap();
    ground.finish(driver);
}

#[test]
fn a_layer_mounted_in_another_namespace_is_removed_after_a_restart() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.up("l1").unwrap();
    let mut holder = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", "cd \"$0\" && echo ready && exec sleep 1000"])
        .arg(ground.home().join("mnt/l1/rootfs"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
    driver.rm("l1").unwrap();
    assert!(is_marked(&ground, "l1"));
    drop(driver);
    let driver = ground.open();
    assert!(!driver.has("l1") && is_marked(&ground, "l1"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the worker deleted it", || !ground.metadata("l1").exists());
    ground.finish(driver);
}

/// Fills a layer until the pool has no more; returns what the last write said.
fn fill(root: &Path) -> std::io::Error {
    use std::io::Write;
    let block = vec![0x5a_u8; 1 << 20];
    let mut file = std::fs::File::create(root.join("fill")).unwrap();
    loop {
        if let Err(e) = file.write_all(&block).and_then(|()| file.sync_data()) {
            return e;
        }
    }
}

#[test]
fn a_pool_without_data_space_says_so_and_recovers() {
    let ground = Ground::with(&["dm.loopdatasize=96M", "dm.loopmetadatasize=4M", "dm.basesize=128M", "dm.mkfsarg=-m0"]);
    let driver = ground.open();
    driver.rw("small", None).unwrap();
    driver.rw("large", None).unwrap();
    let failure = fill(&driver.up("large").unwrap());
    assert!(failure.raw_os_error().is_some(), "{failure}");
    assert_eq!(driver.line("Pool State"), "out_of_data_space");
    let refused = driver.rw("more", None).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace);
    let sentence = refused.user_message().unwrap();
    assert!(sentence.starts_with("devmapper: Thin Pool has ") && sentence.contains(" free data blocks"), "{sentence}");
    assert!(!driver.has("more") && !ground.home().join("mnt/more").exists());

    driver.create_read_only("half").unwrap_err();
    driver.down("large").unwrap();
    driver.rm("large").unwrap();
    assert_eq!(driver.line("Pool State"), "rw");
    std::fs::write(driver.up("small").unwrap().join("file"), "x").unwrap();
    driver.down("small").unwrap();
    driver.create_read_only("half").unwrap();
    let archive = (0..100).fold(common::Tar::new(), |tar, n| tar.file(&format!("file{n}"), &"x".repeat(1_000_000))).done();
    let failure = driver.apply_diff(&id("half"), &mut &archive[..], None).unwrap_err();
    assert!(failure.to_string().contains("out_of_data_space") && failure.kind() == Kind::NoSpace, "{failure}");
    assert!(!driver.has("half"));
    assert_eq!(driver.up("half").unwrap_err().kind(), Kind::Corrupt);
    driver.rm("half").unwrap();
    driver.rw("last", None).unwrap();
    ground.finish(driver);
}

#[test]
fn a_pool_short_of_metadata_space_makes_no_layer() {
    let mut ground = Ground::with(&["dm.loopdatasize=1G", "dm.loopmetadatasize=4M", "dm.basesize=64M"]);
    let driver = ground.open();
    let kilobytes = |name: &str| driver.line(name).trim_end_matches("KB").parse::<f64>();
    let total = 4096.0;
    let free = kilobytes("Metadata Space Available").unwrap_or(total - kilobytes("Metadata Space Used").unwrap());
    driver.cleanup().unwrap();
    drop(driver);
    // One or two percent of the metadata, 10 to 20 blocks, are left for new layers.
    ground.option("dm.min_free_space", &format!("{}%", (free * 100.0 / total).floor() - 1.0));
    let driver = ground.open();
    let mut made = 0;
    let refused = loop {
        let name = format!("l{made}");
        match driver.rw(&name, None) {
            Ok(()) => made += 1,
            Err(e) => break e,
        }
        // A write ends the sharing of metadata with the base.
        std::fs::write(driver.up(&name).unwrap().join("file"), "x").unwrap();
        driver.down(&name).unwrap();
        assert!(made < 100, "metadata never ran short");
    };
    let sentence = refused.user_message().unwrap();
    assert!(
        sentence.contains(" free metadata blocks") && sentence.contains("Create more free metadata space"),
        "{sentence}"
    );
    assert_eq!(refused.kind(), Kind::NoSpace);
    assert!(made > 0);
    assert!(!driver.has(&format!("l{made}")));
    ground.finish(driver);
}

#[test]
fn a_damaged_file_costs_one_layer_only() {
    let ground = Ground::new();
    let driver = ground.open();
    for name in ["l1", "l2"] {
        driver.rw(name, None).unwrap();
    }
    drop(driver);
    std::fs::write(ground.metadata("l1"), "{\n    \"hash\": \"l1").unwrap();
    std::fs::write(ground.metadata("NOTES~"), "mine").unwrap();
    let driver = ground.open();
    assert!(!driver.has("l1") && driver.has("l2"));
    assert!(!ground.metadata("l1").exists() && ground.metadata("NOTES~").exists());
    assert_eq!(std::fs::read_dir(ground.home().join("metadata-corrupt")).unwrap().count(), 1);
    // Its device id is in the pool still, and nobody else gets it.
    driver.rw("l1", None).unwrap();
    driver.rw("l3", None).unwrap();
    let ids: Vec<_> = ["l1", "l3"].iter().map(|name| driver.layer_metadata(&id(name)).unwrap()[0].1.clone()).collect();
    assert!(!ids.contains(&"2".into()), "{ids:?}");
    ground.finish(driver);
}

#[test]
fn a_second_driver_on_the_same_home_is_refused() {
    let ground = Ground::new();
    let driver = ground.open();
    assert_eq!(ground.try_open().map(drop).unwrap_err().kind(), Kind::Busy);
    driver.rw("l1", None).unwrap();
    ground.finish(driver);
}

#[test]
fn pools_that_cannot_be_used_are_refused_with_the_reason() {
    let mut ground = Ground::with(&["dm.thinpooldev=/dev/mapper/test-pool", "dm.basesize=64M"]);
    let refused = ground.try_open().map(drop).unwrap_err();
    assert!(refused.kind() == Kind::NotFound && refused.to_string().contains("'test-pool'"), "{refused}");

    output("dmsetup", &["create", "test-pool", "--table", "0 1024 zero"]);
    let refused = ground.try_open().map(drop).unwrap_err();
    assert!(refused.kind() == Kind::Unsupported && refused.to_string().contains("'zero'"), "{refused}");
    output("dmsetup", &["remove", "test-pool"]);

    let pool = ForeignPool::new(&ground.dir, "test-pool");
    pool.message("create_thin 1");
    pool.message("set_transaction_id 0 5");
    let refused = ground.try_open().map(drop).unwrap_err();
    assert!(refused.kind() == Kind::Exists && refused.to_string().contains("Unable to take ownership"), "{refused}");
    pool.message("delete 1");
    pool.message("set_transaction_id 5 0");

    ground.option("dm.fs", "xfs");
    let refused = ground.try_open().map(drop).unwrap_err();
    assert!(refused.to_string().contains("mkfs.xfs"), "64 MiB are too small for XFS: {refused}");
    ground.option("dm.fs", "ext4");
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    assert!(driver.line("Data file").starts_with('/') && !driver.status().unwrap().text.contains("Loop Backed"));
    driver.cleanup().unwrap();
    drop(driver);
    assert_eq!(devices(), ["test-pool"], "the pool stays, and nothing else");
    pool.remove();
    ground.check();
}

/// Metadata files as a real host had them, with transaction 8 open, on a pool that matches.
#[test]
fn a_store_of_the_c_module_is_taken_over() {
    let ground = Ground::with(&["dm.thinpooldev=test-pool"]);
    let pool = ForeignPool::new(&ground.dir, "test-pool");
    pool.message("create_thin 1");
    output("dmsetup", &["create", "test-base", "--table", "0 20971520 thin /dev/mapper/test-pool 1"]);
    let uuid = "4fa22307-0c88-4fa4-8f16-a9459e9cbc4a";
    output("mkfs.ext4", &["-q", "-U", uuid, "-E", "nodiscard,lazy_itable_init=1", "/dev/mapper/test-base"]);
    output("dmsetup", &["remove", "test-base"]);
    for text in ["create_snap 2 1", "create_snap 4 2", "create_snap 6 4", "set_transaction_id 0 7"] {
        pool.message(text);
    }
    let interrupted = "068615102be4457b22d40c9702e4bd316dd50ae85467b0378a419b23b60ba73d";
    let kept = "3d24ee258efc3bfe4066a1a9fb83febf6dc0b1548dfe896161533668281c9f4f";
    let other = "ba0dae6243cc9fa2890df40a625721fdbea5c94ca6da897acdd814d710149770";
    std::fs::create_dir_all(ground.home().join("metadata")).unwrap();
    std::fs::create_dir_all(ground.home().join("mnt").join(interrupted)).unwrap();
    let layer = |name: &str, id: u32, transaction: u32, more: &str| {
        format!(
            "{{\n    \"hash\": \"{name}\",\n    \"device_id\": {id},\n    \"size\": 10737418240,\n    \
             \"transaction_id\": {transaction}{more}\n}}\n"
        )
    };
    let files = [
        (interrupted, layer(interrupted, 6, 8, "")),
        (kept, layer(kept, 4, 4, "")),
        (other, layer(other, 2, 2, "")),
        ("base", layer("base", 1, 1, ",\n    \"initialized\": true")),
        (
            "deviceset-metadata",
            format!(
                "{{\n    \"next_device_id\": 7,\n    \"BaseDeviceFilesystem\": \"ext4\",\n    \"BaseDeviceUUID\": \"{uuid}\"\n}}\n"
            ),
        ),
        (
            "transaction-metadata",
            format!(
                "{{\n    \"open_transaction_id\": 8,\n    \"device_hash\": \"{interrupted}\",\n    \"device_id\": 6\n}}\n"
            ),
        ),
    ];
    for (name, text) in &files {
        std::fs::write(ground.metadata(name), text).unwrap();
    }

    let driver = ground.open();
    assert!(!driver.has(interrupted) && driver.has(kept) && driver.has(other));
    assert!(!ground.metadata(interrupted).exists() && !ground.home().join("mnt").join(interrupted).exists());
    let told = driver.layer_metadata(&id(kept)).unwrap();
    assert_eq!((told[0].1.to_str(), told[1].1.to_str()), (Some("4"), Some("10737418240")));
    std::fs::write(driver.up(kept).unwrap().join("file"), "x").unwrap();
    driver.down(kept).unwrap();
    driver.rw("new", Some(kept)).unwrap();
    assert_eq!(driver.layer_metadata(&id("new")).unwrap()[0].1, "8");
    assert_eq!(pool.transaction(), "8");
    assert!(driver.up("new").unwrap().join("file").exists());
    driver.down("new").unwrap();
    driver.rm(other).unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    // What the C module would read now, it also wrote like this.
    assert_eq!(std::fs::read_to_string(ground.metadata(kept)).unwrap(), files[1].1);
    assert_eq!(std::fs::read_to_string(ground.metadata("base")).unwrap(), files[3].1);
    drop(ground.open());
    eventually("only the pool is left", || devices() == ["test-pool"]);
    pool.remove();
    ground.check();
}

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
            Err(e) => assert!([Kind::NotFound, Kind::Corrupt].contains(&e.kind()), "{e}"),
        }
        driver.rm("l1").unwrap();
    });
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
        match driver.up("l1") {
            Ok(root) => assert_eq!(root.join("a").exists(), root.join("b").exists(), "half a layer"),
            Err(e) => assert!([Kind::NotFound, Kind::Corrupt].contains(&e.kind()), "{e}"),
        }
        driver.down("l1").unwrap();
        // What a daemon does after a crash: it pulls again.
        driver.create_read_only("l1").unwrap();
        driver.apply_diff(&id("l1"), &mut &archive[..], None).unwrap();
        driver.rm("l1").unwrap();
    });
}

/// What operations cost, in steps. `docs/performance.md` has the table.
#[test]
fn operations_cost_what_the_documentation_says() {
    let ground = Ground::new();
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
    let cost = |operation: &dyn Fn()| {
        seen.lock().unwrap().clear();
        operation();
        let steps = seen.lock().unwrap().clone();
        let count = |what: &str| steps.iter().filter(|step| *step == what).count();
        let (saves, forgets, forks) = (count("save"), count("forget"), count("fork"));
        // A save forces the file and its directory to disk, a removal the directory.
        (steps.len() - saves - forgets - forks, forks, 2 * saves + forgets)
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

#[test]
fn a_pool_without_metadata_space_says_so_and_still_shows_its_layers() {
    let mut ground = Ground::with(&["dm.loopdatasize=1G", "dm.loopmetadatasize=512K", "dm.basesize=64M"]);
    ground.option("dm.min_free_space", "0%");
    let driver = ground.open();
    driver.rw("first", None).unwrap();
    let mut made = 0;
    while driver.line("Pool State") == "rw" {
        assert!(made < 400, "metadata never ran out: {}", driver.status().unwrap().text);
        let name = format!("l{made}");
        made += 1;
        if driver.rw(&name, None).is_ok()
            && let Ok(root) = driver.up(&name)
        {
            let written = std::fs::write(root.join("file"), vec![0x5a; 3 << 20]);
            let _ = written.and_then(|()| std::fs::File::open(root.join("file"))?.sync_all());
            driver.down(&name).unwrap();
        }
    }
    for refused in [driver.rw("more", None).unwrap_err(), driver.rm("first").unwrap_err()] {
        assert!(refused.to_string().contains("is in state ro"), "{refused}");
    }
    driver.cleanup().unwrap();
    drop(driver);
    let driver = ground.open();
    assert_eq!(driver.line("Pool State"), "ro");
    assert!(driver.has("first") && !driver.has("more"));
    driver.cleanup().unwrap();
    drop(driver);

    ground.option("dm.loopmetadatasize", "4M");
    let driver = ground.open();
    assert_eq!((driver.line("Pool State"), driver.line("Metadata Space Total")), ("rw".to_owned(), "4.000MB".to_owned()));
    std::fs::write(driver.up("first").unwrap().join("file"), "x").unwrap();
    driver.rw("more", Some("first")).unwrap();
    driver.rm("first").unwrap();
    ground.finish(driver);
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

#[test]
fn a_slow_layer_does_not_hold_up_the_others() {
    let ground = Ground::new();
    // The activation of "slow" waits, as if udev did not answer, until the other layers are done.
    let (done, others) = std::sync::mpsc::channel::<()>();
    let others = Mutex::new(others);
    let observer: Arc<graphdriver::devmapper::Observer> = Arc::new(move |step| {
        if step.what == "resume" && step.on.ends_with("-slow") && step.moment == Moment::After {
            others.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let driver = ground.observed(Some(observer)).unwrap();
    for name in ["slow", "quick"] {
        driver.rw(name, None).unwrap();
    }
    driver.create_read_only("image").unwrap();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| driver.up("slow").unwrap());
        // So does an archive that arrives slowly.
        let (feed, mut arriving) = std::os::unix::net::UnixStream::pair().unwrap();
        let filling = scope.spawn({
            let driver = &driver;
            move || driver.apply_diff(&id("image"), &mut arriving, None)
        });
        for round in 0..5 {
            driver.up("quick").unwrap();
            driver.rw("more", Some("quick")).unwrap();
            driver.down("quick").unwrap();
            driver.rm("more").unwrap();
            assert!(driver.has("quick") && driver.has("slow") && driver.status().is_ok(), "round {round}");
            assert_eq!(driver.layer_metadata(&id("slow")).unwrap().len(), 4);
        }
        assert!(!slow.is_finished() && !filling.is_finished());
        done.send(()).unwrap();
        slow.join().unwrap();
        std::io::Write::write_all(&mut &feed, &common::Tar::new().file("a", "1").done()).unwrap();
        drop(feed);
        filling.join().unwrap().unwrap();
    });
    driver.down("slow").unwrap();
    ground.finish(driver);
}

/// Open descriptors, threads and children of this process.
fn held() -> (usize, usize, String) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    (count("/proc/self/fd"), count("/proc/self/task"), children)
}

#[test]
fn nothing_of_the_process_is_kept() {
    let ground = Ground::new();
    let before = held();
    for _ in 0..3 {
        let driver = ground.open();
        driver.rw("l1", None).unwrap();
        driver.up("l1").unwrap();
        let name = driver.layer_metadata(&id("l1")).unwrap()[2].1.clone();
        let holder = std::fs::File::open(Path::new("/dev/mapper").join(name)).unwrap();
        driver.rm("l1").unwrap();
        assert!(held().1 > before.1, "the worker is at it");
        drop(holder);
        driver.cleanup().unwrap();
        drop(driver);
        assert_eq!(held(), before);
    }
    let driver = ground.open();
    eventually("the marked device is gone", || !ground.metadata("l1").exists());
    eventually("the worker has ended", || held().1 == before.1);
    ground.finish(driver);
}

#[test]
fn a_base_that_is_not_the_recorded_one_is_refused() {
    let ground = Ground::new();
    drop(ground.open());
    let file = ground.metadata("deviceset-metadata");
    let text = std::fs::read_to_string(&file).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let uuid = value["BaseDeviceUUID"].as_str().unwrap();
    assert_eq!((uuid.len(), value["BaseDeviceFilesystem"].as_str()), (36, Some("ext4")));

    std::fs::write(&file, text.replace(uuid, "00000000-0000-0000-0000-000000000000")).unwrap();
    let refused = ground.try_open().map(drop).unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.to_string().contains(uuid), "{refused}");
    std::fs::write(&file, text.replace("\"ext4\"", "\"xfs\"")).unwrap();
    assert_eq!(ground.try_open().map(drop).unwrap_err().kind(), Kind::Corrupt);

    // A file that was lost is made again from what the device says.
    std::fs::remove_file(&file).unwrap();
    let driver = ground.open();
    assert!(std::fs::read_to_string(&file).unwrap().contains(uuid));
    ground.finish(driver);
}

#[test]
fn the_embedded_pool_grows_and_never_shrinks() {
    let mut ground = Ground::new();
    drop(ground.open().cleanup());
    for (asked, total) in [("1536M", "1.500GB"), ("1G", "1.500GB")] {
        ground.option("dm.loopdatasize", asked);
        let driver = ground.open();
        assert_eq!(driver.line("Data Space Total"), total);
        driver.cleanup().unwrap();
    }
    ground.check();
}

#[test]
fn a_device_that_was_to_go_away_is_taken_back() {
    let ground = Ground::new();
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    driver.up("l1").unwrap();
    let name = driver.layer_metadata(&id("l1")).unwrap()[2].1.to_str().unwrap().to_owned();
    let node = Path::new("/dev/mapper").join(&name);
    let holder = std::fs::File::open(&node).unwrap();
    driver.down("l1").unwrap();
    assert!(devices().contains(&name) && output("dmsetup", &["info", &name]).contains("DEFERRED REMOVE"));
    let root = driver.up("l1").unwrap();
    drop(holder);
    std::fs::write(root.join("file"), "x").unwrap();
    assert!(node.exists() && devices().contains(&name));
    driver.down("l1").unwrap();
    assert!(!node.exists() && !devices().contains(&name));

    // What a process leaves that dies between making the device and giving it a table; and one frozen by somebody.
    output("dmsetup", &["create", "--notable", &name]);
    driver.up("l1").unwrap();
    output("dmsetup", &["suspend", &name]);
    drop(driver);
    let driver = ground.open();
    std::fs::write(root.join("file"), "y").unwrap();
    driver.down("l1").unwrap();

    // Another device that has the name.
    output("dmsetup", &["create", &name, "--table", "0 1024 zero"]);
    let refused = driver.up("l1").unwrap_err();
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains("'zero"), "{refused}");
    output("dmsetup", &["remove", &name]);
    ground.finish(driver);
}
