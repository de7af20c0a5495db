//! What is whole is never destroyed, hidden or given up: layers that a create, an unpack, a repair or a failure could cost.

mod archive_support;
mod common;

use archive_support::Item;
use common::descriptors::with_room_for;
use common::overlay::{World, everything, has_xattr, link, links_to, one, set_xattr};
use common::scenarios::{Breaking, stillborn};
use common::subject::{Outcome, Rust, Subject};
use common::{Store, Tar, eventually, mounts_below, names, run, text};
use nix::errno::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

fn errno<T: std::fmt::Debug>(outcome: Outcome<T>) -> Errno {
    Errno::from_raw(outcome.unwrap_err().errno)
}

// ---- 1: a create deletes nothing that is somebody's ----

/// What has not the form of a layer is not the library's, whatever its name is.
#[test]
fn root_what_is_no_layer_is_never_touched() {
    let w = World::new();
    w.fill("a", None, one("f"));
    let (home, outside) = (w.home(), w.store.root().join("outside"));
    fs::create_dir_all(home.join("backup/etc")).unwrap();
    fs::write(home.join("backup/etc/passwd"), "root").unwrap();
    fs::write(home.join("foo"), "x").unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    symlink(&outside, home.join("elsewhere")).unwrap();
    symlink("foo", home.join("to-a-file")).unwrap();
    symlink("loop", home.join("loop")).unwrap();
    let _socket = UnixListener::bind(home.join("socket")).unwrap();
    run(Command::new("mkfifo").arg(home.join("fifo")));
    run(Command::new("mknod").arg(home.join("device")).args(["c", "1", "3"]));
    let before = (everything(&home), everything(&outside));
    let foreign = ["backup", "foo", "elsewhere", "to-a-file", "loop", "socket", "fifo", "device"];
    for id in foreign {
        for outcome in [w.subject.create_ro(id, None), w.subject.create_rw(id, Some("a"))] {
            let failure = outcome.expect_err(id);
            assert_eq!(failure.errno, Errno::EEXIST as i32, "{id}: {failure:?}");
        }
        assert!(!w.subject.exists(id), "{id}");
        // As a daemon cleans up after what is not there.
        let _ = w.subject.umount(id);
        let _ = w.subject.remove(id);
        assert!(w.subject.mount(id, &[]).is_err(), "{id}");
        assert!(w.subject.apply(id, &one("evil").done()).is_err(), "{id}");
        let _ = w.subject.repair(id, None);
        let _ = w.subject.repair(id, Some("a"));
        assert!(w.subject.create_rw("child", Some(id)).is_err(), "{id}");
    }
    assert_eq!((everything(&home), everything(&outside)), before);
    assert_eq!(w.shows("a"), ["f"]);
    w.start();
    assert_eq!((everything(&home), everything(&outside)), before, "a start");
}

/// A name that leads nowhere is what a remote store leaves of a layer that it has no more, or is the administrator's.
#[test]
fn root_a_dangling_symlink_is_not_the_librarys_to_take() {
    let w = World::new();
    symlink("/nowhere/RO/gone", w.home().join("gone")).unwrap();
    assert_eq!(errno(w.subject.create_ro("gone", None)), Errno::EEXIST);
    assert_eq!(fs::read_link(w.home().join("gone")).unwrap(), Path::new("/nowhere/RO/gone"));
}

/// What the create of one daemon thread finds was unpacked by another one meanwhile.
#[test]
fn root_a_create_that_waited_for_an_unpack_deletes_nothing() {
    let w = World::new();
    let archive = (0..200).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), "x")).done();
    for round in 0..10 {
        let id = format!("image{round}");
        w.subject.create_ro(&id, None).unwrap();
        std::thread::scope(|scope| {
            let unpacking = scope.spawn(|| w.subject.apply(&id, &archive));
            let creating = scope.spawn(|| if w.subject.exists(&id) { Ok(()) } else { w.subject.create_ro(&id, None) });
            assert_eq!(unpacking.join().unwrap().unwrap(), 200);
            if let Err(failure) = creating.join().unwrap() {
                assert!([Errno::EEXIST as i32, Errno::EBUSY as i32].contains(&failure.errno), "{failure:?}");
            } else {
                assert!(w.subject.exists(&id));
            }
        });
        w.subject.create_rw("container", Some(&id)).unwrap();
        assert_eq!(w.shows("container").len(), 200, "round {round}");
        w.subject.remove("container").unwrap();
    }
}

