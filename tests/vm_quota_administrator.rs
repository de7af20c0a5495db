//! Project quota and what happens around the library: an administrator who sets limits, switches enforcement off and on or mounts
//! the filesystem otherwise, and crashes while a limit or a project is changed for a moment. On real ext4 and XFS (`vm/test`).
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // fork(2)

mod common;
#[path = "quota/ground.rs"]
mod ground;

use common::subject::Subject;
use common::{Store, Tar, run};
use graphdriver::error::{Error, Result};
use graphdriver::log::{self, Level};
use graphdriver::quota::{Control, renaming};
use ground::{Kind, World, give, half, limited, limits, names, on_both, project, repquota, set_limits, writes};
use nix::fcntl::RenameFlags;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

on_both! {
    limits_of_the_administrator_survive_mounts
    hard_limits_of_the_administrator_are_in_force_after_a_mount
    room_is_made_only_when_usage_asks_for_it
    a_full_layer_is_mounted_and_has_its_two_limits_again
    a_layer_whose_grace_is_over_is_mounted_and_stays_refused
    limits_raised_at_a_crash_are_lowered_by_the_next_start
    limits_raised_at_a_crash_are_lowered_by_the_next_mount
    limits_raised_at_a_crash_are_known_again_when_they_come_from_disk
    limits_set_after_a_crash_are_kept
    a_note_of_a_removed_layer_goes_with_it
    enforcement_switched_off_is_noticed_at_once
    a_removal_without_enforcement_leaks_nothing
    a_store_mounted_again_without_quota_is_told_layer_by_layer
    an_unpack_into_a_limited_layer_tells_as_well
    enforcement_switched_on_is_noticed_at_once
    a_default_limit_is_never_silently_without_effect
    a_crash_in_a_rename_leaks_nothing
    a_crash_in_an_exchange_leaks_nothing
    an_exchange_works_where_home_hands_on_its_project
    full_layers_are_exchanged_and_removed_where_home_hands_on_its_project
    leftovers_in_the_project_of_home_are_known_by_what_is_inside
    the_project_of_home_is_never_taken_for_a_layers
    projects_of_another_filesystem_mean_nothing_here
    the_lists_of_the_administrator_are_read_for_each_layer
}

const SENTENCE: &str = "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option";

/// Switches the enforcement of limits off or on, as an administrator does.
/// Switched off, the layers' limits are nothing that a store ends with unnoticed.
fn enforce(kind: &Kind, store: &Store, on: bool) {
    let mount = store.root();
    if !on {
        store.leaves_damage();
    }
    match kind.name {
        "xfs" => run(Command::new("xfs_quota").args(["-x", "-c", if on { "enable -p" } else { "disable -p" }]).arg(mount)),
        _ => run(Command::new(if on { "quotaon" } else { "quotaoff" }).arg("-P").arg(mount)),
    }
}

/// What is logged as a warning meanwhile.
fn warnings<T>(action: impl FnOnce() -> T) -> (T, Vec<String>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    log::set_sink(Some(Arc::new(move |level, line: &str| {
        if level == Level::Warn {
            sink.lock().unwrap().push(line.to_owned());
        }
    })));
    let done = action();
    log::set_sink(None);
    let lines = seen.lock().unwrap().clone();
    (done, lines)
}

/// A process that dies in the middle of `action`, which has to call [`die`].
fn killed(action: impl FnOnce()) {
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        action();
        unsafe { libc::_exit(1) };
    }
    let mut status = 0;
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(libc::WIFSIGNALED(status), "the child did not die where it should: {status:#x}");
}

fn die() -> ! {
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        libc::_exit(1)
    }
}

impl World {
    /// Quota of this home, apart from the driver, and home and layer.
    fn control(&self, id: &str) -> (Control, File, File) {
        let home = File::open(self.home()).unwrap();
        let layer = File::open(self.home().join(id)).unwrap();
        (Control::probe(home.as_fd(), &self.home()).unwrap(), home, layer)
    }

