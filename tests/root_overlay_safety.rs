//! What must never happen to an overlay2 store: content lost or hidden, whatever is damaged, killed or done at the same time.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // C callbacks

mod common;

use common::overlay::{QUICK, victim};
use common::subject::{C, Rust, Subject};
use common::{Store, Tar, mounts_below, names, run};
use graphdriver::capi;
use nix::errno::Errno;
use std::ffi::{CStr, c_char, c_void};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

struct World {
    subject: Rust,
    store: Store,
}

impl World {
    fn new() -> World {
        let world = World { subject: Rust::default(), store: Store::new() };
        world.subject.init("overlay", &world.store.root(), QUICK).unwrap();
        world
    }

    fn home(&self) -> PathBuf {
        self.store.root().join("overlay")
    }

    fn fill(&self, id: &str, parent: Option<&str>, file: &str) {
        self.subject.create_ro(id, parent).unwrap();
        self.subject.apply(id, &Tar::new().file(file, "x").done()).unwrap();
    }
}

#[test]
fn root_a_parent_is_never_replaced_even_when_its_link_is_lost() {
    let w = World::new();
    w.store.leaves_damage();
    w.fill("a", None, "f");
    w.subject.create_rw("c", Some("a")).unwrap();
    let root = w.subject.mount("c", &[]).unwrap();
    for damage in ["", "garbage/../x"] {
        fs::write(w.home().join("a/link"), damage).unwrap();
        assert_eq!(w.subject.create_ro("a", None).unwrap_err().errno, Errno::EEXIST as i32, "{damage:?}");
    }
    fs::remove_file(w.home().join("a/link")).unwrap();
    assert_eq!(w.subject.create_ro("a", None).unwrap_err().errno, Errno::EEXIST as i32, "no link");
    assert_eq!(names(&root), ["f"]);
    w.subject.umount("c").unwrap();
}

#[test]
fn root_a_home_behind_symlinks_is_bound_once_and_its_mounts_are_respected() {
    let store = Store::new();
    fs::create_dir_all(store.root().join("disk/layers")).unwrap();
    fs::create_dir(store.root().join("lib")).unwrap();
    symlink("../disk/layers", store.root().join("lib/overlay")).unwrap();
    symlink("lib", store.root().join("graph")).unwrap();
    let subject = Rust::default();
    for way in ["graph", "lib", "graph"] {
        subject.init("overlay", &store.root().join(way), QUICK).unwrap();
    }
    assert_eq!(mounts_below(&store.root()).len(), 1, "one bind mount for three starts");
    subject.create_rw("c", None).unwrap();
    let root = subject.mount("c", &[]).unwrap();
    assert_eq!(root, store.root().join("graph/overlay/c/merged"), "the path is the caller's");
    fs::write(root.join("f"), "x").unwrap();
    assert_eq!(subject.cleanup().unwrap_err().errno, Errno::EBUSY as i32);
    assert_eq!(names(&root), ["f"], "the mount of a running container");
    subject.umount("c").unwrap();
    subject.cleanup().unwrap();
    assert_eq!(mounts_below(&store.root()), [""; 0]);
}

#[test]
fn root_a_mount_of_the_administrators_own_stays_at_cleanup() {
    let store = Store::new();
    for dir in ["elsewhere", "overlay"] {
        fs::create_dir(store.root().join(dir)).unwrap();
    }
    run(Command::new("mount").arg("--bind").args([store.root().join("elsewhere"), store.root().join("overlay")]));
    let subject = Rust::default();
    subject.init("overlay", &store.root(), QUICK).unwrap();
    subject.create_ro("a", None).unwrap();
    subject.cleanup().unwrap();
    assert!(store.root().join("overlay/a").is_dir(), "the administrator's mount is gone");
}

#[test]
fn root_a_start_that_fails_leaves_no_mount_and_the_driver_before() {
    let w = World::new();
    w.fill("a", None, "f");
    let other = w.store.root().join("other");
    for bad in ["overlay2.size=1G", "overlay2.nope=1"] {
        assert!(w.subject.init("overlay", &other, &[bad]).is_err());
        assert!(!mounts_below(&w.store.root()).iter().any(|point| point.contains("/other")), "{bad}");
        assert!(w.subject.init("overlay", &w.store.root(), &[bad]).is_err());
        assert!(w.subject.exists("a"), "{bad}: the driver before must stay");
    }
    w.subject.init("overlay", &other, QUICK).unwrap();
    assert_eq!(mounts_below(&w.store.root()), [other.join("overlay").to_str().unwrap()], "the first home is let go of");
    w.subject.cleanup().unwrap();
}