#[test]
fn root_leftovers_are_replaced_and_the_rest_is_not() {
    let w = World::after(|before| {
        before.fill("untold", None, one("old"));
        before.fill("parent", None, one("old"));
        before.process.create_ro("child", Some("parent")).unwrap();
        before.process.create_rw("container", None).unwrap();
        before.fill("mounted", None, one("old"));
        before.process.mount("mounted", &[]).unwrap();
        before.fill("unfinished", None, one("old"));
        before.fill("gutted", None, one("old"));
        before.process.kill();
    });
    set_xattr(&w.layer("unfinished"), common::overlay::UNFINISHED, "first");
    fs::remove_dir_all(w.layer("gutted/diff")).unwrap();
    for id in ["parent", "container", "mounted"] {
        assert_eq!(errno(w.subject.create_ro(id, None)), Errno::EEXIST, "{id}");
    }
    for id in ["untold", "unfinished", "gutted"] {
        w.subject.create_ro(id, None).unwrap();
        w.subject.apply(id, &one("new").done()).unwrap();
        assert_eq!(w.shows(id), ["new"]);
        assert_eq!(links_to(&w.home(), id).len(), 1, "{id}");
    }
    eventually("what was replaced is deleted", || names(&w.home()).iter().all(|name| !name.starts_with('.')));
    w.subject.umount("mounted").unwrap();
    assert_eq!(names(&w.layer("mounted/diff")), ["old"]);
}

/// A container's layer with a part missing is damaged, and its content is still somebody's.
#[test]
fn root_a_damaged_container_is_not_made_anew() {
    let w = World::after(|before| {
        before.fill("a", None, one("f"));
        for id in ["lower", "link", "work", "merged"] {
            before.process.create_rw(id, Some("a")).unwrap();
            fs::write(before.home.join(id).join("diff/precious"), "data").unwrap();
        }
    });
    w.store.leaves_damage();
    for part in ["lower", "link", "work", "merged"] {
        let path = w.layer(part).join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        assert_eq!(errno(w.subject.create_rw(part, Some("a"))), Errno::EEXIST, "{part}");
        assert_eq!(errno(w.subject.create_ro(part, None)), Errno::EEXIST, "{part}");
        assert_eq!(text(&w.layer(part).join("diff/precious")), "data");
    }
}

/// A note of who may write into a layer that says neither is no proof that nobody did.
#[test]
fn root_a_container_whose_note_is_damaged_is_not_made_anew() {
    for note in ["maybe", "neither of those"] {
        let w = World::after(|before| {
            before.process.create_rw("c", None).unwrap();
            fs::write(before.process.mount("c", &[]).unwrap().join("precious"), "data").unwrap();
            before.process.umount("c").unwrap();
        });
        w.store.leaves_damage();
        set_xattr(&w.layer("c"), "trusted.graphdriver.access", note);
        assert_eq!(errno(w.subject.create_ro("c", None)), Errno::EEXIST, "{note}");
        assert_eq!(common::overlay::shows(&w.subject, "c"), ["precious"], "{note}");
    }
}

