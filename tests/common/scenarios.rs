//! What every driver must do, whichever interface it is asked through. A driver's test binary runs each of these on a store of
//! its own.

use super::process::Process;
use super::subject::{Failure, Outcome, Subject};
use super::{Tar, eventually, names, text};
use nix::errno::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A driver under test, initialised.
pub struct World<'a> {
    pub subject: &'a dyn Subject,
    /// How it was initialised.
    pub driver: &'a str,
    pub root: &'a Path,
    pub options: &'a [&'a str],
}

impl World<'_> {
    /// What another process does with the store while this one has no driver. Each is new, and knows nothing of those before.
    fn another_process<T>(&self, work: impl FnOnce(&Process) -> T) -> T {
        self.subject.cleanup().unwrap();
        let process = Process::start(self.subject.kind());
        process.init(self.driver, self.root, self.options).unwrap();
        let result = work(&process);
        if process.is_alive() {
            process.end();
        }
        self.subject.init(self.driver, self.root, self.options).unwrap();
        result
    }
}

/// Runs every scenario, also after one that failed, and fails if any did.
pub fn run_each(run: impl Fn(&str, Scenario)) {
    let mut failed = Vec::new();
    for (name, scenario) in SCENARIOS {
        println!("scenario {name}");
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(name, *scenario))).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{} of {} scenarios failed: {failed:?}", failed.len(), SCENARIOS.len());
}

fn errno<T: std::fmt::Debug>(outcome: Outcome<T>) -> Errno {
    Errno::from_raw(outcome.unwrap_err().errno)
}

pub type Scenario = fn(&World);

