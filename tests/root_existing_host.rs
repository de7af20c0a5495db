//! A host that ran iSulad with its C module: the store it left is opened, iSulad's startup sequence runs over it, everything is
//! usable, and what is on disk afterwards is something that the C module could go on with.

mod common;

use common::subject::{C, Rust, Subject};
use common::{Store, Tar, eventually, names, text};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const BASE: &str = "9c27e219663c25e0f28493790cc0b88bc973ba3b1686355f221c38a36978ac63";
const BASE_LINK: &str = "c3343428f60aab9c86d24293f6";
const CHILD: &str = "1be74353c3d0fd55fb5638a52953e6f1bc441e5b1710921db9ec2aa202725569";
const CHILD_LINK: &str = "d462e429837b2644fce88885d7";
const CONTAINER: &str = "5e81c0f29a4d37b6e5f80c1d2a3b49586776859403f2e1d0cba9f8e7d6c5b4a3";
/// Known to the layer store only.
const LOST: &str = "7db8f44a0a8e12ea4283e3180e98880007efbd5de2e7c98b67de9cdd4dfffb0b";
/// Made by these tests.
const NEW: &str = "ab00000000000000000000000000000000000000000000000000000000000000";

/// A host's store: `<root>/overlay` is the driver's home.
struct Host {
    store: Store,
}

impl Host {
    /// As the fixture describes it.
    fn new() -> Host {
        let host = Host { store: Store::new() };
        fs::create_dir(host.root()).unwrap();
        common::fixture::lay_out(include_str!("fixtures/overlay-host.txt"), &host.root());
        // On ext4 and XFS there is a node for quota calls; its number was that of the disk at the last boot.
        common::run(Command::new("mknod").args(["-m", "600"]).arg(host.block_device()).args(["b", "240", "1"]));
        for id in [BASE, CHILD] {
            fs::write(host.root().join(format!("overlay-layers/{id}/{id}.tar-split.gz")), "").unwrap();
        }
        host
    }

    fn root(&self) -> PathBuf {
        self.store.root().join("storage")
    }

    fn home(&self) -> PathBuf {
        self.root().join("overlay")
    }

    fn block_device(&self) -> PathBuf {
        self.home().join("backingFsBlockDev")
    }

    fn layer(&self, id: &str) -> PathBuf {
        self.home().join(id)
    }

    fn init(&self, subject: &dyn Subject) {
        subject.init("overlay", &self.root(), &["overlay2.override_kernel_check=true"]).unwrap();
    }

    /// What iSulad's layer store does after the driver's initialisation, in its order. Returns the layers that it kept.
    fn start(&self, subject: &dyn Subject) -> Vec<String> {
        self.init(subject);
        let layers = self.root().join("overlay-layers");
        let mut kept = Vec::new();
        for id in names(&layers) {
            let json = fs::read(layers.join(&id).join("layer.json")).unwrap_or_default();
            let whole = match serde_json::from_slice::<serde_json::Value>(&json) {
                Ok(json) if id.len() == 64 && json["incomplete"] != true => self.load(subject, &id, &json),
                _ => false,
            };
            if whole {
                kept.push(id);
                continue;
            }
            let _ = subject.umount(&id);
            // Only then are the layer store's own files deleted.
            subject.remove(&id).unwrap();
            fs::remove_dir_all(layers.join(&id)).unwrap();
        }
        kept
    }

    /// Takes one layer over; false if it must go.
    fn load(&self, subject: &dyn Subject, id: &str, json: &serde_json::Value) -> bool {
        if !subject.exists(id) || subject.metadata(id).is_err() {
            return false;
        }
        if json.get("diff-digest").is_some() {
            return self.root().join(format!("overlay-layers/{id}/{id}.tar-split.gz")).exists();
        }
        let Ok(saved) = fs::read(self.root().join(format!("run/{id}.json"))) else { return true };
        let saved: serde_json::Value = serde_json::from_slice(&saved).unwrap();
        if saved["count"].as_i64() > Some(0) {
            match subject.mount(id, &[]) {
                Ok(path) => assert_eq!(path, self.layer(id).join("merged")),
                Err(failure) => assert_eq!(failure.errno, nix::errno::Errno::EUCLEAN as i32, "{failure:?}"),
            }
        }
        true
    }

