//! Mount options with a meaning that outlasts the mount: `volatile`, and `index` while somebody else has an old mount of the layer.

mod common;

use common::overlay::{fill, has_xattr, mounts_of, one, set_xattr};
use common::process::Process;
use common::subject::{Failure, Subject};
use common::{Store, names, run, text};
use nix::errno::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

const KINDS: [(&str, &[&str]); 2] = [("mkfs.ext4", &["-q", "-F"]), ("mkfs.xfs", &["-q", "-f"])];
/// On a layer: the boot in which it was last mounted so.
const BOOT: &str = "trusted.graphdriver.volatile";
const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

/// Runs a case for each filesystem and each way to ask for it, each in a thread of its own, whose mounts go with it.
fn on_each(case: impl Fn(&Store, &str) + Send + Sync) {
    for (mkfs, args) in KINDS {
        for how in ["volatile", "fsync=volatile"] {
            std::thread::scope(|scope| {
                scope.spawn(|| case(&Store::with(mkfs, args, "loop"), how));
            });
        }
    }
}

fn home(store: &Store) -> PathBuf {
    store.root().join("overlay")
}

fn started(store: &Store, options: &[&str]) -> Process {
    let daemon = Process::start("rust");
    daemon.init("overlay", &store.root(), options).unwrap();
    daemon
}

/// An image, and a container of it that was mounted so and written into.
fn with_a_container(store: &Store, how: &str) -> Process {
    let daemon = started(store, &[&format!("overlay2.mountopt={how}")]);
    fill(&daemon, "image", None, one("from_image"));
    daemon.create_rw("c", Some("image")).unwrap();
    write(&daemon, "c", &[], "written");
    daemon
}

fn write(daemon: &Process, id: &str, options: &[&str], file: &str) {
    let root = daemon.mount(id, options).unwrap_or_else(|e| panic!("{id} {options:?}: {e:?}"));
    fs::write(root.join(file), "data").unwrap();
    daemon.umount(id).unwrap();
}

fn is_marked(store: &Store, id: &str) -> bool {
    home(store).join(id).join("work/work/incompat/volatile").exists()
}

/// The machine goes down while the layer has the mark: the daemon with it, and what tells this boot from others.
fn crash_of_the_machine(store: &Store, daemon: Process) {
    assert!(is_marked(store, "c"));
    daemon.kill();
    set_xattr(&home(store).join("c"), BOOT, OTHER_BOOT);
}

fn check_refused(store: &Store, failure: &Failure) {
    assert_eq!(failure.errno, Errno::EUCLEAN as i32, "{failure:?}");
    for word in ["'c'", "volatile", "damaged", "overlay2.volatile=accept", "discard", "remove"] {
        assert!(failure.text.contains(word), "'{word}' is not in {failure:?}");
    }
    assert_eq!(mounts_of(&home(store), "c"), 0);
}

#[test]
fn root_a_volatile_container_is_mounted_again_and_again() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        for round in 0..3 {
            assert!(is_marked(store, "c"), "the kernel refuses it as long as this is there");
            write(&daemon, "c", &[], &format!("again{round}"));
            // Without the option as well, and with it given for the mount alone.
            write(&daemon, "c", &["noatime"], &format!("plain{round}"));
            assert!(!is_marked(store, "c"), "{how}");
            write(&daemon, "c", &[how], &format!("own{round}"));
        }
        // A daemon that dies takes the machine not with it.
        assert!(is_marked(store, "c"));
        daemon.kill();
        let daemon = started(store, &[]);
        let root = daemon.mount("c", &[]).unwrap();
        assert_eq!(names(&root).len(), 2 + 3 * 3, "{how}: nothing is lost");
        daemon.umount("c").unwrap();
        daemon.end();
    });
}