#[test]
fn root_ids_of_255_bytes_are_mounted() {
    let w = World::new();
    let (parent, child) = ("p".repeat(255), "c".repeat(255));
    w.fill(&parent, None, "f");
    w.subject.create_rw(&child, Some(&parent)).unwrap();
    for id in [&parent, &child] {
        assert_eq!(names(&w.subject.mount(id, &[]).unwrap()), ["f"]);
        w.subject.umount(id).unwrap();
        assert_eq!(mounts_below(&w.home()), [""; 0]);
    }
    w.subject.remove(&child).unwrap();
}

#[test]
fn root_a_missing_part_is_told_as_damage() {
    let w = World::new();
    w.fill("a", None, "f");
    w.subject.create_rw("c", Some("a")).unwrap();
    fs::rename(w.home().join("a"), w.home().join(".aside")).unwrap();
    let failure = w.subject.mount("c", &[]).unwrap_err();
    assert!(failure.errno == Errno::EUCLEAN as i32 && failure.text.contains("is missing"), "{failure:?}");
    fs::rename(w.home().join(".aside"), w.home().join("a")).unwrap();
    // What holds nothing of anybody's is simply made again.
    fs::remove_dir(w.home().join("c/merged")).unwrap();
    assert_eq!(names(&w.subject.mount("c", &[]).unwrap()), ["f"]);
    w.subject.umount("c").unwrap();
}

#[test]
fn root_one_damaged_layer_does_not_keep_others_from_being_mended() {
    let w = World::new();
    w.store.leaves_damage();
    w.fill("a", None, "f");
    w.fill("x", None, "g");
    w.fill("y", None, "h");
    w.subject.create_rw("c", Some("a")).unwrap();
    fs::copy(w.home().join("x/link"), w.home().join("y/link")).unwrap();
    let link = fs::read_to_string(w.home().join("a/link")).unwrap();
    fs::remove_file(w.home().join("l").join(link)).unwrap();
    assert_eq!(names(&w.subject.mount("c", &[]).unwrap()), ["f"]);
    w.subject.umount("c").unwrap();
}

#[test]
fn root_a_label_reaches_the_kernel_whatever_its_length() {
    use graphdriver::driver::MountOptions;
    use graphdriver::graph::Graph;
    use graphdriver::id::LayerId;
    let store = Store::new();
    let graph = Graph::new();
    graph.init("overlay", &store.root(), QUICK).unwrap();
    let id = LayerId::parse(b"c").unwrap();
    graph.with(|d| d.create(&id, None, graphdriver::driver::Access::ReadWrite, &mut Default::default())).unwrap();
    for label in ["system_u:object_r:container_file_t:s0:c1,c2".to_owned(), format!("u:r:t:s0:{}", "c1,".repeat(100))] {
        let options = MountOptions { mount_label: Some(label.clone().into()), options: Vec::new() };
        // Without SELinux the kernel does not know the option, and says so; with it, the mount carries the label.
        match graph.with(|d| d.mount(&id, &options)) {
            Ok(_) => graph.with(|d| d.umount(&id)).unwrap(),
            Err(e) => assert!(e.errno() == Errno::EINVAL as i32 && e.to_string().contains("context"), "{e}"),
        }
    }
    graph.cleanup().unwrap();
}

#[test]
fn root_a_propagation_that_is_refused_leaves_no_mount() {
    let w = World::new();
    w.subject.create_rw("c", None).unwrap();
    w.subject.mount("c", &["rshared", "rprivate"]).unwrap();
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!table.lines().any(|line| line.contains("c/merged") && line.contains("shared:")), "the last word wins");
    w.subject.umount("c").unwrap();
}

/// Threads of one test see its mount namespace, since it is theirs by birth.
#[test]
fn root_threads_that_mount_one_layer_make_one_mount() {
    let w = World::new();
    w.fill("a", None, "f");
    w.subject.create_rw("c", Some("a")).unwrap();
    for round in 0..50 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| w.subject.mount("c", &[]).unwrap());
            }
        });
        assert_eq!(mounts_below(&w.home()).len(), 1, "round {round}");
        w.subject.umount("c").unwrap();
        assert_eq!(mounts_below(&w.home()), [""; 0], "round {round}");
    }
}

#[test]
fn root_a_layer_is_not_replaced_or_removed_under_an_unpack() {
    let w = World::new();
    let archive = (0..300).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), "x")).done();
    for round in 0..20 {
        w.subject.create_ro("a", None).unwrap();
        std::thread::scope(|scope| {
            let unpacking = scope.spawn(|| w.subject.apply("a", &archive));
            if round % 2 == 0 {
                scope.spawn(|| w.subject.remove("a").unwrap());
            } else {
                scope.spawn(|| assert_eq!(w.subject.create_ro("a", None).unwrap_err().errno, Errno::EEXIST as i32));
            }
            match unpacking.join().unwrap() {
                Ok(size) => assert_eq!(size, 300),
                // After the removal; never into a layer that is gone.
                Err(failure) => assert!(round % 2 == 0 && failure.errno == Errno::ENOENT as i32, "{failure:?}"),
            }
        });
        if round % 2 == 1 {
            assert_eq!(names(&w.home().join("a/diff")).len(), 300, "the create destroyed nothing");
        }
        w.subject.remove("a").unwrap();
    }
}

