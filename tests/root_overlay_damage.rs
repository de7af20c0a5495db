//! A damaged store costs nothing: whatever is missing or foreign in it, a daemon's start deletes nothing that its user had, and
//! what was damaged is usable again after repair, or is told with what is missing and how to mend it.

mod common;

use common::overlay::{QUICK, World, everything, fill, has_xattr, link, links_to, one, shows, worker_of};
use common::process::Process;
use common::subject::{Rust, Subject};
use common::{Store, Tar, eventually, mounts_below, names, run, text};
use nix::errno::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

/// The layers of the store that is damaged, and the parent of each: an image of two layers, two containers of it, one of which
/// has run, and a container without an image.
const LAYERS: [(&str, Option<&str>); 5] =
    [("os", None), ("image", Some("os")), ("c1", Some("image")), ("c2", Some("image")), ("lone", None)];

/// What a mount of each shows.
fn shown(id: &str) -> Vec<&'static str> {
    match id {
        "os" => vec!["from_os"],
        "image" => vec!["from_image", "from_os"],
        "c1" => vec!["from_image", "from_os", "precious"],
        "c2" => vec!["from_image", "from_os"],
        _ => vec!["own"],
    }
}

/// The store as another process left it.
fn store(damage: impl FnOnce(&Path)) -> World {
    let w = World { subject: Rust::default(), store: Store::new() };
    w.another_process(|before| {
        before.fill("os", None, one("from_os"));
        before.fill("image", Some("os"), one("from_image"));
        for (id, file) in [("c1", "precious"), ("lone", "own")] {
            let parent = LAYERS.iter().find(|(own, _)| *own == id).unwrap().1;
            before.process.create_rw(id, parent).unwrap();
            fs::write(before.process.mount(id, &[]).unwrap().join(file), "data").unwrap();
            before.process.umount(id).unwrap();
        }
        before.process.create_rw("c2", Some("image")).unwrap();
    });
    w.store.leaves_damage();
    damage(&w.home());
    w
}

/// What the user has: the content of each layer.
fn contents(home: &Path) -> Vec<String> {
    LAYERS.iter().map(|(id, _)| home.join(id).join("diff")).map(|diff| everything(&diff)).collect()
}

/// What iSulad does at its start with the layers that it knows of: what the driver denies, or has no metadata of, goes.
fn daemon_start(w: &World) {
    w.start();
    for (id, _) in LAYERS {
        if !w.subject.exists(id) || w.subject.metadata(id).is_err() {
            let _ = w.subject.umount(id);
            let _ = w.subject.remove(id);
        }
    }
}