/// Whatever keeps the new layer from being made, what had its id before is as it was.
#[test]
fn root_a_create_that_fails_leaves_the_leftover_as_it_was() {
    let w = World::after(|before| before.fill("old", None, one("f")));
    let before = everything(&w.layer("old"));
    let links = w.home().join("l");
    // A new layer keeps the link of the old one: only where that is lost does it need another.
    let own_link = links.join(link(&w.home(), "old"));
    let text = fs::read_link(&own_link).unwrap();
    for (target, is_lost) in [(w.home(), false), (links.clone(), true)] {
        if is_lost {
            fs::remove_file(&own_link).unwrap();
        }
        run(Command::new("chattr").arg("+i").arg(&target));
        let outcome = w.subject.create_ro("old", None);
        run(Command::new("chattr").arg("-i").arg(&target));
        outcome.unwrap_err();
        assert_eq!(everything(&w.layer("old")), before, "{}", target.display());
    }
    symlink(&text, &own_link).unwrap();
    assert_eq!(errno(w.subject.create_ro("old", Some("nobody"))), Errno::ENOENT);
    assert_eq!(everything(&w.layer("old")), before);
    assert!(w.subject.create("old", None, graphdriver::driver::Access::ReadOnly, &[("size", "1G")]).is_err());
    assert_eq!(everything(&w.layer("old")), before);
    assert_eq!(names(&w.home()), ["backingFsBlockDev", "l", "old"], "nothing half made");
    assert_eq!(names(&links).len(), 1);
    assert_eq!(w.shows("old"), ["f"]);
}

#[test]
fn root_a_create_without_room_leaves_the_leftover_as_it_was() {
    let store = Store::new();
    let root = store.root().join("small");
    fs::create_dir(&root).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&root));
    let other = common::process::Process::start("rust");
    other.init("overlay", &root, &[]).unwrap();
    common::overlay::fill(&other, "old", None, one("f"));
    other.end();
    let subject = Rust::default();
    subject.init("overlay", &root, &[]).unwrap();
    let before = everything(&root.join("overlay/old"));
    let used = nix::sys::statvfs::statvfs(&root).unwrap();
    let used = used.files() - used.files_free();
    // From no inode at all to one less than a layer takes; its link is there.
    for free in 0..6 {
        run(Command::new("mount").args(["-o", &format!("remount,nr_inodes={}", used + free)]).arg(&root));
        let outcome = subject.create_ro("old", None);
        run(Command::new("mount").args(["-o", "remount,nr_inodes=10000"]).arg(&root));
        assert_eq!(errno(outcome), Errno::ENOSPC, "{free} inodes");
        assert_eq!(everything(&root.join("overlay/old")), before, "{free} inodes");
        assert!(names(&root.join("overlay")).iter().all(|name| !name.starts_with('.')), "{free} inodes");
    }
    subject.create_ro("old", None).unwrap();
    assert_eq!(common::overlay::shows(&subject, "old"), [""; 0]);
    subject.cleanup().unwrap();
}

// ---- 2: a layer is never its own ancestor ----

#[test]
fn root_no_layer_becomes_its_own_ancestor() {
    let w = World::new();
    w.fill("a", None, one("f"));
    w.fill("b", Some("a"), one("g"));
    let before = everything(&w.layer("a"));
    assert_eq!(errno(w.subject.create_ro("a", Some("a"))), Errno::EINVAL);
    assert_eq!(everything(&w.layer("a")), before);
    // Repair is asked for it as well: by itself, and around a corner.
    fs::write(w.layer("a/lower"), "").unwrap();
    for parent in ["a", "b"] {
        assert!(w.subject.repair("a", Some(parent)).is_err(), "{parent}");
        let lower = fs::read_to_string(w.layer("a/lower")).unwrap_or_default();
        assert!(!lower.contains(&link(&w.home(), "a")), "{lower}");
    }
    assert_eq!(errno(w.subject.repair("a", Some("a"))), Errno::EINVAL);
    w.subject.repair("a", None).unwrap();
    assert_eq!(w.shows("a"), ["f"]);
    assert_eq!(w.shows("b"), ["f", "g"]);
}

// ---- 6: an unpack that changed nothing condemns nothing ----

#[test]
fn root_an_unpack_that_changed_nothing_leaves_no_trace() {
    let w = World::new();
    w.fill("image", None, one("f"));
    w.subject.create_rw("container", Some("image")).unwrap();
    fs::write(w.layer("container/diff/precious"), "data").unwrap();
    w.subject.create_ro("empty", None).unwrap();
    let good = one("first").done();
    for id in ["image", "container", "empty"] {
        let before = everything(&w.layer(id));
        for (what, archive) in stillborn() {
            assert!(w.subject.apply(id, &archive).is_err(), "{id}: {what}");
            assert_eq!(everything(&w.layer(id)), before, "{id}: {what}");
        }
        for bytes in [0, 1, 511] {
            assert!(w.subject.apply_from(id, &mut Breaking(&good[..bytes])).is_err());
            assert_eq!(everything(&w.layer(id)), before, "{id}: {bytes} bytes");
        }
        assert!(w.subject.exists(id), "{id}");
        w.subject.apply(id, &good).unwrap();
        assert!(w.shows(id).contains(&"first".to_owned()), "{id}");
    }
}

