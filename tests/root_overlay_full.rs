//! A store on a disk that is full or that can only be read: nothing has to be written to start or to delete, which is the way out;
//! and what cannot be done says what there is none of.

mod common;

use common::overlay::{everything, fill, mounts_of, one, shows, worker_of};
use common::process::Process;
use common::subject::Subject;
use common::{Store, Tar, eventually, mounts_below, names, run};
use nix::errno::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

/// A filesystem that has few inodes, but more than the tests need.
const KINDS: [(&str, &[&str]); 2] =
    [("mkfs.ext4", &["-q", "-F", "-N", "512"]), ("mkfs.xfs", &["-q", "-f", "-i", "maxpct=1"])];

/// What there is none of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lack {
    Space,
    Inodes,
}

/// The calls of the mount interface before Linux 5.2 only.
const NEW_MOUNTS: &[libc::c_long] = &[libc::SYS_fsopen];

/// Runs a case for each filesystem, each in a thread of its own, whose mounts go with it; and with a kernel that seems old.
fn on_each(case: impl Fn(&Store, &str) + Send + Sync) {
    for (mkfs, args) in KINDS {
        for hidden in [&[][..], NEW_MOUNTS] {
            let what = format!("{mkfs}, {} system calls hidden", hidden.len());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let store = Store::with(mkfs, args, "loop");
                    if !hidden.is_empty() {
                        common::old_kernel::without(hidden);
                    }
                    case(&store, &what);
                });
            });
        }
    }
}

/// Takes all that is left, down to where not even a name can be made.
fn exhaust(root: &Path, lack: Lack) {
    let filler = root.join("filler");
    fs::create_dir_all(&filler).unwrap();
    if lack == Lack::Space {
        let mut size: u64 = 256 << 20;
        for number in 0.. {
            let file = fs::File::create(filler.join(format!("big{number}")));
            let Ok(file) = file else { break };
            while size >= 1024
                && nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, size.cast_signed()).is_err()
            {
                size /= 2;
            }
            if size < 1024 {
                break;
            }
        }
    }
    for number in 0.. {
        let made = match lack {
            Lack::Space => fs::create_dir(filler.join(format!("dir{number}"))),
            Lack::Inodes => fs::File::create(filler.join(format!("file{number}"))).map(drop),
        };
        if let Err(e) = made {
            assert_eq!(e.raw_os_error(), Some(Errno::ENOSPC as i32), "{e}");
            break;
        }
    }
    run(Command::new("sync").arg("-f").arg(root));
}

fn home(store: &Store) -> PathBuf {
    store.root().join("overlay")
}

fn started(store: &Store, kind: &'static str) -> Process {
    let daemon = Process::start(kind);
    daemon.init("overlay", &store.root(), &[]).unwrap();
    daemon
}

const LAYERS: [&str; 5] = ["big", "image", "new", "os", "ran"];

/// An image of two layers, a container that has run, one that never has, and one whose files are big and many.
fn furnish(store: &Store) {
    let before = started(store, "rust");
    fill(&before, "os", None, one("from_os"));
    fill(&before, "image", Some("os"), one("from_image"));
    for id in ["ran", "big", "new"] {
        before.create_rw(id, Some("image")).unwrap();
    }
    fs::write(before.mount("ran", &[]).unwrap().join("precious"), "data").unwrap();
    before.umount("ran").unwrap();
    let mut archive = Tar::new().file("big", &"x".repeat(8 << 20));
    for number in 0..100 {
        archive = archive.file(&format!("{number}"), "x");
    }
    before.apply("big", &archive.done()).unwrap();
    before.end();
}

fn layers(store: &Store) -> Vec<String> {
    names(&home(store)).into_iter().filter(|name| !["backingFsBlockDev", "l"].contains(&name.as_str())).collect()
}

