//! What is special about overlay2: its files, its mounts, its ways to recover. On a loop-mounted ext4, through the Rust API.

mod common;

use common::overlay::QUICK;
use common::subject::{Rust, Subject};
use common::{Store, Tar, eventually, kernel, mounts_below, names};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// An initialised driver on a store of its own.
struct World {
    subject: Rust,
    store: Store,
}

impl World {
    fn new(options: &[&str]) -> World {
        let world = World { subject: Rust::default(), store: Store::new() };
        world.init(options);
        world
    }

    fn init(&self, options: &[&str]) {
        self.subject.init("overlay", &self.storage(), options).unwrap();
    }

    /// What a crash of the daemon and its restart amount to: mounts stay, memory goes.
    fn restarted(self) -> World {
        let World { subject, store } = self;
        drop(subject);
        let world = World { subject: Rust::default(), store };
        world.init(QUICK);
        world
    }

    fn storage(&self) -> PathBuf {
        self.store.root().join("storage")
    }

    fn home(&self) -> PathBuf {
        self.storage().join("overlay")
    }

    fn fill(&self, id: &str, parent: Option<&str>, archive: Tar) {
        self.subject.create_ro(id, parent).unwrap();
        self.subject.apply(id, &archive.done()).unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

/// contract: on-disk layout, which the C module must be able to read.
#[test]
fn root_layers_are_laid_out_byte_for_byte_as_the_c_module_lays_them_out() {
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let w = World::new(QUICK);
    w.subject.create_ro("base1", None).unwrap();
    w.subject.create_ro("mid", Some("base1")).unwrap();
    w.subject.create_rw("top", Some("mid")).unwrap();
    nix::sys::stat::umask(old);
    let home = w.home();
    assert_eq!(names(&home), ["backingFsBlockDev", "base1", "l", "mid", "top"]);
    assert_eq!((mode(&home), mode(&home.join("l"))), (0o700, 0o700));
    assert_eq!(names(&home.join("base1")), ["diff", "empty", "link", "merged", "work"]);
    assert_eq!(names(&home.join("top")), ["diff", "link", "lower", "merged", "work"]);
    for (name, expected) in [("", 0o700), ("diff", 0o755), ("work", 0o700), ("merged", 0o700), ("link", 0o644)] {
        assert_eq!(mode(&home.join("top").join(name)), expected, "{name}");
    }
    assert_eq!((mode(&home.join("top/lower")), mode(&home.join("base1/empty"))), (0o644, 0o700));
    let link = |id: &str| fs::read_to_string(home.join(id).join("link")).unwrap();
    for id in ["base1", "mid", "top"] {
        assert!(link(id).len() == 26 && link(id).bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_eq!(fs::read_link(home.join("l").join(link(id))).unwrap(), Path::new(&format!("../{id}/diff")));
    }
    let lower = fs::read_to_string(home.join("top/lower")).unwrap();
    assert_eq!(lower, format!("l/{}:l/{}", link("mid"), link("base1")));
}

/// design document, "Unpack layer data": the unpacked layer shows a character device 0:0 for a deleted name.
#[test]
fn root_a_whiteout_is_a_character_device_0_0_in_diff() {
    let w = World::new(QUICK);
    w.fill("layer", None, Tar::new().dir("etc/").file(".wh.home", "").file("index.html", "x").file("etc/.wh..wh..opq", ""));
    let diff = w.home().join("layer/diff");
    assert_eq!(names(&diff), ["etc", "home", "index.html"]);
    let home = fs::symlink_metadata(diff.join("home")).unwrap();
    assert!(home.file_type().is_char_device() && home.rdev() == 0 && home.permissions().mode() & 0o7777 == 0);
    assert_eq!(names(&diff.join("etc")), [""; 0]);
}

/// design document, "Layer metadata": the four items.
#[test]
fn root_metadata_tells_the_work_merged_upper_and_lower_paths() {
    let w = World::new(QUICK);
    w.subject.create_ro("a", None).unwrap();
    w.subject.create_ro("b", Some("a")).unwrap();
    w.subject.create_rw("c", Some("b")).unwrap();
    let home = w.home().to_str().unwrap().to_owned();
    let link = |id: &str| format!("{home}/l/{}", fs::read_to_string(w.home().join(id).join("link")).unwrap());
    let expected = [
        ("WorkDir", format!("{home}/c/work")),
        ("MergedDir", format!("{home}/c/merged")),
        ("UpperDir", format!("{home}/c/diff")),
        ("LowerDir", format!("{}:{}", link("b"), link("a"))),
    ];
    assert_eq!(w.subject.metadata("c").unwrap(), expected.map(|(k, v)| (k.to_owned(), v)));
    assert_eq!(w.subject.metadata("a").unwrap().len(), 3, "no LowerDir without parents");
}

/// design document, "Driver status".
#[test]
fn root_status_is_the_two_lines_that_scripts_read() {
    let w = World::new(QUICK);
    let (name, fs, text) = w.subject.status().unwrap();
    assert_eq!((name.as_str(), fs.as_str()), ("overlay", "extfs"));
    assert!(text.starts_with("Backing Filesystem: extfs\nSupports d_type: true\n"), "{text}");
}

/// design document, "Create a read-only layer": a quota option is an error, any other as well.
#[test]
fn root_a_read_only_layer_takes_no_options() {
    use graphdriver::driver::Access;
    let w = World::new(QUICK);
    for option in [("size", "1G"), ("colour", "red")] {
        assert!(w.subject.create("a", None, Access::ReadOnly, &[option]).is_err());
    }
    assert_eq!(names(&w.home()), ["backingFsBlockDev", "l"]);
}

/// design document, "Clean up": the home directory is unmounted.
#[test]
fn root_cleanup_unmounts_home_unless_layers_are_mounted_below() {
    let w = World::new(QUICK);
    assert!(mounts_below(&w.storage()).contains(&w.home().to_str().unwrap().to_owned()));
    w.subject.create_rw("c", None).unwrap();
    w.subject.mount("c", &[]).unwrap();
    let failure = w.subject.cleanup().unwrap_err();
    assert!(failure.errno == nix::errno::Errno::EBUSY as i32 && failure.text.contains("c/merged"), "{failure:?}");
    w.subject.umount("c").unwrap();
    w.subject.cleanup().unwrap();
    assert_eq!(mounts_below(&w.storage()), [""; 0]);
    assert_eq!(w.subject.umount("c").unwrap_err().errno, nix::errno::Errno::ENOTCONN as i32);
    w.init(&["overlay2.skip_mount_home=true"]);
    assert_eq!(mounts_below(&w.storage()), [""; 0]);
    w.subject.cleanup().unwrap();
}

#[test]
fn root_a_mount_in_home_is_private() {
    let w = World::new(QUICK);
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(w.home().to_str().unwrap())).unwrap();
    assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
}

fn chain(w: &World, depth: usize) -> String {
    let mut parent: Option<String> = None;
    for i in 0..depth {
        let id = format!("layer{i:03}");
        w.subject.create_ro(&id, parent.as_deref()).unwrap_or_else(|e| panic!("{id}: {e:?}"));
        fs::write(w.home().join(&id).join("diff").join(&id), "").unwrap();
        parent = Some(id);
    }
    parent.unwrap()
}

/// What goes without: `root_a_page_of_options_bounds_the_chain_and_is_used_to_its_end`, and here that the kernel is one without.
#[test]
fn root_chains_of_130_and_400_layers_mount_and_501_are_refused_at_create() {
    let w = World::new(QUICK);
    if !kernel::stacks_one_by_one(&w.store.root()) {
        chain(&w, 120);
        w.subject.create_rw("c", Some("layer119")).unwrap();
        assert_eq!(names(&w.subject.mount("c", &[]).unwrap()).len(), 120);
        w.subject.umount("c").unwrap();
        return;
    }
    let top = chain(&w, 500);
    for depth in [130, 400, 499] {
        w.subject.create_rw("c", Some(&format!("layer{:03}", depth - 1))).unwrap();
        let root = w.subject.mount("c", &[]).unwrap();
        assert_eq!(names(&root).len(), depth);
        w.subject.umount("c").unwrap();
        w.subject.remove("c").unwrap();
    }
    w.subject.create_rw("c500", Some(&top)).unwrap();
    w.subject.mount("c500", &[]).unwrap();
    w.subject.umount("c500").unwrap();
    // A read-only layer is mounted as the topmost of the lowers, so that there would be 501.
    for failure in [w.subject.create_ro("layer500", Some(&top)), w.subject.create_rw("c501", Some("c500"))] {
        let failure = failure.unwrap_err();
        assert!(failure.text.contains("Max depth exceeded") && failure.text.contains("500"), "{failure:?}");
    }
    assert_eq!(names(&w.subject.mount(&top, &[]).unwrap()).len(), 500);
    w.subject.umount(&top).unwrap();
}

#[test]
fn root_a_home_too_long_for_a_mount_option_still_mounts() {
    let store = Store::new();
    let deep = (0..4).fold(store.root(), |path, _| path.join("d".repeat(60)));
    let subject = Rust::default();
    subject.init("overlay", &deep, QUICK).unwrap();
    subject.create_ro("a", None).unwrap();
    fs::write(deep.join("overlay/a/diff/f"), "").unwrap();
    subject.create_rw("b", Some("a")).unwrap();
    assert_eq!(names(&subject.mount("b", &[]).unwrap()), ["f"]);
    subject.umount("b").unwrap();
    subject.cleanup().unwrap();
}

#[test]
fn root_a_home_that_overlayfs_would_misread_is_refused() {
    let store = Store::new();
    for bad in ["a,b", "a:b", "a\\b", "a\"b", "a\nb"] {
        let failure = Rust::default().init("overlay", &store.root().join(bad), QUICK).unwrap_err();
        assert_eq!(failure.errno, nix::errno::Errno::EINVAL as i32, "{failure:?}");
        assert!(!store.root().join(bad).exists());
    }
    assert!(Rust::default().init("overlay", Path::new("relative"), QUICK).is_err());
}

#[test]
fn root_mount_options_replace_the_configured_ones() {
    let w = World::new(&["overlay2.mountopt=nodev,nosuid", "overlay2.sync=none"]);
    w.subject.create_rw("c", None).unwrap();
    let options = |w: &World| {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(w.home().join("c/merged").to_str().unwrap())).unwrap().to_owned();
        line.split(' ').nth(5).unwrap().to_owned()
    };
    w.subject.mount("c", &[]).unwrap();
    assert!(options(&w).contains("nodev") && options(&w).contains("nosuid"));
    w.subject.umount("c").unwrap();
    w.subject.mount("c", &["ro"]).unwrap();
    assert!(options(&w).contains("ro") && !options(&w).contains("nodev"));
    assert!(fs::write(w.home().join("c/merged/f"), "").is_err());
    w.subject.umount("c").unwrap();
    let failure = w.subject.mount("c", &["nonsense=1"]).unwrap_err();
    assert!(failure.text.contains("nonsense"), "{failure:?}");
}

#[test]
fn root_live_mounts_survive_a_restart() {
    let w = World::new(QUICK);
    w.subject.create_rw("c", None).unwrap();
    let root = w.subject.mount("c", &[]).unwrap();
    fs::write(root.join("f"), "x").unwrap();
    let w = w.restarted();
    assert_eq!(w.subject.mount("c", &[]).unwrap(), root);
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "x");
    w.subject.umount("c").unwrap();
    assert_eq!(mounts_below(&w.home()), [""; 0]);
}