    /// Fills a layer with a hard limit to the last block, in a file of the given name.
    fn fill(&self, id: &str, file: &str) {
        let root = self.store.root();
        let free = || {
            let df = Command::new("df").args(["--output=avail", "-B4096"]).arg(self.diff(id)).output().unwrap();
            String::from_utf8(df.stdout).unwrap().split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        let [soft, hard, ..] = self.limits(id);
        set_limits(&root, self.project(id), [0, hard, 0, 0]);
        assert!(writes(&self.diff(id).join(file), free()));
        assert!(!writes(&self.diff(id).join("more"), 1), "not full");
        let _ = fs::remove_file(self.diff(id).join("more"));
        set_limits(&root, self.project(id), [soft, hard, 0, 0]);
    }

    /// The same filesystem mounted with other options; nothing of it may be in use.
    fn remounted(self, options: &str, init: &[&str]) -> World {
        self.subject.cleanup().unwrap();
        if !options.contains("prjquota") {
            self.store.leaves_damage(); // limits that are not enforced
        }
        let root = self.store.root();
        let output = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&root).output().unwrap();
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let _kept = File::open(&device).unwrap(); // or the loop device goes with the mount
        run(Command::new("umount").arg(&root));
        run(Command::new("mount").args(["-o", options, &device]).arg(&root));
        self.restarted(init)
    }

    fn status_line(&self) -> String {
        let status = self.subject.status().unwrap().2;
        status.lines().find_map(|line| line.strip_prefix("Supports project quota: ")).unwrap().to_owned()
    }

    fn notes(&self) -> BTreeSet<String> {
        names(&self.home()).into_iter().filter(|name| name.starts_with('.')).collect()
    }
}

fn limits_of_the_administrator_survive_mounts(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "10M")]).unwrap();
    assert_eq!(w.limits("a"), [10_240, 10_240, 0, 0]);
    // Hard only; both raised; a soft one below; inodes; lowered below what is in use; taken away.
    let cases =
        [[0, 20_480, 0, 0], [30_720, 30_720, 0, 0], [2048, 40_960, 0, 0], [0, 20_480, 10, 500], [4, 4, 2, 2], [0; 4]];
    for set in cases {
        w.set_limits("a", set);
        w.subject.mount("a", &[]).unwrap();
        assert_eq!(w.limits("a"), set, "mounted");
        w.subject.mount("a", &[]).unwrap();
        w.subject.umount("a").unwrap();
        assert_eq!(w.limits("a"), set, "unmounted");
    }
}

fn hard_limits_of_the_administrator_are_in_force_after_a_mount(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "1M")]).unwrap();
    w.set_limits("a", [0, 4096, 0, 0]);
    let merged = w.subject.mount("a", &[]).unwrap();
    fs::write(merged.join("fits"), vec![1; 3 << 20]).unwrap();
    let written = fs::write(merged.join("more"), vec![1; 2 << 20]).and_then(|()| File::open(&merged)?.sync_all());
    assert_eq!(written.unwrap_err().raw_os_error(), Some(kind.refusal));
    assert!(w.subject.usage("a").unwrap().0 <= 4 << 20);
}

fn room_is_made_only_when_usage_asks_for_it(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "4M")]).unwrap();
    let (control, home, layer) = w.control("a");
    let meanwhile = || control.with_room(home.as_fd(), layer.as_fd(), || Ok((w.limits("a"), w.notes()))).unwrap();
    assert_eq!(meanwhile(), ([4096, 4096, 0, 0], BTreeSet::new()));
    w.set_limits("a", [1024, 4096, 0, 0]);
    w.fill("a", "large");
    let ([soft, hard, ..], notes) = meanwhile();
    assert!(soft == 1024 && hard >= 4096 + 1024, "{soft} {hard}");
    assert_eq!(notes, BTreeSet::from([format!(".room-{}", w.project("a"))]));
    assert_eq!((w.limits("a"), w.notes()), ([1024, 4096, 0, 0], BTreeSet::new()));
    // The same when what it is for fails.
    let refused: Result<()> = control.with_room(home.as_fd(), layer.as_fd(), || Err(Error::sys("test", libc::EIO)));
    assert_eq!(refused.unwrap_err().errno(), libc::EIO);
    assert_eq!((w.limits("a"), w.notes()), ([1024, 4096, 0, 0], BTreeSet::new()));
    // And inodes: 16 more than are in use must be free.
    let used = w.subject.usage("a").unwrap().1;
    w.set_limits("a", [0, 0, 0, used + 16]);
    assert_eq!(meanwhile().0, [0, 0, 0, used + 16]);
    w.set_limits("a", [0, 0, 0, used + 15]);
    assert_eq!(meanwhile().0, [0, 0, 0, used + 16]);
    assert_eq!(w.limits("a"), [0, 0, 0, used + 15]);
}