/// Every scenario by name.
const SCENARIOS: &[(&str, Scenario)] = &[
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
    ("base_is_an_id_like_any_other", base_is_an_id_like_any_other),
    ("what_the_caller_knows_of_is_not_made_anew", what_the_caller_knows_of_is_not_made_anew),
    ("a_layer_of_an_earlier_process_is_known_once_it_was_told", a_layer_of_an_earlier_process_is_known_once_it_was_told),
    ("of_two_creates_of_one_id_one_succeeds", of_two_creates_of_one_id_one_succeeds),
    ("a_layer_is_not_its_own_parent", a_layer_is_not_its_own_parent),
    ("a_read_only_layer_is_mounted_read_only", a_read_only_layer_is_mounted_read_only),
    ("half_content_is_not_mounted", half_content_is_not_mounted),
    ("layers_made_first_are_unpacked_in_parallel", layers_made_first_are_unpacked_in_parallel),
    ("callbacks_that_want_each_others_layers_are_refused", callbacks_that_want_each_others_layers_are_refused),
    ("a_source_that_fails_at_once_changes_nothing", a_source_that_fails_at_once_changes_nothing),
    ("a_crash_in_the_first_unpack_leaves_nothing", a_crash_in_the_first_unpack_leaves_nothing),
    ("a_crash_costs_no_layer_that_had_content", a_crash_costs_no_layer_that_had_content),
    ("what_an_archive_implies_looks_like_what_is_below", what_an_archive_implies_looks_like_what_is_below),
];

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
    for id in ["", ".", "..", "../bottom", "a/b", "/bottom", ".hidden", "a:b", "a,b", "a\\b", "bottom\n", &"x".repeat(256)] {
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

fn base_is_an_id_like_any_other(w: &World) {
    w.subject.create_ro("base", None).unwrap();
    w.subject.apply("base", &Tar::new().file("f", "x").done()).unwrap();
    w.subject.create_rw("c1", Some("base")).unwrap();
    assert_eq!(text(&w.subject.mount("c1", &[]).unwrap().join("f")), "x");
    w.subject.umount("c1").unwrap();
    w.subject.remove("c1").unwrap();
    w.subject.remove("base").unwrap();
    assert!(!w.subject.exists("base"));
    w.subject.create_rw("c1", None).unwrap();
}

/// A layer that this process has made or told its caller of is somebody's, whatever it holds.
fn what_the_caller_knows_of_is_not_made_anew(w: &World) {
    two_layers(w);
    w.subject.create_ro("empty", None).unwrap();
    w.subject.create_rw("c1", None).unwrap();
    w.subject.create_ro("lone", Some("bottom")).unwrap();
    for id in ["top", "empty", "c1", "lone"] {
        assert_eq!(errno(w.subject.create_ro(id, None)), Errno::EEXIST, "{id}");
        assert_eq!(errno(w.subject.create_ro(id, Some("bottom"))), Errno::EEXIST, "{id}");
        assert_eq!(errno(w.subject.create_rw(id, None)), Errno::EEXIST, "{id}");
        assert!(w.subject.exists(id), "{id}");
    }
    // One that was a parent a moment ago.
    w.subject.create_rw("child", Some("top")).unwrap();
    w.subject.remove("child").unwrap();
    assert_eq!(errno(w.subject.create_ro("top", None)), Errno::EEXIST);
    let root = w.subject.mount("top", &[]).unwrap();
    assert_eq!(text(&root.join("index.html")), "hi");
    w.subject.umount("top").unwrap();
    w.subject.umount("c1").unwrap();
}

/// A call that tells the caller of a layer, and the name of one for it.
type Telling = (&'static str, fn(&dyn Subject, &str));

/// After a restart a daemon makes anew what it does not know of (a pull that a crash ended), and keeps what it asked about.
fn a_layer_of_an_earlier_process_is_known_once_it_was_told(w: &World) {
    let ways: [Telling; 4] = [
        ("asked-about", |subject, id| assert!(subject.exists(id))),
        ("looked-into", |subject, id| drop(subject.metadata(id).unwrap())),
        ("mounted", |subject, id| {
            subject.mount(id, &[]).unwrap();
            subject.umount(id).unwrap();
        }),
        ("stacked-upon", |subject, id| {
            subject.create_rw("child", Some(id)).unwrap();
            subject.remove("child").unwrap();
        }),
    ];
    w.another_process(|process| {
        let ids = ways.iter().map(|(id, _)| *id);
        for id in ids.chain(["untold"]) {
            process.create_ro(id, None).unwrap();
            process.apply(id, &Tar::new().file("f", id).done()).unwrap();
        }
        process.create_rw("container", None).unwrap();
    });
    w.another_process(|process| {
        for (id, tell) in ways {
            tell(process, id);
            assert_eq!(errno(process.create_ro(id, None)), Errno::EEXIST, "after {id}");
            assert_eq!(text(&process.mount(id, &[]).unwrap().join("f")), id);
            process.umount(id).unwrap();
        }
        process.create_ro("untold", None).unwrap();
        process.apply("untold", &Tar::new().file("anew", "x").done()).unwrap();
        let root = process.mount("untold", &[]).unwrap();
        assert!(root.join("anew").exists() && !root.join("f").exists());
        process.umount("untold").unwrap();
        assert_eq!(errno(process.create_rw("container", None)), Errno::EEXIST, "a container's, though it is empty");
    });
}

fn of_two_creates_of_one_id_one_succeeds(w: &World) {
    two_layers(w);
    for round in 0..20 {
        let start = std::sync::Barrier::new(2);
        let create = |parent| {
            start.wait();
            w.subject.create_ro("new", parent)
        };
        let (plain, stacked) = std::thread::scope(|scope| {
            let plain = scope.spawn(|| create(None));
            let stacked = scope.spawn(|| create(Some("bottom")));
            (plain.join().unwrap(), stacked.join().unwrap())
        });
        let winner_has_parent = stacked.is_ok();
        assert!(plain.is_ok() != stacked.is_ok(), "round {round}: {plain:?} and {stacked:?}");
        assert_eq!(errno(plain.and(stacked)), Errno::EEXIST, "round {round}");
        let root = w.subject.mount("new", &[]).unwrap();
        assert_eq!(root.join("home/user").exists(), winner_has_parent, "round {round}");
        w.subject.umount("new").unwrap();
        w.subject.remove("new").unwrap();
    }
}

fn a_layer_is_not_its_own_parent(w: &World) {
    two_layers(w);
    for id in ["top", "new"] {
        assert_eq!(errno(w.subject.create_ro(id, Some(id))), Errno::EINVAL, "{id}");
        assert_eq!(errno(w.subject.create_rw(id, Some(id))), Errno::EINVAL, "{id}");
    }
    assert!(!w.subject.exists("new"));
    assert_eq!(text(&w.subject.mount("top", &[]).unwrap().join("index.html")), "hi");
    w.subject.umount("top").unwrap();
}

fn a_read_only_layer_is_mounted_read_only(w: &World) {
    two_layers(w);
    for id in ["bottom", "top"] {
        let root = w.subject.mount(id, &[]).unwrap();
        let seen = names(&root.join("etc"));
        let failure = std::fs::write(root.join("new"), "x").unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(Errno::EROFS as i32), "{id}");
        assert!(std::fs::remove_file(root.join("etc/name")).is_err(), "{id}");
        assert_eq!(names(&root.join("etc")), seen);
        assert_eq!(text(&root.join("etc/name")), id);
        assert_eq!(w.subject.mount(id, &[]).unwrap(), root, "mounting it again is no second mount");
        w.subject.umount(id).unwrap();
    }
    let root = w.subject.mount("top", &[]).unwrap();
    assert!(!root.join("etc/gone").exists() && !root.join("home").exists(), "what it deletes stays deleted");
    // A container on top may write meanwhile, and the image does not see it.
    w.subject.create_rw("c1", Some("top")).unwrap();
    std::fs::write(w.subject.mount("c1", &[]).unwrap().join("written"), "x").unwrap();
    assert!(!root.join("written").exists());
    w.subject.umount("c1").unwrap();
    w.subject.umount("top").unwrap();
}

/// Bytes that fill every buffer on the way, so that the first files are in the layer when the last byte was taken.
fn first_half() -> Vec<u8> {
    let archive = Tar::new().file("first", "1").file("second", &"2".repeat(12 << 20)).done();
    archive[..archive.len() - 1024].to_vec()
}

fn half_content_is_not_mounted(w: &World) {
    w.another_process(|process| {
        process.create_ro("half", None).unwrap();
        process.apply("half", &Tar::new().file("before", "x").done()).unwrap();
        process.unpack_halfway("half", &first_half());
        process.kill();
    });
    assert_eq!(errno(w.subject.mount("half", &[])), Errno::EUCLEAN);
    for outcome in [w.subject.create_ro("child", Some("half")), w.subject.create_rw("child", Some("half"))] {
        let failure = outcome.unwrap_err();
        assert!(failure.errno == Errno::EUCLEAN as i32 && failure.text.contains("half"), "{failure:?}");
    }
    assert!(!w.subject.exists("child"));
    w.subject.remove("half").unwrap();
    w.subject.create_ro("half", None).unwrap();
    w.subject.apply("half", &Tar::new().file("whole", "x").done()).unwrap();
    w.subject.create_rw("child", Some("half")).unwrap();
    let root = w.subject.mount("child", &[]).unwrap();
    assert!(root.join("whole").exists() && !root.join("before").exists() && !root.join("first").exists());
    w.subject.umount("child").unwrap();
}

/// A daemon that pulls makes the layers of an image, then unpacks them as they arrive.
fn layers_made_first_are_unpacked_in_parallel(w: &World) {
    let ids = ["l0", "l1", "l2", "l3", "l4", "l5"];
    for (i, id) in ids.iter().enumerate() {
        w.subject.create_ro(id, i.checked_sub(1).map(|below| ids[below])).unwrap();
    }
    std::thread::scope(|scope| {
        for id in ids.iter().rev() {
            scope.spawn(move || {
                let archive = (0..20).fold(Tar::new().dir("d/"), |tar, i| tar.file(&format!("d/{id}-{i}"), id));
                assert_eq!(w.subject.apply(id, &archive.done()).unwrap(), 40);
            });
        }
    });
    for id in ids {
        let root = w.subject.mount(id, &[]).unwrap();
        for i in 0..20 {
            assert_eq!(text(&root.join(format!("d/{id}-{i}"))), id);
        }
        w.subject.umount(id).unwrap();
    }
}

fn callbacks_that_want_each_others_layers_are_refused(w: &World) {
    w.another_process(|process| {
        for id in ["one", "two"] {
            process.create_ro(id, None).unwrap();
        }
        process.run("two callbacks that each want the other's layer").unwrap();
        for id in ["one", "two"] {
            assert!(process.mount(id, &[]).unwrap().join("f").exists(), "{id}: the unpack goes on");
            process.umount(id).unwrap();
        }
    });
}

/// A source that gives some bytes and then an error.
pub struct Breaking<'a>(pub &'a [u8]);

