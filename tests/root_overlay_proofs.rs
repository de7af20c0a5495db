//! What a review of the locks, the undo, the repair and the worker showed, as it is now: a leftover is what is proven to be one, what
//! the caller was told of is the caller's, and damage or a failure is never a reason to lose anything.

mod common;

use common::descriptors::with_room_for;
use common::overlay::{Before, QUICK, UNFINISHED, World, fill, has_xattr, link, links_to, one, set_xattr, shows, worker_of};
use common::overlay::{victim, victim_with_faults};
use common::process::Process;
use common::subject::{Outcome, Rust, Subject};
use common::{Store, Tar, eventually, mounts_below, names, run, text};
use nix::errno::Errno;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

const NOTHING: [&str; 0] = [];

fn errno<T: std::fmt::Debug>(outcome: Outcome<T>) -> Errno {
    Errno::from_raw(outcome.unwrap_err().errno)
}

/// Whether a process has its worker, that is, whether something is left for it to do.
fn has_worker(pid: u32) -> bool {
    worker_of(pid).is_some()
}

/// Whether a process still has what a start's probe left for the worker to close, which may not have its name yet.
fn has_probed(pid: u32) -> bool {
    let dir = format!("/proc/{pid}/fd");
    names(Path::new(&dir))
        .iter()
        .any(|fd| fs::read_link(format!("{dir}/{fd}")).is_ok_and(|what| what.as_os_str() == "anon_inode:[fscontext]"))
}

fn started(root: &Path) -> Process {
    let daemon = Process::start("rust");
    daemon.init("overlay", root, QUICK).unwrap();
    daemon
}

// ---- a layer that may have children is not replaced ----

/// The container that is the only one upon an image does not tell that it is, in each way in which a list can be unreadable.
#[test]
fn root_a_child_whose_parents_cannot_be_read_keeps_the_layer_that_may_be_one() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("empty", |lower| fs::write(lower, "").unwrap()),
        ("no list", |lower| fs::write(lower, "\0\0\0\0").unwrap()),
        ("cut off", |lower| fs::write(lower, "l/").unwrap()),
        ("missing", |_| {}),
        ("a directory", |lower| fs::create_dir(lower).unwrap()),
        ("a symlink to itself", |lower| symlink("lower", lower).unwrap()),
        ("a fifo", |lower| run(Command::new("mkfifo").arg(lower))),
    ];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        let image = format!("unread-{number}");
        let w = World::after(|before| {
            before.fill(&image, None, one("precious"));
            before.process.create_rw("container", Some(&image)).unwrap();
        });
        let list = text(&w.layer("container/lower"));
        fs::remove_file(w.layer("container/lower")).unwrap();
        damage(&w.layer("container/lower"));
        let failure = w.subject.create_ro(&image, None).unwrap_err();
        assert_eq!(failure.errno, Errno::EEXIST as i32, "{what}: {failure:?}");
        assert!(failure.text.contains("'container'"), "{what}: it says which layer keeps it: {failure:?}");
        assert_eq!(names(&w.layer(&image).join("diff")), ["precious"], "{what}");
        // With its list the container is what it was.
        run(Command::new("rm").arg("-rf").arg(w.layer("container/lower")));
        fs::write(w.layer("container/lower"), list).unwrap();
        assert_eq!(w.shows("container"), ["precious"], "{what}");
    }
}

/// A process that has no descriptors left cannot ask a layer for its parents, and must not take that for an answer.
#[test]
fn root_a_create_without_descriptors_does_not_take_a_parent_for_a_leftover() {
    let store = Store::new();
    let before = started(&store.root());
    fill(&before, "image", None, one("precious"));
    before.create_rw("container", Some("image")).unwrap();
    before.end();
    let (mut exhausted, mut unreadable) = (0, 0);
    for room in 0..10 {
        // A refusal tells the process that the layer is there: each trial has a process that was told nothing.
        let process = started(&store.root());
        eventually("no worker opens or closes anything", || !has_probed(process.pid()) && !has_worker(process.pid()));
        let outcome = with_room_for(process.pid(), room, || process.create_ro("image", None));
        let failure = outcome.expect_err("the image has a container");
        match Errno::from_raw(failure.errno) {
            Errno::EMFILE if failure.text.contains("look for layers on top of it") => unreadable += 1,
            Errno::EMFILE => exhausted += 1,
            Errno::EEXIST => {}
            _ => panic!("{room} descriptors: {failure:?}"),
        }
        assert_eq!(names(&store.root().join("overlay/image/diff")), ["precious"], "{room} descriptors: {failure:?}");
        assert_eq!(shows(&process, "container"), ["precious"], "{room} descriptors");
        process.end();
    }
    assert!(exhausted > 0 && unreadable > 0, "{exhausted} had none, {unreadable} too few to read the list");
}