/// What the machine may have lost is not shown as if it were whole, whichever way the layer is asked for.
#[test]
fn root_after_a_crash_of_the_machine_a_volatile_container_is_refused() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        crash_of_the_machine(store, daemon);
        for configured in [&[][..], &["overlay2.volatile=refuse"], &[&format!("overlay2.mountopt={how}")]] {
            let daemon = started(store, configured);
            for options in [&[][..], &["noatime"], &[how]] {
                for _ in 0..2 {
                    check_refused(store, &daemon.mount("c", options).unwrap_err());
                }
            }
            assert!(daemon.exists("c"), "its content may be wanted");
            daemon.metadata("c").unwrap();
            assert!(is_marked(store, "c"));
            // The image was only read.
            assert_eq!(names(&daemon.mount("image", &[]).unwrap()), ["from_image"]);
            daemon.umount("image").unwrap();
            daemon.end();
            assert!(is_marked(store, "c"), "nor does a clean-up forget it");
        }
        let daemon = started(store, &[]);
        daemon.remove("c").unwrap();
        daemon.create_rw("c", Some("image")).unwrap();
        write(&daemon, "c", &[how], "f");
        daemon.end();
    });
}

/// A crash can also cost the note of the boot, which is forced to disk no more than anything else.
#[test]
fn root_a_mark_without_a_note_counts_as_a_crash() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        daemon.kill();
        run(Command::new("setfattr").args(["-x", BOOT]).arg(home(store).join("c")));
        let daemon = started(store, &[]);
        check_refused(store, &daemon.mount("c", &[]).unwrap_err());
        daemon.end();
        store.leaves_damage();
    });
}

#[test]
fn root_whoever_configures_the_driver_decides_after_a_crash() {
    for (choice, shown) in [("accept", &["from_image", "written"][..]), ("discard", &["from_image"])] {
        on_each(|store, how| {
            let daemon = with_a_container(store, how);
            crash_of_the_machine(store, daemon);
            let option = format!("overlay2.volatile={choice}");
            let daemon = started(store, &[&option]);
            let root = daemon.mount("c", &[]).unwrap_or_else(|e| panic!("{choice} {how}: {e:?}"));
            assert_eq!(names(&root), shown, "{choice} {how}");
            daemon.umount("c").unwrap();
            // Once: what is written from now on is as safe as anything.
            write(&daemon, "c", &[], "later");
            daemon.end();
            let daemon = started(store, &[]);
            assert!(names(&daemon.mount("c", &[]).unwrap()).contains(&"later".to_owned()), "{choice} {how}");
            daemon.umount("c").unwrap();
            daemon.end();
        });
    }
}

/// What a mount would refuse becomes no image either, and nothing is added to it.
#[test]
fn root_a_doubtful_container_is_neither_exported_nor_unpacked_into() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        crash_of_the_machine(store, daemon);
        for (choice, is_refused) in [("refuse", true), ("discard", true), ("accept", false)] {
            let daemon = started(store, &[&format!("overlay2.volatile={choice}")]);
            let outcomes = [daemon.diff("c", None).map(drop), daemon.apply("c", &one("more").done()).map(drop)];
            for outcome in outcomes {
                match outcome {
                    Err(failure) if is_refused => check_refused(store, &failure),
                    outcome => assert_eq!((outcome.is_ok(), is_refused), (true, false), "{choice} {outcome:?}"),
                }
            }
            daemon.end();
        }
        store.leaves_damage();
    });
}

/// A mount that is there goes on as it was: its mark stays, whatever options it is given.
#[test]
fn root_a_volatile_mount_that_changes_its_options_keeps_its_mark() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        daemon.mount("c", &[]).unwrap();
        daemon.mount("c", &["remount", "noatime"]).unwrap();
        assert!(is_marked(store, "c"), "{how}");
        // The C module leaves no note: what is mounted is sound all the same.
        run(Command::new("setfattr").args(["-x", BOOT]).arg(home(store).join("c")));
        daemon.diff("c", None).unwrap();
        set_xattr(&home(store).join("c"), BOOT, text(Path::new("/proc/sys/kernel/random/boot_id")).trim());
        daemon.umount("c").unwrap();
        daemon.end();
    });
}