unsafe extern "C" fn read_and_call_back(_: *mut c_void, _: *mut c_void, _: usize) -> isize {
    let status = capi::graphdriver_get_status();
    assert!(!status.is_null(), "operations are allowed");
    unsafe { capi::free_graphdriver_status(status) };
    assert_eq!(unsafe { capi::graphdriver_rm_layer(c"a".as_ptr()) }, -1);
    assert_eq!(Errno::last(), Errno::EBUSY, "the layer itself");
    assert_eq!(capi::graphdriver_cleanup(), -1);
    assert_eq!(Errno::last(), Errno::EBUSY);
    Errno::EIO.set();
    -1
}

#[test]
fn root_a_callback_may_call_the_library_and_never_hangs_it() {
    let store = Store::new();
    let c = C::new();
    c.init("overlay", &store.root(), QUICK).unwrap();
    c.create_ro("a", None).unwrap();
    let rc = unsafe {
        capi::graphdriver_unpack_layer(c"a".as_ptr(), std::ptr::null_mut(), Some(read_and_call_back), std::ptr::null_mut())
    };
    assert_eq!((rc, Errno::last()), (-1, Errno::EIO), "a read function that fails ends the unpack");
    c.cleanup().unwrap();
}

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn clean_up_on_warning(level: i32, _: *const c_char, _: *mut c_void) {
    if level == 4 {
        WARNINGS.fetch_add(1, Ordering::Relaxed);
        assert_eq!(capi::graphdriver_cleanup(), -1);
    }
}

#[test]
fn root_cleanup_in_the_log_callback_is_refused_and_does_not_hang() {
    let store = Store::new();
    let c = C::new();
    c.init("overlay", &store.root(), QUICK).unwrap();
    c.create_ro("a", None).unwrap();
    fs::create_dir_all(store.root().join("overlay/half/diff")).unwrap();
    unsafe { capi::graphdriver_set_log_callback(Some(clean_up_on_warning), std::ptr::null_mut()) };
    c.create_ro("half", None).unwrap(); // warns that it replaces what is there
    unsafe { capi::graphdriver_set_log_callback(None, std::ptr::null_mut()) };
    assert!(WARNINGS.load(Ordering::Relaxed) > 0);
    c.cleanup().unwrap();
}

/// Durability is on by default: a create syncs its small files before the rename, home after it, and nothing else; an unpack
/// ends with one syncfs, then the mark goes and that is synced; no file is synced by itself.
#[test]
fn root_what_is_synced_and_when() {
    let store = Store::new();
    let subject = Rust::default();
    subject.init("overlay", &store.root(), &[]).unwrap();
    subject.create_ro("a", None).unwrap();
    subject.cleanup().unwrap();
    let (log, archive) = (store.root().join("trace"), store.root().join("archive"));
    fs::write(&archive, Tar::new().file("f", "x").file("g", "y").done()).unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync,renameat2,fremovexattr,chdir", "-o"]).arg(&log);
    run(command.arg(victim()).arg(store.root()).args(["create_ro b a", &format!("apply b {}", archive.display())]));
    let trace = fs::read_to_string(&log).unwrap();
    let calls = |number: usize| -> Vec<String> {
        let between = trace.split("/mark-").nth(number + 1).unwrap();
        // strace shows what it has no name for whatever it is to show.
        let is_wanted = |line: &&str| !line.contains("chdir(") && !line.contains("syscall_0x");
        let lines = between.lines().skip(1).filter(is_wanted);
        lines
            .map(|line| line.split(' ').find(|word| word.contains('(')).unwrap().split('(').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(calls(0), ["fsync", "fsync", "renameat2", "fsync"], "lower, link, and when it has its name, home");
    assert_eq!(calls(1), ["syncfs", "fremovexattr", "fsync"]);
}

#[test]
fn root_error_texts_are_per_thread() {
    let store = Store::new();
    let c = C::new();
    c.init("overlay", &store.root(), QUICK).unwrap();
    let text = || unsafe { CStr::from_ptr(capi::graphdriver_last_error()) }.to_str().unwrap().to_owned();
    c.mount("nobody", &[]).unwrap_err();
    assert!(text().contains("nobody"));
    assert_eq!(std::thread::spawn(text).join().unwrap(), "");
    c.cleanup().unwrap();
}