// ---- what the caller was told of is the caller's ----

type Asking = fn(&dyn Subject, &str) -> bool;

/// Each call that tells the caller of a layer, and what only such a call could know.
const ASKING: [(&str, Asking); 8] = [
    ("exists", |subject, id| subject.exists(id)),
    ("metadata", |subject, id| subject.metadata(id).is_ok()),
    ("usage", |subject, id| subject.usage(id).is_ok()),
    ("repair", |subject, id| subject.repair(id, None).is_ok()),
    ("mount", |subject, id| subject.mount(id, &[]).and_then(|_| subject.umount(id)).is_ok()),
    ("an unpack", |subject, id| subject.apply(id, &one("more").done()).is_ok()),
    ("an unpack that fails at once", |subject, id| subject.apply(id, b"no archive").is_err()),
    ("a child that is gone again", |subject, id| {
        subject.create_rw("child", Some(id)).and_then(|()| subject.remove("child")).is_ok()
    }),
];

#[test]
fn root_whatever_tells_of_a_layer_keeps_it() {
    let id = |number: usize| format!("told-{number}");
    let w = World::after(|before| {
        for number in 0..=ASKING.len() {
            before.fill(&id(number), None, one("precious"));
        }
    });
    for (number, (what, ask)) in ASKING.iter().enumerate() {
        let id = id(number);
        assert!(ask(&w.subject, &id), "{what}");
        assert_eq!(errno(w.subject.create_ro(&id, None)), Errno::EEXIST, "{what}");
        assert!(names(&w.layer(&id).join("diff")).contains(&"precious".to_owned()), "{what}");
        // As long as the process lives, and not only the driver.
        w.subject.cleanup().unwrap();
        w.start();
        assert_eq!(errno(w.subject.create_ro(&id, None)), Errno::EEXIST, "{what}, after a start");
        assert!(w.shows(&id).contains(&"precious".to_owned()), "{what}");
    }
    // Of the one that nobody has asked for, nobody can miss anything.
    w.subject.create_ro(&id(ASKING.len()), None).unwrap();
}

/// What was told of one home holds for no other that comes in its place, also where that has the same numbers of device and inode:
/// another disk, or another directory from a backup.
#[test]
fn root_another_home_with_the_same_numbers_was_told_of_nothing() {
    let store = Store::new();
    let root = store.root().join("below");
    let home = root.join("overlay");
    let daemon = Process::start("rust");
    let mut seen = Vec::new();
    for round in 0..20 {
        let before = started(&root);
        fill(&before, "image", None, one("precious"));
        before.end();
        let meta = fs::metadata(&home).unwrap();
        let is_repeated = seen.contains(&(meta.dev(), meta.ino()));
        seen.push((meta.dev(), meta.ino()));
        daemon.init("overlay", &root, QUICK).unwrap();
        daemon.create_ro("image", None).unwrap_or_else(|e| panic!("round {round}: nobody was told of it: {e:?}"));
        assert_eq!(errno(daemon.create_ro("image", None)), Errno::EEXIST);
        daemon.cleanup().unwrap();
        if is_repeated {
            return;
        }
        fs::remove_dir_all(&home).unwrap();
    }
    panic!("no inode was used again: {seen:?}");
}

/// A pull that gets "there is one already" goes on as if it had made it: also when the reason is gone by the next create.
#[test]
fn root_a_create_that_was_refused_keeps_the_layer() {
    type Change = fn(&World);
    let reasons: [(&str, Change, Change); 3] = [
        ("a child", |_| {}, |w| w.subject.remove("child").unwrap()),
        (
            "a child that cannot be read",
            |w| fs::write(w.layer("child/lower"), "").unwrap(),
            |w| {
                w.subject.remove("child").unwrap();
            },
        ),
        ("a child, removed by hand", |_| {}, |w| fs::remove_dir_all(w.layer("child")).unwrap()),
    ];
    for (number, (what, prepare, end)) in reasons.into_iter().enumerate() {
        let image = format!("refused-{number}");
        let w = World::after(|before| {
            before.fill(&image, None, one("precious"));
            before.process.create_rw("child", Some(&image)).unwrap();
        });
        prepare(&w);
        for _ in 0..2 {
            assert_eq!(errno(w.subject.create_ro(&image, None)), Errno::EEXIST, "{what}");
        }
        end(&w);
        assert_eq!(errno(w.subject.create_ro(&image, None)), Errno::EEXIST, "{what} that is gone");
        assert_eq!(w.shows(&image), ["precious"], "{what}");
        // What the caller removed, the caller makes.
        w.subject.remove(&image).unwrap();
        w.subject.create_ro(&image, None).unwrap();
        assert_eq!(w.shows(&image), NOTHING, "{what}");
    }
}