type Damage = (&'static str, fn(&Path));

fn cut(path: &Path) {
    fs::write(path, "").unwrap();
}

fn delete(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

/// Damage that is no reason to refuse a mount: nothing of anybody's is missing, or it is known from elsewhere.
const HARMLESS: &[Damage] = &[
    ("image: work missing", |home| delete(&home.join("image/work"))),
    ("c1: work missing", |home| delete(&home.join("c1/work"))),
    ("c1: merged missing", |home| delete(&home.join("c1/merged"))),
    ("c1: work and merged missing", |home| {
        delete(&home.join("c1/work"));
        delete(&home.join("c1/merged"));
    }),
    ("c2: every empty directory missing", |home| {
        for dir in ["work", "merged"] {
            delete(&home.join("c2").join(dir));
        }
    }),
    ("c1: work emptied", |home| delete(&home.join("c1/work/work"))),
    ("os: merged missing", |home| delete(&home.join("os/merged"))),
    ("lone: merged missing", |home| delete(&home.join("lone/merged"))),
    ("every name in l missing", |home| {
        delete(&home.join("l"));
        fs::create_dir(home.join("l")).unwrap();
    }),
    ("l missing", |home| delete(&home.join("l"))),
    ("a name in l leads nowhere", |home| {
        let name = home.join("l").join(link(home, "os"));
        delete(&name);
        symlink("../nobody/diff", name).unwrap();
    }),
    ("a name in l is a file", |home| {
        let name = home.join("l").join(link(home, "os"));
        delete(&name);
        cut(&name);
    }),
    ("c1: link has a newline", |home| fs::write(home.join("c1/link"), link(home, "c1") + "\n").unwrap()),
    ("image: lower has a newline", |home| {
        let lower = home.join("image/lower");
        fs::write(&lower, text(&lower) + "\n").unwrap();
    }),
    ("c1: link of 0 bytes", |home| cut(&home.join("c1/link"))),
    ("c1: link missing", |home| delete(&home.join("c1/link"))),
    ("a file of an interrupted write", |home| fs::write(home.join("image/.tmp-lower-0123456789"), "l/nonsense").unwrap()),
];

/// Damage after which a layer may have to be mended first.
const MENDABLE: &[Damage] = &[
    ("os: empty missing", |home| delete(&home.join("os/empty"))),
    ("lone: empty missing", |home| delete(&home.join("lone/empty"))),
    ("every empty missing", |home| {
        delete(&home.join("os/empty"));
        delete(&home.join("lone/empty"));
    }),
    ("os: link of 0 bytes", |home| cut(&home.join("os/link"))),
    ("os: link missing", |home| delete(&home.join("os/link"))),
    ("image: link of 0 bytes", |home| cut(&home.join("image/link"))),
    ("image: link missing", |home| delete(&home.join("image/link"))),
    ("every link of 0 bytes", |home| LAYERS.iter().for_each(|(id, _)| cut(&home.join(id).join("link")))),
    ("image: link of garbage", |home| fs::write(home.join("image/link"), "../../etc").unwrap()),
    ("image: link is another layer's", |home| fs::write(home.join("image/link"), link(home, "lone")).unwrap()),
    ("image: link of 0 bytes and no name in l", |home| {
        delete(&home.join("l").join(link(home, "image")));
        cut(&home.join("image/link"));
    }),
    ("c1: lower missing", |home| delete(&home.join("c1/lower"))),
    ("c1: lower of 0 bytes", |home| cut(&home.join("c1/lower"))),
    ("c1: lower of one newline", |home| fs::write(home.join("c1/lower"), "\n").unwrap()),
    ("c1: lower cut in a name", |home| {
        let lower = text(&home.join("c1/lower"));
        fs::write(home.join("c1/lower"), &lower[..lower.len() - 5]).unwrap();
    }),
    ("c1: lower of zeroes", |home| fs::write(home.join("c1/lower"), "\0".repeat(57)).unwrap()),
    ("c2: lower of 0 bytes", |home| cut(&home.join("c2/lower"))),
    ("image: lower missing", |home| delete(&home.join("image/lower"))),
    ("image: lower of 0 bytes", |home| cut(&home.join("image/lower"))),
    ("every lower of 0 bytes", |home| ["image", "c1", "c2"].iter().for_each(|id| cut(&home.join(id).join("lower")))),
    ("every small file missing", |home| {
        for (id, parent) in LAYERS {
            delete(&home.join(id).join("link"));
            delete(&home.join(id).join(if parent.is_some() { "lower" } else { "empty" }));
        }
    }),
];

/// Mounts a layer, mending it and what is below it as the error says. Returns whether that was needed.
fn mount_mended(w: &World, id: &str, what: &str) -> bool {
    let Err(failure) = w.subject.mount(id, &[]) else { return false };
    assert_eq!(failure.errno, Errno::EUCLEAN as i32, "{what}: {id}: {failure:?}");
    assert!(LAYERS.iter().any(|(own, _)| failure.text.contains(&format!("'{own}'"))), "{what}: of which layer? {failure:?}");
    assert!(["link", "lower", "empty"].iter().any(|part| failure.text.contains(part)), "{what}: what is it? {failure:?}");
    assert!(failure.text.contains("repair"), "{what}: what is to be done? {failure:?}");
    assert_eq!(mounts_below(&w.home()), [""; 0], "{what}: {id}");
    // From the bottom to the top, as a pull repairs.
    for (id, parent) in LAYERS {
        w.subject.repair(id, parent).unwrap_or_else(|e| panic!("{what}: repair of {id}: {e:?}"));
    }
    w.subject.mount(id, &[]).unwrap_or_else(|e| panic!("{what}: {id} after repair: {e:?}"));
    true
}

fn check_usable(w: &World, what: &str) {
    for (id, parent) in LAYERS {
        assert!(w.subject.exists(id), "{what}: {id}");
        let told = w.subject.metadata(id).unwrap_or_else(|e| panic!("{what}: metadata of {id}: {e:?}"));
        assert_eq!(told.iter().any(|(key, _)| key == "LowerDir"), parent.is_some(), "{what}: {id}: {told:?}");
        assert_eq!(shows(&w.subject, id), shown(id), "{what}: {id}");
        // And something new on top.
        w.subject.create_rw("new", Some(id)).unwrap_or_else(|e| panic!("{what}: upon {id}: {e:?}"));
        assert_eq!(shows(&w.subject, "new"), shown(id), "{what}: upon {id}");
        w.subject.remove("new").unwrap();
        assert_eq!(links_to(&w.home(), id).len(), 1, "{what}: names of {id}");
    }
}

/// The start sequence of a daemon over every kind of damage, also after one that failed.
fn over(damages: &[Damage], check: impl Fn(&World, &str) + RefUnwindSafe) {
    let failed: Vec<&str> =
        damages.iter().filter(|damage| catch_unwind(|| over_one(damage, &check)).is_err()).map(|d| d.0).collect();
    assert!(failed.is_empty(), "{} of {} kinds of damage: {failed:?}", failed.len(), damages.len());
}

fn over_one((what, damage): &Damage, check: &impl Fn(&World, &str)) {
    let w = store(damage);
    let before = contents(&w.home());
    daemon_start(&w);
    for (id, _) in LAYERS {
        assert!(w.home().join(id).join("diff").is_dir(), "{what}: the daemon deleted {id}");
    }
    assert_eq!(contents(&w.home()), before, "{what}");
    check(&w, what);
    check_usable(&w, what);
    w.subject.cleanup().unwrap();
    // Another start finds nothing to complain about.
    w.start();
    check_usable(&w, what);
    w.subject.cleanup().unwrap();
}

#[test]
fn root_a_daemons_start_over_harmless_damage_keeps_everything_mountable() {
    over(HARMLESS, |w, what| {
        for (id, _) in LAYERS {
            let root = w.subject.mount(id, &[]).unwrap_or_else(|e| panic!("{what}: {id}: {e:?}"));
            assert_eq!(names(&root), shown(id), "{what}: {id}");
            w.subject.umount(id).unwrap();
        }
        for (id, parent) in LAYERS {
            w.subject.repair(id, parent).unwrap_or_else(|e| panic!("{what}: repair of {id}: {e:?}"));
        }
    });
}

#[test]
fn root_a_daemons_start_over_mendable_damage_keeps_everything_to_be_mended() {
    over(MENDABLE, |w, what| {
        for (id, _) in LAYERS.iter().rev() {
            mount_mended(w, id, what);
            assert_eq!(names(&w.layer(id).join("merged")), shown(id), "{what}: {id}");
            w.subject.umount(id).unwrap();
        }
        for (id, parent) in LAYERS {
            w.subject.repair(id, parent).unwrap_or_else(|e| panic!("{what}: repair of {id}: {e:?}"));
        }
    });
}

/// A container goes on working while a part of a layer below is missing that its mount does not need.
#[test]
fn root_what_a_mount_does_not_need_does_not_keep_it() {
    let needless: &[Damage] = &[
        ("os: empty missing", |home| delete(&home.join("os/empty"))),
        ("os: link of 0 bytes", |home| cut(&home.join("os/link"))),
        ("image: link missing", |home| delete(&home.join("image/link"))),
        ("image: lower of 0 bytes", |home| cut(&home.join("image/lower"))),
        ("os: work missing", |home| delete(&home.join("os/work"))),
        ("image: merged missing", |home| delete(&home.join("image/merged"))),
    ];
    for (what, damage) in needless {
        let w = store(damage);
        w.start();
        let root = w.subject.mount("c1", &[]).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!(names(&root), shown("c1"), "{what}");
        w.subject.umount("c1").unwrap();
        w.subject.cleanup().unwrap();
    }
}

/// A list of parents that cannot be read says nothing about where the layer itself is.
#[test]
fn root_metadata_gives_what_is_known() {
    for bad in [None, Some(""), Some("\n"), Some("garbage")] {
        let w = store(|home| match bad {
            None => delete(&home.join("c1/lower")),
            Some(text) => fs::write(home.join("c1/lower"), text).unwrap(),
        });
        w.start();
        assert!(w.subject.exists("c1"), "{bad:?}");
        let told = w.subject.metadata("c1").unwrap();
        for (key, part) in [("WorkDir", "work"), ("MergedDir", "merged"), ("UpperDir", "diff")] {
            let path = w.layer("c1").join(part).display().to_string();
            assert!(told.contains(&(key.to_owned(), path)), "{bad:?}: {told:?}");
        }
        assert!(told.iter().all(|(key, _)| key != "LowerDir"), "{bad:?}: {told:?}");
        w.subject.cleanup().unwrap();
    }
}

/// What cannot be mended is told, and costs nothing else.
#[test]
fn root_lost_content_is_told_and_keeps_the_rest() {
    let lost: &[Damage] = &[
        ("diff", |home| delete(&home.join("image/diff"))),
        ("the layer", |home| delete(&home.join("image"))),
        ("diff, a file in its place", |home| {
            delete(&home.join("image/diff"));
            cut(&home.join("image/diff"));
        }),
    ];
    for (what, damage) in lost {
        let w = store(damage);
        let before = everything(&w.home().join("c1/diff"));
        daemon_start(&w);
        for id in ["c1", "c2"] {
            assert!(w.subject.exists(id), "{what}: {id} has lost nothing");
            let failure = w.subject.mount(id, &[]).unwrap_err();
            assert_eq!(failure.errno, Errno::EUCLEAN as i32, "{what}: {failure:?}");
            assert_eq!(mounts_below(&w.home()), [""; 0], "{what}");
        }
        assert_eq!(everything(&w.home().join("c1/diff")), before, "{what}");
        for id in ["os", "lone"] {
            assert_eq!(shows(&w.subject, id), shown(id), "{what}: {id}");
        }
        w.subject.cleanup().unwrap();
    }
}

/// A part that is something else than it should be leads nowhere else: not out of the layer, not into another one.
#[test]
fn root_parts_of_the_wrong_kind_are_not_followed() {
    let wrong: &[Damage] = &[
        ("merged is a symlink", |home| {
            delete(&home.join("c1/merged"));
            symlink("../../outside", home.join("c1/merged")).unwrap();
        }),
        ("work is a symlink", |home| {
            delete(&home.join("c1/work"));
            symlink("../../outside", home.join("c1/work")).unwrap();
        }),
        ("work is a file", |home| {
            delete(&home.join("c1/work"));
            cut(&home.join("c1/work"));
        }),
        ("lower is a directory", |home| {
            delete(&home.join("c1/lower"));
            fs::create_dir(home.join("c1/lower")).unwrap();
        }),
        ("lower is a symlink", |home| {
            delete(&home.join("c1/lower"));
            symlink("../../outside/file", home.join("c1/lower")).unwrap();
        }),
        ("link is a fifo", |home| {
            delete(&home.join("c1/link"));
            run(Command::new("mkfifo").arg(home.join("c1/link")));
        }),
    ];
    for (what, damage) in wrong {
        let outside = |home: &Path| home.parent().unwrap().join("outside");
        let w = store(|home| {
            fs::create_dir(outside(home)).unwrap();
            fs::write(outside(home).join("file"), "l/x").unwrap();
            damage(home);
        });
        let (untouched, precious) = (everything(&outside(&w.home())), everything(&w.layer("c1/diff")));
        daemon_start(&w);
        assert!(w.subject.exists("c1"), "{what}");
        match w.subject.mount("c1", &[]) {
            Ok(root) => {
                assert_eq!(names(&root), shown("c1"), "{what}");
                w.subject.umount("c1").unwrap();
            }
            Err(failure) => {
                assert_eq!(failure.errno, Errno::EUCLEAN as i32, "{what}: {failure:?}");
                let _ = w.subject.repair("c1", Some("image"));
            }
        }
        assert_eq!(everything(&outside(&w.home())), untouched, "{what}");
        assert_eq!(everything(&w.layer("c1/diff")), precious, "{what}");
        assert_eq!(shows(&w.subject, "c2"), shown("c2"), "{what}");
        w.subject.cleanup().unwrap();
    }
}

// ---- 13: what is foreign in home, and homes that cannot be one ----

#[test]
fn root_a_start_deletes_nothing_that_only_looks_like_a_leftover() {
    let w = store(|home| {
        fs::create_dir_all(home.join(".trash-can/photos")).unwrap();
        fs::write(home.join(".trash-can/photos/1.jpg"), "x").unwrap();
        fs::write(home.join(".trash-list"), "x").unwrap();
        fs::write(home.join(".stage-manager.conf"), "x").unwrap();
        fs::create_dir_all(home.join(".stage-left/diff")).unwrap();
        fs::create_dir_all(home.join(".Trash-0/files")).unwrap();
        fs::create_dir_all(home.join("backup/diffs")).unwrap();
        fs::write(home.join("notes.txt"), "x").unwrap();
        fs::write(home.join(".hidden"), "x").unwrap();
        symlink("notes.txt", home.join(".trash-link")).unwrap();
        fs::create_dir_all(home.join("lost+found/x")).unwrap();
    });
    let own = [".trash-0123456789abcdef0123456789", ".stage-0123456789abcdef0123456789"].map(|name| w.home().join(name));
    let before = foreign(&w.home());
    for layer in &own {
        for dir in ["diff", "work", "merged", "empty"] {
            fs::create_dir_all(layer.join(dir)).unwrap();
        }
        fs::write(layer.join("link"), "0123456789abcdef0123456789").unwrap();
        fs::write(layer.join("diff/file"), "x").unwrap();
    }
    for _ in 0..2 {
        daemon_start(&w);
        eventually("what is the library's own is deleted", || own.iter().all(|layer| !layer.exists()));
        for (id, _) in LAYERS {
            w.subject.create_rw("child", Some(id)).unwrap();
            w.subject.remove("child").unwrap();
        }
        w.subject.cleanup().unwrap();
    }
    assert_eq!(foreign(&w.home()), before);
}

/// What is in home and neither a layer nor the library's.
fn foreign(home: &Path) -> Vec<(String, String)> {
    let own = |name: &str| ["l", "backingFsBlockDev"].contains(&name) || LAYERS.iter().any(|(id, _)| *id == name);
    let look = |path: &Path| match fs::symlink_metadata(path).unwrap().file_type() {
        kind if kind.is_dir() => everything(path),
        kind if kind.is_file() => text(path),
        _ => fs::read_link(path).unwrap().display().to_string(),
    };
    names(home).into_iter().filter(|name| !own(name)).map(|name| (name.clone(), look(&home.join(&name)))).collect()
}

/// A leftover with a name of the library's own form that is a symlink is removed as what it is, or left; never what it leads to.
#[test]
fn root_a_leftover_that_is_a_symlink_is_not_followed() {
    let w = store(|home| {
        let outside = home.parent().unwrap().join("outside");
        fs::create_dir_all(outside.join("diff")).unwrap();
        fs::write(outside.join("diff/keep"), "x").unwrap();
        symlink(&outside, home.join(".trash-0123456789abcdef0123456789")).unwrap();
        symlink(&outside, home.join(".stage-0123456789abcdef0123456789")).unwrap();
    });
    for _ in 0..3 {
        daemon_start(&w);
        w.subject.create_rw("child", None).unwrap();
        w.subject.remove("child").unwrap();
        w.subject.cleanup().unwrap();
    }
    assert!(w.store.root().join("outside/diff/keep").exists());
}

/// A start that has much to delete is ready at once, and a layer whose deletion was begun is not there meanwhile.
#[test]
fn root_leftovers_do_not_keep_a_start() {
    let w = store(|home| {
        let trash = home.join(".trash-0123456789abcdef0123456789");
        for dir in ["diff", "work", "merged", "empty"] {
            fs::create_dir_all(trash.join(dir)).unwrap();
        }
        fs::write(trash.join("link"), "0123456789abcdef0123456789").unwrap();
        for i in 0..3000 {
            fs::write(trash.join(format!("diff/{i}")), "x").unwrap();
        }
    });
    w.start();
    check_usable(&w, "while leftovers are deleted");
    // A clean-up in the middle of it, and a start that goes on.
    w.subject.cleanup().unwrap();
    w.start();
    eventually("the leftover is deleted", || !w.home().join(".trash-0123456789abcdef0123456789").exists());
    check_usable(&w, "afterwards");
}

#[test]
fn root_symlink_loops_in_home_are_nobodys_obstacle() {
    let w = store(|home| {
        symlink("loop", home.join("loop")).unwrap();
        symlink("b", home.join("a")).unwrap();
        symlink("a", home.join("b")).unwrap();
        symlink("loop", home.join("l/loop")).unwrap();
        fs::write(home.join("file"), "x").unwrap();
        symlink("file/below", home.join("through-a-file")).unwrap();
        symlink("n".repeat(300), home.join("too-long")).unwrap();
    });
    daemon_start(&w);
    // Over a leftover: of "c2" this process has told its caller, of this one it has not.
    w.subject.cleanup().unwrap();
    w.another_process(|before| before.fill("leftover", None, one("old")));
    w.start();
    w.subject.create_ro("leftover", None).unwrap();
    assert_eq!(shows(&w.subject, "leftover"), [""; 0]);
    w.subject.create_ro("fresh", Some("image")).unwrap();
    for id in ["loop", "a", "b", "through-a-file", "too-long"] {
        assert!(!w.subject.exists(id), "{id}");
        assert_eq!(w.subject.create_ro(id, None).unwrap_err().errno, Errno::EEXIST as i32, "{id}");
        assert!(w.home().join(id).symlink_metadata().is_ok(), "{id}");
    }
    // A link that is lost is found among all of them.
    delete(&w.home().join("l").join(link(&w.home(), "os")));
    assert_eq!(shows(&w.subject, "c1"), shown("c1"));
    check_usable(&w, "loops");
}

/// In a user namespace `trusted.*` attributes cannot be set, and every layer needs one.
#[test]
fn root_a_start_says_that_it_cannot_mark_layers() {
    let store = Store::new();
    let process = Process::under(&["unshare", "--user", "--map-root-user", "--mount", "--"], "rust");
    let failure = process.init("overlay", &store.root(), QUICK).unwrap_err();
    let fine = [Errno::EPERM as i32, Errno::EOPNOTSUPP as i32].contains(&failure.errno);
    assert!(fine && failure.text.contains("trusted."), "{failure:?}");
    assert_eq!(process.create_ro("a", None).unwrap_err().errno, Errno::ENOTCONN as i32);
    drop(process);
    let home = store.root().join("overlay");
    if home.exists() {
        assert!(names(&home).iter().all(|name| ["l", "backingFsBlockDev"].contains(&name.as_str())), "{:?}", names(&home));
    }
    // The same place serves whoever may.
    let subject = Rust::default();
    subject.init("overlay", &store.root(), QUICK).unwrap();
    subject.create_ro("a", None).unwrap();
    subject.cleanup().unwrap();
}

#[test]
fn root_what_is_above_home_is_not_inherited_by_containers() {
    let store = Store::new();
    let above = store.root().join("above");
    fs::create_dir(&above).unwrap();
    run(Command::new("chown").arg("0:1234").arg(&above));
    run(Command::new("chmod").arg("2777").arg(&above));
    run(Command::new("setfacl").args(["-d", "-m", "u:1000:rwx,g:1001:rwx,o::rwx"]).arg(&above));
    let subject = Rust::default();
    subject.init("overlay", &above, QUICK).unwrap();
    let home = above.join("overlay");
    common::overlay::fill(&subject, "a", None, Tar::new().dir("etc/").file("etc/f", "x").file("implied/f", "x"));
    subject.create_rw("c", Some("a")).unwrap();
    subject.create_rw("lone", None).unwrap();
    let root = subject.mount("c", &[]).unwrap();
    fs::create_dir(root.join("made")).unwrap();
    let plain = |path: &Path, mode: u32| {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (mode, 0, 0), "{}", path.display());
        for acl in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert!(!has_xattr(path, acl), "{} has {acl}", path.display());
        }
    };
    plain(&root, 0o755);
    plain(&root.join("made"), 0o755);
    for id in ["a", "c", "lone"] {
        plain(&home.join(id), 0o700);
        plain(&home.join(id).join("diff"), 0o755);
        plain(&home.join(id).join("work"), 0o700);
    }
    for (path, mode) in [("a/diff/etc", 0o755), ("a/diff/etc/f", 0o644), ("a/diff/implied", 0o755), ("a/link", 0o644)] {
        plain(&home.join(path), mode);
    }
    plain(&home, 0o700);
    plain(&home.join("l"), 0o700);
    subject.umount("c").unwrap();
    // A failed unpack makes the root anew, and must not inherit either.
    assert!(subject.apply("lone", &one("f").done()[..700]).is_err());
    plain(&home.join("lone/diff"), 0o755);
    subject.cleanup().unwrap();
}