/// What a start must not change, and must find.
fn check_listed(daemon: &Process, store: &Store, what: &str) {
    assert_eq!(layers(store), LAYERS, "{what}");
    for id in LAYERS {
        assert!(daemon.exists(id), "{what}: {id}");
        daemon.metadata(id).unwrap_or_else(|e| panic!("{what}: metadata of {id}: {e:?}"));
        daemon.usage(id).unwrap_or_else(|e| panic!("{what}: usage of {id}: {e:?}"));
    }
    assert_eq!(shows(daemon, "image"), ["from_image", "from_os"], "{what}");
    let (driver, _, text) = daemon.status().unwrap();
    assert!(driver == "overlay" && text.starts_with("Backing Filesystem: "), "{what}: {text}");
}

/// The error of what has no room says which, and what to do.
fn check_told(failure: &common::subject::Failure, lack: Lack, what: &str) {
    assert_eq!(failure.errno, Errno::ENOSPC as i32, "{what}: {failure:?}");
    let (right, wrong) = match lack {
        Lack::Space => ("no free space", "no free inodes"),
        Lack::Inodes => ("no free inodes", "no free space"),
    };
    assert!(failure.text.contains(right) && !failure.text.contains(wrong), "{what}: {failure:?}");
    assert!(failure.text.contains("remove layers"), "{what}: what is to be done? {failure:?}");
}

/// A container daemon on a disk at 100 % restarts, lists its layers, deletes one, goes on.
fn a_daemon_on_a_full_disk(lack: Lack) {
    on_each(|store, what| {
        let what = &format!("{what}, no {lack:?}");
        furnish(store);
        exhaust(&store.root(), lack);
        let before = everything(&home(store));
        for kind in ["C", "rust"] {
            let daemon = started(store, kind);
            check_listed(&daemon, store, what);
            check_told(&daemon.create_rw("another", Some("image")).unwrap_err(), lack, what);
            daemon.end();
            assert_eq!(everything(&home(store)), before, "{what}: a start and a failed create change nothing");
        }
        let daemon = started(store, "rust");
        daemon.remove("big").unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!(layers(store), ["image", "new", "os", "ran"], "{what}: nothing of it is left");
        // XFS gives the inodes of deleted files back a moment later.
        eventually("there is room again", || match daemon.create_rw("another", Some("image")) {
            Err(e) if e.errno == Errno::ENOSPC as i32 => false,
            made => made.is_ok() || panic!("{what}: with room again: {made:?}"),
        });
        for id in ["another", "new", "ran"] {
            let root = daemon.mount(id, &[]).unwrap_or_else(|e| panic!("{what}: {id} with room again: {e:?}"));
            fs::write(root.join("written"), "x").unwrap_or_else(|e| panic!("{what}: {id}: {e}"));
            daemon.umount(id).unwrap();
        }
        daemon.end();
    });
}

#[test]
fn root_a_daemon_on_a_disk_without_space_goes_on_by_deleting() {
    a_daemon_on_a_full_disk(Lack::Space);
}

#[test]
fn root_a_daemon_on_a_disk_without_inodes_goes_on_by_deleting() {
    a_daemon_on_a_full_disk(Lack::Inodes);
}

/// The kernel mounts read-only, and says so only in its own log, where it cannot make its work directory: that is no mount.
#[test]
fn root_a_mount_that_became_read_only_is_undone_and_told() {
    for lack in [Lack::Space, Lack::Inodes] {
        on_each(|store, what| {
            let what = &format!("{what}, no {lack:?}");
            furnish(store);
            exhaust(&store.root(), lack);
            let daemon = started(store, "rust");
            for _ in 0..3 {
                check_told(&daemon.mount("new", &[]).unwrap_err(), lack, what);
                assert_eq!(mounts_of(&home(store), "new"), 0, "{what}");
            }
            // Who asks for it gets it.
            let root = daemon.mount("new", &["ro"]).unwrap_or_else(|e| panic!("{what}: {e:?}"));
            assert_eq!(names(&root), ["from_image", "from_os"], "{what}");
            assert_eq!(fs::write(root.join("f"), "x").unwrap_err().raw_os_error(), Some(Errno::EROFS as i32), "{what}");
            daemon.umount("new").unwrap();
            // Somebody else makes room.
            fs::remove_dir_all(store.root().join("filler")).unwrap();
            let root = daemon.mount("new", &[]).unwrap_or_else(|e| panic!("{what}: with room again: {e:?}"));
            fs::write(root.join("written"), "x").unwrap_or_else(|e| panic!("{what}: {e}"));
            daemon.umount("new").unwrap();
            daemon.end();
        });
    }
}