fn a_full_layer_is_mounted_and_has_its_two_limits_again(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=4M"]);
    w.create("a", &[]).unwrap();
    w.set_limits("a", [2048, 3072, 0, 0]);
    w.fill("a", "large");
    let merged = w.subject.mount("a", &[]).unwrap();
    assert_eq!((w.limits("a"), w.notes()), ([2048, 3072, 0, 0], BTreeSet::new()));
    fs::remove_file(merged.join("large")).unwrap();
    w.subject.umount("a").unwrap();
    w.subject.mount("a", &[]).unwrap();
    assert_eq!(w.limits("a"), [2048, 3072, 0, 0]);
}

fn a_layer_whose_grace_is_over_is_mounted_and_stays_refused(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "8M")]).unwrap();
    assert!(writes(&w.diff("a").join("large"), 512));
    let grace = |seconds| run(Command::new("setquota").args(["-P", "-t", seconds, seconds]).arg(w.store.root()));
    grace("1");
    w.set_limits("a", [1024, 8192, 0, 0]);
    let over = (0..100).any(|i| {
        std::thread::sleep(Duration::from_millis(100));
        !writes(&w.diff("a").join(format!("more{i}")), 1)
    });
    assert!(over, "the soft limit never gets hard");
    grace("604800"); // what a limit that is exceeded anew would have
    let merged = w.subject.mount("a", &[]).unwrap();
    assert_eq!(w.limits("a"), [1024, 8192, 0, 0]);
    assert!(!writes(&w.diff("a").join("again"), 1), "a mount gives no new grace");
    fs::remove_file(merged.join("large")).unwrap();
}

/// A layer whose limits are raised because the daemon was killed in the moment of a mount.
fn raised_at_a_crash(kind: &Kind) -> World {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "4M")]).unwrap();
    w.set_limits("a", [0, 4096, 0, 0]);
    w.fill("a", "large");
    let (control, home, layer) = w.control("a");
    killed(|| drop(control.with_room::<()>(home.as_fd(), layer.as_fd(), || die())));
    assert!(w.limits("a")[1] > 4096 && !w.notes().is_empty(), "{:?} {:?}", w.limits("a"), w.notes());
    w
}

fn limits_raised_at_a_crash_are_lowered_by_the_next_start(kind: &Kind) {
    let w = raised_at_a_crash(kind).restarted(&[]);
    assert_eq!((w.limits("a"), w.notes()), ([0, 4096, 0, 0], BTreeSet::new()));
    // A crash between the note and the limits.
    std::os::unix::fs::symlink("0 0 0 0 0 0 9437184 0 0 0", w.home().join(format!(".room-{}", w.project("a")))).unwrap();
    let w = w.restarted(&[]);
    assert_eq!((w.limits("a"), w.notes()), ([0, 4096, 0, 0], BTreeSet::new()));
}

fn limits_raised_at_a_crash_are_lowered_by_the_next_mount(kind: &Kind) {
    let w = raised_at_a_crash(kind);
    let merged = w.subject.mount("a", &[]).unwrap();
    assert_eq!((w.limits("a"), w.notes()), ([0, 4096, 0, 0], BTreeSet::new()));
    fs::remove_file(merged.join("large")).unwrap();
    // Also where it is mounted already: the crash came after that.
    fs::write(merged.join("small"), "s").unwrap();
    let (control, home, layer) = w.control("a");
    w.set_limits("a", [0, 512, 0, 0]);
    killed(|| drop(control.with_room::<()>(home.as_fd(), layer.as_fd(), || die())));
    assert_ne!(w.limits("a"), [0, 512, 0, 0]);
    w.subject.mount("a", &[]).unwrap();
    assert_eq!((w.limits("a"), w.notes()), ([0, 512, 0, 0], BTreeSet::new()));
}

