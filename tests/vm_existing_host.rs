//! A host that ran iSulad with its C module on a thin pool: the driver takes pool and files over, iSulad's startup sequence runs,
//! everything is usable, and what is left is something that the C module could go on with. Run by `vm/test`.

mod common;

use common::subject::{C, Rust, Subject};
use common::{Store, Tar, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const IMAGE: &str = "ba0dae6243cc9fa2890df40a625721fdbea5c94ca6da897acdd814d710149770";
const OTHER_IMAGE: &str = "3d24ee258efc3bfe4066a1a9fb83febf6dc0b1548dfe896161533668281c9f4f";
const CONTAINER: &str = "068615102be4457b22d40c9702e4bd316dd50ae85467b0378a419b23b60ba73d";
/// Made by these tests.
const NEW: &str = "ab00000000000000000000000000000000000000000000000000000000000000";

const POOL: &str = "existing-host-pool";
const UUID: &str = "4fa22307-0c88-4fa4-8f16-a9459e9cbc4a";
/// Sectors of 512 bytes in 10 GiB.
const SECTORS: u64 = 20_971_520;

/// A thin pool with the devices that the fixture speaks of, and the driver's home.
struct Host {
    store: Store,
    loops: Vec<String>,
}

impl Host {
    /// `transaction` is the one that the pool is in; the files say 8.
    fn new(transaction: u64) -> Host {
        let mut host = Host { store: Store::new(), loops: Vec::new() };
        fs::create_dir(host.root()).unwrap();
        common::fixture::lay_out(include_str!("fixtures/devicemapper-host.txt"), &host.root());

        let (metadata, data) = (host.attach("metadata", 16 << 20), host.attach("data", 2 << 30));
        // An empty superblock is what makes the kernel format the metadata.
        let table = format!("0 {} thin-pool {metadata} {data} 128 0 1 skip_block_zeroing", (2_u64 << 30) / 512);
        dmsetup(&["create", POOL, "--table", &table]);
        message("create_thin 1");
        host.with_device(1, |device| {
            let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
            run(Command::new("mkfs.ext4").args(["-q", "-U", UUID, "-E", extended]).arg(device));
        });
        // The id file is inherited, so it names the first ancestor that was mounted.
        for (device, origin, id, file) in
            [(2, 1, IMAGE, "hello"), (4, 1, OTHER_IMAGE, "etc-group"), (6, 4, OTHER_IMAGE, "written")]
        {
            message(&format!("create_snap {device} {origin}"));
            host.with_device(device, |node| {
                let at = host.store.root().join("at");
                fs::create_dir_all(&at).unwrap();
                run(Command::new("mount").arg(node).arg(&at));
                fs::create_dir_all(at.join("rootfs")).unwrap();
                fs::write(at.join("id"), id).unwrap();
                fs::write(at.join("rootfs").join(file), "from before\n").unwrap();
                run(Command::new("umount").arg(&at));
            });
        }
        message(&format!("set_transaction_id 0 {transaction}"));
        host
    }

    fn root(&self) -> PathBuf {
        self.store.root().join("storage")
    }

    fn home(&self) -> PathBuf {
        self.root().join("devicemapper")
    }

    fn metadata(&self, name: &str) -> PathBuf {
        self.home().join("metadata").join(name)
    }

    /// A loop device on a sparse file of this many bytes.
    fn attach(&mut self, name: &str, bytes: u64) -> String {
        let file = std::env::temp_dir().join(format!("{POOL}-{name}"));
        fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::remove_file(&file).unwrap();
        self.loops.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        self.loops.last().unwrap().clone()
    }

    /// Has a thin device active for a while.
    fn with_device(&self, id: u32, work: impl FnOnce(&Path)) {
        let name = format!("{POOL}-thin");
        dmsetup(&["create", &name, "--table", &format!("0 {SECTORS} thin /dev/mapper/{POOL} {id}")]);
        work(&Path::new("/dev/mapper").join(&name));
        dmsetup(&["remove", "--retry", &name]);
    }

    fn init(&self, subject: &dyn Subject) {
        let pool = format!("dm.thinpooldev=/dev/mapper/{POOL}");
        subject.init("devicemapper", &self.root(), &[&pool, "dm.fs=ext4", "dm.min_free_space=10%"]).unwrap();
    }

    /// Uses what is there, and makes new layers on top of it.
    fn check_usable(&self, subject: &dyn Subject) {
        for (id, file) in [(IMAGE, "hello"), (OTHER_IMAGE, "etc-group")] {
            assert!(subject.exists(id), "{id}");
            let root = subject.mount(id, &[]).unwrap();
            assert_eq!(root, self.home().join("mnt").join(id).join("rootfs"));
            assert_eq!(fs::read_to_string(root.join(file)).unwrap(), "from before\n");
            subject.umount(id).unwrap();
        }
        assert_eq!(value(subject, OTHER_IMAGE, "DeviceId"), "4");
        assert_eq!(value(subject, OTHER_IMAGE, "DeviceSize"), "10737418240");

        let layer = "ab11111111111111111111111111111111111111111111111111111111111111";
        subject.create_ro(layer, Some(IMAGE)).unwrap();
        subject.apply(layer, &Tar::new().file("motd", "welcome\n").file(".wh.hello", "").done()).unwrap();
        subject.create_rw(NEW, Some(layer)).unwrap();
        let root = subject.mount(NEW, &[]).unwrap();
        assert_eq!(fs::read_to_string(root.join("motd")).unwrap(), "welcome\n");
        assert!(!root.join("hello").exists());
        subject.umount(NEW).unwrap();
        // The ids of the layers that were there are not given out again.
        for id in [layer, NEW] {
            assert!(!["1", "2", "4"].contains(&value(subject, id, "DeviceId").as_str()));
        }
        subject.remove(NEW).unwrap();
    }

    /// Whether the C module could go on: every file it looks at has its form, and the files agree with the pool.
    fn check_form(&self) {
        for entry in fs::read_dir(self.home().join("metadata")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            // Pretty printed, and nothing that is zero.
            assert!(text.starts_with("{\n    \"") && text.ends_with("\n}\n"), "{name}: {text}");
            assert!(!text.contains(": 0,") && !text.contains(": false") && !text.contains("null"), "{name}: {text}");
            match name.as_str() {
                "deviceset-metadata" => {
                    assert_eq!(json["BaseDeviceFilesystem"], "ext4");
                    assert_eq!(json["BaseDeviceUUID"], UUID);
                }
                "transaction-metadata" => {
                    // Equal: nothing pending. Smaller would be only a warning, greater would be rolled back.
                    assert_eq!(json["open_transaction_id"].as_u64(), Some(pool_transaction()));
                }
                _ => {
                    // Anything else would be deleted by the C module.
                    let is_layer =
                        name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                    assert!(name == "base" || is_layer, "'{name}' among the metadata");
                    assert_eq!(json["hash"], name.as_str());
                    assert!(json["device_id"].as_u64() > Some(0) && json["size"].as_u64() >= Some(10_737_418_240));
                    assert!(json["transaction_id"].as_u64() <= Some(pool_transaction()));
                }
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What a failed test left mounted keeps its thin devices open.
        for point in common::mounts_below(&self.root()) {
            let _ = Command::new("umount").args(["-l", &point]).status();
        }
        let names = Command::new("dmsetup").args(["ls"]).output().unwrap().stdout;
        let names = String::from_utf8_lossy(&names).into_owned();
        for name in names.lines().filter_map(|line| line.split('\t').next()).filter(|name| *name != POOL) {
            let _ = Command::new("dmsetup").args(["remove", "--retry", name]).status();
        }
        let _ = Command::new("dmsetup").args(["remove", "--retry", POOL]).status();
        for device in &self.loops {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

fn dmsetup(arguments: &[&str]) {
    run(Command::new("dmsetup").args(arguments));
}

fn message(text: &str) {
    dmsetup(&["message", POOL, "0", text]);
}

fn pool_transaction() -> u64 {
    let output = Command::new("dmsetup").args(["status", POOL]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // 0 LENGTH thin-pool TRANSACTION …
    text.split(' ').nth(3).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("pool status '{text}'"))
}

fn value(subject: &dyn Subject, id: &str, key: &str) -> String {
    let items = subject.metadata(id).unwrap();
    items.into_iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}")).1
}

/// Runs a case through the Rust API and through the C ABI, each on a host of its own.
fn each(transaction: u64, case: fn(&Host, &dyn Subject)) {
    case(&Host::new(transaction), &Rust::default());
    case(&Host::new(transaction), &C::new());
}

#[test]
fn a_pool_at_rest_is_taken_over() {
    each(8, |host, subject| {
        host.init(subject);
        // The startup sequence: image layers are looked up, running containers are mounted.
        let root = subject.mount(CONTAINER, &[]).unwrap();
        assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "from before\n");
        assert_eq!(fs::read_to_string(root.join("etc-group")).unwrap(), "from before\n");
        assert_eq!(fs::read_to_string(root.parent().unwrap().join("id")).unwrap(), OTHER_IMAGE);
        assert_eq!(value(subject, CONTAINER, "DeviceId"), "6");
        subject.umount(CONTAINER).unwrap();
        host.check_usable(subject);
        subject.remove(CONTAINER).unwrap();
        assert!(!host.metadata(CONTAINER).exists());
        host.check_form();
        subject.cleanup().unwrap();
        host.check_form();
    });
}

#[test]
fn an_interrupted_creation_is_undone() {
    each(7, |host, subject| {
        host.init(subject);
        // iSulad has it as incomplete, or as a container: either way it is gone, and removing it is a success.
        assert!(!subject.exists(CONTAINER));
        assert!(!host.metadata(CONTAINER).exists());
        subject.mount(CONTAINER, &[]).unwrap_err();
        subject.umount(CONTAINER).unwrap();
        subject.remove(CONTAINER).unwrap();
        host.check_usable(subject);
        host.check_form();
        subject.cleanup().unwrap();
    });
}

#[test]
fn a_layer_that_is_still_mounted_stays_as_it_is() {
    let host = Host::new(8);
    let first = Rust::default();
    host.init(&first);
    let root = first.mount(CONTAINER, &[]).unwrap();
    fs::write(root.join("marker"), "").unwrap();
    let before = common::mounts_below(&host.root());
    // The daemon goes without cleaning up, and the next one starts.
    drop(first);
    let second = Rust::default();
    host.init(&second);
    assert_eq!(second.mount(CONTAINER, &[]).unwrap(), root);
    assert_eq!(common::mounts_below(&host.root()), before);
    assert!(root.join("marker").exists());
    second.umount(CONTAINER).unwrap();
    host.check_usable(&second);
    host.check_form();
    second.cleanup().unwrap();
}

/// A daemon deletes what does not exist: what is only damaged does.
#[test]
fn a_damaged_file_costs_nobody_anything() {
    for damage in [&b""[..], b"{}", b"{\n    \"hash\": \"", &[b' '; 70_000]] {
        let host = Host::new(8);
        let subject = Rust::default();
        let path = host.metadata(OTHER_IMAGE);
        let before = fs::read(&path).unwrap();
        fs::write(&path, damage).unwrap();
        host.init(&subject);
        assert!(subject.exists(OTHER_IMAGE) && subject.exists(IMAGE) && subject.exists(CONTAINER));
        let failure = subject.mount(OTHER_IMAGE, &[]).unwrap_err();
        assert!(failure.errno == nix::errno::Errno::EUCLEAN as i32 && failure.text.contains(OTHER_IMAGE), "{failure:?}");
        assert_eq!(failure.errno, subject.create_rw(NEW, Some(OTHER_IMAGE)).unwrap_err().errno);
        assert_eq!(subject.create_ro(OTHER_IMAGE, None).unwrap_err().errno, nix::errno::Errno::EEXIST as i32);
        let root = subject.mount(CONTAINER, &[]).unwrap();
        assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "from before\n");
        subject.umount(CONTAINER).unwrap();
        subject.cleanup().unwrap();
        assert_eq!(fs::read(&path).unwrap(), damage);
        // Mended, it is what it was.
        fs::write(&path, before).unwrap();
        host.init(&subject);
        host.check_usable(&subject);
        host.check_form();
        subject.cleanup().unwrap();
    }
}

#[test]
fn files_of_interrupted_writes_and_of_others_do_no_harm() {
    each(8, |host, subject| {
        let stale = format!(".tmp-{IMAGE}-0123456789");
        fs::write(host.metadata(&stale), "{").unwrap();
        fs::write(host.metadata("notes of the administrator"), "keep\n").unwrap();
        host.init(subject);
        host.check_usable(subject);
        // What is not the driver's is left alone; the C module would delete both.
        assert_eq!(fs::read_to_string(host.metadata("notes of the administrator")).unwrap(), "keep\n");
        subject.cleanup().unwrap();
    });
}
