//! A check of an overlay2 store: a sound one has no findings, each kind of damage has its own, what can be made again is and
//! content stays, and nothing that others do meanwhile is taken for damage.

mod common;

use common::overlay::{World, everything, fill, link, one, set_xattr};
use common::subject::{C, Rust, Subject, findings, listed};
use common::{Store, eventually, run};
use graphdriver::driver::Severity::{Busy, Hand, Loss, Note};
use graphdriver::driver::{Access, Condition, Finding, Inspect, Severity};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

const HALF: &str = ".trash-00000000000000000000000000";

/// Image layers `base`, `mid` and `top` upon each other, and a container `c` upon `mid` in which something was written. What the
/// worker does after a start is done.
fn world() -> World {
    let world = World { subject: Rust::default(), store: Store::new() };
    world.another_process(|before| {
        lay(&before.process);
        fs::write(before.home.join("c/diff/written"), "by the container").unwrap();
    });
    fs::create_dir(world.layer(HALF)).unwrap();
    world.start();
    eventually("the worker's first round is over", || !world.layer(HALF).exists());
    world
}

fn lay(subject: &dyn Subject) {
    fill(subject, "base", None, one("of-base"));
    fill(subject, "mid", Some("base"), one("of-mid"));
    fill(subject, "top", Some("mid"), one("of-top"));
    subject.create_rw("c", Some("mid")).unwrap();
}

/// A finding as the tests compare it: the layer, how bad, and whether it was mended.
fn brief(found: &[Finding]) -> Vec<(&str, Severity, bool)> {
    let layer = |finding: &Finding| finding.layer.as_ref().map_or("", |id| id.as_str()).len();
    found.iter().map(|f| (&f.layer.as_ref().map_or("", |id| id.as_str())[..layer(f)], f.severity, f.mended)).collect()
}

/// One kind of damage.
struct Damage {
    plant: fn(&World),
    /// What is found: the layer (or none), how bad, a piece of the text.
    layer: &'static str,
    severity: Severity,
    says: &'static str,
    mends: bool,
}

const fn damage(plant: fn(&World), layer: &'static str, severity: Severity, says: &'static str, mends: bool) -> Damage {
    Damage { plant, layer, severity, says, mends }
}

