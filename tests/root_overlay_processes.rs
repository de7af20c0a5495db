//! What is whole is never hidden or destroyed by another process: one process per home, and no start or clean-up takes what
//! another one mounted.

mod common;

use common::overlay::{QUICK, fill, mounts_of, one, shows};
use common::process::Process;
use common::subject::{Failure, Subject};
use common::{Store, Tar, eventually, mounts_below, names, run, text};
use nix::errno::Errno;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

const UNBOUND: &[&str] = &["overlay2.sync=none", "overlay2.skip_mount_home=true"];

/// A store and the processes that want it.
struct World {
    store: Store,
}

impl World {
    fn new() -> World {
        World { store: Store::new() }
    }

    fn root(&self) -> PathBuf {
        self.store.root()
    }

    fn home(&self) -> PathBuf {
        self.root().join("overlay")
    }

    /// A process with a driver.
    fn process(&self, kind: &'static str, options: &[&str]) -> Process {
        let process = Process::start(kind);
        process.init("overlay", &self.root(), options).unwrap();
        process
    }

    /// A process whose start must be refused because another has the store.
    fn refused(&self, process: &Process, root: &Path, options: &[&str]) -> Failure {
        let before = (mounts_below(&self.root()), names(&self.home()));
        let failure = process.init("overlay", root, options).unwrap_err();
        assert_eq!(failure.errno, Errno::EBUSY as i32, "{failure:?}");
        assert_eq!((mounts_below(&self.root()), names(&self.home())), before, "a refused start changes nothing");
        assert_eq!(process.create_ro("x", None).unwrap_err().errno, Errno::ENOTCONN as i32);
        failure
    }
}

// ---- 4: one process per home ----

#[test]
fn root_a_home_has_one_process_at_a_time() {
    let w = World::new();
    symlink(w.root(), w.root().join("way")).unwrap();
    for (kind, options) in [("rust", QUICK), ("C", QUICK), ("rust", UNBOUND)] {
        let holder = w.process(kind, options);
        fill(&holder, "a", None, one("f"));
        for root in [w.root(), w.root().join("way")] {
            for (other, options) in [("C", QUICK), ("rust", UNBOUND), ("rust", &[])] {
                let failure = w.refused(&Process::start(other), &root, options);
                assert!(failure.text.contains(&holder.pid().to_string()), "the holder is {}: {failure:?}", holder.pid());
            }
        }
        assert_eq!(shows(&holder, "a"), ["f"], "the holder goes on");
        holder.remove("a").unwrap();
        // After its clean-up the store is free, though the process lives.
        holder.cleanup().unwrap();
        let next = w.process("rust", QUICK);
        w.refused(&holder, &w.root(), options);
        next.end();
        holder.init("overlay", &w.root(), options).unwrap();
        holder.end();
    }
    assert_eq!(mounts_below(&w.root()), [""; 0]);
}

/// By the name "overlay2" it is another home, also on the same root.
#[test]
fn root_two_homes_have_two_processes() {
    let w = World::new();
    let (one, two) = (w.process("rust", QUICK), Process::start("rust"));
    two.init("overlay2", &w.root(), QUICK).unwrap();
    for process in [&one, &two] {
        process.create_ro("a", None).unwrap();
    }
    one.end();
    two.end();
}

#[test]
fn root_a_process_that_dies_lets_go_of_its_home() {
    let w = World::new();
    for round in 0..5 {
        let holder = w.process("rust", QUICK);
        holder.create_rw(&format!("c{round}"), None).unwrap();
        holder.kill();
        let next = w.process("C", QUICK);
        assert!(next.exists(&format!("c{round}")));
        next.kill();
    }
    w.process("rust", QUICK).end();
}