    /// Uses everything: what is there, and new layers on top of it.
    fn check_usable(&self, subject: &dyn Subject) {
        for id in [BASE, CHILD, CONTAINER] {
            assert!(subject.exists(id), "{id}");
            subject.metadata(id).unwrap();
        }
        // The container was mounted by the startup sequence.
        let merged = self.layer(CONTAINER).join("merged");
        assert_eq!(text(&merged.join("hello")), "#!/bin/sh\necho hello\n");
        assert_eq!(text(&merged.join("etc/group")), "root:x:0:\n");
        assert_eq!(text(&merged.join("written")), "by the container\n");
        fs::write(merged.join("again"), "after the upgrade\n").unwrap();
        subject.umount(CONTAINER).unwrap();
        assert_eq!(text(&self.layer(CONTAINER).join("diff/again")), "after the upgrade\n");

        // iSulad's integrity check mounts image layers.
        assert!(subject.mount(CHILD, &[]).unwrap().join("hello").exists());
        subject.umount(CHILD).unwrap();

        // A pull, and a container of what was pulled.
        let image = "ab11111111111111111111111111111111111111111111111111111111111111";
        subject.create_ro(image, Some(CHILD)).unwrap();
        subject.apply(image, &Tar::new().file("etc/motd", "welcome\n").file(".wh.hello", "").done()).unwrap();
        subject.create_rw(NEW, Some(image)).unwrap();
        let merged = subject.mount(NEW, &[]).unwrap();
        assert_eq!(text(&merged.join("etc/motd")), "welcome\n");
        assert_eq!(text(&merged.join("etc/group")), "root:x:0:\n");
        assert!(!merged.join("hello").exists());
        subject.umount(NEW).unwrap();
    }

    /// Whether everything in home has the form that the C module writes and relies on. `as_found` are layers that were not
    /// written by this library, and were not in that form before.
    fn check_form(&self, as_found: &[&str]) {
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        let node = fs::symlink_metadata(self.block_device()).unwrap();
        assert!(node.file_type().is_block_device() && node.mode() & 0o7777 == 0o600);
        assert_eq!(node.rdev(), fs::metadata(self.home()).unwrap().dev());
        let mut links = names(&self.home().join("l"));
        for id in names(&self.home()).into_iter().filter(|name| !["l", "backingFsBlockDev"].contains(&name.as_str())) {
            let layer = self.layer(&id);
            assert!(id.len() == 64 && is_hex(&id), "'{id}' in home");
            assert_eq!(mode(&layer), 0o700, "{id}");
            for (part, expected) in [("diff", 0o755), ("work", 0o700), ("merged", 0o700)] {
                assert!(layer.join(part).is_dir(), "{id}/{part}");
                assert_eq!(mode(&layer.join(part)), expected, "{id}/{part}");
            }
            let link = text(&layer.join("link"));
            assert!(link.len() == 26 && is_hex(&link), "link of {id}: '{link}'");
            assert_eq!(mode(&layer.join("link")), 0o644, "link of {id}");
            assert_eq!(fs::read_link(self.home().join("l").join(&link)).unwrap(), Path::new(&format!("../{id}/diff")));
            links.retain(|name| *name != link);
            if !layer.join("lower").exists() {
                assert_eq!(mode(&layer.join("empty")), 0o700, "{id}/empty");
                continue;
            }
            let lower = text(&layer.join("lower"));
            let lower = if as_found.contains(&id.as_str()) { lower.trim_end() } else { &lower };
            assert_eq!(mode(&layer.join("lower")), 0o644, "lower of {id}");
            assert!(!layer.join("empty").exists(), "{id} has both");
            assert!(lower.split(':').count() <= 128);
            for element in lower.split(':') {
                assert!(element.starts_with("l/") && self.home().join(element).is_dir(), "lower of {id}: '{lower}'");
            }
        }
        assert_eq!(links, [""; 0], "links that lead to no layer of theirs");
    }
}

/// Runs a case through the Rust API and through the C ABI, each on a host of its own.
fn each(case: fn(&Host, &dyn Subject)) {
    case(&Host::new(), &Rust::default());
    case(&Host::new(), &C::new());
}

#[test]
fn root_a_whole_store_is_taken_over() {
    each(|host, subject| {
        let mut kept = [BASE, CHILD, CONTAINER].map(str::to_owned);
        kept.sort();
        assert_eq!(host.start(subject), kept);
        assert!(!host.layer(LOST).exists());
        host.check_usable(subject);
        host.check_form(&[CHILD]);
        subject.cleanup().unwrap();
        host.check_form(&[CHILD]);
    });
}

