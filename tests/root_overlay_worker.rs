//! What cannot be deleted at once is deleted in the background: no start and no caller waits for it, no obstacle keeps the rest.

mod common;

use common::overlay::{QUICK, fill, one, shows, worker_of};
use common::process::Process;
use common::subject::{Rust, Subject};
use common::{Store, Tar, eventually, names, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

const KINDS: [(&str, &[&str]); 2] =
    [("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"]), ("mkfs.xfs", &["-q", "-f"])];

const TRASH: &str = ".trash-0123456789abcdef0123456789";

/// Runs a case for each filesystem, each in a thread of its own, whose mounts go with it.
fn on_each(case: impl Fn(&Store) + Send + Sync) {
    for (mkfs, args) in KINDS {
        std::thread::scope(|scope| {
            scope.spawn(|| case(&Store::with(mkfs, args, "loop")));
        });
    }
}

fn home(store: &Store) -> PathBuf {
    store.root().join("overlay")
}

fn started(store: &Store, kind: &'static str) -> Process {
    let daemon = Process::start(kind);
    daemon.init("overlay", &store.root(), QUICK).unwrap();
    daemon
}

/// How many threads a process has, those that have not got their name yet among them.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn trash(store: &Store) -> Vec<String> {
    names(&home(store)).into_iter().filter(|name| name.starts_with(".trash-") || name.starts_with(".stage-")).collect()
}

/// A filesystem that takes no writes: whoever writes waits until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(root: PathBuf) -> Frozen {
        run(Command::new("fsfreeze").arg("--freeze").arg(&root));
        Frozen(root)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

/// A layer and what a crash left of the deletion of two others.
fn with_leftovers(store: &Store) -> [PathBuf; 2] {
    let before = started(store, "rust");
    fill(&before, "a", None, one("f"));
    before.end();
    [TRASH, ".stage-fedcba9876543210fedcba9876"].map(|name| {
        let left = home(store).join(name);
        fs::create_dir_all(left.join("diff/d")).unwrap();
        for number in 0..500 {
            fs::write(left.join(format!("diff/d/{number}")), "x").unwrap();
        }
        left
    })
}

// ---- a start waits for no deletion ----

/// While nothing can be deleted, because the filesystem takes no writes, a start returns all the same, and its layers can be used.
#[test]
fn root_a_start_waits_for_no_deletion() {
    on_each(|store| {
        let left = with_leftovers(store);
        for kind in ["C", "rust"] {
            let daemon = Process::start(kind);
            let frozen = Frozen::new(store.root());
            daemon.init("overlay", &store.root(), QUICK).unwrap();
            assert!(left.iter().all(|left| names(&left.join("diff/d")).len() == 500), "they are there: nobody has waited");
            assert!(daemon.exists("a"));
            daemon.metadata("a").unwrap();
            daemon.usage("a").unwrap();
            daemon.status().unwrap();
            assert_eq!(shows(&daemon, "a"), ["f"]);
            eventually("somebody is at it", || worker_of(daemon.pid()).is_some());
            // It dies in the middle of it; the next one goes on.
            let pid = daemon.pid().to_string();
            run(Command::new("kill").args(["-KILL", &pid]));
            drop(frozen);
        }
        let daemon = started(store, "rust");
        eventually("the leftovers are deleted", || trash(store).is_empty());
        assert_eq!(shows(&daemon, "a"), ["f"]);
        daemon.end();
    });
}

/// A layer whose first unpack was cut off is a leftover as well. Its id is free as soon as its name is, and not only when all of
/// its files are gone.
#[test]
fn root_an_id_is_free_while_what_had_it_is_deleted() {
    on_each(|store| {
        let before = started(store, "rust");
        before.create_ro("half", None).unwrap();
        let mut archive = Tar::new();
        for number in 0..400 {
            archive = archive.file(&format!("{number}"), "x");
        }
        let archive = archive.file("last", &"x".repeat(12 << 20)).done();
        before.unpack_halfway("half", &archive[..archive.len() - 1024]);
        before.kill();
        // Every deletion takes so long that hundreds take minutes.
        let slow = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=unlinkat",
            "-e",
            "inject=unlinkat:delay_enter=500000",
        ];
        let daemon = Process::under(&slow, "rust");
        daemon.init("overlay", &store.root(), QUICK).unwrap();
        eventually("it was taken away", || !trash(store).is_empty() || !home(store).join("half").exists());
        daemon.create_ro("half", None).unwrap();
        let deleted = trash(store);
        assert!(deleted.iter().any(|name| names(&home(store).join(name).join("diff")).len() > 100), "{deleted:?}");
        daemon.kill();
        let daemon = started(store, "rust");
        eventually("the leftovers are deleted", || trash(store).is_empty());
        assert_eq!(shows(&daemon, "half"), [""; 0]);
        daemon.end();
    });
}