/// Who asks while a create replaces what nobody was told of hears of the old layer, which then stays, or of the new one.
#[test]
fn root_an_answer_about_a_layer_and_its_replacement_do_not_both_happen() {
    const ROUNDS: usize = 40;
    let asking: [(&str, Asking); 3] = [ASKING[0], ASKING[1], ASKING[2]];
    let id = |number: usize| format!("race-{number}");
    let w = World::after(|before| {
        for number in 0..ROUNDS * asking.len() {
            before.fill(&id(number), None, one("precious"));
        }
    });
    for number in 0..ROUNDS * asking.len() {
        let (id, (what, ask)) = (id(number), asking[number % asking.len()]);
        let begin = Barrier::new(2);
        let is_old = || w.layer(&id).join("diff/precious").exists();
        let (created, heard, of_the_old) = std::thread::scope(|scope| {
            let create = scope.spawn(|| {
                begin.wait();
                w.subject.create_ro(&id, None)
            });
            begin.wait();
            // Each round a little later.
            (0..number * 37 % 400).for_each(|_| std::hint::spin_loop());
            let heard = ask(&w.subject, &id);
            let of_the_old = is_old();
            (create.join().unwrap(), heard, of_the_old)
        });
        assert!(heard, "{what}: there is a layer at every moment");
        match created {
            Ok(()) => assert!(!of_the_old && !is_old(), "{what}, round {number}: the layer that was told of is gone"),
            Err(failure) => {
                assert_eq!(failure.errno, Errno::EEXIST as i32, "{what}, round {number}: {failure:?}");
                assert!(is_old(), "{what}, round {number}: refused, and gone all the same");
            }
        }
    }
}

// ---- containers of the C module ----

/// The C module notes nowhere who may write into a layer; that the kernel has used `work` shows a container. A snapshot of it makes
/// it an image for a while, not for good.
#[test]
fn root_a_container_of_the_c_module_is_read_only_while_it_has_a_child() {
    const ACCESS: &str = "trusted.graphdriver.access";
    let w = World::after(|before| {
        before.fill("image", None, one("f"));
        before.process.create_rw("container", Some("image")).unwrap();
        let root = before.process.mount("container", &[]).unwrap();
        fs::write(root.join("precious"), "x").unwrap();
        before.process.umount("container").unwrap();
    });
    run(Command::new("setfattr").args(["-x", ACCESS]).arg(w.layer("container")));
    assert!(w.layer("container/work/work").exists(), "as the C module leaves it");
    let write = |name: &str| {
        let root = w.subject.mount("container", &[]).unwrap();
        let written = fs::write(root.join(name), "x").map_err(|e| e.raw_os_error().unwrap());
        w.subject.umount("container").unwrap();
        written
    };
    write("first").unwrap();
    for round in 0..2 {
        w.subject.create_ro("snapshot", Some("container")).unwrap();
        assert_eq!(write("refused"), Err(Errno::EROFS as i32), "round {round}: it would change the snapshot");
        assert!(w.shows("snapshot").contains(&"precious".to_owned()));
        w.subject.remove("snapshot").unwrap();
        write(&format!("round{round}")).unwrap();
        assert!(!has_xattr(&w.layer("container"), ACCESS), "nothing is noted that would hold for good");
    }
    // Nobody has been told of it: neither with a child nor without one is it a leftover.
    w.subject.create_ro("snapshot", Some("container")).unwrap();
    w.subject.cleanup().unwrap();
    let refused = |before: &Before| {
        assert_eq!(errno(before.process.create_rw("container", None)), Errno::EEXIST);
        assert_eq!(errno(before.process.create_ro("container", None)), Errno::EEXIST);
    };
    w.another_process(refused);
    w.another_process(|before| before.process.remove("snapshot").unwrap());
    w.another_process(refused);
    assert_eq!(names(&w.layer("container/diff")), ["first", "precious", "round0", "round1"]);
}

