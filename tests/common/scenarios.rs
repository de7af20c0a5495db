//! What every driver must do, whichever interface it is asked through. A driver's test binary runs each of these on a store of
//! its own.

use super::Tar;
use super::subject::Subject;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A driver under test, initialised.
pub struct World<'a> {
    pub subject: &'a dyn Subject,
}

pub type Scenario = fn(&World);

/// Every scenario by name.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_stack_of_layers_shows_what_they_mean", a_stack_of_layers_shows_what_they_mean),
    ("a_write_goes_into_the_top_layer_only", a_write_goes_into_the_top_layer_only),
    ("a_mounted_layer_is_not_mounted_twice", a_mounted_layer_is_not_mounted_twice),
    ("what_does_not_exist_needs_no_umount_and_no_removal", what_does_not_exist_needs_no_umount_and_no_removal),
    ("what_does_not_exist_cannot_be_used", what_does_not_exist_cannot_be_used),
    ("a_removed_layer_is_gone_and_its_id_is_free", a_removed_layer_is_gone_and_its_id_is_free),
    ("an_id_in_use_is_not_given_twice", an_id_in_use_is_not_given_twice),
    ("ids_that_address_something_else_touch_nothing", ids_that_address_something_else_touch_nothing),
    ("a_parent_that_does_not_exist_leaves_nothing_behind", a_parent_that_does_not_exist_leaves_nothing_behind),
    ("a_bad_archive_leaves_no_half_layer", a_bad_archive_leaves_no_half_layer),
    ("layer_size_counts_files_once_and_directories_never", layer_size_counts_files_once_and_directories_never),
    ("status_names_the_driver_and_the_filesystem", status_names_the_driver_and_the_filesystem),
    ("an_exported_layer_comes_back_as_it_was", an_exported_layer_comes_back_as_it_was),
    ("unknown_storage_options_are_errors", unknown_storage_options_are_errors),
    ("ids_may_be_long_and_have_punctuation", ids_may_be_long_and_have_punctuation),
    ("repair_leaves_whole_and_missing_layers_alone", repair_leaves_whole_and_missing_layers_alone),
];

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn two_layers(w: &World) {
    let bottom = Tar::new().dir("etc/").file("etc/name", "bottom").file("etc/gone", "x").dir("home/").file("home/user", "u");
    let top = Tar::new().file("etc/name", "top").file("etc/.wh.gone", "").file(".wh.home", "").file("index.html", "hi");
    w.subject.create_ro("bottom", None).unwrap();
    w.subject.apply("bottom", &bottom.done()).unwrap();
    w.subject.create_ro("top", Some("bottom")).unwrap();
    w.subject.apply("top", &top.done()).unwrap();
}

/// design document, "Mount a layer": returns the mounted filesystem's path; "Unmount a layer"; "Create a read-only layer" and
/// "Create a read-write layer", step 1; "Unpack layer data", steps 1 and 2.
fn a_stack_of_layers_shows_what_they_mean(w: &World) {
    two_layers(w);
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    assert_eq!(text(&root.join("etc/name")), "top");
    assert_eq!(text(&root.join("index.html")), "hi");
    assert!(!root.join("etc/gone").exists() && !root.join("home").exists());
    let meta = std::fs::metadata(root.join("etc/name")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o644, 0, 1_600_000_000));
    assert_eq!(std::fs::metadata(&root).unwrap().mode() & 0o7777, 0o755, "others must be able to traverse the root");
    w.subject.umount("c1").unwrap();
    assert!(!root.join("etc").exists());
}

fn a_write_goes_into_the_top_layer_only(w: &World) {
    two_layers(w);
    for id in ["c1", "c2"] {
        w.subject.create_rw(id, Some("top")).unwrap();
    }
    let first = w.subject.mount("c1", &[]).unwrap();
    std::fs::write(first.join("etc/name"), "changed").unwrap();
    std::fs::remove_file(first.join("index.html")).unwrap();
    w.subject.umount("c1").unwrap();
    let second = w.subject.mount("c2", &[]).unwrap();
    assert_eq!(text(&second.join("etc/name")), "top");
    let first = w.subject.mount("c1", &[]).unwrap();
    assert_eq!(text(&first.join("etc/name")), "changed");
    assert!(!first.join("index.html").exists());
    for id in ["c1", "c2"] {
        w.subject.umount(id).unwrap();
    }
}