#[test]
fn root_a_layer_that_is_still_mounted_stays_as_it_is() {
    each(|host, subject| {
        // The C module's mount, by a daemon that was killed.
        let (home, layer) = (host.home(), host.layer(CONTAINER));
        common::run(Command::new("mount").args(["--bind"]).args([&home, &home]));
        common::run(Command::new("mount").arg("--make-private").arg(&home));
        let lower = [CHILD_LINK, BASE_LINK].map(|link| home.join("l").join(link).display().to_string()).join(":");
        let (upper, work) = (layer.join("diff"), layer.join("work"));
        let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
        common::run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(layer.join("merged")));
        fs::write(layer.join("merged/marker"), "").unwrap();
        let before = common::mounts_below(&host.root());

        host.start(subject);
        assert_eq!(common::mounts_below(&host.root()), before);
        assert!(layer.join("merged/marker").exists());
        host.check_usable(subject);
        host.check_form(&[CHILD]);
        subject.cleanup().unwrap();
    });
}

#[test]
fn root_missing_links_are_made_again() {
    each(|host, subject| {
        let links = host.home().join("l");
        for link in names(&links) {
            fs::remove_file(links.join(link)).unwrap();
        }
        host.start(subject);
        host.check_usable(subject);
        eventually("every layer has its name", || {
            let layers = names(&host.home()).into_iter().filter(|name| !["l", "backingFsBlockDev"].contains(&name.as_str()));
            layers.into_iter().all(|id| links.join(text(&host.layer(&id).join("link"))).is_dir())
        });
        host.check_form(&[CHILD]);
    });
}

#[test]
fn root_an_empty_list_of_parents_is_found_and_repaired() {
    each(|host, subject| {
        fs::write(host.layer(CHILD).join("lower"), "").unwrap();
        host.start(subject);
        // Never what the C module made of it: the whole home as the lower layer.
        subject.umount(CHILD).unwrap();
        subject.mount(CHILD, &[]).unwrap_err();
        assert_eq!(common::mounts_below(&host.layer(CHILD)), [""; 0]);
        let told = subject.metadata(CHILD).unwrap();
        assert!(told.iter().any(|(key, _)| key == "UpperDir") && told.iter().all(|(key, _)| key != "LowerDir"), "{told:?}");
        subject.create_rw(NEW, Some(CHILD)).unwrap_err();
        // iSulad repairs during the next pull.
        subject.repair(CHILD, Some(BASE)).unwrap();
        assert_eq!(text(&host.layer(CHILD).join("lower")), format!("l/{BASE_LINK}"));
        host.check_usable(subject);
        host.check_form(&[]);
    });
}