#[test]
fn root_lost_links_come_back_by_themselves() {
    let w = World::new(QUICK);
    w.fill("a", None, Tar::new().file("f", "x"));
    w.subject.create_rw("b", Some("a")).unwrap();
    fs::remove_dir_all(w.home().join("l")).unwrap();
    let w = w.restarted();
    let root = w.subject.mount("b", &[]).unwrap();
    assert_eq!(names(&root), ["f"]);
    w.subject.umount("b").unwrap();
    fs::remove_dir_all(w.home().join("l")).unwrap();
    fs::create_dir(w.home().join("l")).unwrap();
    assert!(w.subject.exists("a") && w.subject.exists("b"));
    assert_eq!(names(&w.subject.mount("b", &[]).unwrap()), ["f"]);
    w.subject.umount("b").unwrap();
    let link = fs::read_to_string(w.home().join("a/link")).unwrap();
    assert_eq!(fs::read_link(w.home().join("l").join(link)).unwrap(), Path::new("../a/diff"));
}

#[test]
fn root_a_stale_link_is_swept_at_start_and_a_hijacked_one_is_not_followed() {
    let w = World::new(QUICK);
    symlink("../gone/diff", w.home().join("l/stale")).unwrap();
    let w = w.restarted();
    eventually("the link is swept", || names(&w.home().join("l")).is_empty());
    w.subject.create_ro("a", None).unwrap();
    w.subject.create_ro("b", None).unwrap();
    let link = |id: &str| fs::read_to_string(w.home().join(id).join("link")).unwrap();
    fs::write(w.home().join("b/link"), link("a")).unwrap();
    assert!(w.subject.exists("b"), "that its link is another layer's costs it nothing");
    w.subject.remove("b").unwrap();
    assert!(w.home().join("l").join(link("a")).exists(), "removing b must not take a's link");
}