fn a_mounted_layer_is_not_mounted_twice(w: &World) {
    two_layers(w);
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    assert_eq!(w.subject.mount("c1", &[]).unwrap(), root);
    w.subject.umount("c1").unwrap();
    assert!(!root.join("etc").exists(), "one umount is enough");
    w.subject.umount("c1").unwrap();
}

/// design document, "Exists".
fn what_does_not_exist_needs_no_umount_and_no_removal(w: &World) {
    w.subject.umount("nobody").unwrap();
    w.subject.remove("nobody").unwrap();
    assert!(!w.subject.exists("nobody"));
}

fn what_does_not_exist_cannot_be_used(w: &World) {
    let enoent = nix::errno::Errno::ENOENT as i32;
    assert_eq!(w.subject.mount("nobody", &[]).unwrap_err().errno, enoent);
    assert_eq!(w.subject.apply("nobody", &Tar::new().done()).unwrap_err().errno, enoent);
    assert_eq!(w.subject.metadata("nobody").unwrap_err().errno, enoent);
    assert_eq!(w.subject.usage("nobody").unwrap_err().errno, enoent);
    let failure = w.subject.mount("nobody", &[]).unwrap_err();
    assert!(failure.text.contains("nobody"), "{failure:?}");
}

/// design document, "Delete a layer".
fn a_removed_layer_is_gone_and_its_id_is_free(w: &World) {
    two_layers(w);
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    std::fs::write(root.join("file"), "x").unwrap();
    w.subject.umount("c1").unwrap();
    w.subject.remove("c1").unwrap();
    assert!(!w.subject.exists("c1") && w.subject.exists("top"));
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    assert!(!root.join("file").exists());
    w.subject.umount("c1").unwrap();
}

fn an_id_in_use_is_not_given_twice(w: &World) {
    let eexist = nix::errno::Errno::EEXIST as i32;
    two_layers(w);
    assert_eq!(w.subject.create_ro("bottom", None).unwrap_err().errno, eexist, "a parent");
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    assert_eq!(w.subject.create_rw("c1", Some("top")).unwrap_err().errno, eexist, "mounted");
    std::fs::write(root.join("precious"), "data").unwrap();
    w.subject.umount("c1").unwrap();
    assert_eq!(w.subject.create_rw("c1", None).unwrap_err().errno, eexist, "read-write with content");
    let root = w.subject.mount("c1", &[]).unwrap();
    assert_eq!(text(&root.join("precious")), "data");
    w.subject.umount("c1").unwrap();
}

fn ids_that_address_something_else_touch_nothing(w: &World) {
    two_layers(w);
    let einval = nix::errno::Errno::EINVAL as i32;
    for id in [
        "",
        ".",
        "..",
        "../bottom",
        "l",
        "RO",
        "a/b",
        "/bottom",
        ".hidden",
        "a:b",
        "a,b",
        "a\\b",
        "bottom\n",
        &"x".repeat(256),
    ] {
        assert_eq!(w.subject.create_rw(id, None).unwrap_err().errno, einval, "create {id:?}");
        assert_eq!(w.subject.remove(id).unwrap_err().errno, einval, "remove {id:?}");
        assert_eq!(w.subject.mount(id, &[]).unwrap_err().errno, einval, "mount {id:?}");
        assert_eq!(w.subject.umount(id).unwrap_err().errno, einval, "umount {id:?}");
        assert!(!w.subject.exists(id), "exists {id:?}");
    }
    assert!(w.subject.exists("bottom") && w.subject.exists("top"));
}

fn a_parent_that_does_not_exist_leaves_nothing_behind(w: &World) {
    let failure = w.subject.create_rw("c1", Some("nobody")).unwrap_err();
    assert!(failure.errno == nix::errno::Errno::ENOENT as i32 && failure.text.contains("nobody"), "{failure:?}");
    assert!(!w.subject.exists("c1"));
    w.subject.create_rw("c1", Some("")).unwrap();
}