/// What has a name of the library's own, but is nothing that it would have made, is an obstacle to nobody.
#[test]
fn root_leftovers_that_are_no_directories_go_as_well() {
    on_each(|store| {
        with_leftovers(store);
        let odd = |number: u32| home(store).join(format!(".trash-{number:026}"));
        fs::write(odd(1), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", odd(2)).unwrap();
        std::os::unix::fs::symlink(odd(3), odd(3)).unwrap();
        run(Command::new("mkfifo").arg(odd(4)));
        fs::create_dir(odd(5)).unwrap();
        fs::write(odd(5).join("merged"), "a file in its place").unwrap();
        fs::create_dir(odd(6)).unwrap();
        std::os::unix::fs::symlink("merged", odd(6).join("merged")).unwrap();
        let daemon = started(store, "rust");
        eventually("all of them are deleted", || trash(store).is_empty());
        eventually("and nobody is waiting any more", || worker_of(daemon.pid()).is_none());
        daemon.end();
    });
}

// ---- a deletion goes past obstacles ----

/// The store seen at a second place, where things can be mounted in the middle of a layer that has none at the first.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn of(store: &Store) -> Elsewhere {
        let at = store.root().parent().unwrap().join("elsewhere");
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").arg("--bind").arg(store.root()).arg(&at));
        Elsewhere(at)
    }

    fn mount_on(&self, below: &str) {
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(self.0.join("overlay").join(below)));
    }

    fn umount(&self, below: &Path) {
        run(Command::new("umount").arg(self.0.join("overlay").join(below)));
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-R").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// Everything below a directory.
fn below(dir: &Path) -> Vec<String> {
    let output = Command::new("find").args([".", "-mindepth", "1", "-printf", "%P\\n"]).current_dir(dir).output().unwrap();
    let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn lines() -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&lines);
    graphdriver::log::set_sink(Some(Arc::new(move |_, line: &str| copy.lock().unwrap().push(line.to_owned()))));
    lines
}

#[test]
fn root_a_busy_mount_point_keeps_nothing_else_of_a_layer() {
    on_each(|store| {
        let daemon = Rust::default();
        daemon.init("overlay", &store.root(), QUICK).unwrap();
        daemon.create_rw("c", None).unwrap();
        fill(&daemon, "other", None, one("f"));
        let diff = home(store).join("c/diff");
        for dir in ["a/busy/below", "b/also", "m", "z"] {
            fs::create_dir_all(diff.join(dir)).unwrap();
        }
        for file in ["a/1", "a/busy/2", "m/3", "z/4", "5"] {
            fs::write(diff.join(file), "x").unwrap();
        }
        let elsewhere = Elsewhere::of(store);
        for busy in ["c/diff/a/busy", "c/diff/b/also"] {
            elsewhere.mount_on(busy);
        }
        let told = lines();
        daemon.remove("c").unwrap();
        graphdriver::log::set_sink(None);
        assert!(!daemon.exists("c"));
        let left = trash(store);
        assert_eq!(left.len(), 1, "{left:?}");
        let rest = below(&home(store).join(&left[0]));
        // A directory on which something is mounted elsewhere cannot be deleted, but is emptied.
        assert_eq!(rest, ["diff", "diff/a", "diff/a/busy", "diff/b", "diff/b/also"]);
        let told = told.lock().unwrap();
        let line = told.iter().find(|line| line.contains("not all of its files")).unwrap_or_else(|| panic!("{told:#?}"));
        assert!(line.contains("2 names are left") && line.contains("busy") && line.contains("as soon as"), "{line}");
        // The id is free, and others work.
        daemon.create_rw("c", None).unwrap();
        assert_eq!(shows(&daemon, "other"), ["f"]);
        daemon.remove("c").unwrap();
        assert_eq!(trash(store), left, "nothing but that is left");
        // When one obstacle is gone, and something happens, what it kept goes; then the rest.
        elsewhere.umount(Path::new(&left[0]).join("diff/a/busy").as_path());
        daemon.umount("other").unwrap();
        eventually("what it kept is deleted", || below(&home(store).join(&left[0])) == ["diff", "diff/b", "diff/b/also"]);
        elsewhere.umount(Path::new(&left[0]).join("diff/b/also").as_path());
        daemon.umount("other").unwrap();
        eventually("all of it is deleted", || trash(store).is_empty());
        daemon.cleanup().unwrap();
    });
}