/// What a crash left on the full disk is deleted as well, and that alone may make room.
#[test]
fn root_what_a_crash_left_on_a_full_disk_is_deleted_after_a_start() {
    on_each(|store, what| {
        furnish(store);
        fs::rename(home(store).join("big"), home(store).join(".trash-0123456789abcdef0123456789")).unwrap();
        exhaust(&store.root(), Lack::Space);
        let daemon = started(store, "C");
        eventually("the leftover is deleted", || layers(store) == ["image", "new", "os", "ran"]);
        eventually("its link is removed", || names(&home(store).join("l")).len() == 4);
        assert_eq!(shows(&daemon, "new"), ["from_image", "from_os"], "{what}");
        daemon.end();
    });
}

/// A home without a layer, or one that has lost its `l`, on a full disk: what needs room is made when there is some.
#[test]
fn root_a_first_start_on_a_full_disk_waits_for_room() {
    on_each(|store, what| {
        fs::create_dir(home(store)).unwrap();
        exhaust(&store.root(), Lack::Space);
        let daemon = started(store, "rust");
        assert!(!daemon.exists("a"), "{what}");
        check_told(&daemon.create_ro("a", None).unwrap_err(), Lack::Space, what);
        eventually("nothing is left to delete where nothing is", || worker_of(daemon.pid()).is_none());
        fs::remove_dir_all(store.root().join("filler")).unwrap();
        fill(&daemon, "a", None, one("f"));
        assert_eq!(shows(&daemon, "a"), ["f"], "{what}");
        daemon.end();
    });
}

/// A layer that has no room any more: what is unpacked into it says so.
#[test]
fn root_an_unpack_without_room_says_what_is_missing() {
    for lack in [Lack::Space, Lack::Inodes] {
        on_each(|store, what| {
            furnish(store);
            exhaust(&store.root(), lack);
            let daemon = started(store, "rust");
            let archive = Tar::new().dir("d").file("d/f", &"x".repeat(64 << 10)).done();
            check_told(&daemon.apply("new", &archive).unwrap_err(), lack, &format!("{what}, no {lack:?}"));
            daemon.remove("new").unwrap();
            daemon.end();
        });
    }
}

// ---- a filesystem that can only be read ----

fn remount(store: &Store, how: &str) {
    run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(store.root()));
}

fn erofs(outcome: common::subject::Outcome<()>, what: &str) {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.errno, Errno::EROFS as i32, "{what}: {failure:?}");
}

#[test]
fn root_a_store_that_can_only_be_read_is_listed_and_mounted() {
    on_each(|store, what| {
        furnish(store);
        // As other tools may leave them: what would be put right if it could be written.
        run(Command::new("chmod").arg("755").arg(home(store).join("l")));
        run(Command::new("chmod").arg("2700").arg(home(store)));
        run(Command::new("setfattr").args(["-x", "trusted.graphdriver.home"]).arg(home(store)));
        let trash = home(store).join(".trash-0123456789abcdef0123456789");
        fs::create_dir_all(trash.join("diff/d")).unwrap();
        remount(store, "ro");
        for kind in ["C", "rust"] {
            let daemon = started(store, kind);
            let status = daemon.status().unwrap().2;
            assert!(status.lines().any(|line| line == "Read-only: true"), "{what}: {status}");
            for id in LAYERS {
                assert!(daemon.exists(id), "{what}: {id}");
                daemon.metadata(id).unwrap();
                daemon.usage(id).unwrap();
            }
            assert_eq!(shows(&daemon, "image"), ["from_image", "from_os"], "{what}");
            assert_eq!(names(&daemon.mount("ran", &["ro"]).unwrap()), ["from_image", "from_os", "precious"], "{what}");
            daemon.umount("ran").unwrap();
            let failure = daemon.mount("ran", &[]).unwrap_err();
            assert!(failure.errno == Errno::EROFS as i32 && failure.text.contains("'ro'"), "{what}: {failure:?}");
            assert_eq!(mounts_of(&home(store), "ran"), 0, "{what}");
            erofs(daemon.create_ro("another", None), what);
            erofs(daemon.remove("big"), what);
            assert!(daemon.exists("big") && trash.exists(), "{what}");
            daemon.end();
        }
        remount(store, "rw");
        let daemon = started(store, "rust");
        let status = daemon.status().unwrap().2;
        assert!(!status.contains("Read-only"), "{what}: {status}");
        eventually("what could not be deleted goes", || !trash.exists());
        daemon.remove("big").unwrap();
        daemon.create_rw("another", Some("image")).unwrap();
        assert_eq!(shows(&daemon, "ran"), ["from_image", "from_os", "precious"], "{what}");
        daemon.end();
    });
}

