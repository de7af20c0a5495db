//! What is whole stays whole whatever is done at the same time. Each race has a bounded number of rounds, and what is asserted must
//! hold in every one of them.

mod common;

use common::overlay::{World, everything, link, links_to, mounts_of, one};
use common::subject::{Outcome, Subject};
use common::{Tar, eventually, mounts_below, names, text};
use nix::errno::Errno;
use std::fs;
use std::io::Read;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

fn fails_with(outcome: &Outcome<()>, allowed: &[Errno], what: &str) {
    if let Err(failure) = outcome {
        assert!(allowed.iter().any(|errno| *errno as i32 == failure.errno), "{what}: {failure:?}");
    }
}

/// Every layer has one name in `l/`, and every name there a layer.
fn check_links(w: &World, what: &str) {
    let home = w.home();
    let layers: Vec<String> = names(&home)
        .into_iter()
        .filter(|name| name != "l" && name != "backingFsBlockDev" && !name.starts_with('.'))
        .collect();
    for id in &layers {
        assert_eq!(links_to(&home, id), [link(&home, id)], "{what}: names of '{id}'");
    }
    assert_eq!(names(&home.join("l")).len(), layers.len(), "{what}: orphans in l: {:?}", names(&home.join("l")));
}

/// Runs `work` in a thread again and again until `others` are done.
fn while_running(work: impl Fn() + Sync, others: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        // Also when the others panic.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _done = Done(&done);
        others();
    });
}

/// Asking for a layer makes a missing name of it again, and must not do so for one that is being made or deleted.
#[test]
fn root_asking_for_a_layer_that_comes_and_goes_leaves_no_links() {
    let w = World::new();
    while_running(
        || {
            w.subject.exists("x");
        },
        || {
            for _ in 0..1500 {
                w.subject.create_rw("x", None).unwrap();
                w.subject.remove("x").unwrap();
            }
        },
    );
    check_links(&w, "after the last removal");
    w.subject.create_rw("x", None).unwrap();
    check_links(&w, "made anew");
}

/// A mount that lacks one link restores those of all layers, also of those that come and go.
#[test]
fn root_restoring_links_while_layers_come_and_go_leaves_none() {
    let w = World::new();
    w.fill("a", None, one("f"));
    w.subject.create_rw("c", Some("a")).unwrap();
    let lost = w.home().join("l").join(link(&w.home(), "a"));
    while_running(
        || {
            for _ in 0..2 {
                w.subject.create_rw("x", Some("a")).unwrap_or_else(|e| assert_eq!(e.errno, Errno::EEXIST as i32, "{e:?}"));
                w.subject.remove("x").unwrap();
            }
        },
        || {
            for round in 0..150 {
                let _ = fs::remove_file(&lost);
                let root = w.subject.mount("c", &[]).unwrap_or_else(|e| panic!("round {round}: {e:?}"));
                assert_eq!(names(&root), ["f"]);
                w.subject.umount("c").unwrap();
            }
        },
    );
    assert!(w.subject.exists("a") && w.subject.exists("c"));
    check_links(&w, "afterwards");
}

/// Repair and metadata look at a layer's links as well.
#[test]
fn root_repairing_a_layer_that_comes_and_goes_leaves_no_links() {
    let w = World::new();
    w.fill("a", None, one("f"));
    while_running(
        || {
            fails_with(&w.subject.repair("x", Some("a")), &[Errno::ENOENT], "repair");
            fails_with(&w.subject.metadata("x").map(drop), &[Errno::ENOENT], "metadata");
            fails_with(&w.subject.usage("x").map(drop), &[Errno::ENOENT], "usage");
        },
        || {
            for _ in 0..300 {
                w.subject.create_rw("x", Some("a")).unwrap();
                w.subject.remove("x").unwrap();
            }
        },
    );
    check_links(&w, "afterwards");
}

/// Two creates of one id, on different parents, while others ask for it.
#[test]
fn root_of_two_creates_one_is_there_and_the_other_was_refused() {
    let w = World::new();
    for id in ["p", "q"] {
        w.fill(id, None, one(id));
    }
    while_running(
        || {
            w.subject.exists("x");
        },
        || {
            for round in 0..100 {
                let start = Barrier::new(2);
                let create = |parent| {
                    start.wait();
                    if round % 2 == 0 {
                        w.subject.create_ro("x", Some(parent))
                    } else {
                        w.subject.create_rw("x", Some(parent))
                    }
                };
                let (p, q) = std::thread::scope(|scope| {
                    let p = scope.spawn(|| create("p"));
                    let q = scope.spawn(|| create("q"));
                    (p.join().unwrap(), q.join().unwrap())
                });
                assert!(p.is_ok() != q.is_ok(), "round {round}: {p:?} and {q:?}");
                let parent = if p.is_ok() { "p" } else { "q" };
                fails_with(&p, &[Errno::EEXIST], "p");
                fails_with(&q, &[Errno::EEXIST], "q");
                assert_eq!(text(&w.layer("x/lower")), format!("l/{}", link(&w.home(), parent)), "round {round}");
                assert_eq!(w.shows("x"), [parent], "round {round}");
                w.subject.remove("x").unwrap();
            }
        },
    );
    check_links(&w, "afterwards");
}