#[test]
fn root_a_damaged_lower_is_never_mounted_and_can_be_repaired() {
    let w = World::new(QUICK);
    w.fill("a", None, Tar::new().file("f", "x"));
    w.subject.create_rw("b", Some("a")).unwrap();
    let lower = w.home().join("b/lower");
    let good = fs::read_to_string(&lower).unwrap();
    for bad in ["", "\n", "l/../a", "/etc", "a/diff", "l/x:", "garbage"] {
        fs::write(&lower, bad).unwrap();
        let failure = w.subject.mount("b", &[]).unwrap_err();
        assert_eq!(failure.errno, nix::errno::Errno::EUCLEAN as i32, "{bad:?}: {failure:?}");
        assert!(w.subject.create_rw("child", Some("b")).is_err());
        w.subject.repair("b", Some("a")).unwrap();
        assert_eq!(fs::read_to_string(&lower).unwrap(), good, "{bad:?}");
    }
    // A list of the right form is what is known of the parents: it is not thrown away because one of them is missing now.
    fs::write(&lower, "l/nowhere").unwrap();
    assert_eq!(w.subject.repair("b", None).unwrap_err().errno, nix::errno::Errno::EUCLEAN as i32);
    assert_eq!(fs::read_to_string(&lower).unwrap(), "l/nowhere");
    w.subject.repair("b", Some("a")).unwrap();
    assert_eq!(fs::read_to_string(&lower).unwrap(), good);
    fs::write(&lower, format!("{good}\n")).unwrap();
    assert_eq!(names(&w.subject.mount("b", &[]).unwrap()), ["f"], "a newline at the end is tolerated");
    w.subject.umount("b").unwrap();
}