fn limits_raised_at_a_crash_are_known_again_when_they_come_from_disk(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "4M")]).unwrap();
    // Quota files have units of their own: of 1 KiB, or of a block.
    w.set_limits("a", [2051, 4099, 0, 7]);
    let before = w.limits("a");
    let (control, home, layer) = w.control("a");
    killed(|| drop(control.with_room::<()>(home.as_fd(), layer.as_fd(), || die())));
    drop((control, home, layer));
    let raised = w.limits("a");
    assert_ne!(raised, before);
    let w = w.remounted("prjquota", &[]);
    assert_eq!((w.limits("a"), w.notes()), (before, BTreeSet::new()));
}

fn limits_set_after_a_crash_are_kept(kind: &Kind) {
    let w = raised_at_a_crash(kind);
    w.set_limits("a", [0, 10_240, 0, 0]);
    let w = w.restarted(&[]);
    assert_eq!((w.limits("a"), w.notes()), ([0, 10_240, 0, 0], BTreeSet::new()));
    let w = raised_at_a_crash(kind);
    w.set_limits("a", [0; 4]);
    w.subject.mount("a", &[]).unwrap();
    assert_eq!((w.limits("a"), w.notes()), ([0; 4], BTreeSet::new()));
}

fn a_note_of_a_removed_layer_goes_with_it(kind: &Kind) {
    let w = raised_at_a_crash(kind);
    w.subject.remove("a").unwrap();
    assert_eq!((limited(&w.store.root()), w.notes()), (BTreeSet::new(), BTreeSet::new()));
    // What is no note of ours is left where it is.
    for name in [".room-", ".room-x", ".room-07"] {
        fs::write(w.home().join(name), "").unwrap();
    }
    let w = w.restarted(&[]);
    assert_eq!(w.notes().len(), 3);
}

fn enforcement_switched_off_is_noticed_at_once(kind: &Kind) {
    let w = World::new(kind, &[]);
    let root = w.store.root();
    w.create("limited", &[("size", "1M")]).unwrap();
    w.create("free", &[]).unwrap();
    assert_eq!(w.status_line(), "true");
    assert_eq!(warnings(|| w.subject.mount("limited", &[]).unwrap()).1, Vec::<String>::new());
    w.subject.umount("limited").unwrap();
    enforce(kind, &w.store, false);
    let line = w.status_line();
    assert!(line.starts_with("false (needed for size limits only: project quota is counted but not enforced"), "{line}");
    let before = (names(&w.home()), limited(&root));
    let refused = w.create("new", &[("size", "1M")]).unwrap_err();
    assert_eq!((refused.text.as_str(), refused.errno), (SENTENCE, libc::EOPNOTSUPP));
    assert_eq!((names(&w.home()), limited(&root)), before);
    w.create("new", &[]).unwrap();
    // Each use of a limited layer is told, and no other's.
    for _ in 0..2 {
        let (merged, lines) = warnings(|| w.subject.mount("limited", &[]).unwrap());
        let told = |part| lines.iter().all(|line| line.contains(part));
        assert!(lines.len() == 1 && told("'limited'") && told("without its limit") && told("not enforced"), "{lines:?}");
        fs::write(merged.join("beyond"), vec![1; 2 << 20]).unwrap();
    }
    assert_eq!(warnings(|| w.subject.mount("free", &[]).unwrap()).1, Vec::<String>::new());
    assert_eq!(w.limits("limited"), [1024, 1024, 0, 0]);
    // One whose limits the administrator has taken away is not limited.
    w.subject.umount("limited").unwrap();
    w.set_limits("limited", [0; 4]);
    assert_eq!(warnings(|| w.subject.mount("limited", &[]).unwrap()).1, Vec::<String>::new());
}