fn a_bad_archive_leaves_no_half_layer(w: &World) {
    let good = Tar::new().file("first", "1").file("second", "2").done();
    for (name, bad) in [("garbage", &b"this is no archive, and longer than that"[..]), ("cut", &good[..good.len() - 1700])] {
        w.subject.create_ro(name, None).unwrap();
        let failure = w.subject.apply(name, bad).unwrap_err();
        assert!(failure.text.contains(name), "{failure:?}");
        match w.subject.mount(name, &[]) {
            Ok(root) => {
                assert!(!root.join("first").exists(), "{name}: half a layer can be mounted");
                w.subject.umount(name).unwrap();
            }
            Err(failure) => assert_eq!(failure.errno, nix::errno::Errno::EUCLEAN as i32),
        }
        w.subject.remove(name).unwrap();
    }
}

fn layer_size_counts_files_once_and_directories_never(w: &World) {
    w.subject.create_ro("bottom", None).unwrap();
    let archive = Tar::new().dir("d/").file("d/a", "12345").hard_link("d/b", "d/a").symlink("d/l", "abc").done();
    assert_eq!(w.subject.apply("bottom", &archive).unwrap(), 8);
}

/// design document, "Initialise": the driver is chosen by name; "Driver status".
fn status_names_the_driver_and_the_filesystem(w: &World) {
    let (name, fs, text) = w.subject.status().unwrap();
    assert!(["overlay", "overlay2", "devicemapper"].contains(&name.as_str()) && !fs.is_empty());
    assert!(text.ends_with('\n') && text.lines().all(|line| line.contains(": ")), "{text}");
}

fn an_exported_layer_comes_back_as_it_was(w: &World) {
    two_layers(w);
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    std::fs::write(root.join("etc/name"), "changed").unwrap();
    std::fs::remove_file(root.join("index.html")).unwrap();
    std::os::unix::fs::symlink("etc", root.join("link")).unwrap();
    let running = w.subject.diff("c1", None).unwrap();
    w.subject.umount("c1").unwrap();
    assert!(w.subject.diff("c1", None).unwrap() == running);
    // Upon the parent, and with what the parent changed upon its own.
    for (layer, base, below) in [("i1", None, "top"), ("i2", Some("bottom"), "bottom")] {
        let archive = w.subject.diff("c1", base).unwrap();
        w.subject.create_ro(layer, Some(below)).unwrap();
        w.subject.apply(layer, &archive).unwrap();
        let root = w.subject.mount(layer, &[]).unwrap();
        assert_eq!(text(&root.join("etc/name")), "changed", "{layer}");
        assert!(
            !root.join("index.html").exists() && !root.join("home").exists() && !root.join("etc/gone").exists(),
            "{layer}"
        );
        assert_eq!(text(&root.join("link/name")), "changed");
        w.subject.umount(layer).unwrap();
    }
    let enoent = nix::errno::Errno::ENOENT as i32;
    assert_eq!(w.subject.diff("nobody", None).unwrap_err().errno, enoent);
    assert_eq!(w.subject.diff("c1", Some("nobody")).unwrap_err().errno, enoent);
}

/// design document, "Create a read-write layer", step 4: any other create option is an error.
fn unknown_storage_options_are_errors(w: &World) {
    use graphdriver::driver::Access;
    assert!(w.subject.create("c1", None, Access::ReadWrite, &[("colour", "red")]).is_err());
    assert!(w.subject.create("c1", None, Access::ReadWrite, &[("size", "much")]).is_err());
    assert!(!w.subject.exists("c1"));
}

fn ids_may_be_long_and_have_punctuation(w: &World) {
    let parent = "a.b_c-D".to_owned();
    w.subject.create_ro(&parent, None).unwrap();
    let child = "0".repeat(64);
    w.subject.create_rw(&child, Some(&parent)).unwrap();
    w.subject.mount(&child, &[]).unwrap();
    w.subject.umount(&child).unwrap();
    assert!(w.subject.exists(&child));
}

fn repair_leaves_whole_and_missing_layers_alone(w: &World) {
    two_layers(w);
    w.subject.repair("top", Some("bottom")).unwrap();
    w.subject.repair("bottom", None).unwrap();
    w.subject.repair("nobody", Some("bottom")).unwrap();
    let root = w.subject.mount("top", &[]).unwrap();
    assert_eq!(text(&root.join("etc/name")), "top");
    w.subject.umount("top").unwrap();
}