// ---- repair drops no list ----

/// A store of containers, of which an ancestor is away for a moment, as where it lies on a disk that is mounted late.
struct Away<'a> {
    w: &'a World,
    id: &'a str,
}

impl<'a> Away<'a> {
    fn new(w: &'a World, id: &'a str) -> Away<'a> {
        fs::rename(w.layer(id), w.layer(".away")).unwrap();
        Away { w, id }
    }

    fn returns(self) {
        fs::rename(self.w.layer(".away"), self.w.layer(self.id)).unwrap();
    }
}

fn chain() -> World {
    let w = World::new();
    w.fill("base", None, one("b"));
    w.fill("image", Some("base"), one("i"));
    w.fill("other", None, one("o"));
    w.subject.create_rw("container", Some("image")).unwrap();
    w
}

#[test]
fn root_a_repair_drops_no_list_that_is_well_formed() {
    let trials: [(&str, Option<&str>, Errno); 8] = [
        ("base", None, Errno::EUCLEAN),
        ("base", Some("image"), Errno::EUCLEAN),
        ("base", Some("other"), Errno::EINVAL),
        ("base", Some("container"), Errno::EINVAL),
        ("image", None, Errno::EUCLEAN),
        ("image", Some("other"), Errno::EINVAL),
        ("image", Some("base"), Errno::EINVAL),
        ("image", Some("container"), Errno::EINVAL),
    ];
    for (away, parent, expected) in trials {
        let w = chain();
        let list = text(&w.layer("container/lower"));
        let before = names(&w.layer("container"));
        let missing = Away::new(&w, away);
        let failure = w.subject.repair("container", parent).unwrap_err();
        assert_eq!(failure.errno, expected as i32, "without {away}, parent {parent:?}: {failure:?}");
        assert_eq!(text(&w.layer("container/lower")), list, "without {away}, parent {parent:?}");
        assert_eq!(names(&w.layer("container")), before, "without {away}, parent {parent:?}");
        missing.returns();
        assert_eq!(w.shows("container"), ["b", "i"], "{away} is back, parent was {parent:?}");
        w.subject.repair("container", parent.filter(|id| *id == "image")).unwrap();
        assert_eq!(text(&w.layer("container/lower")), list, "nothing is to be mended");
    }
}

/// A start takes links away that lead nowhere. What is left of the list still tells that another parent is none.
#[test]
fn root_a_repair_after_a_start_without_the_parent_takes_no_other() {
    let w = chain();
    w.subject.cleanup().unwrap();
    let list = text(&w.layer("container/lower"));
    let name = link(&w.home(), "image");
    let missing = Away::new(&w, "image");
    w.start();
    eventually("the link is taken away", || fs::symlink_metadata(w.home().join("l").join(&name)).is_err());
    assert_eq!(errno(w.subject.repair("container", Some("other"))), Errno::EINVAL);
    assert_eq!(errno(w.subject.repair("container", None)), Errno::EUCLEAN);
    assert_eq!(text(&w.layer("container/lower")), list);
    missing.returns();
    w.subject.repair("container", Some("image")).unwrap();
    assert_eq!(w.shows("container"), ["b", "i"]);
    assert_eq!(text(&w.layer("container/lower")), list);
}

/// The parent was removed and pulled again: it has another name now, and only the caller knows.
#[test]
fn root_a_repair_with_the_right_parent_works() {
    type Damage = fn(&World);
    let damages: [(&str, Damage); 4] = [
        ("nothing", |_| {}),
        ("an empty list", |w| fs::write(w.layer("container/lower"), "").unwrap()),
        ("no list", |w| fs::remove_file(w.layer("container/lower")).unwrap()),
        ("a parent that was pulled again", |w| {
            w.subject.remove("image").unwrap();
            w.fill("image", Some("base"), one("i"));
        }),
    ];
    for (what, damage) in damages {
        let w = chain();
        damage(&w);
        w.subject.repair("container", Some("image")).unwrap();
        assert_eq!(w.shows("container"), ["b", "i"], "{what}");
        let list = format!("l/{}:l/{}", link(&w.home(), "image"), link(&w.home(), "base"));
        assert_eq!(text(&w.layer("container/lower")), list, "{what}");
    }
}

// ---- undo on a dying disk ----