#[test]
fn root_one_process_may_start_again_and_elsewhere() {
    let w = World::new();
    let holder = w.process("rust", QUICK);
    fill(&holder, "a", None, one("f"));
    for options in [QUICK, UNBOUND, QUICK] {
        holder.init("overlay", &w.root(), options).unwrap();
        assert_eq!(shows(&holder, "a"), ["f"]);
        w.refused(&Process::start("rust"), &w.root(), QUICK);
    }
    // A start that fails keeps the home, and takes no other.
    holder.init("overlay", &w.root(), &["overlay2.nope=1"]).unwrap_err();
    w.refused(&Process::start("rust"), &w.root(), QUICK);
    let elsewhere = w.root().join("elsewhere");
    holder.init("overlay", &elsewhere, &["overlay2.size=1G"]).unwrap_err();
    let other = Process::start("rust");
    other.init("overlay", &elsewhere, QUICK).unwrap();
    let failure = holder.init("overlay", &elsewhere, QUICK).unwrap_err();
    assert_eq!(failure.errno, Errno::EBUSY as i32, "{failure:?}");
    assert_eq!(shows(&holder, "a"), ["f"], "the driver before stays");
    other.end();
    // Going elsewhere lets go of the first one.
    holder.init("overlay", &elsewhere, QUICK).unwrap();
    let next = w.process("rust", QUICK);
    assert!(next.exists("a"));
    next.end();
    holder.end();
}

/// A start that fails for another reason leaves the home to others.
#[test]
fn root_a_failed_start_holds_nothing() {
    let w = World::new();
    let failing = Process::start("rust");
    for options in [&["overlay2.size=1G"][..], &["overlay2.nope=1"], &["overlay2.userns_remap=nobody"]] {
        failing.init("overlay", &w.root(), options).unwrap_err();
        let other = w.process("rust", QUICK);
        other.create_ro("a", None).unwrap();
        other.remove("a").unwrap();
        other.end();
    }
    assert!(failing.is_alive());
}

/// A daemon starts programs, which outlive it: they do not have its home.
#[test]
fn root_a_program_that_the_holder_started_does_not_hold_home() {
    let w = World::new();
    let holder = w.process("rust", QUICK);
    holder.run("start a program that stays").unwrap();
    holder.kill();
    w.process("rust", QUICK).end();
}

/// A clean-up lets go of the home also where a child has not come to its exec yet, which is a matter of other threads' timing.
#[test]
fn root_a_child_that_the_holder_forked_does_not_hold_home_after_a_clean_up() {
    let w = World::new();
    let holder = w.process("rust", QUICK);
    holder.run("fork a child that stays").unwrap();
    for _ in 0..2 {
        holder.init("overlay", &w.root(), QUICK).unwrap();
    }
    holder.cleanup().unwrap();
    w.process("rust", QUICK).end();
}

/// Of processes that start at the same time one has the home; whatever any of them was told of is there.
#[test]
fn root_processes_that_start_together_do_not_share_a_home() {
    let w = World::new();
    let root = w.root();
    for round in 0..6 {
        let processes: Vec<Process> = (0..3).map(|_| Process::start("rust")).collect();
        let started: Vec<bool> = std::thread::scope(|scope| {
            let starting: Vec<_> = processes
                .iter()
                .map(|process| {
                    let root = &root;
                    scope.spawn(move || match process.init("overlay", root, QUICK) {
                        Ok(()) => true,
                        Err(failure) => {
                            assert_eq!(failure.errno, Errno::EBUSY as i32, "{failure:?}");
                            false
                        }
                    })
                })
                .collect();
            starting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(started.iter().filter(|started| **started).count(), 1, "round {round}: {started:?}");
        let id = format!("layer{round}");
        for (process, started) in processes.iter().zip(started) {
            assert_eq!(process.create_ro(&id, None).is_ok(), started, "round {round}");
        }
        for layer in (0..=round).map(|round| w.home().join(format!("layer{round}"))) {
            assert_eq!(names(&layer), ["diff", "empty", "link", "merged", "work"], "round {round}");
        }
    }
}

/// Two processes take turns on one home, and whoever unpacked to the end finds all of it.
#[test]
fn root_an_unpack_that_ended_well_is_there_whatever_another_process_does() {
    let w = World::new();
    let (one, two) = (Process::start("rust"), Process::start("rust"));
    let archive = (0..50).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), "x")).done();
    let mut unpacked = Vec::new();
    let root = w.root();
    for round in 0..20 {
        let id = format!("image{}", round / 2);
        std::thread::scope(|scope| {
            let works = [&one, &two].map(|process| {
                let (id, archive, root) = (&id, &archive, &root);
                scope.spawn(move || {
                    process.init("overlay", root, QUICK)?;
                    let outcome = process.create_ro(id, None).and_then(|()| process.apply(id, archive));
                    process.cleanup().unwrap();
                    outcome
                })
            });
            for work in works {
                match work.join().unwrap() {
                    Ok(size) => {
                        assert_eq!(size, 50);
                        unpacked.push(id.clone());
                    }
                    Err(failure) => {
                        let fine = [Errno::EBUSY as i32, Errno::EEXIST as i32].contains(&failure.errno);
                        assert!(fine, "round {round}: {failure:?}");
                    }
                }
            }
        });
        for id in &unpacked {
            assert_eq!(names(&w.home().join(id).join("diff")).len(), 50, "round {round}: {id}");
        }
    }
    assert!(unpacked.len() >= 10, "{} unpacks", unpacked.len());
}