#[test]
fn root_what_a_crash_left_is_swept_after_a_start() {
    let w = World::new(QUICK);
    w.subject.create_ro("a", None).unwrap();
    let half = w.home().join(".stage-00112233445566778899aabbcc");
    let rest = w.home().join(".trash-ccbbaa99887766554433221100");
    fs::create_dir_all(half.join("diff")).unwrap();
    fs::create_dir_all(rest.join("diff/d")).unwrap();
    fs::write(rest.join("diff/d/f"), "").unwrap();
    let w = w.restarted();
    eventually("nothing is left of them", || names(&w.home()) == ["a", "backingFsBlockDev", "l"]);
}

/// The C module makes all parts of a layer before it gets content: without content such a half is a leftover, with content it is
/// somebody's damaged layer.
#[test]
fn root_half_a_layer_of_the_c_module_gives_way_unless_it_has_content() {
    let w = World::new(QUICK);
    w.store.leaves_damage();
    for (id, content) in [("half", false), ("other", false), ("damaged", true)] {
        let layer = w.home().join(id);
        fs::create_dir_all(layer.join("diff")).unwrap();
        fs::write(layer.join("link"), "0123456789abcdef0123456789").unwrap();
        if content {
            fs::write(layer.join("diff/precious"), "x").unwrap();
        }
    }
    w.subject.create_ro("half", None).unwrap();
    assert!(w.subject.exists("half"));
    assert!(w.subject.mount("other", &[]).is_err(), "it has neither lower nor empty");
    assert!(w.subject.exists("damaged"));
    assert_eq!(w.subject.create_ro("damaged", None).unwrap_err().errno, nix::errno::Errno::EEXIST as i32);
    assert!(w.home().join("damaged/diff/precious").exists());
}

