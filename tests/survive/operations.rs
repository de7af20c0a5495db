//! What is killed, made to fail, and interleaved: each operation with what must be there before.

use super::common::Tar;
use super::common::overlay::{UNFINISHED, set_xattr};
use super::common::subject::{Outcome, Subject};
use super::ground::Ground;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// An operation, as data.
pub struct Operation {
    pub name: &'static str,
    /// Done by a process of its own in a store of [`furnish`]; then that process ends in an orderly way.
    pub prepare: fn(&dyn Subject, &Ground) -> Outcome<()>,
    /// What is done to the store while no process uses it.
    pub damage: fn(&Ground),
    /// Whether initialising is a part of it.
    pub starts: bool,
    pub act: fn(&dyn Subject, &Ground) -> Outcome<()>,
    /// What a layer may also be if it did not come to its end: neither what it was before nor what it is after.
    pub also: &'static [(&'static str, &'static str)],
    /// It takes back what it did as a matter of course; a call that fails may stop that.
    pub takes_back: bool,
    /// It tells of what fails in it, and succeeds.
    pub tells: bool,
    /// With devicemapper, it sees at its end to what no caller counts on, and tries that again; the log says what fails there.
    pub tidies: bool,
}

/// The layers that every store has, and those that operations make. Children come first.
pub const IDS: &[&str] = &["box", "new", "upper", "image"];

/// Makes the layers that are there before every operation: an image of two layers, and a container upon it.
pub fn furnish(subject: &dyn Subject) -> Outcome<()> {
    subject.create_ro("image", None)?;
    subject.apply("image", &Tar::new().file("image", "1").dir_of("dir", 0o2750, (7, 8)).file("dir/below", "2").done())?;
    subject.create_ro("upper", Some("image"))?;
    subject.apply("upper", &Tar::new().file("upper", "3").done())?;
    subject.create_rw("box", Some("upper"))?;
    let root = subject.mount("box", &[])?;
    fs::write(root.join("box"), "4").unwrap();
    subject.umount("box")
}

/// One of everything that an archive of a layer has. It implies a directory that the layer below has.
fn archive() -> Vec<u8> {
    Tar::new()
        .dir_of("made", 0o1750, (7, 8))
        .file("made/file", "5")
        .symlink("link", "made/file")
        .hard_link("hard", "made/file")
        .file("dir/above", "5")
        .file(".wh.image", "")
        // What hides the layers below hides nothing of its own layer.
        .dir("again")
        .file("again/file", "5")
        .file(".wh.again", "")
        .done()
}

fn opaque() -> Vec<u8> {
    Tar::new().file("only", "6").dir("own").file("own/file", "6").file(".wh..wh..opq", "").done()
}

/// An archive that is none from the middle on.
fn broken() -> Vec<u8> {
    let mut archive = archive();
    archive.truncate(archive.len() - 1024);
    archive.extend([b'x'; 512]);
    archive
}