// ---- 3: live mounts ----

/// A container's mount that a process left, made while home was no mount point.
fn left_running(w: &World) -> PathBuf {
    let before = w.process("rust", UNBOUND);
    fill(&before, "a", None, one("f"));
    before.create_rw("c", Some("a")).unwrap();
    let root = before.mount("c", &[]).unwrap();
    fs::write(root.join("precious"), "data").unwrap();
    before.kill();
    assert_eq!(mounts_below(&w.root()), [root.to_str().unwrap()]);
    root
}

#[test]
fn root_a_start_does_not_hide_live_mounts() {
    for kind in ["rust", "C"] {
        let w = World::new();
        let root = left_running(&w);
        let daemon = w.process(kind, QUICK);
        assert_eq!(names(&root), ["f", "precious"], "the running container is in sight");
        assert_eq!(daemon.mount("c", &[]).unwrap(), root);
        assert_eq!(mounts_of(&w.home(), "c"), 1, "no second overlay on the same upper directory");
        assert_eq!(text(&root.join("precious")), "data");
        assert_eq!(daemon.create_rw("c", None).unwrap_err().errno, Errno::EEXIST as i32);
        // Another container can be used beside it.
        daemon.create_rw("d", Some("a")).unwrap();
        assert_eq!(shows(&daemon, "d"), ["f"]);
        daemon.umount("c").unwrap();
        assert_eq!(mounts_of(&w.home(), "c"), 0, "umount takes it away");
        assert_eq!(names(&root), [""; 0]);
        assert_eq!(shows(&daemon, "c"), ["f", "precious"]);
        daemon.remove("c").unwrap();
        assert!(!w.home().join("c").exists());
        daemon.end();
        assert_eq!(mounts_below(&w.root()), [""; 0]);
    }
}

#[test]
fn root_what_runs_from_before_the_start_is_removed_whole_or_not_at_all() {
    let w = World::new();
    let root = left_running(&w);
    let daemon = w.process("rust", QUICK);
    match daemon.remove("c") {
        Ok(()) => assert!(!w.home().join("c").exists() && mounts_of(&w.home(), "c") == 0),
        Err(_) => assert_eq!(text(&root.join("precious")), "data", "refused, and the running container has its files"),
    }
    daemon.umount("c").unwrap();
    daemon.end();
}

/// Not only layers' mounts: whatever is mounted below home is somebody's.
#[test]
fn root_a_start_hides_nobodys_mounts() {
    let w = World::new();
    let before = w.process("rust", UNBOUND);
    before.create_rw("c", None).unwrap();
    before.end();
    let (volume, inside) = (w.root().join("volume"), w.home().join("c/diff/volume"));
    for dir in [&volume, &inside] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(volume.join("kept"), "x").unwrap();
    run(Command::new("mount").arg("--bind").args([&volume, &inside]));
    let daemon = w.process("rust", QUICK);
    assert_eq!(names(&inside), ["kept"]);
    daemon.cleanup().unwrap();
    assert_eq!(names(&inside), ["kept"], "after the clean-up as well");
    assert_eq!(mounts_below(&w.root()), [inside.to_str().unwrap()]);
    w.store.leaves_damage(); // the mount
}