/// Its content is half of one archive and all of another, which may be all there is of it.
#[test]
fn root_a_failed_unpack_into_a_filled_layer_marks_it_and_denies_it_not() {
    let w = World::new(QUICK);
    w.fill("a", None, Tar::new().file("f", "x"));
    let archive = Tar::new().file("g", "x").file("h", "x").done();
    assert!(w.subject.apply("a", &archive[..1500]).is_err());
    let w = w.restarted();
    assert!(w.subject.exists("a") && w.home().join("a/diff/f").exists());
    let euclean = nix::errno::Errno::EUCLEAN as i32;
    assert_eq!(w.subject.mount("a", &[]).unwrap_err().errno, euclean);
    assert_eq!(w.subject.create_rw("b", Some("a")).unwrap_err().errno, euclean);
    assert_eq!(w.subject.apply("a", &archive).unwrap_err().errno, euclean);
    w.subject.remove("a").unwrap();
    w.fill("a", None, Tar::new().file("f", "x"));
    assert!(w.subject.exists("a"));
}

/// A driver refuses the names that it keeps for itself, and no others.
#[test]
fn root_the_names_that_home_uses_are_no_ids() {
    let w = World::new(QUICK);
    for id in ["l", "RO", "backingFsBlockDev"] {
        let einval = nix::errno::Errno::EINVAL as i32;
        assert_eq!(w.subject.create_ro(id, None).unwrap_err().errno, einval, "{id}");
        assert_eq!(w.subject.remove(id).unwrap_err().errno, einval, "{id}");
        assert!(!w.subject.exists(id), "{id}");
    }
    for id in ["base", "metadata", "deviceset-metadata", "mnt", "devicemapper", "L", "ro"] {
        w.fill(id, None, Tar::new().file(id, "x"));
        assert_eq!(names(&w.subject.mount(id, &[]).unwrap()), [id]);
        w.subject.umount(id).unwrap();
    }
}