impl std::io::Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::Error::from_raw_os_error(Errno::EIO as i32)),
            n => Ok(n),
        }
    }
}

/// Archives that fail before anything of them is placed, by name; and after which of their bytes the source fails itself.
pub fn stillborn() -> Vec<(&'static str, Vec<u8>)> {
    let good = Tar::new().file("first", "1").done();
    let mut broken_sum = good.clone();
    broken_sum[148..154].copy_from_slice(b"000001");
    vec![
        ("junk", b"this is no archive, ".repeat(100)),
        ("a page of an error", b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n".repeat(20)),
        ("a zip file", [&b"PK\x03\x04\x14\x00\x00\x00\x08\x00"[..], &[7; 1200]].concat()),
        ("a header cut short", good[..300].to_vec()),
        ("a header with a wrong sum", broken_sum),
        ("a first name that is refused", Tar::new().file(".wh.", "").file("second", "2").done()),
        ("gzip of nothing sensible", [&b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"[..], &[0xff; 600]].concat()),
        ("gzip cut in its header", b"\x1f\x8b\x08".to_vec()),
    ]
}

fn a_source_that_fails_at_once_changes_nothing(w: &World) {
    two_layers(w);
    w.subject.create_rw("c1", Some("top")).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    std::fs::write(root.join("precious"), "data").unwrap();
    w.subject.umount("c1").unwrap();
    let good = Tar::new().file("first", "1").done();
    let mut failures: Vec<(&str, Failure)> = Vec::new();
    for (what, archive) in stillborn() {
        failures.push((what, w.subject.apply("c1", &archive).expect_err(what)));
    }
    for bytes in [0, 1, 511] {
        failures.push(("a read error", w.subject.apply_from("c1", &mut Breaking(&good[..bytes])).unwrap_err()));
        assert_eq!(failures.last().unwrap().1.errno, Errno::EIO as i32, "{failures:?}");
    }
    for (what, failure) in failures {
        assert!(!failure.text.contains("remove"), "{what} is no reason to remove the layer: {failure:?}");
    }
    assert!(w.subject.exists("c1"));
    let root = w.subject.mount("c1", &[]).unwrap();
    assert_eq!(text(&root.join("precious")), "data");
    assert!(!root.join("first").exists() && !root.join("second").exists());
    w.subject.umount("c1").unwrap();
    w.subject.create_rw("c2", Some("c1")).unwrap();
    w.subject.apply("c1", &good).unwrap();
    let root = w.subject.mount("c1", &[]).unwrap();
    assert!(root.join("first").exists() && root.join("precious").exists());
    w.subject.umount("c1").unwrap();
}

fn a_crash_in_the_first_unpack_leaves_nothing(w: &World) {
    two_layers(w);
    for parent in [None, Some("bottom")] {
        w.another_process(|process| {
            process.create_ro("half", parent).unwrap();
            process.unpack_halfway("half", &first_half());
            process.kill();
        });
        w.another_process(|process| {
            eventually("nothing has that id", || {
                process.metadata("half").is_err_and(|failure| failure.errno == Errno::ENOENT as i32)
            });
            assert!(!process.exists("half"));
            assert_eq!(errno(process.mount("half", &[])), Errno::ENOENT);
            for id in ["bottom", "top"] {
                assert!(process.exists(id), "{id}");
            }
            process.create_ro("half", parent).unwrap();
            process.apply("half", &Tar::new().file("whole", "x").done()).unwrap();
            let root = process.mount("half", &[]).unwrap();
            assert!(root.join("whole").exists() && !root.join("first").exists());
            process.umount("half").unwrap();
            process.remove("half").unwrap();
        });
    }
}

/// A container's layer, and one that had content before, are not the library's to delete.
fn a_crash_costs_no_layer_that_had_content(w: &World) {
    for id in ["container", "image"] {
        w.another_process(|process| {
            match id {
                "container" => process.create_rw(id, None).unwrap(),
                _ => process.create_ro(id, None).unwrap(),
            }
            process.apply(id, &Tar::new().file("precious", "data").done()).unwrap();
            process.unpack_halfway(id, &first_half());
            process.kill();
        });
    }
    // The second of two starts sees what the first one's worker did.
    w.another_process(|process| {
        for id in ["container", "image"] {
            assert!(process.exists(id), "{id}: removing it would lose what it had before");
            process.metadata(id).unwrap();
            assert!(process.usage(id).unwrap().0 > 0, "{id}");
            assert_eq!(errno(process.mount(id, &[])), Errno::EUCLEAN, "{id}");
        }
    });
    for id in ["container", "image"] {
        w.subject.metadata(id).unwrap();
        w.subject.remove(id).unwrap();
    }
}

/// An archive need not name the directories of what it holds. They are what they were, and not opened to everybody.
fn what_an_archive_implies_looks_like_what_is_below(w: &World) {
    let below = Tar::new().dir_of("secret/", 0o700, (1000, 1000)).file("secret/old", "x").file("secret/key", "x");
    w.subject.create_ro("bottom", None).unwrap();
    let below = below.dir_of("secret/deep/", 0o2750, (1001, 1002)).file("secret/deep/old", "x");
    w.subject.apply("bottom", &below.done()).unwrap();
    let changes = [
        ("a_file", Tar::new().file("secret/new", "x")),
        ("a_whiteout", Tar::new().file("secret/.wh.old", "")),
        ("deep", Tar::new().file("secret/deep/new", "x")),
        ("deep_whiteout", Tar::new().file("secret/deep/.wh.old", "")),
        ("beside", Tar::new().file("secret/other/new", "x")),
    ];
    for (id, change) in changes {
        w.subject.create_ro(id, Some("bottom")).unwrap();
        w.subject.apply(id, &change.done()).unwrap();
        let root = w.subject.mount(id, &[]).unwrap();
        let seen = |name: &str| {
            let meta = std::fs::metadata(root.join(name)).unwrap();
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        };
        assert_eq!(seen("secret"), (0o700, 1000, 1000), "{id}");
        assert_eq!(seen("secret/deep"), (0o2750, 1001, 1002), "{id}");
        assert!(root.join("secret/key").exists(), "{id}");
        if id == "beside" {
            assert_eq!(seen("secret/other"), (0o755, 0, 0), "nothing below has it");
        }
        w.subject.umount(id).unwrap();
    }
}