fn a_removal_without_enforcement_leaks_nothing(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=1M"]);
    let root = w.store.root();
    for id in ["a", "b", "c"] {
        w.create(id, &[]).unwrap();
    }
    let ids = [w.project("a"), w.project("b"), w.project("c")];
    enforce(kind, &w.store, false);
    w.subject.remove("a").unwrap();
    assert_eq!(limited(&root), BTreeSet::from([ids[1], ids[2]]));
    // Also in a daemon that has started without.
    let w = w.restarted(&[]);
    w.subject.remove("b").unwrap();
    assert_eq!(limited(&root), BTreeSet::from([ids[2]]));
    // And what a crash left half deleted.
    fs::rename(w.home().join("c"), w.home().join(half("trash", 1))).unwrap();
    let w = w.restarted(&[]);
    assert_eq!((limited(&root), w.notes()), (BTreeSet::new(), BTreeSet::new()));
    enforce(kind, &w.store, true);
    let w = w.restarted(&["overlay2.size=1M"]);
    // XFS lets go of deleted files a moment later.
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        repquota(&root).keys().all(|id| !ids.contains(id))
    });
    assert!(gone, "{:?}", repquota(&root));
    w.create("again", &[]).unwrap();
    assert_eq!(w.project("again"), ids[0]);
}

fn a_store_mounted_again_without_quota_is_told_layer_by_layer(kind: &Kind) {
    let w = World::new(kind, &[]);
    for id in ["limited", "second"] {
        w.create(id, &[("size", "1M")]).unwrap();
    }
    w.create("free", &[]).unwrap();
    let (first, second) = (w.project("limited"), w.project("second"));
    let w = w.remounted("defaults", &[]);
    let reason = if kind.name == "xfs" { "mounted without project quota" } else { "counted but not enforced" };
    let line = w.status_line();
    assert!(line.starts_with("false (needed") && line.contains(reason), "{line}");
    assert_eq!(w.create("new", &[("size", "1M")]).unwrap_err().text, SENTENCE);
    let lines = warnings(|| w.subject.mount("limited", &[]).unwrap()).1;
    let told = |part| lines.iter().all(|line| line.contains(part));
    assert!(lines.len() == 1 && told("'limited'") && told(reason) && told("prjquota"), "{lines:?}");
    assert_eq!(warnings(|| w.subject.mount("free", &[]).unwrap()).1, Vec::<String>::new());
    w.subject.usage("limited").unwrap();
    let lines = warnings(|| w.subject.remove("limited").unwrap()).1;
    w.subject.umount("free").unwrap();
    match kind.name {
        // XFS counts nothing then and cannot be asked: what to do is told.
        "xfs" => {
            assert!(lines.len() == 1 && lines[0].contains(&format!("setquota -P {first} 0 0 0 0")), "{lines:?}");
            let w = w.remounted("prjquota", &["overlay2.size=1M"]);
            assert_eq!(limited(&w.store.root()), BTreeSet::from([first, second]));
            w.create("new", &[]).unwrap();
            assert!(![first, second].contains(&w.project("new")), "an id with limits was drawn");
            set_limits(&w.store.root(), first, [0; 4]);
            assert_eq!(limited(&w.store.root()), BTreeSet::from([second, w.project("new")]));
        }
        _ => {
            assert_eq!(lines, Vec::<String>::new());
            assert_eq!(limited(&w.store.root()), BTreeSet::from([second]));
        }
    }
}

fn an_unpack_into_a_limited_layer_tells_as_well(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("limited", &[("size", "1M")]).unwrap();
    w.create("free", &[]).unwrap();
    let archive = Tar::new().file("small", "s").done();
    enforce(kind, &w.store, false);
    let lines = warnings(|| w.subject.apply("limited", &archive).unwrap()).1;
    assert!(lines.len() == 1 && lines[0].contains("'limited'"), "{lines:?}");
    assert_eq!(warnings(|| w.subject.apply("free", &archive).unwrap()).1, Vec::<String>::new());
}