/// A leftover of an earlier process that two threads want to make anew: one does, and the other one does not undo it.
#[test]
fn root_of_two_creates_over_a_leftover_one_succeeds() {
    let rounds = 25;
    let id = |round: usize| format!("old{round}");
    let w = World::after(|before| (0..rounds).for_each(|round| before.fill(&id(round), None, one("old"))));
    for round in 0..rounds {
        let id = id(round);
        let start = Barrier::new(2);
        let pull = |file: &str| {
            start.wait();
            w.subject.create_ro(&id, None).and_then(|()| w.subject.apply(&id, &one(file).done()))
        };
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| pull("first"));
            let second = scope.spawn(|| pull("second"));
            (first.join().unwrap(), second.join().unwrap())
        });
        assert!(first.is_ok() != second.is_ok(), "round {round}: {first:?} and {second:?}");
        assert_eq!(w.shows(&id), [if first.is_ok() { "first" } else { "second" }], "round {round}");
        check_links(&w, &format!("round {round}"));
    }
    eventually("what was replaced is deleted", || names(&w.home()).iter().all(|name| !name.starts_with('.')));
}

/// One thread unpacks an image, another one finds out that it is not there and makes it.
#[test]
fn root_a_create_beside_an_unpack_costs_nothing() {
    let w = World::new();
    let archive = (0..100).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), "x")).done();
    for round in 0..25 {
        let id = format!("image{round}");
        let start = Barrier::new(3);
        let pull = || {
            start.wait();
            if w.subject.exists(&id) {
                return false;
            }
            match w.subject.create_ro(&id, None) {
                Ok(()) => w.subject.apply(&id, &archive).is_ok(),
                Err(failure) => {
                    assert!([Errno::EEXIST as i32, Errno::EBUSY as i32].contains(&failure.errno), "{failure:?}");
                    false
                }
            }
        };
        let pulled: Vec<bool> = std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..3).map(|_| scope.spawn(pull)).collect();
            pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
        });
        assert_eq!(pulled.iter().filter(|pulled| **pulled).count(), 1, "round {round}: {pulled:?}");
        assert_eq!(names(&w.layer(&id).join("diff")).len(), 100, "round {round}");
    }
    check_links(&w, "afterwards");
}