/// A filesystem that becomes read-only while the daemon runs, as ext4 does after an error.
#[test]
fn root_a_store_that_becomes_read_only_is_told_where_it_matters() {
    on_each(|store, what| {
        furnish(store);
        let daemon = started(store, "rust");
        remount(store, "ro");
        let status = daemon.status().unwrap().2;
        assert!(status.lines().any(|line| line == "Read-only: true"), "{what}: {status}");
        erofs(daemon.mount("ran", &[]).map(drop), what);
        erofs(daemon.remove("big"), what);
        assert_eq!(shows(&daemon, "image"), ["from_image", "from_os"], "{what}");
        remount(store, "rw");
        assert!(!daemon.status().unwrap().2.contains("Read-only"), "{what}");
        daemon.remove("big").unwrap();
        assert_eq!(shows(&daemon, "ran"), ["from_image", "from_os", "precious"], "{what}");
        daemon.end();
    });
}

// ---- the mount table ----

/// Fills the calling thread's own mount table to the kernel's limit, by copies of copies.
fn exhaust_mount_table(at: &Path) {
    let nothing = None::<&str>;
    nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    fs::create_dir(at.join("0")).unwrap();
    nix::mount::mount(Some("tmpfs"), &at.join("0"), Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    let copy = |from: &Path, to: &Path| {
        fs::create_dir(to).unwrap();
        let flags = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
        nix::mount::mount(Some(from), to, nothing, flags, nothing)
    };
    // Each holds all those before it, and one more for itself; the smaller ones fill what is left.
    let mut sources = vec![at.join("0")];
    for number in 1.. {
        let next = at.join("0").join(number.to_string());
        if copy(&at.join("0"), &next).is_err() {
            break;
        }
        sources.push(next);
    }
    for (number, source) in sources.iter().rev().enumerate() {
        for again in 0.. {
            if copy(source, &at.join(format!("rest-{number}-{again}"))).is_err() {
                break;
            }
        }
    }
}

#[test]
fn root_a_full_mount_table_is_not_called_a_full_disk() {
    on_each(|store, what| {
        furnish(store);
        let table = store.root().join("table");
        let other = store.root().join("other");
        for dir in [&table, &other] {
            fs::create_dir(dir).unwrap();
        }
        let daemon = started(store, "rust");
        exhaust_mount_table(&table);
        let told = |failure: common::subject::Failure| {
            assert_eq!(failure.errno, Errno::ENOSPC as i32, "{what}: {failure:?}");
            assert!(failure.text.contains("the mount table is full"), "{what}: {failure:?}");
            assert!(failure.text.contains("fs.mount-max"), "{what}: what is to be done? {failure:?}");
            assert!(!failure.text.contains("no free"), "{what}: {failure:?}");
        };
        for id in ["new", "image"] {
            told(daemon.mount(id, &[]).unwrap_err());
        }
        // A start makes home a mount of its own.
        told(Process::start("rust").init("overlay", &other, &[]).unwrap_err());
        // All that needs no mount goes on.
        fill(&daemon, "another", Some("image"), one("f"));
        daemon.remove("big").unwrap();
        let unbound = Process::start("C");
        unbound.init("overlay", &other, &["overlay2.skip_mount_home=true"]).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        unbound.end();
        nix::mount::umount2(&table, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(shows(&daemon, "new"), ["from_image", "from_os"], "{what}");
        daemon.end();
        assert_eq!(mounts_below(&store.root()), [""; 0], "{what}");
    });
}