/// From one flush on, none of its kind succeeds any more, and perhaps what would take the unpack back does not either. Whatever of
/// it is taken back, a layer that is not marked has its parents.
#[test]
fn root_an_unpack_on_a_dying_disk_leaves_a_layer_marked_or_as_it_was() {
    let store = Store::new();
    let archives = [
        ("opaque", Tar::new().file("here", "y").file(".wh..wh..opq", "").done()),
        ("opaque-first", Tar::new().file(".wh..wh..opq", "").file("here", "y").done()),
        ("plain", one("here").done()),
    ];
    let mut forced = 0;
    for (kind, archive) in &archives {
        for flushes in ["syncfs", "fsync,syncfs", "fsync"] {
            let faults = dying(&store, kind, archive, flushes, MOST_FLUSHES, None);
            assert!((1..MOST_FLUSHES).contains(&faults), "{kind}: {flushes}: {faults}");
            if flushes == "fsync" {
                forced = forced.max(faults);
            }
        }
    }
    for besides in ["renameat,renameat2", "unlinkat", "fremovexattr"] {
        for from in 1..=3 {
            // And once without a flush that fails.
            dying(&store, "opaque", &archives[0].1, "fsync", forced + 1, Some((besides, from)));
        }
    }
}

/// An unpack makes fewer flushes.
const MOST_FLUSHES: usize = 9;

/// Lets all flushes of an unpack fail from the first on, from the second on, and so forth, and besides them all calls of one kind from
/// some on. Returns in how many ways it failed.
fn dying(store: &Store, kind: &str, archive: &[u8], flushes: &str, most: usize, besides: Option<(&str, usize)>) -> usize {
    for nth in 1..=most {
        let what = format!("{kind} {flushes} {besides:?} {nth}");
        let name: String = what.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let (root, file) = (store.root().join(name), store.root().join(kind));
        fs::create_dir(&root).unwrap();
        fs::write(&file, archive).unwrap();
        run(Command::new(victim()).arg(&root).args(["create_ro base", "create_ro image base"]));
        let (home, layer) = (root.join("overlay"), root.join("overlay/image"));
        let list = text(&layer.join("lower"));
        let apply = format!("apply image {}", file.display());
        let mut faults = vec![format!("{flushes}:error=EIO:when={nth}+")];
        faults.extend(besides.map(|(calls, from)| format!("{calls}:error=EIO:when={from}+")));
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let calls = besides.map_or(flushes.to_owned(), |(calls, _)| format!("{flushes},{calls}"));
        let fault = victim_with_faults(&root, &[&apply], &calls, &faults);
        let what = format!("{what}: {}", fault.errors);
        let is_marked = has_xattr(&layer, UNFINISHED);
        if fault.succeeded {
            assert!(!is_marked && (besides.is_some() || !fault.failed_one), "{what}");
            assert_eq!(names(&layer.join("diff")), ["here"], "{what}");
            return nth - 1;
        }
        if !is_marked {
            assert_eq!(fs::read_to_string(layer.join("lower")).ok(), Some(list), "{what}");
            assert!(!layer.join("empty").exists(), "{what}");
            assert_eq!(names(&layer.join("diff")), NOTHING, "{what}");
            assert!(!has_xattr(&layer.join("diff"), "trusted.overlay.opaque"), "{what}");
        }
        // On a sound disk, the next pull gets what it pulls.
        let subject = Rust::default();
        subject.init("overlay", &root, &[]).unwrap();
        assert_eq!(subject.exists("image"), !is_marked, "{what}");
        if is_marked {
            subject.create_ro("image", Some("base")).unwrap();
        }
        subject.apply("image", archive).unwrap();
        assert_eq!(shows(&subject, "image"), ["here"], "{what}");
        assert_eq!(links_to(&home, "image"), [link(&home, "image")], "{what}");
        subject.cleanup().unwrap();
    }
    most
}

// ---- a layer whose first unpack crashed, with others upon it ----