/// A name that is too long for a header, or a record about all that follows, is no change yet.
#[test]
fn root_what_only_announces_an_entry_is_no_change() {
    let w = World::new();
    w.fill("image", None, one("f"));
    let before = everything(&w.layer("image"));
    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("comment", &b"no entry follows"[..])]).unwrap();
    let mut long = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_cksum();
    long.append_data(&mut header, "n".repeat(150), &b"x"[..]).unwrap();
    let name_only = long.into_inner().unwrap()[..1024].to_vec();
    for (what, archive) in [("a pax record", pax.into_inner().unwrap()), ("a long name", name_only)] {
        assert!(w.subject.apply_from("image", &mut Breaking(&archive[..1024])).is_err(), "{what}");
        assert_eq!(everything(&w.layer("image")), before, "{what}");
        assert_eq!(w.shows("image"), ["f"], "{what}");
    }
}

// ---- 7: undo ----

/// "After a failure the driver that was there before stays", also where the new one finds no descriptor, or only some.
#[test]
fn root_a_second_start_without_descriptors_keeps_the_driver() {
    let store = Store::new();
    for kind in ["rust", "C"] {
        let process = common::process::Process::start(kind);
        let root = store.root().join(kind);
        process.init("overlay", &root, &[]).unwrap();
        common::overlay::fill(&process, "a", None, one("f"));
        let mut failed = 0;
        for room in 0..12 {
            for root in [root.clone(), store.root().join("other")] {
                let outcome = with_room_for(process.pid(), room, || process.init("overlay", &root, &[]));
                let Err(failure) = outcome else { continue };
                failed += 1;
                assert_eq!(failure.errno, Errno::EMFILE as i32, "{failure:?}");
                assert!(process.exists("a"), "{kind}, {room} descriptors: {failure:?}");
                assert_eq!(common::overlay::shows(&process, "a"), ["f"], "{kind}, {room} descriptors");
            }
            process.init("overlay", &root, &[]).unwrap();
        }
        assert!(failed > 2, "{failed} starts failed");
        process.end();
        assert_eq!(mounts_below(&store.root()), [""; 0]);
    }
}

// ---- 8: half content is not mounted ----

#[test]
fn root_no_descendant_of_an_unfinished_layer_is_mounted() {
    let w = World::after(|before| {
        before.fill("a", None, one("f"));
        before.process.create_ro("b", Some("a")).unwrap();
        before.process.create_ro("c", Some("b")).unwrap();
        before.process.create_rw("d", Some("c")).unwrap();
        // The second unpack into "a" does not end: it had content, so that no start removes it.
        let archive = Tar::new().file("half", "1").file("rest", &"2".repeat(12 << 20)).done();
        before.process.unpack_halfway("a", &archive[..archive.len() - 1024]);
        before.process.kill();
    });
    w.store.leaves_damage();
    assert!(w.is_unfinished("a"));
    for id in ["a", "b", "c", "d"] {
        let failure = w.subject.mount(id, &[]).unwrap_err();
        assert_eq!(failure.errno, Errno::EUCLEAN as i32, "{id}: {failure:?}");
        assert!(failure.text.contains("'a'") && failure.text.contains("incomplete"), "{id}: {failure:?}");
        assert_eq!(mounts_below(&w.home()), [""; 0], "{id}");
    }
    for id in ["b", "c", "d"] {
        assert!(w.subject.exists(id), "{id} is whole");
    }
}