/// Where nobody does anything, the worker comes back by itself.
#[test]
fn root_what_is_left_goes_without_another_operation() {
    on_each(|store| {
        let daemon = started(store, "C");
        daemon.create_rw("c", None).unwrap();
        fs::create_dir(home(store).join("c/diff/busy")).unwrap();
        let elsewhere = Elsewhere::of(store);
        elsewhere.mount_on("c/diff/busy");
        daemon.remove("c").unwrap();
        let left = trash(store);
        elsewhere.umount(Path::new(&left[0]).join("diff/busy").as_path());
        eventually("it is deleted", || trash(store).is_empty());
        eventually("the thread is gone", || worker_of(daemon.pid()).is_none());
        daemon.end();
    });
}

/// Neither a clean-up nor a crash forgets what is left; another daemon's start takes it on.
#[test]
fn root_what_is_left_outlives_the_daemon() {
    on_each(|store| {
        let daemon = started(store, "rust");
        daemon.create_rw("c", None).unwrap();
        fs::create_dir(home(store).join("c/diff/busy")).unwrap();
        let elsewhere = Elsewhere::of(store);
        elsewhere.mount_on("c/diff/busy");
        daemon.remove("c").unwrap();
        let left = trash(store);
        daemon.cleanup().unwrap();
        assert!(worker_of(daemon.pid()).is_none(), "clean-up ends it");
        for _ in 0..2 {
            let next = started(store, "rust");
            assert_eq!(trash(store), left);
            next.kill();
        }
        let next = started(store, "rust");
        elsewhere.umount(Path::new(&left[0]).join("diff/busy").as_path());
        eventually("it is deleted", || trash(store).is_empty());
        next.end();
    });
}

/// A file that the administrator made immutable, or whose directory he did, is unlocked: a container could do that as well.
#[test]
fn root_flags_of_files_are_no_obstacle() {
    on_each(|store| {
        let daemon = started(store, "rust");
        daemon.create_rw("c", None).unwrap();
        let diff = home(store).join("c/diff");
        fs::create_dir(diff.join("d")).unwrap();
        fs::write(diff.join("d/f"), "x").unwrap();
        for (flag, name) in [("+i", "d/f"), ("+a", "d")] {
            run(Command::new("chattr").arg(flag).arg(diff.join(name)));
        }
        daemon.remove("c").unwrap();
        assert_eq!(trash(store), [""; 0]);
        daemon.end();
    });
}

// ---- the thread ----

#[test]
fn root_the_worker_is_there_while_there_is_work_and_takes_no_signals() {
    on_each(|store| {
        for kind in ["rust", "C"] {
            let daemon = Process::start(kind);
            daemon.init("none", &store.root(), &[]).expect_err("it answers, so all its own threads are there");
            let without = threads(daemon.pid());
            daemon.init("overlay", &store.root(), QUICK).unwrap();
            eventually("nothing is to do", || threads(daemon.pid()) == without);
            fill(&daemon, "a", None, one("f"));
            daemon.create_rw("c", Some("a")).unwrap();
            daemon.mount("c", &[]).unwrap();
            daemon.umount("c").unwrap();
            fs::create_dir(home(store).join("c/diff/busy")).unwrap();
            let elsewhere = Elsewhere::of(store);
            elsewhere.mount_on("c/diff/busy");
            assert_eq!(threads(daemon.pid()), without, "none of that needs it");
            daemon.remove("c").unwrap();
            let left = trash(store);
            eventually("the thread has its name", || worker_of(daemon.pid()).is_some());
            let status = worker_of(daemon.pid()).expect("something is left");
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
            // All but SIGKILL and SIGSTOP, and those that libc keeps for its own use.
            let blocked = u64::from_str_radix(blocked, 16).unwrap();
            assert_eq!(blocked | 0x1_8004_0100, u64::MAX, "{status}");
            // Others need nothing of what it holds.
            for round in 0..50 {
                let id = format!("r{round}");
                daemon.create_rw(&id, Some("a")).unwrap();
                daemon.remove(&id).unwrap();
            }
            assert!(worker_of(daemon.pid()).is_some());
            // A driver that takes the place of this one takes its work over.
            daemon.init("overlay", &store.root(), QUICK).unwrap();
            assert_eq!(trash(store), left);
            elsewhere.umount(Path::new(&left[0]).join("diff/busy").as_path());
            eventually("all is deleted", || trash(store).is_empty());
            eventually("there is no thread without work", || worker_of(daemon.pid()).is_none());
            daemon.remove("a").unwrap();
            daemon.end();
        }
    });
}