/// Layers are made first and unpacked side by side. One that a crash left half unpacked keeps the name by which those above it know
/// it, whether the next start has looked at it already or not.
#[test]
fn root_a_parent_whose_first_unpack_crashed_is_pulled_again_under_its_children() {
    for waits in [true, false] {
        let w = World { subject: Rust::default(), store: Store::new() };
        let name = w.another_process(|before| {
            before.process.create_ro("parent", None).unwrap();
            before.fill("child", Some("parent"), one("c"));
            before.process.create_rw("container", Some("child")).unwrap();
            fs::write(before.home.join("container/diff/precious"), "x").unwrap();
            let archive = Tar::new().file("half", "1").file("rest", &"2".repeat(12 << 20)).done();
            before.process.unpack_halfway("parent", &archive[..archive.len() - 1024]);
            before.process.kill();
            link(&before.home, "parent")
        });
        assert!(w.is_unfinished("parent"));
        w.start();
        if waits {
            eventually("the start has looked at it", || !has_worker(std::process::id()));
            assert!(w.is_unfinished("parent"), "it has children");
        }
        assert!(!w.subject.exists("parent") && w.subject.exists("child") && w.subject.exists("container"));
        assert_eq!(errno(w.subject.mount("container", &[])), Errno::EUCLEAN);
        w.subject.create_ro("parent", None).unwrap();
        assert_eq!(link(&w.home(), "parent"), name, "the children know it by that");
        w.subject.apply("parent", &one("p").done()).unwrap();
        assert_eq!(w.shows("child"), ["c", "p"]);
        assert_eq!(w.shows("container"), ["c", "p", "precious"]);
        assert_eq!(links_to(&w.home(), "parent"), [name]);
        // The container made after it is like the one made before.
        w.subject.create_rw("later", Some("child")).unwrap();
        assert_eq!(w.shows("later"), ["c", "p"]);
    }
}

// ---- the exchange in three steps ----

const TRASH: &str = ".trash-0123456789abcdef0123456789";

/// A whole layer that a create may replace, and something that the worker is at.
fn replaceable(root: &Path) -> PathBuf {
    let home = root.join("overlay");
    let archive = root.join("archive");
    fs::create_dir_all(root).unwrap();
    fs::write(&archive, one("precious").done()).unwrap();
    run(Command::new(victim()).arg(root).args(["create_ro image", &format!("apply image {}", archive.display())]));
    fs::create_dir(home.join(TRASH)).unwrap();
    fs::write(home.join(TRASH).join("x"), "x").unwrap();
    home
}

/// Where the filesystem cannot exchange two names, the old layer has a third one for a moment. The worker looks for leftovers just
/// then, and must leave that alone: it deletes nothing that is not in its trash before the exchange is over.
#[test]
fn root_the_worker_leaves_a_layer_alone_that_is_being_exchanged() {
    let store = Store::new();
    let renamed = |line: &str| line.contains("renameat(");
    for attempt in 0..10 {
        let root = store.root().join(attempt.to_string());
        let home = replaceable(&root);
        let faults = ["renameat2:error=EINVAL", "renameat:delay_enter=1500000", "unlinkat:error=EBUSY:when=1..40"];
        let fault = victim_with_faults(&root, &["create_ro image"], "renameat,renameat2,unlinkat", &faults);
        assert!(fault.succeeded, "{}", fault.errors);
        let lines: Vec<&str> = fault.calls.lines().collect();
        let steps: Vec<usize> = (0..lines.len()).filter(|at| renamed(lines[*at])).collect();
        assert!(steps.len() >= 3, "three steps: {}", fault.calls);
        let within = &lines[steps[0]..steps[2]];
        let deleting: Vec<&&str> = within.iter().filter(|line| line.contains("unlinkat(")).collect();
        assert!(deleting.iter().all(|line| line.contains(TRASH)), "{}", fault.calls);
        let subject = Rust::default();
        subject.init("overlay", &root, QUICK).unwrap();
        assert_eq!(shows(&subject, "image"), NOTHING);
        assert_eq!(links_to(&home, "image"), [link(&home, "image")]);
        eventually("what it replaced is deleted", || !names(&home).iter().any(|name| name.starts_with('.')));
        subject.cleanup().unwrap();
        if !deleting.is_empty() {
            return;
        }
    }
    panic!("the worker was never at it during the exchange");
}

/// Each of the three steps, when it fails, is taken back, and nobody deletes the layer meanwhile.
#[test]
fn root_an_exchange_in_three_steps_that_fails_is_taken_back() {
    let store = Store::new();
    let mut faults = 0;
    for nth in 1.. {
        let root = store.root().join(nth.to_string());
        let home = replaceable(&root);
        let name = link(&home, "image");
        let failing = format!("renameat:error=EIO:when={nth}");
        let faults_of_it = ["renameat2:error=EINVAL", failing.as_str()];
        let fault = victim_with_faults(&root, &["create_ro image"], "renameat,renameat2", &faults_of_it);
        assert_eq!(link(&home, "image"), name, "{}", fault.errors);
        assert_eq!(links_to(&home, "image"), [name], "{}", fault.errors);
        if fault.succeeded {
            break;
        }
        assert_eq!(names(&home.join("image/diff")), ["precious"], "{nth}: {}", fault.errors);
        faults += 1;
    }
    assert_eq!(faults, 3);
}