fn enforcement_switched_on_is_noticed_at_once(kind: &Kind) {
    let options = if kind.name == "xfs" { "loop,pqnoenforce" } else { "loop" };
    let w = World { subject: common::subject::Rust::default(), store: Store::with(kind.mkfs, kind.args, options) };
    w.init(&[]).unwrap();
    assert_eq!(w.create("a", &[("size", "1M")]).unwrap_err().text, SENTENCE);
    enforce(kind, &w.store, true);
    assert_eq!(w.status_line(), "true");
    w.create("a", &[("size", "1M")]).unwrap();
    assert!(!writes(&w.diff("a").join("much"), 300));
    assert_eq!(warnings(|| w.subject.mount("a", &[]).unwrap()).1, Vec::<String>::new());
}

fn a_default_limit_is_never_silently_without_effect(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=1M"]);
    w.create("a", &[]).unwrap();
    enforce(kind, &w.store, false);
    let refused = w.create("b", &[]).unwrap_err();
    assert_eq!((refused.text.as_str(), refused.errno), (SENTENCE, libc::EOPNOTSUPP));
    assert!(!w.subject.exists("b"));
    w.subject.create_ro("image", None).unwrap();
    enforce(kind, &w.store, true);
    w.create("b", &[]).unwrap();
    assert_eq!(w.limits("b"), [1024, 1024, 0, 0]);
}

/// A store whose home hands on the project 100.
fn handing_on(kind: &Kind) -> World {
    let store = Store::with(kind.mkfs, kind.args, kind.options);
    give(&store.root().join("overlay"), 100);
    let w = World { subject: common::subject::Rust::default(), store };
    w.init(&["overlay2.size=1M"]).unwrap();
    w
}

/// What both kinds of rename need to be told.
fn renamed(home: &File, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
    nix::fcntl::renameat2(home, from, home, to, flags).map_err(|errno| Error::sys("rename", errno as i32))
}

/// Renames or exchanges in a process that is killed after the rename, before anything is put right.
fn killed_after(w: &World, from: &str, to: &str, flags: RenameFlags) {
    let home = File::open(w.home()).unwrap();
    let names = [OsStr::new(from), OsStr::new(to)];
    let given = if flags == RenameFlags::RENAME_EXCHANGE { &names[..] } else { &names[..1] };
    killed(|| {
        drop(renaming(home.as_fd(), given, || {
            renamed(&home, from, to, flags)?;
            die()
        }))
    });
}

fn a_crash_in_a_rename_leaks_nothing(kind: &Kind) {
    let w = handing_on(kind);
    let root = w.store.root();
    for id in ["a", "b", "c", "keep"] {
        w.create(id, &[]).unwrap();
    }
    let id = w.project("a");
    w.subject.cleanup().unwrap(); // its worker would delete what is left at once
    // The layer's name was taken away, but nothing else was done.
    let trash = half("trash", 1);
    killed_after(&w, "a", &trash, RenameFlags::empty());
    assert_eq!((project(&w.home().join(&trash)), project(&w.home().join(&trash).join("diff"))), (100, id));
    // It got its name, but not its project again.
    let (b, c) = (w.project("b"), w.project("c"));
    for name in ["b", "c"] {
        let moved = format!(".stage-{name}");
        killed_after(&w, name, &moved, RenameFlags::empty());
        fs::rename(w.home().join(moved), w.home().join(name)).unwrap();
    }
    assert_eq!((w.project("b"), w.project("c")), (100, 100));
    let w = w.restarted(&["overlay2.size=1M"]);
    assert_eq!(limited(&root), BTreeSet::from([b, c, w.project("keep")]));
    // A mount puts it right; a removal need not have had one.
    w.subject.mount("b", &[]).unwrap();
    assert_eq!((w.project("b"), w.project("c")), (b, 100));
    for id in ["b", "c", "keep"] {
        w.subject.remove(id).unwrap();
    }
    assert_eq!(limited(&root), BTreeSet::new());
}

