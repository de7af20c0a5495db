//! The devicemapper driver on real thin pools: what a daemon does with it. Run by `vm/test`, without udev and with it.

mod common;
#[path = "devmapper/ground.rs"]
mod ground;

use common::scenarios::{World, run_each};
use common::subject::{C, Rust, Subject};
use graphdriver::devmapper::Moment;
use graphdriver::driver::{Driver, Inspect, MountOptions};
use graphdriver::error::Kind;
use ground::{Ground, Short, devices, eventually, filesystem_size, id, output};
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
    let mut ground = ground;
    ground.option("dm.xfs_nospace_max_retries", "7");
    let driver = ground.open();
    assert_eq!(driver.line("Backing Filesystem"), "xfs");
    driver.rw("l1", None).unwrap();
    let first = driver.up("l1").unwrap();
    let number = std::fs::metadata(&first).unwrap();
    let kernel_name = format!("dm-{}", nix::sys::stat::minor(std::os::unix::fs::MetadataExt::dev(&number)));
    let retries = format!("/sys/fs/xfs/{kernel_name}/error/metadata/ENOSPC/max_retries");
    assert_eq!(std::fs::read_to_string(retries).unwrap().trim(), "7");
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

#[test]
fn a_second_driver_on_the_same_home_is_refused() {
    let ground = Ground::new();
    let driver = ground.open();
    assert_eq!(ground.try_open().map(drop).unwrap_err().kind(), Kind::Busy);
    driver.rw("l1", None).unwrap();
    ground.finish(driver);
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

/// The kernel lets go of a pool's files a moment after the pool is gone.
#[test]
fn a_start_waits_for_files_that_are_in_use_for_a_moment_only() {
    let ground = Ground::new();
    ground.open().cleanup().unwrap();
    let busy = output("losetup", &["--find", "--show", ground.dir.join("pool/metadata").to_str().unwrap()]);
    let refused = ground.try_open().map(drop).unwrap_err();
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains(busy.trim()), "{refused}");
    let driver = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            output("losetup", &["--detach", busy.trim()]);
        });
        ground.open()
    });
    ground.finish(driver);
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