// ---- an unpack into a mounted layer ----

/// Gives an archive, then does something, then breaks.
struct BreakingAfter<'a, F: FnMut()>(&'a [u8], F);

impl<F: FnMut()> Read for BreakingAfter<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => {
                (self.1)();
                Err(std::io::Error::from_raw_os_error(Errno::EIO as i32))
            }
            n => Ok(n),
        }
    }
}

/// A container starts to write while an archive is unpacked beside it. When that fails, what the container wrote is not the
/// archive's to take back.
#[test]
fn root_a_failed_unpack_deletes_nothing_that_a_running_container_wrote() {
    let w = World::new();
    w.store.leaves_damage();
    w.fill("image", None, one("f"));
    let archive = Tar::new().file("a", "x").dir("d").file("d/b", &"y".repeat(1 << 20)).done();
    let archive = &archive[..archive.len() - 1024];
    for is_mounted in [true, false] {
        let id = format!("container-{is_mounted}");
        w.subject.create_rw(&id, Some("image")).unwrap();
        let mounted = is_mounted.then(|| w.subject.mount(&id, &[]).unwrap());
        let diff = w.layer(&id).join("diff");
        let write = || {
            if let Some(root) = &mounted {
                eventually("a part of it is there", || diff.join("a").exists());
                fs::write(root.join("precious"), "x").unwrap();
            }
        };
        w.subject.apply_from(&id, &mut BreakingAfter(archive, write)).unwrap_err();
        if let Some(root) = &mounted {
            assert_eq!(text(&diff.join("precious")), "x");
            assert_eq!(text(&root.join("precious")), "x");
            assert_eq!(mounts_below(&w.home()).len(), 1);
            assert!(w.is_unfinished(&id) && w.subject.exists(&id), "it has content, and half an archive");
            w.subject.umount(&id).unwrap();
            assert_eq!(errno(w.subject.create_rw(&id, None)), Errno::EEXIST);
            assert_eq!(text(&diff.join("precious")), "x");
        } else {
            assert_eq!(names(&diff), NOTHING, "nobody else could have written");
            assert!(!w.is_unfinished(&id));
        }
    }
}

// ---- the worker's look at what a crash left ----

/// Layers of an earlier process whose first unpack did not end, with many files.
fn half_layers(root: &Path, ids: &[&str], files: usize) -> PathBuf {
    let home = root.join("overlay");
    let before = started(root);
    for id in ids {
        before.create_ro(id, None).unwrap();
        for number in 0..files {
            fs::write(home.join(id).join("diff").join(number.to_string()), "x").unwrap();
        }
    }
    before.end();
    // Only now: it would sweep them itself.
    ids.iter().for_each(|id| set_xattr(&home.join(id), UNFINISHED, "first"));
    home
}

fn trash(home: &Path) -> Vec<String> {
    names(home).into_iter().filter(|name| name.starts_with(".trash-")).collect()
}

/// So many files are still in the trash.
fn files_in_trash(home: &Path) -> usize {
    trash(home).iter().map(|name| fs::read_dir(home.join(name).join("diff")).map_or(0, Iterator::count)).sum()
}

/// A process to which deleting a file takes half a second: hundreds take minutes.
fn slowly_deleting(root: &Path) -> Process {
    const SLOW: &str = "strace -D -f -qq -o /dev/null -e trace=unlinkat -e inject=unlinkat:delay_enter=500000";
    let daemon = Process::under(&SLOW.split(' ').collect::<Vec<_>>(), "rust");
    daemon.init("overlay", root, QUICK).unwrap();
    daemon
}

/// While the worker deletes what it swept, every call on the layers' ids is answered: it is in the middle of that before and after.
#[test]
fn root_the_sweep_holds_no_layer_while_it_deletes() {
    let store = Store::new();
    let home = half_layers(&store.root(), &["a", "b"], 300);
    let daemon = slowly_deleting(&store.root());
    eventually("both are taken away", || trash(&home).len() == 2);
    for id in ["a", "b"] {
        assert!(!daemon.exists(id));
        assert_eq!(errno(daemon.usage(id)), Errno::ENOENT);
        daemon.create_ro(id, None).unwrap();
        daemon.apply(id, &one("f").done()).unwrap();
        assert_eq!(shows(&daemon, id), ["f"]);
    }
    assert!(files_in_trash(&home) > 300, "nobody has waited: {}", files_in_trash(&home));
    daemon.kill();
    let daemon = started(&store.root());
    eventually("the rest is deleted", || trash(&home).is_empty());
    assert_eq!([shows(&daemon, "a"), shows(&daemon, "b")], [["f"], ["f"]]);
    daemon.end();
}