/// Once nothing is mounted below, a start makes home private as ever.
#[test]
fn root_a_home_without_live_mounts_is_bound() {
    let w = World::new();
    left_running(&w);
    let daemon = w.process("rust", QUICK);
    daemon.umount("c").unwrap();
    daemon.end();
    let daemon = w.process("rust", QUICK);
    assert_eq!(mounts_below(&w.root()), [w.home().to_str().unwrap()]);
    daemon.end();
    assert_eq!(mounts_below(&w.root()), [""; 0]);
}

/// A start over the bind mount that a killed process left, with its containers on it.
#[test]
fn root_mounts_upon_a_bound_home_survive_starts_of_every_kind() {
    let w = World::new();
    let before = w.process("rust", QUICK);
    fill(&before, "a", None, one("f"));
    before.create_rw("c", Some("a")).unwrap();
    let root = before.mount("c", &[]).unwrap();
    fs::write(root.join("precious"), "data").unwrap();
    before.kill();
    let table = mounts_below(&w.root());
    for options in [UNBOUND, QUICK, UNBOUND, QUICK] {
        let daemon = w.process("rust", options);
        assert_eq!(daemon.mount("c", &[]).unwrap(), root);
        assert_eq!(mounts_below(&w.root()), table, "{options:?}");
        assert_eq!(text(&root.join("precious")), "data");
        let _ = daemon.cleanup(); // with a container on it, home may be told to be busy
        assert_eq!(text(&root.join("precious")), "data", "{options:?}");
        daemon.kill();
    }
    let daemon = w.process("rust", QUICK);
    daemon.umount("c").unwrap();
    daemon.remove("c").unwrap();
    daemon.end();
}

/// A clean-up takes its own bind mount and no other one that happens to be there by then.
#[test]
fn root_a_clean_up_unbinds_only_its_own_bind() {
    for kind in ["rust", "C"] {
        let w = World::new();
        let daemon = w.process(kind, QUICK);
        daemon.create_ro("a", None).unwrap();
        // The administrator replaces it by one of his own, of the same look.
        run(Command::new("umount").arg("-l").arg(w.home()));
        run(Command::new("mount").arg("--bind").args([w.home(), w.home()]));
        daemon.cleanup().unwrap();
        assert_eq!(mounts_below(&w.root()), [w.home().to_str().unwrap()], "{kind}");
        run(Command::new("umount").arg(w.home()));
    }
}

/// One driver follows another in one process, each in a graph of its own: the first one's end is not the second one's.
#[test]
fn root_a_predecessors_clean_up_leaves_its_successors_home() {
    let w = World::new();
    let (first, second) = (w.process("rust", QUICK), Process::start("rust"));
    first.create_rw("c", None).unwrap();
    first.cleanup().unwrap();
    second.init("overlay", &w.root(), QUICK).unwrap();
    let root = second.mount("c", &[]).unwrap();
    let table = mounts_below(&w.root());
    assert!(first.cleanup().is_err(), "it has no driver");
    first.init("overlay", &w.root(), QUICK).unwrap_err();
    assert!(first.cleanup().is_err(), "nor did it get one");
    first.kill();
    assert_eq!(mounts_below(&w.root()), table);
    fs::write(root.join("f"), "x").unwrap();
    second.umount("c").unwrap();
    second.end();
}

/// A start comes back at once, and what a crash left is deleted behind its back; a clean-up does not leave that half done to harm
/// the next one.
#[test]
fn root_what_a_killed_removal_left_is_deleted_after_a_start() {
    let w = World::new();
    let before = w.process("rust", QUICK);
    fill(&before, "a", None, one("f"));
    before.create_ro("half", Some("a")).unwrap();
    let archive = Tar::new().file("first", "1").file("second", &"2".repeat(12 << 20)).done();
    before.unpack_halfway("half", &archive[..archive.len() - 1024]);
    before.kill();
    for _ in 0..3 {
        let daemon = w.process("rust", QUICK);
        daemon.end();
    }
    let daemon = w.process("rust", QUICK);
    eventually("only the whole layer is there", || names(&w.home()) == ["a", "backingFsBlockDev", "l"]);
    eventually("only its link is there", || names(&w.home().join("l")).len() == 1);
    assert_eq!(shows(&daemon, "a"), ["f"]);
    daemon.end();
}