/// The kernel ignores the mark on a layer's root, and the list of a child was written before there was one.
#[test]
fn root_a_root_that_became_opaque_ends_the_chains_above_it() {
    let w = World::new();
    w.fill("a", None, one("below"));
    w.subject.create_ro("b", Some("a")).unwrap();
    w.subject.create_ro("c", Some("b")).unwrap();
    w.subject.create_rw("d", Some("c")).unwrap();
    w.subject.apply("b", &one("here").file(".wh..wh..opq", "").done()).unwrap();
    w.subject.apply("c", &one("above").done()).unwrap();
    assert_eq!(w.shows("b"), ["here"]);
    assert_eq!(w.shows("c"), ["above", "here"]);
    assert_eq!(w.shows("d"), ["above", "here"]);
    // A child that is made now, one of a child, and one whose list is repaired.
    w.subject.create_rw("e", Some("b")).unwrap();
    w.subject.create_rw("f", Some("c")).unwrap();
    fs::write(w.layer("d/lower"), "").unwrap();
    w.subject.repair("d", Some("c")).unwrap();
    for (id, shown) in [("e", vec!["here"]), ("f", vec!["above", "here"]), ("d", vec!["above", "here"])] {
        assert_eq!(w.shows(id), shown, "{id}");
    }
    assert_eq!(w.shows("a"), ["below"]);
}

/// The content of every layer below shows, in whichever order they were unpacked.
#[test]
fn root_layers_made_first_show_what_was_unpacked_below_them() {
    let w = World::new();
    let ids = ["l0", "l1", "l2", "l3", "l4"];
    for (i, id) in ids.iter().enumerate() {
        w.subject.create_ro(id, i.checked_sub(1).map(|below| ids[below])).unwrap();
    }
    std::thread::scope(|scope| {
        for id in ids.iter().rev() {
            let w = &w;
            scope.spawn(move || w.subject.apply(id, &one(id).done()).unwrap());
        }
    });
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(w.shows(id), ids[..=i], "{id}");
    }
}

// ---- 9: what is read-only is mounted read-only ----

#[test]
fn root_the_kernel_has_no_upper_directory_of_a_read_only_layer() {
    let w = World::new();
    w.fill("a", None, one("f"));
    w.fill("b", Some("a"), one("g"));
    w.subject.create_rw("c", Some("b")).unwrap();
    let superblock = |id: &str| {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let point = w.layer(id).join("merged").display().to_string();
        let line = table.lines().find(|line| line.contains(&point)).unwrap().to_owned();
        (line.split(' ').nth(5).unwrap().to_owned(), line.rsplit(' ').next().unwrap().to_owned())
    };
    for options in [&[][..], &["rw"], &["noatime"], &["remount", "rw"]] {
        for id in ["a", "b"] {
            let before = everything(&w.layer(id).join("diff"));
            let root = w.subject.mount(id, &[]).unwrap();
            // Nobody can ask for more than the layer allows; to be refused is as good.
            let _ = w.subject.mount(id, options);
            let (flags, data) = superblock(id);
            assert!(flags.split(',').any(|flag| flag == "ro"), "{id} {options:?}: {flags}");
            assert!(!data.contains("upperdir"), "{id} {options:?}: {data}");
            assert!(fs::write(root.join("evil"), "x").is_err(), "{id} {options:?}");
            w.subject.umount(id).unwrap();
            if let Ok(root) = w.subject.mount(id, options) {
                assert!(fs::write(root.join("evil"), "x").is_err(), "{id} {options:?}");
                w.subject.umount(id).unwrap();
            }
            assert_eq!(mounts_below(&w.home()), [""; 0]);
            assert_eq!(everything(&w.layer(id).join("diff")), before, "{id} {options:?}");
        }
    }
    let root = w.subject.mount("c", &[]).unwrap();
    assert!(superblock("c").1.contains("upperdir"));
    fs::write(root.join("written"), "x").unwrap();
    w.subject.umount("c").unwrap();
}

/// Containers of the C module carry no mark that says so. One that has never run looks like an image's layer, and must be writable.
#[test]
fn root_a_layer_without_a_mark_is_mounted_for_writing() {
    let w = World::new();
    w.fill("a", None, one("f"));
    w.subject.create_rw("c", Some("a")).unwrap();
    run(Command::new("setfattr").args(["-x", "trusted.graphdriver.access"]).arg(w.layer("c")));
    let root = w.subject.mount("c", &[]).unwrap();
    fs::write(root.join("written"), "x").unwrap();
    w.subject.umount("c").unwrap();
    assert_eq!(names(&w.layer("c/diff")), ["written"]);
}