#[test]
fn root_a_discarded_layer_is_empty_and_keeps_its_parents() {
    on_each(|store, how| {
        let daemon = started(store, &[&format!("overlay2.mountopt={how}")]);
        fill(&daemon, "image", None, one("from_image"));
        daemon.create_rw("c", Some("image")).unwrap();
        let root = daemon.mount("c", &[]).unwrap();
        fs::remove_file(root.join("from_image")).unwrap();
        fs::create_dir_all(root.join("deep/er")).unwrap();
        daemon.umount("c").unwrap();
        crash_of_the_machine(store, daemon);
        let daemon = started(store, &["overlay2.volatile=discard"]);
        assert_eq!(names(&daemon.mount("c", &[]).unwrap()), ["from_image"], "{how}");
        daemon.umount("c").unwrap();
        daemon.end();
    });
}

/// An orderly end forces to disk what the kernel did not, and the marks go: the next boot finds nothing wrong.
#[test]
fn root_an_orderly_end_makes_volatile_containers_safe() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        daemon.create_rw("running", Some("image")).unwrap();
        let root = daemon.mount("running", &[how]).unwrap();
        assert!(daemon.cleanup().is_err(), "a container is running");
        assert!(!is_marked(store, "c") && !has_xattr(&home(store).join("c"), BOOT), "{how}");
        assert!(is_marked(store, "running") && has_xattr(&home(store), BOOT), "this one can still lose something");
        fs::write(root.join("f"), "x").unwrap();
        daemon.umount("running").unwrap();
        daemon.end();
        assert!(!is_marked(store, "running") && !has_xattr(&home(store), BOOT), "{how}");
        let daemon = started(store, &[]);
        for (id, file) in [("c", "written"), ("running", "f")] {
            let shown = names(&daemon.mount(id, &[]).unwrap());
            assert!(shown.len() == 2 && shown.contains(&file.to_owned()), "{how}: {id}: {shown:?}");
            daemon.umount(id).unwrap();
        }
        daemon.end();
    });
}

/// A layer that is only read has nothing that can be lost.
#[test]
fn root_an_image_is_never_volatile() {
    on_each(|store, how| {
        let daemon = with_a_container(store, how);
        for _ in 0..2 {
            daemon.mount("image", &[]).unwrap();
            daemon.umount("image").unwrap();
            daemon.mount("image", &[how]).unwrap();
            daemon.umount("image").unwrap();
        }
        assert!(!is_marked(store, "image") && !has_xattr(&home(store).join("image"), BOOT), "{how}");
        daemon.end();
    });
}

// ---- an old mount that another namespace holds ----

/// A process that keeps copies of all mounts, as a container that was started meanwhile may.
struct Holder(Child);

impl Holder {
    fn new(mounted: &Path) -> Holder {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let holder = Holder(child);
        assert!(holder.has(mounted));
        holder
    }

    fn has(&self, mounted: &Path) -> bool {
        let table = text(Path::new(&format!("/proc/{}/mountinfo", self.0.id())));
        table.lines().any(|line| line.split(' ').nth(4) == mounted.to_str())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_an_old_mount_in_another_namespace_keeps_no_layer_from_being_mounted() {
    on_each(|store, _| {
        let daemon = with_a_container(store, "noatime");
        let root = daemon.mount("c", &[]).unwrap();
        let holder = Holder::new(&root);
        daemon.umount("c").unwrap();
        assert!(holder.has(&root), "it is mounted there");
        // As it is on kernels that are built so.
        let failure = daemon.mount("c", &["index=on"]).unwrap_err();
        assert_eq!(failure.errno, Errno::EBUSY as i32, "{failure:?}");
        write(&daemon, "c", &[], "again");
        // A container upon it, and one upon an image that is mounted.
        daemon.mount("image", &[]).unwrap();
        daemon.create_rw("other", Some("image")).unwrap();
        write(&daemon, "other", &[], "f");
        daemon.umount("image").unwrap();
        daemon.remove("c").unwrap();
        assert!(!home(store).join("c").exists());
        drop(holder);
        daemon.end();
    });
}