/// Many threads make layers upon one parent, mount and remove them.
#[test]
fn root_children_of_one_parent_are_made_side_by_side() {
    let w = World::new();
    w.fill("a", None, one("f"));
    let parent = everything(&w.layer("a"));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let w = &w;
            scope.spawn(move || {
                for i in 0..20 {
                    let id = format!("c{thread}-{i}");
                    w.subject.create_rw(&id, Some("a")).unwrap();
                    if i % 4 == 0 {
                        assert_eq!(w.shows(&id), ["f"]);
                    }
                    if i % 2 == 0 {
                        w.subject.remove(&id).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(names(&w.home()).iter().filter(|name| name.starts_with('c')).count(), 80);
    assert_eq!(everything(&w.layer("a")), parent);
    assert_eq!(mounts_below(&w.home()), [""; 0]);
    check_links(&w, "afterwards");
}

/// A parent goes while children are made upon it: a create that returned 0 found it whole, and no other one leaves anything.
#[test]
fn root_a_parent_that_goes_leaves_no_half_children() {
    let w = World::new();
    for round in 0..40 {
        w.fill("p", None, one("f"));
        let start = Barrier::new(2);
        let (made, removed) = std::thread::scope(|scope| {
            let making = scope.spawn(|| {
                start.wait();
                w.subject.create_rw("c", Some("p"))
            });
            let removing = scope.spawn(|| {
                start.wait();
                w.subject.remove("p")
            });
            (making.join().unwrap(), removing.join().unwrap())
        });
        removed.unwrap();
        fails_with(&made, &[Errno::ENOENT], &format!("round {round}"));
        assert_eq!(w.layer("c").exists(), made.is_ok(), "round {round}");
        if made.is_ok() {
            assert_eq!(names(&w.layer("c")), ["diff", "link", "lower", "merged", "work"], "round {round}");
            assert_eq!(w.subject.mount("c", &[]).unwrap_err().errno, Errno::EUCLEAN as i32, "round {round}");
            w.subject.remove("c").unwrap();
        }
        assert_eq!(names(&w.home()), ["backingFsBlockDev", "l"], "round {round}");
        assert_eq!(names(&w.home().join("l")), [""; 0], "round {round}");
    }
}

/// A mount and a removal of one layer: it is gone with its mount, or was never mounted.
#[test]
fn root_a_layer_is_not_removed_beneath_its_mount() {
    let w = World::new();
    w.fill("a", None, one("f"));
    for round in 0..60 {
        w.subject.create_rw("c", Some("a")).unwrap();
        let start = Barrier::new(2);
        let (mounted, removed) = std::thread::scope(|scope| {
            let mounting = scope.spawn(|| {
                start.wait();
                w.subject.mount("c", &[]).map(drop)
            });
            let removing = scope.spawn(|| {
                start.wait();
                w.subject.remove("c")
            });
            (mounting.join().unwrap(), removing.join().unwrap())
        });
        removed.unwrap();
        fails_with(&mounted, &[Errno::ENOENT], &format!("round {round}"));
        assert!(!w.layer("c").exists() && mounts_of(&w.home(), "c") == 0, "round {round}");
        assert_eq!(mounts_below(&w.home()), [""; 0], "round {round}");
    }
    check_links(&w, "afterwards");
}

/// Gives the rest of an archive only when it is allowed to.
struct Gated<'a> {
    parts: [&'a [u8]; 2],
    gate: &'a Receiver<()>,
}

impl Read for Gated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.parts[0].is_empty() && !self.parts[1].is_empty() {
            // An error is the other end's being gone, which opens the gate as well.
            let _ = self.gate.recv();
            self.parts.swap(0, 1);
        }
        self.parts[0].read(buffer)
    }
}

/// A child is mounted while its parent is half unpacked: that is refused, or waits until all is there.
#[test]
fn root_a_mount_above_an_unpack_shows_no_half_content() {
    let w = World::new();
    // More than every buffer on the way takes, so that the first file is placed before the gate is reached.
    let first = Tar::new().file("first", "1").file("big", &"2".repeat(12 << 20)).done();
    let first = &first[..first.len() - 1024];
    let second = &(0..100).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), "x")).done()[..];
    for round in 0..4 {
        w.subject.create_ro("p", None).unwrap();
        w.subject.create_ro("m", Some("p")).unwrap();
        w.subject.create_rw("c", Some("m")).unwrap();
        let (open, gate) = channel();
        std::thread::scope(|scope| {
            let (w, open) = (&w, open); // a failure must open the gate
            scope.spawn(move || w.subject.apply_from("p", &mut Gated { parts: [first, second], gate: &gate }).unwrap());
            eventually("the first file is there", || w.layer("p/diff/first").exists());
            let mounting = scope.spawn(|| w.subject.mount("c", &[]));
            // One that waits is let go on after a while.
            for _ in 0..50 {
                if !mounting.is_finished() {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
            open.send(()).unwrap();
            match mounting.join().unwrap() {
                Ok(root) => assert_eq!(names(&root).len(), 102, "round {round}"),
                Err(failure) => {
                    let fine = [Errno::EUCLEAN as i32, Errno::EBUSY as i32].contains(&failure.errno);
                    assert!(fine, "round {round}: {failure:?}");
                }
            }
        });
        w.subject.umount("c").unwrap();
        assert_eq!(w.shows("c").len(), 102, "round {round}");
        for id in ["c", "m", "p"] {
            w.subject.remove(id).unwrap();
        }
    }
}

/// Starts of the driver while others use it: a call works, or says that there is no driver at the moment.
#[test]
fn root_starts_beside_calls_cost_nothing() {
    let w = World::new();
    w.fill("a", None, one("f"));
    while_running(
        || {
            let made = w.subject.create_rw("c", Some("a"));
            fails_with(&made, &[Errno::ENOTCONN, Errno::EEXIST], "create");
            fails_with(&w.subject.remove("c"), &[Errno::ENOTCONN], "remove");
        },
        || {
            for round in 0..40 {
                w.start();
                assert_eq!(w.shows("a"), ["f"], "round {round}");
                assert_eq!(w.subject.create_ro("a", None).unwrap_err().errno, Errno::EEXIST as i32, "round {round}");
            }
        },
    );
    w.subject.remove("c").unwrap();
    assert_eq!(names(&w.home()), ["a", "backingFsBlockDev", "l"]);
    check_links(&w, "afterwards");
}