// ---- 11: directories that an archive implies ----

/// Mode, owner and time of a directory, and what was set on it.
fn looks(path: &Path) -> (u32, u32, u32, i64, bool, bool) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (user, acl) = (has_xattr(path, "user.note"), has_xattr(path, "system.posix_acl_default"));
    (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime(), user, acl)
}

fn secret() -> Tar {
    let tar = Tar::new().dir_of("secret/", 0o700, (1000, 1000)).file("secret/old", "x");
    tar.dir_of("secret/deep/", 0o2710, (1001, 1002)).file("secret/deep/old", "x")
}

fn decorate(dir: &Path) {
    run(Command::new("setfattr").args(["-n", "user.note", "-v", "x"]).arg(dir));
    run(Command::new("setfacl").args(["-d", "-m", "u:1000:rx"]).arg(dir));
    run(Command::new("touch").args(["-d", "2001-02-03"]).arg(dir));
}

#[test]
fn root_implied_directories_are_copied_up_from_the_nearest_layer_that_has_them() {
    let w = World::new();
    w.fill("a", None, secret());
    let (top, deep) = (w.layer("a/diff/secret"), w.layer("a/diff/secret/deep"));
    decorate(&deep);
    decorate(&top);
    w.fill("between", Some("a"), one("other"));
    let changes = [
        ("file", Tar::new().file("secret/deep/new", "x")),
        ("whiteout", Tar::new().file("secret/deep/.wh.old", "")),
        ("link", Tar::new().symlink("secret/deep/new", "old")),
        ("dir", Tar::new().dir("secret/deep/new/")),
    ];
    for (id, change) in changes {
        w.fill(id, Some("between"), change);
        assert_eq!(looks(&w.layer(id).join("diff/secret")), looks(&top), "{id}");
        assert_eq!(looks(&w.layer(id).join("diff/secret/deep")), looks(&deep), "{id}");
    }
    // A nearer layer says something else.
    w.fill("nearer", Some("a"), Tar::new().dir_of("secret/", 0o711, (7, 7)));
    w.fill("upon", Some("nearer"), Tar::new().file("secret/deep/new", "x"));
    assert_eq!(looks(&w.layer("upon/diff/secret")), looks(&w.layer("nearer/diff/secret")));
    assert_eq!(looks(&w.layer("upon/diff/secret/deep")), looks(&deep));
    // The archive's own word counts, before or after.
    w.fill("said", Some("a"), Tar::new().file("secret/new", "x").dir_of("secret/", 0o750, (8, 9)));
    let said = looks(&w.layer("said/diff/secret"));
    assert_eq!((said.0, said.1, said.2), (0o750, 8, 9));
}

#[test]
fn root_implied_directories_of_what_was_deleted_below_are_new() {
    let w = World::new();
    w.fill("a", None, secret());
    w.fill("gone", Some("a"), Tar::new().file(".wh.secret", ""));
    w.fill("a_file", Some("a"), Tar::new().file("secret", "x"));
    w.fill("opaque", Some("a"), one("f").file(".wh..wh..opq", ""));
    w.fill("emptied", Some("a"), Tar::new().dir_of("secret/", 0o711, (7, 7)).file("secret/.wh..wh..opq", ""));
    for below in ["gone", "a_file", "opaque"] {
        let id = format!("upon_{below}");
        w.fill(&id, Some(below), Tar::new().file("secret/deep/new", "x"));
        for dir in ["secret", "secret/deep"] {
            let seen = looks(&w.layer(&id).join("diff").join(dir));
            assert_eq!((seen.0, seen.1, seen.2), (0o755, 0, 0), "{id}: {dir}");
        }
    }
    w.fill("upon_emptied", Some("emptied"), Tar::new().file("secret/deep/new", "x"));
    let seen = |dir: &str| {
        let seen = looks(&w.layer("upon_emptied/diff").join(dir));
        (seen.0, seen.1, seen.2)
    };
    assert_eq!(seen("secret"), (0o711, 7, 7));
    assert_eq!(seen("secret/deep"), (0o755, 0, 0), "hidden by the opaque directory");
}

