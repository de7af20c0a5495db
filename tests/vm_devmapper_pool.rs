//! The devicemapper driver and its pools: full ones, sick ones, wrong ones, those of others. Run by `vm/test`.

mod common;
#[path = "devmapper/ground.rs"]
mod ground;
#[path = "devmapper/pool.rs"]
mod pool;

use graphdriver::driver::{Driver, Inspect};
use graphdriver::error::Kind;
use ground::{Ground, Short, devices, eventually, id, output};
use pool::ForeignPool;
use std::path::Path;

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
fn a_full_filesystem_below_the_embedded_pool_stops_new_layers() {
    let ground = Ground::new();
    let dir = ground.dir.join("pool");
    std::fs::create_dir(&dir).unwrap();
    output("mount", &["-t", "tmpfs", "-o", "size=128M", "tmpfs", dir.to_str().unwrap()]);
    let driver = ground.open();
    driver.rw("l1", None).unwrap();
    // Ten percent, 12.8 MiB, are to be kept.
    let free = || nix::sys::statvfs::statvfs(&dir).map(|found| found.blocks_available() * found.fragment_size()).unwrap();
    std::fs::write(dir.join("other"), vec![7; usize::try_from(free()).unwrap() - (8 << 20)]).unwrap();
    let refused = driver.rw("l2", None).unwrap_err();
    assert!(refused.kind() == Kind::NoSpace && refused.to_string().contains("filesystem below pool"), "{refused}");
    assert!(driver.line("Host Space Available").ends_with("MB") && !driver.has("l2"));
    std::fs::remove_file(dir.join("other")).unwrap();
    driver.rw("l2", None).unwrap();
    driver.cleanup().unwrap();
    drop(driver);
    ground.check_nothing_is_left_but(1);
    assert_eq!(ground.thins(), ground.recorded());
    nix::mount::umount2(&dir, nix::mount::MntFlags::empty()).unwrap();
    ground.check();
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