/// The only layer that tells what another one is stacked upon cannot be read at the moment: that one is not taken for a layer without
/// parents, and not given a second name because its own cannot be read.
#[test]
fn root_what_cannot_be_read_at_the_moment_is_not_guessed() {
    let world = World::new();
    let (subject, home) = (&world.subject, world.home());
    fill(subject, "os", None, one("from_os"));
    fill(subject, "image", Some("os"), one("from_image"));
    subject.create_rw("c", Some("image")).unwrap();
    let name = links_to(&home, "image");
    for part in ["link", "lower"] {
        fs::remove_file(home.join("image").join(part)).unwrap();
    }
    let unchanged = || {
        assert!(["link", "lower", "empty"].iter().all(|part| !home.join("image").join(part).exists()));
        assert_eq!(links_to(&home, "image"), name);
    };

    // Reading it is an I/O error.
    let list = home.join("c/lower");
    run(Command::new("mount").args(["--bind", "/proc/self/mem"]).arg(&list));
    subject.repair("image", None).unwrap_err();
    subject.check(true).unwrap();
    unchanged();
    run(Command::new("umount").arg(&list));

    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::old_kernel::without(&[libc::SYS_readlinkat]);
            assert_eq!(subject.repair("image", None).unwrap_err().errno, Errno::ENOSYS as i32);
        });
    });
    unchanged();

    subject.repair("image", None).unwrap();
    assert_eq!(links_to(&home, "image"), name);
    assert_eq!(shows(subject, "image"), ["from_image", "from_os"]);
    subject.cleanup().unwrap();
}

/// Of a layer and its copy, a backup beside it: the name stays with the one that it leads to, whatever is lost of that.
#[test]
fn root_a_copy_does_not_take_the_name_of_a_layer_that_cannot_tell_its_own() {
    let w = store(|home| {
        run(Command::new("cp").arg("-a").arg(home.join("image")).arg(home.join("image.bak")));
        fs::write(home.join("image.bak/diff/from_image.bak"), "data").unwrap();
        fs::remove_file(home.join("image/link")).unwrap();
    });
    let name = w.home().join("l").join(link(&w.home(), "image.bak"));
    w.another_process(|daemon| {
        eventually("the names are seen to", || worker_of(daemon.process.pid()).is_none());
        assert_eq!(fs::read_link(&name).unwrap(), Path::new("../image/diff"));
        assert_eq!(shows(&daemon.process, "c1"), shown("c1"));
    });
    w.start();
    w.subject.check(true).unwrap();
    assert_eq!(fs::read_link(&name).unwrap(), Path::new("../image/diff"));
}