#[test]
fn root_implied_directories_of_remapped_containers_keep_their_owner() {
    let store = Store::new();
    let subject = Rust::default();
    let options = ["overlay2.userns_remap=100000:200000:65536", "overlay2.sync=none"];
    subject.init("overlay", &store.root(), &options).unwrap();
    common::overlay::fill(&subject, "a", None, secret());
    common::overlay::fill(&subject, "b", Some("a"), Tar::new().file("secret/new", "x").file("plain/new", "x"));
    let owner = |path: &str| {
        let meta = fs::symlink_metadata(store.root().join("overlay").join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(owner("a/diff/secret"), (101_000, 201_000, 0o700));
    assert_eq!(owner("b/diff/secret"), (101_000, 201_000, 0o700), "shifted once");
    assert_eq!(owner("b/diff/plain"), (100_000, 200_000, 0o755));
    subject.cleanup().unwrap();
}

/// A layer of a remote store is a symlink in home to where it is shared.
#[test]
fn root_implied_directories_are_copied_up_from_remote_layers_too() {
    let w = World::new();
    w.fill("base", None, secret());
    w.fill("a", Some("base"), Tar::new().dir_of("secret/", 0o711, (7, 7)));
    let looked = ["a/diff/secret", "base/diff/secret/deep"].map(|dir| looks(&w.layer(dir)));
    w.store.leaves_damage();
    fs::create_dir(w.layer("RO")).unwrap();
    // One as it is made, one as somebody made it.
    for (id, way) in [("a", w.layer("RO/a")), ("base", "RO/base".into())] {
        fs::rename(w.layer(id), w.layer("RO").join(id)).unwrap();
        symlink(way, w.layer(id)).unwrap();
    }
    w.fill("upon", Some("a"), Tar::new().file("secret/deep/new", "x"));
    assert_eq!(["secret", "secret/deep"].map(|dir| looks(&w.layer("upon/diff").join(dir))), looked);
}

/// A path that is as long as the kernel takes is longer than that from the layer on.
#[test]
fn root_implied_directories_have_paths_as_long_as_any() {
    let w = World::new();
    let deep = format!("{}/", "d".repeat(200)).repeat(20) + &"e".repeat(4095 - "/f".len() - 20 * 201);
    let make = |id: &str, parent: Option<&str>, item: Item| {
        w.subject.create_ro(id, parent).unwrap();
        w.subject.apply(id, &archive_support::tar(&[item])).unwrap();
    };
    make("a", None, archive_support::dir(&deep).mode(0o700).owner(7, 7));
    make("upon", Some("a"), archive_support::file(&format!("{deep}/f"), "x"));
    // It goes from directory to directory.
    let find = ["-name", "e*", "-printf", "%m %U %G\n"];
    let seen = Command::new("find").arg(w.layer("upon/diff")).args(find).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "700 7 7\n", "{seen:?}");
}

/// What a lower layer has in the place of a directory is not followed: it is an image's word.
#[test]
fn root_an_implied_directory_is_not_looked_up_through_links() {
    let w = World::new();
    w.fill("a", None, Tar::new().symlink("secret", "/etc").dir_of("real/", 0o700, (5, 5)).symlink("way", "real"));
    let outside = (everything(Path::new("/etc/ssl")), fs::metadata("/etc").unwrap().mode());
    for (id, name) in [("b", "secret/new"), ("c", "way/new")] {
        w.subject.create_ro(id, Some("a")).unwrap();
        // Whether the archive's path goes through the image's own link is the unpacker's affair; it stays in the layer.
        let _ = w.subject.apply(id, &Tar::new().file(name, "x").done());
        assert!(!Path::new("/etc/new").exists());
    }
    assert_eq!((everything(Path::new("/etc/ssl")), fs::metadata("/etc").unwrap().mode()), outside);
}