fn a_crash_in_an_exchange_leaks_nothing(kind: &Kind) {
    let w = handing_on(kind);
    let root = w.store.root();
    for id in ["old", "new", "other"] {
        w.create(id, &[]).unwrap();
    }
    let (old, new, other) = (w.project("old"), w.project("new"), w.project("other"));
    w.subject.cleanup().unwrap(); // its worker would delete what is left at once
    // As where a new layer, built aside, takes the place of a leftover.
    let stage = half("stage", 1);
    killed_after(&w, "new", &stage, RenameFlags::empty());
    give(&w.home().join(&stage), new);
    killed_after(&w, &stage, "old", RenameFlags::RENAME_EXCHANGE);
    assert_eq!((project(&w.home().join("old/diff")), project(&w.home().join(&stage).join("diff"))), (new, old));
    assert_eq!((project(&w.home().join("old")), project(&w.home().join(&stage))), (100, 100));
    let w = w.restarted(&["overlay2.size=1M"]);
    assert_eq!(w.notes(), BTreeSet::new());
    assert_eq!(limited(&root), BTreeSet::from([new, other]));
    w.subject.remove("old").unwrap();
    assert_eq!(limited(&root), BTreeSet::from([other]));
}

fn an_exchange_works_where_home_hands_on_its_project(kind: &Kind) {
    let w = handing_on(kind);
    for id in ["a", "b"] {
        w.create(id, &[]).unwrap();
    }
    w.subject.create_ro("image", None).unwrap();
    let (a, b) = (w.project("a"), w.project("b"));
    let home = File::open(w.home()).unwrap();
    let exchange = |from: &str, to: &str| renamed(&home, from, to, RenameFlags::RENAME_EXCHANGE);
    let swap = |from, to| renaming(home.as_fd(), &[OsStr::new(from), OsStr::new(to)], || exchange(from, to));
    assert_eq!(exchange("a", "b").unwrap_err().errno(), libc::EXDEV);
    swap("a", "b").unwrap();
    assert_eq!((w.project("a"), w.project("b")), (b, a));
    // One of the two is home's own; or one is no directory.
    swap("image", "a").unwrap();
    assert_eq!((w.project("image"), w.project("a")), (b, 100));
    std::os::unix::fs::symlink("/nowhere", w.home().join("link")).unwrap();
    swap("link", "image").unwrap();
    assert_eq!((w.project("link"), w.project("b")), (b, a));
    // One that fails changes nothing.
    assert_eq!(swap("b", "missing").unwrap_err().errno(), libc::ENOENT);
    assert_eq!(w.project("b"), a);
}

fn full_layers_are_exchanged_and_removed_where_home_hands_on_its_project(kind: &Kind) {
    let w = handing_on(kind);
    for id in ["a", "b"] {
        w.create(id, &[]).unwrap();
        w.fill(id, "large");
    }
    let (a, b) = (w.project("a"), w.project("b"));
    let home = File::open(w.home()).unwrap();
    let exchange = || renamed(&home, "a", "b", RenameFlags::RENAME_EXCHANGE);
    let (done, lines) = warnings(|| renaming(home.as_fd(), &[OsStr::new("a"), OsStr::new("b")], exchange));
    done.unwrap();
    assert_eq!((w.project("a"), w.project("b"), lines), (b, a, vec![]));
    for id in ["a", "b"] {
        w.subject.mount(id, &[]).unwrap();
        assert_eq!(warnings(|| w.subject.remove(id).unwrap()).1, Vec::<String>::new());
    }
    assert_eq!(limited(&w.store.root()), BTreeSet::new());
}

fn leftovers_in_the_project_of_home_are_known_by_what_is_inside(kind: &Kind) {
    let w = World::new(kind, &[]);
    let root = w.store.root();
    w.subject.cleanup().unwrap(); // its worker would delete them at once
    // As a crash leaves them, the second one after `diff` was deleted; home has stopped handing on its project since.
    for (name, part, id) in [(half("stage", 1), "diff", 21), (half("trash", 1), "diff", 22), (half("trash", 2), "work", 23)]
    {
        give(&w.home().join(&name).join(part), id);
        fs::write(w.home().join(&name).join(part).join("file"), "content").unwrap();
        set_limits(&root, id, [1000, 1000, 5, 5]);
    }
    // Directories of several projects were given out by somebody else.
    for (part, id) in [("diff", 31), ("work", 32)] {
        give(&w.home().join(half("trash", 3)).join(part), id);
        set_limits(&root, id, [1000, 1000, 5, 5]);
    }
    let w = w.restarted(&[]);
    assert_eq!((limited(&root), w.notes()), (BTreeSet::from([31, 32]), BTreeSet::new()));
}