fn remove(world: &World, path: &str) {
    let path = world.home().join(path);
    if path.is_dir() { fs::remove_dir_all(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
}

fn write(world: &World, path: &str, text: &str) {
    fs::write(world.home().join(path), text).unwrap();
}

fn mark(world: &World, id: &str, name: &str, value: &str) {
    set_xattr(&world.layer(id), name, value);
}

const UNFINISHED: &str = common::overlay::UNFINISHED;

const DAMAGES: &[Damage] = &[
    damage(|w| fs::remove_file(w.home().join("l").join(link(&w.home(), "mid"))).unwrap(), "mid", Note, "short name", true),
    damage(|w| remove(w, "mid/link"), "mid", Hand, "file 'link'", true),
    damage(|w| write(w, "mid/link", "a/b"), "mid", Hand, "file 'link'", true),
    damage(share_a_link, "top", Hand, "another layer's as well", true),
    damage(|w| remove(w, "c/lower"), "c", Hand, "'lower'", false),
    damage(|w| write(w, "c/lower", ""), "c", Hand, "'lower'", false),
    damage(|w| remove(w, "mid/lower"), "mid", Note, "'lower'", true),
    damage(|w| write(w, "mid/lower", "junk"), "mid", Hand, "'lower'", true),
    damage(|w| write(w, "c/lower", &format!("l/{}", link(&w.home(), "mid"))), "c", Hand, "does not go on", false),
    damage(|w| write(w, "c/lower", &format!("l/{}", link(&w.home(), "c"))), "c", Hand, "upon itself", false),
    damage(|w| remove(w, "c/work"), "c", Note, "'work'", true),
    damage(|w| remove(w, "mid/merged"), "mid", Note, "'merged'", true),
    damage(|w| (remove(w, "c/merged"), write(w, "c/merged", "")).1, "c", Hand, "no directory", false),
    damage(|w| remove(w, "c/diff"), "c", Loss, "'diff'", false),
    damage(|w| remove(w, "mid/diff"), "mid", Loss, "'diff'", false),
    damage(|w| remove(w, "base"), "mid", Loss, "'base', is missing", false),
    damage(|w| mark(w, "top", UNFINISHED, "first"), "top", Note, "first unpacking", false),
    damage(|w| mark(w, "mid", UNFINISHED, "first"), "mid", Hand, "first unpacking", false),
    damage(|w| mark(w, "c", UNFINISHED, "first"), "c", Hand, "first unpacking", false),
    damage(|w| mark(w, "mid", UNFINISHED, "again"), "mid", Loss, "neither the old nor the new", false),
    damage(|w| mark(w, "c", "trusted.graphdriver.access", "maybe"), "c", Hand, "neither 'ro' nor 'rw'", false),
    damage(|w| set_xattr(&w.layer("c").join("diff"), "trusted.overlay.opaque", "y"), "c", Hand, "hides all layers", true),
    damage(leave_volatile, "c", Loss, "volatile", false),
    damage(
        |w| symlink("../nobody/diff", w.home().join("l/0123456789abcdef0123456789")).unwrap(),
        "",
        Note,
        "nobody's",
        true,
    ),
    damage(|w| symlink("../mid/diff", w.home().join("l/second")).unwrap(), "", Note, "nobody's", true),
    damage(|w| symlink("../mid/diff", w.home().join("l/.0123456789abcdef0123456789")).unwrap(), "", Note, "half made", true),
    damage(|w| write(w, "l/file", ""), "", Note, "no short name", false),
    damage(|w| plant_half(w, HALF), "", Note, "half deleted", true),
    damage(|w| plant_half(w, "foreign"), "foreign", Note, "no layer", false),
    damage(|w| fs::create_dir(w.layer("hollow")).unwrap(), "hollow", Note, "nothing behind", false),
    damage(|w| mount_on(&w.layer("c").join("work")), "", Hand, "hides", false),
    damage(|w| mount_on(&w.layer("c").join("merged")), "", Hand, "not the layer", false),
];

/// `top` says that the name of `mid` is its own.
fn share_a_link(world: &World) {
    let (own, other) = (link(&world.home(), "top"), link(&world.home(), "mid"));
    remove(world, &format!("l/{own}"));
    write(world, "top/link", &other);
}

/// As a machine leaves it that went down under a volatile mount.
fn leave_volatile(world: &World) {
    fs::create_dir_all(world.layer("c").join("work/work/incompat/volatile")).unwrap();
    mark(world, "c", "trusted.graphdriver.volatile", "another boot");
}

fn plant_half(world: &World, name: &str) {
    fs::create_dir(world.layer(name)).unwrap();
    write(world, &format!("{name}/file"), "x");
}

fn mount_on(place: &Path) {
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(place));
}

/// What is in the layers.
fn content(world: &World) -> Vec<String> {
    let dirs = ["base", "mid", "top", "c"].map(|id| world.layer(id).join("diff"));
    dirs.iter().filter(|dir| dir.is_dir()).map(|dir| everything_but_marks(dir)).collect()
}

/// A mount makes overlayfs mark the directory.
fn everything_but_marks(dir: &Path) -> String {
    let is_mark = |line: &str| line.is_empty() || line.starts_with('#') || line.starts_with("trusted.overlay");
    everything(dir).lines().filter(|line| !is_mark(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_damage_is_found_and_mended_where_nothing_has_to_be_guessed() {
    for (number, damage) in DAMAGES.iter().enumerate() {
        let world = world();
        world.store.leaves_damage();
        assert_eq!(world.subject.check(true).unwrap(), [], "{number}");
        (damage.plant)(&world);
        let (before, expected) = (content(&world), |mended| [(damage.layer, damage.severity, mended)]);
        let found = world.subject.check(false).unwrap();
        assert_eq!(brief(&found), expected(false), "{number}: {found:#?}");
        assert!(found[0].what.contains(damage.says) && found[0].remedy.len() > 10, "{number}: {found:#?}");
        let found = world.subject.check(true).unwrap();
        assert_eq!(brief(&found), expected(damage.mends), "{number}: mending: {found:#?}");
        if damage.mends {
            eventually("what was mended is sound", || world.subject.check(false).unwrap().is_empty());
            assert!(world.shows("c").contains(&"written".to_owned()), "{number}");
        } else {
            assert_eq!(brief(&world.subject.check(false).unwrap()), expected(false), "{number}");
        }
        assert_eq!(content(&world), before, "{number}: content was changed");
    }
}

#[test]
fn a_missing_empty_directory_of_a_base_layer_is_made_again() {
    let world = world();
    fs::remove_dir(world.layer("base/empty")).unwrap();
    let found = world.subject.check(true).unwrap();
    // What is above it says that it has no parents.
    assert_eq!(brief(&found), [("base", Note, true); 2], "{found:#?}");
    assert_eq!(world.subject.check(false).unwrap(), []);
}

fn sound(subject: &dyn Subject) {
    let store = Store::new();
    subject.init("overlay", &store.root(), &["overlay2.sync=none"]).unwrap();
    assert_eq!(subject.check(true).unwrap(), []);
    lay(subject);
    let mounted = subject.mount("c", &[]).unwrap();
    fs::create_dir(mounted.join("inside")).unwrap();
    mount_on(&mounted.join("inside"));
    for mend in [false, true] {
        assert_eq!(subject.check(mend).unwrap(), []);
    }
    let listed = subject.list().unwrap();
    let brief = listed.iter().map(|layer| {
        assert_eq!(layer.condition, Condition::Whole);
        (layer.id.as_str(), layer.parent.as_ref().map(|id| id.as_str()), layer.access)
    });
    let (ro, rw) = (Some(Access::ReadOnly), Some(Access::ReadWrite));
    let expected = [("base", None, ro), ("c", Some("mid"), rw), ("mid", Some("base"), ro), ("top", Some("mid"), ro)];
    assert_eq!(brief.collect::<Vec<_>>(), expected);
    subject.umount("c").unwrap();
    subject.cleanup().unwrap();
}

#[test]
fn a_sound_store_has_no_findings() {
    sound(&Rust::default());
    sound(&C::new());
}

#[test]
fn a_listing_says_why_a_layer_and_those_above_it_cannot_be_used() {
    let world = world();
    world.store.leaves_damage();
    fs::remove_dir_all(world.layer("mid/diff")).unwrap();
    let listed = world.subject.list().unwrap();
    let why = |id: &str| match &listed.iter().find(|layer| layer.id.as_str() == id).unwrap().condition {
        Condition::Unusable(why) => why.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(why("base"), "Whole");
    assert!(why("mid").contains("'diff'") && !why("mid").contains("below"), "{}", why("mid"));
    for above in ["top", "c"] {
        assert!(why(above).contains("below it, 'mid'"), "{}", why(above));
    }
}

/// What was told is not given again: a listing tells.
#[test]
fn a_layer_that_was_listed_is_known() {
    let world = world();
    let taken = |world: &World| world.subject.create_ro("top", Some("mid")).map_err(|e| e.errno);
    assert_eq!(world.subject.check(true).unwrap(), []);
    taken(&world).unwrap();
    let world = crate::world();
    world.subject.list().unwrap();
    assert_eq!(taken(&world), Err(libc::EEXIST));
}

/// Eight threads make, fill, mount and remove layers: a check and a listing, with the driver and past it, find nothing wrong.
#[test]
fn nothing_that_others_do_meanwhile_is_taken_for_damage() {
    let world = world();
    let (running, checks) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|number| {
                let subject = &world.subject;
                scope.spawn(move || {
                    for round in 0..25 {
                        let (image, container) = (format!("i{number}-{}", round % 2), format!("c{number}"));
                        fill(subject, &image, Some("mid"), one("f"));
                        subject.create_rw(&container, Some(&image)).unwrap();
                        subject.mount(&container, &[]).unwrap();
                        subject.umount(&container).unwrap();
                        subject.remove(&container).unwrap();
                        subject.remove(&image).unwrap();
                    }
                })
            })
            .collect();
        let (world, running, checks) = (&world, &running, &checks);
        // In the mount namespace that the store is mounted in.
        let checker = scope.spawn(move || {
            let (graph, root) = (Graph::new(), world.store.root());
            let past = Some(("overlay", root.as_path()));
            while running.load(Ordering::SeqCst) || checks.load(Ordering::SeqCst) < 20 {
                for found in [world.subject.check(true).unwrap(), findings(&graph, past, false).unwrap()] {
                    assert!(found.iter().all(|finding| finding.severity == Busy), "{found:#?}");
                }
                for layer in world.subject.list().unwrap().into_iter().chain(listed(&graph, past).unwrap()) {
                    assert!(!matches!(layer.condition, Condition::Unusable(_)), "{layer:?}");
                }
                checks.fetch_add(1, Ordering::SeqCst);
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        running.store(false, Ordering::SeqCst);
        checker.join().unwrap();
    });
    assert_eq!(world.subject.check(false).unwrap(), []);
}

#[test]
fn a_store_is_checked_on_a_read_only_mount_while_its_daemon_has_it() {
    let world = world();
    world.store.leaves_damage();
    let elsewhere = world.store.root().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    run(Command::new("mount").arg("--bind").arg(world.store.root()).arg(&elsewhere));
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&elsewhere));
    let graph = Graph::new();
    let past = Some(("overlay", elsewhere.as_path()));
    assert_eq!(findings(&graph, past, false).unwrap(), []);
    assert_eq!(listed(&graph, past).unwrap(), world.subject.list().unwrap());
    let id = |id: &str| LayerId::parse(id.as_bytes()).unwrap();
    let usage = graph.inspect(past, |store| store.layer_usage(&id("c"))).unwrap();
    assert_eq!((usage.bytes, usage.inodes), world.subject.usage("c").unwrap());
    let parts = graph.inspect(past, |store| store.layer_metadata(&id("c"))).unwrap();
    let below = |path: &str| elsewhere.join("overlay").join(path).into_os_string();
    assert_eq!(parts[..3], [("WorkDir", below("c/work")), ("MergedDir", below("c/merged")), ("UpperDir", below("c/diff"))]);
    assert_eq!((parts.len(), parts[3].0), (4, "LowerDir"));
    for question in ["nobody", "l"] {
        let (parts, usage) = (
            |store: &dyn Inspect| store.layer_metadata(&id(question)),
            |store: &dyn Inspect| store.layer_usage(&id(question)),
        );
        assert!(graph.inspect(past, parts).is_err() && graph.inspect(past, usage).is_err(), "{question}");
    }
    fs::remove_dir_all(world.layer("c/diff")).unwrap();
    mark(&world, "top", UNFINISHED, "first");
    let found = findings(&graph, past, false).unwrap();
    assert_eq!(brief(&found), [("c", Loss, false), ("top", Busy, false)], "the daemon may be at work on it");
    world.subject.cleanup().unwrap();
    let found = findings(&graph, past, false).unwrap();
    assert_eq!(brief(&found), [("c", Loss, false), ("top", Note, false)], "nobody is");
    assert_eq!(findings(&graph, past, true).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(findings(&graph, Some(("overlay2", &elsewhere)), false).unwrap_err().errno(), libc::ENOENT);
    assert!(!elsewhere.join("overlay2").exists());
}

/// The filesystem itself can only be read: the driver starts, and checks.
#[test]
fn a_driver_on_a_read_only_filesystem_checks_and_does_not_mend() {
    let world = world();
    world.store.leaves_damage();
    fs::remove_dir(world.layer("c/work")).unwrap();
    world.subject.cleanup().unwrap();
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(world.store.root()));
    world.start();
    assert_eq!(brief(&world.subject.check(false).unwrap()), [("c", Note, false)]);
    assert_eq!(world.subject.check(true).unwrap_err().errno, libc::EROFS);
}

/// Whoever is told may call the library, and may end it.
#[test]
fn no_layer_is_held_while_a_finding_is_told() {
    let world = world();
    fs::remove_dir(world.layer("c/work")).unwrap();
    fs::remove_dir(world.layer("mid/work")).unwrap();
    let graph = Graph::new();
    let root = world.store.root();
    let mut told = 0;
    let ended = graph.inspect(Some(("overlay", root.as_path())), |store| {
        store.check(false, &mut |finding| {
            told += 1;
            world.subject.repair(finding.layer.as_ref().unwrap().as_str(), None).unwrap();
            Err(graphdriver::error::Error::new(graphdriver::error::Kind::Cancelled, "enough"))
        })
    });
    assert_eq!((ended.unwrap_err().errno(), told), (libc::ECANCELED, 1));
    assert_eq!(brief(&world.subject.check(true).unwrap()), [("mid", Note, true)]);
}