#[test]
fn root_a_failed_unpack_leaves_nothing_of_the_archives_root() {
    let w = World::new(QUICK);
    let before = |id: &str| {
        w.subject.create_ro(id, None).unwrap();
        traces(&w.home().join(id).join("diff"))
    };
    let (fresh, _) = (before("a"), before("b"));
    let mut builder = tar::Builder::new(Vec::new());
    let acl = &b"user::rwx,user:1000:rwx,group::---,mask::rwx,other::---"[..];
    builder.append_pax_extensions([("SCHILY.xattr.user.evil", &b"1"[..]), ("SCHILY.acl.default", acl)]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_path("./").unwrap();
    header.set_mode(0o2777);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    let whole = builder.into_inner().unwrap();
    w.subject.apply("b", &whole).unwrap();
    assert_ne!(traces(&w.home().join("b/diff")), fresh, "the archive says something about the root");
    assert!(w.subject.apply("a", &[&whole[..whole.len() - 1024], b"no header"].concat()).is_err());
    assert_eq!(traces(&w.home().join("a/diff")), fresh);
}

/// Mode, owner and attributes.
fn traces(dir: &Path) -> String {
    let script = "stat -c '%a %u:%g' .; getfattr -d -m - .; ls -A";
    let out = std::process::Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn root_an_opaque_root_hides_everything_below() {
    let w = World::new(QUICK);
    w.fill("a", None, Tar::new().file("below", "x"));
    w.fill("b", Some("a"), Tar::new().file("here", "y").file(".wh..wh..opq", ""));
    w.subject.create_rw("c", Some("b")).unwrap();
    for id in ["b", "c"] {
        assert_eq!(names(&w.subject.mount(id, &[]).unwrap()), ["here"], "{id}");
        w.subject.umount(id).unwrap();
    }
    w.subject.repair("b", Some("a")).unwrap();
    assert_eq!(names(&w.subject.mount("b", &[]).unwrap()), ["here"], "repair must not bring it back");
    w.subject.umount("b").unwrap();
}

#[test]
fn root_removal_detaches_the_mount_and_stops_at_others() {
    let w = World::new(QUICK);
    w.subject.create_rw("c", None).unwrap();
    w.subject.mount("c", &[]).unwrap();
    w.subject.remove("c").unwrap();
    assert!(!w.home().join("c").exists() && mounts_below(&w.home()).is_empty());
    w.subject.create_rw("d", None).unwrap();
    let outside = w.store.root().join("outside");
    fs::create_dir_all(w.home().join("d/diff/bound")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    common::run(std::process::Command::new("mount").arg("--bind").args([&outside, &w.home().join("d/diff/bound")]));
    // Whether what is in the way is told or deleted later, the layer is gone and the mount is not entered.
    let _ = w.subject.remove("d");
    assert!(!w.subject.exists("d"));
    assert!(outside.join("keep").exists(), "deleted through a mount");
}

#[test]
fn root_removal_overcomes_immutable_files() {
    let w = World::new(QUICK);
    w.subject.create_rw("c", None).unwrap();
    let file = w.home().join("c/diff/locked");
    fs::write(&file, "x").unwrap();
    common::run(std::process::Command::new("chattr").args(["+i"]).arg(&file));
    w.subject.remove("c").unwrap();
    assert_eq!(names(&w.home()), ["backingFsBlockDev", "l"]);
}

#[test]
fn root_remapped_containers_own_their_layers() {
    let w = World::new(&["overlay2.userns_remap=100000:200000:65536", "overlay2.sync=none"]);
    w.fill("a", None, Tar::new().file("f", "x"));
    let owner = |path: &str| {
        let meta = fs::symlink_metadata(w.home().join(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    for path in ["", "l", "a", "a/diff", "a/work", "a/merged", "a/diff/f"] {
        assert_eq!(owner(path), (100_000, 200_000), "{path}");
    }
    for path in ["a/link", "a/empty"] {
        assert_eq!(owner(path), (0, 0), "{path}");
    }
}

#[test]
fn root_layers_of_a_remote_store_can_be_read() {
    let w = World::new(QUICK);
    w.store.leaves_damage();
    w.fill("a", None, Tar::new().file("f", "x"));
    fs::create_dir(w.home().join("RO")).unwrap();
    fs::rename(w.home().join("a"), w.home().join("RO/a")).unwrap();
    symlink(w.home().join("RO/a"), w.home().join("a")).unwrap();
    assert!(w.subject.exists("a"));
    w.subject.create_rw("c", Some("a")).unwrap();
    assert_eq!(names(&w.subject.mount("c", &[]).unwrap()), ["f"]);
    w.subject.umount("c").unwrap();
    w.subject.remove("a").unwrap();
    assert!(w.home().join("RO/a/diff/f").exists(), "other hosts share it");
}

#[test]
fn root_an_unsuitable_filesystem_is_refused_with_the_reason() {
    let w = World::new(QUICK);
    w.subject.create_rw("c", None).unwrap();
    let inside = w.subject.mount("c", &[]).unwrap();
    let failure = Rust::default().init("overlay", &inside, QUICK).unwrap_err();
    assert!(failure.text.contains("overlay on overlayfs") && failure.text.contains("upper"), "{failure:?}");
    w.subject.umount("c").unwrap();
}

#[test]
fn root_xfs_and_tmpfs_serve_as_backing_filesystem() {
    let store = Store::with("mkfs.xfs", &["-q"], "loop");
    for (name, fs) in [("xfs", "xfs"), ("tmpfs", "tmpfs")] {
        let root = store.root().join(name);
        fs::create_dir(&root).unwrap();
        if name == "tmpfs" {
            common::run(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&root));
        }
        let subject = Rust::default();
        subject.init("overlay2", &root, &[]).unwrap();
        assert_eq!(subject.status().unwrap().1, fs);
        subject.create_ro("a", None).unwrap();
        subject.apply("a", &Tar::new().file("f", "x").done()).unwrap();
        subject.create_rw("c", Some("a")).unwrap();
        assert_eq!(names(&subject.mount("c", &[]).unwrap()), ["f"]);
        subject.umount("c").unwrap();
        subject.cleanup().unwrap();
    }
}