fn the_project_of_home_is_never_taken_for_a_layers(kind: &Kind) {
    let w = World::new(kind, &[]);
    let root = w.store.root();
    give(&w.home(), 100); // while the daemon runs
    set_limits(&root, 100, [0, 20_480, 0, 0]);
    w.subject.create_ro("image", None).unwrap();
    assert_eq!(w.project("image"), 100);
    fs::write(w.home().join("large"), vec![1; 1 << 20]).unwrap();
    assert!(w.subject.usage("image").unwrap().0 < 1 << 20, "that of all layers");
    w.create("a", &[("size", "1M")]).unwrap();
    assert_ne!(w.project("a"), 100);
    w.subject.mount("a", &[]).unwrap();
    for id in ["image", "a"] {
        w.subject.remove(id).unwrap();
    }
    assert_eq!((limits(&root, 100), limited(&root)), ([0, 20_480, 0, 0], BTreeSet::from([100])));
}

fn projects_of_another_filesystem_mean_nothing_here(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "4M")]).unwrap();
    w.fill("a", "large");
    let (control, home, layer) = w.control("a");
    let meanwhile = |dir: &File| control.with_room(home.as_fd(), dir.as_fd(), || Ok(w.limits("a"))).unwrap();
    assert_ne!(meanwhile(&layer), [4096, 4096, 0, 0]);
    // As the layers of a store that hosts share: the same number, and a filesystem that has none.
    let other = w.store.root().join("other");
    fs::create_dir(&other).unwrap();
    let elsewhere = Store::with(kind.mkfs, kind.args, kind.options);
    give(&elsewhere.root().join("layer"), w.project("a"));
    let nothing = None::<&str>;
    nix::mount::mount(nothing, &other, Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    for dir in [elsewhere.root().join("layer"), other] {
        let dir = File::open(dir).unwrap();
        let (limits, lines) = warnings(|| {
            control.before_use(home.as_fd(), dir.as_fd(), "shared");
            meanwhile(&dir)
        });
        assert_eq!((limits, lines), ([4096, 4096, 0, 0], vec![]));
        control.clear(home.as_fd(), dir.as_fd()).unwrap();
        assert_eq!(w.limits("a"), [4096, 4096, 0, 0]);
    }
}

fn the_lists_of_the_administrator_are_read_for_each_layer(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=1M"]);
    w.create("a", &[]).unwrap();
    let next = w.project("a") + 1;
    // An /etc that only this thread sees.
    let nothing = None::<&str>;
    nix::mount::mount(nothing, "/etc", Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    fs::write("/etc/projects", format!("{next}:/srv/data\n")).unwrap();
    w.create("b", &[]).unwrap();
    fs::write("/etc/projid", format!("backup:{}\n", next + 2)).unwrap();
    w.create("c", &[]).unwrap();
    // One that is there and cannot be read: at 0, no process has anything.
    fs::remove_file("/etc/projects").unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", "/etc/projects").unwrap();
    let refused = w.create("unread", &[]).unwrap_err();
    assert!(refused.errno == libc::EIO && refused.text.contains("'/etc/projects'"), "{refused:?}");
    // What a container runtime makes of a list that it is to hand on and that is not there.
    fs::remove_file("/etc/projects").unwrap();
    fs::create_dir("/etc/projects").unwrap();
    w.create("unlisted", &[]).unwrap();
    w.subject.remove("unlisted").unwrap();
    nix::mount::umount("/etc").unwrap();
    assert_eq!((w.project("b"), w.project("c")), (next + 1, next + 3));
    w.create("d", &[]).unwrap();
    assert_eq!(w.project("d"), next + 4, "ids go on");
}