/// A clean-up waits for no deletion: the trash is still there when it has returned, the next start takes it on.
#[test]
fn root_a_clean_up_ends_the_sweep_and_leaves_the_rest() {
    let store = Store::new();
    let home = half_layers(&store.root(), &["a"], 300);
    let daemon = slowly_deleting(&store.root());
    eventually("it is being deleted", || (1..300).contains(&files_in_trash(&home)));
    daemon.cleanup().unwrap();
    let left = files_in_trash(&home);
    assert!(left > 100 && !has_worker(daemon.pid()), "{left} files are left");
    assert_eq!(mounts_below(&store.root()), NOTHING, "home is not bound any more");
    daemon.kill();
    assert_eq!(files_in_trash(&home), left, "nobody is at it");
    let daemon = started(&store.root());
    eventually("the next start deletes it", || trash(&home).is_empty());
    daemon.end();
}

/// A layer that cannot be renamed keeps none of the others, wherever it comes in the directory, and goes when it can.
#[test]
fn root_a_layer_that_cannot_be_swept_keeps_no_other() {
    let ids = ["a", "b", "c", "d", "e"];
    for immutable in ids {
        let store = Store::new();
        let home = half_layers(&store.root(), &ids, 1);
        let chattr = |flag: &str| run(Command::new("chattr").arg(flag).arg(home.join(immutable)));
        chattr("+i");
        let daemon = started(&store.root());
        let layers = || names(&home).into_iter().filter(|name| ids.contains(&name.as_str())).collect::<Vec<_>>();
        eventually("all others are gone", || layers() == [immutable] && trash(&home).is_empty());
        assert!(has_worker(daemon.pid()), "something is left to do");
        chattr("-i");
        daemon.umount("nobody").unwrap();
        eventually("it goes as well", || layers() == NOTHING && trash(&home).is_empty());
        eventually("nothing is left to do", || !has_worker(daemon.pid()));
        daemon.end();
    }
}

/// A crash while a name in `l/` was restored leaves one of a form that only this library makes. Nothing else is swept.
#[test]
fn root_names_in_l_that_a_crash_left_half_made_are_swept() {
    let w = World { subject: Rust::default(), store: Store::new() };
    w.another_process(|before| before.fill("image", None, one("f")));
    let (links, own) = (w.home().join("l"), link(&w.home(), "image"));
    let half_made = [".0123456789abcdef0123456789", ".ffffffffffffffffffffffffff"];
    symlink("../image/diff", links.join(half_made[0])).unwrap();
    symlink("../gone/diff", links.join(half_made[1])).unwrap();
    let foreign = [".0123456789abcdef012345678", ".0123456789abcdef01234567890", ".zzzzzzzzzzzzzzzzzzzzzzzzzz", ".keep"];
    for name in foreign {
        symlink("../image/diff", links.join(name)).unwrap();
    }
    w.start();
    let mut expected: Vec<String> = foreign.iter().map(|name| (*name).to_owned()).chain([own]).collect();
    expected.sort();
    eventually("they are swept", || half_made.iter().all(|name| fs::symlink_metadata(links.join(name)).is_err()));
    eventually("nothing is left to do", || !has_worker(std::process::id()));
    assert_eq!(names(&links), expected);
    assert_eq!(w.shows("image"), ["f"]);
}

/// A daemon that starts on a store without names in `l/` mounts at once, while the worker makes them again: neither keeps the other
/// from its work.
#[test]
fn root_names_in_l_come_back_while_layers_are_mounted() {
    let w = World::new();
    w.fill("base", None, one("b"));
    w.fill("image", Some("base"), one("i"));
    for id in ["c0", "c1", "c2"] {
        w.subject.create_rw(id, Some("image")).unwrap();
    }
    for round in 0..30 {
        w.subject.cleanup().unwrap();
        let links = w.home().join("l");
        let before = names(&links);
        for name in &before {
            fs::remove_file(links.join(name)).unwrap();
        }
        w.start();
        for id in ["c0", "c1", "c2"] {
            assert_eq!(w.shows(id), ["b", "i"], "round {round}");
        }
        eventually("all names are there again", || names(&links) == before);
    }
}