type Damage = (&'static str, fn(&Host));

/// What tools, power cuts and people do to such a store.
const DAMAGE: &[Damage] = &[
    ("a copy without empty directories", |host| {
        fs::remove_dir(host.layer(BASE).join("empty")).unwrap();
        for id in [BASE, CHILD, CONTAINER] {
            fs::remove_dir(host.layer(id).join("merged")).unwrap();
            fs::remove_dir_all(host.layer(id).join("work")).unwrap();
        }
    }),
    ("base: no empty", |host| fs::remove_dir(host.layer(BASE).join("empty")).unwrap()),
    ("container: no work and merged", |host| {
        fs::remove_dir(host.layer(CONTAINER).join("merged")).unwrap();
        fs::remove_dir_all(host.layer(CONTAINER).join("work")).unwrap();
    }),
    ("base: link of 0 bytes", |host| fs::write(host.layer(BASE).join("link"), "").unwrap()),
    ("child: link of 0 bytes", |host| fs::write(host.layer(CHILD).join("link"), "").unwrap()),
    ("container: link of 0 bytes", |host| fs::write(host.layer(CONTAINER).join("link"), "").unwrap()),
    ("container: no link", |host| fs::remove_file(host.layer(CONTAINER).join("link")).unwrap()),
    ("child: lower of 0 bytes", |host| fs::write(host.layer(CHILD).join("lower"), "").unwrap()),
    ("child: no lower", |host| fs::remove_file(host.layer(CHILD).join("lower")).unwrap()),
    ("container: lower of 0 bytes", |host| fs::write(host.layer(CONTAINER).join("lower"), "").unwrap()),
    ("container: no lower", |host| fs::remove_file(host.layer(CONTAINER).join("lower")).unwrap()),
    ("no small files at all", |host| {
        for id in [BASE, CHILD, CONTAINER] {
            fs::remove_file(host.layer(id).join("link")).unwrap();
            let _ = fs::remove_file(host.layer(id).join("lower"));
        }
    }),
    ("links of 0 bytes and no names in l", |host| {
        for id in [BASE, CHILD, CONTAINER] {
            fs::write(host.layer(id).join("link"), "").unwrap();
        }
        for link in names(&host.home().join("l")) {
            fs::remove_file(host.home().join("l").join(link)).unwrap();
        }
    }),
];

/// The layers' own content, without its times.
fn contents(host: &Host) -> Vec<Vec<(String, String)>> {
    let list = |id: &str| {
        let diff = host.layer(id).join("diff");
        let output = Command::new("find").args([".", "-type", "f"]).current_dir(&diff).output().unwrap();
        assert!(output.status.success(), "{id}: {output:?}");
        let mut files: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        files.sort();
        files.into_iter().map(|file| (file.clone(), text(&diff.join(file)))).collect()
    };
    [BASE, CHILD, CONTAINER].map(list).into()
}

#[test]
fn root_no_damage_makes_a_start_delete_what_the_user_had() {
    for (what, damage) in DAMAGE {
        println!("{what}");
        for subject in [&Rust::default() as &dyn Subject, &C::new()] {
            let host = Host::new();
            let before = contents(&host);
            damage(&host);
            let mut known = [BASE, CHILD, CONTAINER].map(str::to_owned);
            known.sort();
            assert_eq!(host.start(subject), known, "{what}");
            assert_eq!(contents(&host), before, "{what}");
            // As the next pull of the image does, and an administrator with the container.
            for (id, parent) in [(BASE, None), (CHILD, Some(BASE)), (CONTAINER, Some(CHILD))] {
                subject.repair(id, parent).unwrap_or_else(|e| panic!("{what}: {id}: {e:?}"));
            }
            subject.mount(CONTAINER, &[]).unwrap_or_else(|e| panic!("{what}: {e:?}"));
            host.check_usable(subject);
            host.check_form(&[CHILD]);
            subject.cleanup().unwrap();
            assert_eq!(contents(&host)[..2], before[..2], "{what}");
        }
    }
}

#[test]
fn root_foreign_things_in_home_survive_a_start_and_hinder_nothing() {
    each(|host, subject| {
        let home = host.home();
        fs::create_dir_all(home.join(".trash-can/photos")).unwrap();
        fs::write(home.join(".trash-list"), "mine").unwrap();
        fs::create_dir_all(home.join("backup/etc")).unwrap();
        fs::write(home.join("backup/etc/passwd"), "mine").unwrap();
        fs::write(home.join("notes"), "mine").unwrap();
        symlink("loop", home.join("loop")).unwrap();
        for _ in 0..2 {
            host.start(subject);
            host.init(subject);
        }
        host.check_usable(subject);
        for id in ["backup", "notes", "loop"] {
            assert_eq!(subject.create_ro(id, None).unwrap_err().errno, nix::errno::Errno::EEXIST as i32, "{id}");
        }
        subject.cleanup().unwrap();
        assert!(home.join(".trash-can/photos").is_dir() && home.join("loop").symlink_metadata().is_ok());
        for file in [".trash-list", "backup/etc/passwd", "notes"] {
            assert_eq!(text(&home.join(file)), "mine");
        }
    });
}

#[test]
fn root_a_layer_that_was_being_made_is_removed() {
    each(|host, subject| {
        // Where the C module stops when the machine does: after each of its steps.
        let steps = ["", "diff", "symlink", "link", "work", "merged"];
        for done in 0..steps.len() {
            let id = format!("{:064x}", 0xc0de_0000_usize + done);
            let (layer, link) = (host.layer(&id), format!("{:026x}", 0xabc0 + done));
            fs::create_dir(&layer).unwrap();
            for step in &steps[1..=done] {
                match *step {
                    "symlink" => symlink(format!("../{id}/diff"), host.home().join("l").join(&link)).unwrap(),
                    "link" => fs::write(layer.join("link"), &link).unwrap(),
                    dir => fs::create_dir(layer.join(dir)).unwrap(),
                }
            }
            let json = host.root().join("overlay-layers").join(&id);
            fs::create_dir(&json).unwrap();
            // One half of them got as far as the layer store's file, which says so; the other half has none to read.
            if done % 2 == 0 {
                fs::write(json.join("layer.json"), format!("{{\"id\": \"{id}\", \"incomplete\": true}}")).unwrap();
            }
        }
        host.start(subject);
        for (done, step) in steps.iter().enumerate() {
            assert!(!host.layer(&format!("{:064x}", 0xc0de_0000_usize + done)).exists(), "after step '{step}'");
        }
        host.check_usable(subject);
        // The symlink of the one that did not get as far as its `link` leads nowhere now: the next start removes it.
        host.init(subject);
        eventually("the links that lead nowhere are swept", || {
            let links = host.home().join("l");
            names(&links).iter().all(|link| links.join(link).is_dir())
        });
        host.check_form(&[CHILD]);
    });
}

#[test]
fn root_a_layer_that_was_being_made_can_be_pulled_again() {
    each(|host, subject| {
        let layer = host.layer(NEW);
        fs::create_dir_all(layer.join("diff")).unwrap();
        fs::write(layer.join("link"), "0123456789abcdef0123456789").unwrap();
        host.init(subject);
        subject.create_ro(NEW, Some(CHILD)).unwrap();
        subject.apply(NEW, &Tar::new().file("whole", "yes\n").done()).unwrap();
        assert_eq!(names(&layer.join("diff")), ["whole"]);
        host.check_form(&[CHILD]);
    });
}

#[test]
fn root_files_of_interrupted_writes_do_no_harm() {
    each(|host, subject| {
        host.store.leaves_damage(); // parents of layers that stay are removed
        fs::write(host.layer(CHILD).join(".tmp-lower-0123456789"), "l/nonsense").unwrap();
        fs::write(host.layer(BASE).join(".tmp-link-abcdef0123"), "").unwrap();
        symlink("../0000000000000000000000000000000000000000000000000000000000000000/diff", host.home().join("l/dangling"))
            .unwrap();
        host.start(subject);
        eventually("the dangling link is swept", || host.home().join("l/dangling").symlink_metadata().is_err());
        host.check_usable(subject);
        host.check_form(&[CHILD]);
        for id in [CONTAINER, CHILD, BASE] {
            subject.remove(id).unwrap();
            assert!(!host.layer(id).exists());
        }
    });
}

#[test]
fn root_leftovers_of_a_killed_unpack_do_no_harm() {
    each(|host, subject| {
        host.store.leaves_damage(); // parents of layers that stay are removed
        // The C module unpacks through a bind mount of the layer in a temporary directory; a kill leaves both.
        let leftover = host.store.root().join("isulad_tmpdir/tar-chroot-aB3xYz");
        fs::create_dir_all(&leftover).unwrap();
        common::run(Command::new("mount").arg("--bind").arg(host.layer(CHILD).join("diff")).arg(&leftover));
        common::run(Command::new("mount").args(["-o", "remount,bind,noexec"]).arg(&leftover));
        host.start(subject);
        host.check_usable(subject);
        host.check_form(&[CHILD]);
        // It can be removed although its content is mounted elsewhere, and what is not the library's stays.
        for id in [CONTAINER, CHILD, BASE] {
            subject.remove(id).unwrap();
            assert!(!host.layer(id).exists());
        }
        assert!(leftover.exists());
    });
}

#[test]
fn root_layers_that_hosts_share_are_read() {
    each(|host, subject| {
        host.store.leaves_damage(); // parents of layers that stay are removed
        // A remote store: the image layers are in RO, which other hosts mount, and home has absolute symlinks to them.
        let shared = host.home().join("RO");
        fs::create_dir(&shared).unwrap();
        for id in [BASE, CHILD] {
            fs::rename(host.layer(id), shared.join(id)).unwrap();
            symlink(shared.join(id), host.layer(id)).unwrap();
        }
        host.start(subject);
        host.check_usable(subject);
        // Removing takes the symlink; the layer itself may be in use by another host.
        subject.remove(CONTAINER).unwrap();
        subject.remove(CHILD).unwrap();
        assert!(host.layer(CHILD).symlink_metadata().is_err());
        assert!(shared.join(CHILD).join("diff/etc/group").exists());
    });
}

/// Layers of the C module become the same archives as layers of ours with the same content.
#[test]
fn root_exports_of_such_a_store_are_those_of_any_other() {
    let host = Host::new();
    let subject = Rust::default();
    host.init(&subject);
    let made: Vec<Vec<u8>> = [BASE, CHILD, CONTAINER].iter().map(|id| subject.diff(id, None).unwrap()).collect();
    let since_base = subject.diff(CONTAINER, Some(BASE)).unwrap();
    subject.cleanup().unwrap();
    let store = Store::new();
    let ours = Rust::default();
    ours.init("overlay2", &store.root(), &["overlay2.sync=none"]).unwrap();
    for (number, archive) in made.iter().enumerate() {
        let parent = number.checked_sub(1).map(|below| format!("l{below}"));
        ours.create_ro(&format!("l{number}"), parent.as_deref()).unwrap();
        ours.apply(&format!("l{number}"), archive).unwrap();
        assert!(ours.diff(&format!("l{number}"), None).unwrap() == *archive, "layer {number}");
    }
    assert!(ours.diff("l2", Some("l0")).unwrap() == since_base);
    ours.cleanup().unwrap();
}