fn fails(outcome: Outcome<i64>) -> Outcome<()> {
    match outcome {
        Ok(_) => panic!("what is no archive was unpacked"),
        Err(failure) if failure.errno == libc::EBADMSG => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn refused(outcome: Outcome<()>) -> Outcome<()> {
    match outcome {
        Ok(()) => panic!("what somebody may still want was replaced"),
        Err(failure) if failure.errno == libc::EEXIST => Ok(()),
        Err(failure) => Err(failure),
    }
}

const NOTHING: fn(&dyn Subject, &Ground) -> Outcome<()> = |_, _| Ok(());
const UNTOUCHED: fn(&Ground) = |_| {};

/// What does nothing.
pub const PLAIN: Operation = operation("nothing", NOTHING);

const fn operation(name: &'static str, act: fn(&dyn Subject, &Ground) -> Outcome<()>) -> Operation {
    let (prepare, damage) = (NOTHING, UNTOUCHED);
    Operation { name, prepare, damage, starts: false, act, also: &[], takes_back: false, tells: false, tidies: false }
}

const fn after(prepare: fn(&dyn Subject, &Ground) -> Outcome<()>, operation: Operation) -> Operation {
    Operation { prepare, ..operation }
}

/// A layer into which nothing was unpacked yet.
const EMPTY_LAYER: fn(&dyn Subject, &Ground) -> Outcome<()> = |s, _| s.create_ro("new", Some("image"));
/// A layer with content, into which more can be unpacked.
const FILLED_LAYER: fn(&dyn Subject, &Ground) -> Outcome<()> = |s, _| {
    s.create_ro("new", Some("image"))?;
    s.apply("new", &Tar::new().file("first", "7").done()).map(drop)
};

/// A layer that was being filled for the first time: a start takes it away.
const GOES: &[(&str, &str)] = &[("new", "absent")];
/// A layer with content that was being filled: it is refused until it is removed.
const MARKED: &[(&str, &str)] = &[("new", "refused")];

/// Those of every driver.
pub const OPERATIONS: &[Operation] = &[
    Operation { starts: true, ..operation("init", |_, _| Ok(())) },
    operation("create_ro", |s, _| s.create_ro("new", Some("image"))),
    operation("create_ro of a base", |s, _| s.create_ro("new", None)),
    operation("create_rw", |s, _| s.create_rw("new", Some("upper"))),
    Operation {
        also: GOES,
        ..after(EMPTY_LAYER, operation("apply_diff, empty", |s, _| s.apply("new", &archive()).map(drop)))
    },
    Operation {
        also: MARKED,
        ..after(FILLED_LAYER, operation("apply_diff, filled", |s, _| s.apply("new", &archive()).map(drop)))
    },
    Operation {
        also: GOES,
        ..after(EMPTY_LAYER, operation("apply_diff, root opaque", |s, _| s.apply("new", &opaque()).map(drop)))
    },
    Operation {
        also: GOES,
        takes_back: true,
        ..after(EMPTY_LAYER, operation("apply_diff, failing", |s, _| fails(s.apply("new", &broken()))))
    },
    Operation {
        also: MARKED,
        takes_back: true,
        ..after(FILLED_LAYER, operation("apply_diff, filled, failing", |s, _| fails(s.apply("new", &broken()))))
    },
    operation("mount", |s, _| s.mount("box", &[]).map(drop)),
    operation("mount of an image", |s, _| s.mount("upper", &[]).map(drop)),
    after(|s, _| s.mount("box", &[]).map(drop), operation("umount", |s, _| s.umount("box"))),
    // What is marked and given back is no layer any more, and its thin device goes when it can.
    Operation { tidies: true, ..operation("rm", |s, _| s.remove("box")) },
    Operation {
        tidies: true,
        ..after(|s, _| s.mount("box", &[]).map(drop), operation("rm of a mounted layer", |s, _| s.remove("box")))
    },
    Operation {
        // The leftover itself goes once the new layer has its name.
        tidies: true,
        ..after(FILLED_LAYER, operation("re-creation over a leftover", |s, _| s.create_ro("new", Some("upper"))))
    },
    operation("creation over a container", |s, _| refused(s.create_ro("box", None))),
    after(
        |s, _| s.create_rw("new", Some("image")),
        operation("creation over an empty container", |s, _| refused(s.create_ro("new", None))),
    ),
    // It notes where the ids of thin devices go on, which spares a start some questions.
    Operation { tidies: true, ..operation("clean-up", |s, _| s.cleanup()) },
];

/// The container has nothing left but its content.
const PARTS_GONE: fn(&Ground) = |ground| {
    let layer = ground.home().join("box");
    let link = fs::read_to_string(layer.join("link")).unwrap();
    fs::remove_file(ground.home().join("l").join(link)).unwrap();
    for name in ["link", "lower"] {
        fs::remove_file(layer.join(name)).unwrap();
    }
    fs::remove_dir_all(layer.join("work")).unwrap();
    fs::remove_dir(layer.join("merged")).unwrap();
};

/// Those of a store of overlay2.
pub const OVERLAY: &[Operation] = &[
    Operation {
        starts: true,
        damage: |ground| fs::remove_dir_all(ground.home()).unwrap(),
        ..operation("init where nothing is", NOTHING)
    },
    operation("export", |s, _| s.diff("box", None).map(drop)),
    Operation {
        damage: PARTS_GONE,
        also: &[("box", "refused")],
        ..operation("repair", |s, _| s.repair("box", Some("upper")))
    },
    // Of an image's layer, whose parent its children know.
    Operation {
        damage: |ground| {
            ["link", "lower"].iter().for_each(|name| fs::remove_file(ground.home().join("upper").join(name)).unwrap())
        },
        also: &[("box", "refused"), ("upper", "refused")],
        tells: true,
        ..operation("check that mends", |s, _| s.check(true).map(drop))
    },
    // One that has children, as the worker takes others away before anybody else comes.
    Operation {
        damage: |ground| set_xattr(&ground.home().join("upper"), UNFINISHED, "first"),
        ..operation("re-creation over an interrupted unpack", |s, _| s.create_ro("upper", Some("image")))
    },
    // The worker's steps: what a crash left of a create, a removal, an unpack, and names in `l/` that are missing, or lead nowhere.
    Operation {
        starts: true,
        damage: |ground| {
            let home = ground.home();
            for (name, number) in [(".stage-", 1), (".trash-", 2)] {
                let left = home.join(format!("{name}{number:026x}"));
                fs::create_dir_all(left.join("diff/dir")).unwrap();
                fs::write(left.join("diff/dir/file"), "8").unwrap();
                fs::write(left.join("link"), "L").unwrap();
            }
            set_xattr(&home.join("new"), UNFINISHED, "first");
            fs::write(home.join("new/diff/half"), "9").unwrap();
            std::os::unix::fs::symlink("../nobody/diff", home.join("l/AAAAAAAAAAAAAAAAAAAAAAAAAA")).unwrap();
            let link = fs::read_to_string(home.join("image/link")).unwrap();
            fs::remove_file(home.join("l").join(link)).unwrap();
        },
        ..after(
            EMPTY_LAYER,
            operation("the worker after a crash", |_, ground| {
                ground.wait_for_the_worker();
                Ok(())
            }),
        )
    },
];

/// A container that was mounted `volatile` and still has overlayfs' mark, under a driver that discards the content of such ones
/// after the machine went down; which it did not.
pub const VOLATILE: &[Operation] = &[Operation {
    damage: |ground| nix::mount::umount(&ground.home().join("box/merged")).unwrap(),
    ..after(
        |s, _| s.mount("box", &["volatile"]).map(drop),
        operation("mount of a volatile container", |s, _| s.mount("box", &[]).map(drop)),
    )
}];

/// A container with limits of its own, where the store has quota.
pub const LIMITED: &[Operation] = &[
    operation("create_rw with a limit", limited),
    Operation { tidies: true, ..after(limited, operation("rm of a layer with a limit", |s, _| s.remove("new"))) },
    after(limited, operation("mount of a layer with a limit", |s, _| s.mount("new", &[]).map(drop))),
    // What a start has found out about limits is all that this process ever knows of them.
    Operation {
        starts: true,
        tidies: true,
        ..after(
            limited,
            operation("start, then rm of a layer with a limit", |s, _| {
                let removed = s.remove("new");
                if removed.is_err() {
                    s.cleanup()?; // the start, which came to its end, has a mount
                }
                removed
            }),
        )
    },
];

fn limited(subject: &dyn Subject, _: &Ground) -> Outcome<()> {
    subject.create("new", Some("upper"), graphdriver::driver::Access::ReadWrite, &[("size", "80M")]).map(drop)
}

/// Everything below a directory as text: names, modes, owners, and what is in files.
pub fn tree(dir: &Path) -> String {
    let mut lines = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap().map(|entry| entry.unwrap()) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let what = if kind.is_dir() {
                left.push(path.clone());
                "/".to_owned()
            } else if kind.is_symlink() {
                format!("->{}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                format!("={}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
            } else {
                "!".to_owned()
            };
            let (stat, name) = (entry.metadata().unwrap(), path.strip_prefix(dir).unwrap().display());
            lines.push(format!("{name}{what} {:o}:{}:{}", stat.mode() & 0o7777, stat.uid(), stat.gid()));
        }
    }
    lines.sort();
    lines.retain(|line| !line.starts_with("lost+found"));
    lines.join(" ")
}
