//! What the archive states is what files have, however the filesystem is mounted and whatever the directory hands down. Needs
//! root.

mod archive_support;
mod common;

use archive_support::*;
use common::Store;
use graphdriver::archive::{IdShift, Options, Whiteouts};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ACL: &[u8] = b"user::rw-,user:9:rw-,group::r--,mask::rw-,other::---";

/// Everything that gets an owner, of group 0 and of others, in directories of either; some of it twice.
fn everything() -> Vec<Item> {
    let mut items = vec![dir(".").owner(0, 50).mode(0o755)];
    for (name, group) in [("zero", 0), ("seven", 7)] {
        let at = |rest: &str| format!("{name}/{rest}");
        items.extend([
            dir(name).owner(0, group),
            file(&at("none"), "x"),
            file(&at("seven"), "x").owner(0, 7),
            file(&at("other"), "x").owner(3, 4),
            file(&at("large"), &"x".repeat(100_000)),
            file(&at("setid"), "x").mode(0o6755),
            file(&at("setid-other"), "x").mode(0o6755).owner(3, 4),
            file(&at("attributes"), "x")
                .pax("SCHILY.xattr.user.x", b"y")
                .pax("SCHILY.xattr.security.capability", CAPABILITY),
            file(&at("acl"), "x").pax("SCHILY.acl.access", ACL).mode(0o660),
            symlink(&at("link"), "none"),
            symlink(&at("link-other"), "none").owner(3, 4),
            hardlink(&at("second"), &at("none")),
            item(b'6', &at("fifo")).mode(0o622),
            item(b'6', &at("fifo-other")).mode(0o622).owner(3, 4),
            item(b'3', &at("null")).device(1, 3).mode(0o666),
            dir(&at("dir")),
            dir(&at("dir-other")).owner(3, 4).mode(0o2770),
            file(&at("dir-other/below"), "x"),
            dir(&at("dir-other/sub")).mode(0o750),
            file(&at("implied/below"), "x"),
            file(&at(".wh.gone"), ""),
            file(&at("implied-by-whiteout/.wh.gone"), ""),
        ]);
    }
    // The directory's group changes after the first file in it, and again after the last.
    items.extend([file("late/a", "x"), dir("late").owner(0, 9), file("late/b", "x"), dir("late").owner(0, 10)]);
    items
}

/// Everything that can be seen of a tree; the top directory and the times that no entry states excepted.
fn look(root: &Path) -> String {
    let script = "find . -mindepth 1 -printf '%P %y %m %U:%G %l %T@\\n' | sort; \
                  find . -type f -size -90k -exec cat {} +; \
                  getfattr -R -P -h -d -e hex -m '^(user|security.capability|system)' . | sort";
    let output = Command::new("sh").arg("-c").arg(script).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let stated = |line: &str| match line.rsplit_once(' ') {
        Some((rest, time)) if time.contains('.') && !time.starts_with("1500000000.") => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(stated).collect()
}

fn ways() -> Vec<Options> {
    let shift = Some(IdShift { uid: 100_000, gid: 200_000, size: 65_536 });
    let overlay = options(Whiteouts::Overlay);
    vec![overlay.clone(), options(Whiteouts::Delete), Options { shift, ..overlay }]
}

/// What is unpacked, in each of the ways, into a directory prepared by a script.
fn unpacked(store: &Store, prepare: &str) -> Vec<String> {
    let trees = ways().into_iter().enumerate().map(|(n, way)| {
        let target = store.root().join(format!("target{n}"));
        std::fs::create_dir(&target).unwrap();
        let prepared = Command::new("sh").arg("-ec").arg(prepare).current_dir(&target).status().unwrap();
        assert!(prepared.success());
        unpack_with(&tar(&everything()), &target, &way).unwrap();
        look(&target)
    });
    trees.collect()
}

const EXT4: &[&str] = &["-q", "-F"];

#[test]
fn mount_options_do_not_show_in_the_layer() {
    let plain = unpacked(&Store::with("mkfs.ext4", EXT4, "loop"), "true");
    assert!(plain[0].contains("seven/none f 644 0:0 ") && plain[0].contains("late/b f 644 0:0 "), "{}", plain[0]);
    assert!(plain[0].contains("seven/setid-other f 6755 3:4 ") && plain[0].contains("security.capability"), "{}", plain[0]);
    assert!(plain[2].contains("seven/implied d 755 100000:200000 "), "{}", plain[2]);
    for (mkfs, args) in [("mkfs.ext4", EXT4), ("mkfs.xfs", &["-q"])] {
        for how in ["loop", "loop,grpid", "loop,bsdgroups", "loop,nosuid,nodev,noexec"] {
            // A directory of another group, and one that hands its group and an ACL down.
            for prepare in ["chgrp 50 .", "chgrp 50 .; chmod 2777 .; setfacl -d -m u:9:rwx,m::rwx,o::- ."] {
                let store = Store::with(mkfs, args, how);
                for (tree, right) in unpacked(&store, prepare).iter().zip(&plain) {
                    assert!(tree == right, "{mkfs} {how}, {prepare}:\n{}", difference(tree, right));
                }
            }
        }
    }
}

fn difference(one: &str, other: &str) -> String {
    let only = |a: &str, b: &str, sign: char| -> String {
        let b: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).take(10).map(|line| format!("{sign} {line}\n")).collect()
    };
    only(one, other, '+') + &only(other, one, '-')
}

/// The lines that unpacking an archive logs. One caller at a time: the log is the process's.
fn logged(archive: &[u8], target: &Path, how: &Options) -> Vec<String> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    graphdriver::log::set_sink(Some(Arc::new(move |_, line: &str| {
        if line.starts_with("left out of the layer: 'logged") {
            copy.lock().unwrap().push(line.to_owned());
        }
    })));
    unpack_with(archive, target, how).unwrap();
    graphdriver::log::set_sink(None);
    seen.lock().unwrap().clone()
}

fn attribute(name: &str, key: &str, value: &[u8]) -> Item {
    file(name, "").pax(&format!("SCHILY.xattr.{key}"), value)
}

#[test]
fn every_class_that_is_left_out_is_said_once() {
    let store = Store::with("mkfs.ext4", EXT4, "loop");
    let classes = ["trusted.x", "security.ima", "system.nfs4_acl", "user.overlay.opaque", "com.apple.quarantine"];
    let mut items = Vec::new();
    for key in classes {
        items.extend([attribute(&format!("logged-{key}"), key, b"v"), attribute(&format!("logged-2-{key}"), key, b"v")]);
    }
    items.push(Item { kind: b'2', link: b"x".to_vec(), ..attribute("logged-link", "user.x", b"v") });
    items.push(Item { kind: b'6', ..attribute("logged-fifo", "user.x", b"v") });
    let lines = logged(&tar(&items), &store.root(), &options(Whiteouts::Overlay));
    assert_eq!(lines.len(), classes.len() + 1, "{lines:#?}");
    for key in classes {
        let of_class: Vec<&String> = lines.iter().filter(|line| line.contains(&format!("the attribute '{key}'"))).collect();
        assert!(of_class.len() == 1 && of_class[0].contains(&format!("'logged-{key}'")), "{lines:#?}");
    }
    assert!(lines.iter().any(|line| line.contains("this kind of file cannot have it")), "{lines:#?}");
    assert!(!look(&store.root()).contains("user.overlay.opaque="));
}

#[test]
fn what_the_filesystem_has_no_place_for_is_left_out() {
    let long_name = format!("user.{}", "n".repeat(295));
    for (mkfs, args, stored) in [("mkfs.ext4", EXT4, false), ("mkfs.xfs", &["-q"], true)] {
        for (key, value, fits) in [
            ("user.big", vec![b'x'; 5000], stored),
            ("user.huge", vec![b'x'; 70_000], false),
            (&long_name, vec![b'v'], false),
        ] {
            let store = Store::with(mkfs, args, "loop");
            let items = tar(&[attribute("logged", key, &value).pax("SCHILY.xattr.user.a", b"small"), file("after", "x")]);
            let lines = logged(&items, &store.root(), &options(Whiteouts::Overlay));
            assert_eq!(lines.len(), usize::from(!fits), "{mkfs} {key}: {lines:#?}");
            let tree = look(&store.root());
            assert!(tree.contains("user.a=") && tree.contains("after f 644"), "{tree}");
            assert_eq!(tree.contains("user.big="), fits, "{mkfs}");
        }
    }
}

/// The same errno, and no warning: what has no room now is not what has no place ever.
#[test]
fn a_full_disk_is_an_error_for_attributes_too() {
    let store = Store::with("mkfs.ext4", &["-q", "-F", "-m", "0"], "loop");
    let target = store.root().join("target");
    std::fs::create_dir(&target).unwrap();
    let archive = tar(&[attribute("f", "user.block", &[b'x'; 3000])]);
    unpack(&archive, &target).unwrap();
    std::fs::remove_file(target.join("f")).unwrap();
    let ballast = store.root().join("ballast");
    let filled =
        Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", ballast.display())).output().unwrap();
    assert!(!filled.status.success());
    Command::new("sh").arg("-c").arg(format!("cat /dev/zero >>{}; sync", ballast.display())).output().unwrap();
    let e = unpack(&archive, &target).unwrap_err();
    assert_eq!(e.errno(), 28, "{e}");
    std::fs::remove_file(ballast).unwrap();
    unpack(&archive, &target).unwrap();
}

/// An ACL as the kernel takes it: owner, user `id`, group, mask, others.
fn acl_naming(id: u32) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [(1, 6, u32::MAX), (2, 4, id), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)] {
        value.extend([tag, 0, permissions, 0]);
        value.extend(id.to_le_bytes());
    }
    value
}

fn capability_of(root: u32) -> Vec<u8> {
    let mut value = CAPABILITY.to_vec();
    value[3] = 3;
    value.extend(root.to_le_bytes());
    value
}

#[test]
fn ids_of_another_host_inside_values_lose_the_value_and_not_the_layer() {
    let store = Store::with("mkfs.ext4", EXT4, "loop");
    let mut shifting = options(Whiteouts::Overlay);
    shifting.shift = Some(IdShift { uid: 100_000, gid: 100_000, size: 65_536 });
    let archive = tar(&[
        attribute("logged-capability", "security.capability", &capability_of(1_000_000)).mode(0o755),
        attribute("logged-acl", "system.posix_acl_access", &acl_naming(1_234_567)),
        file("logged-acl-text", "").pax("SCHILY.acl.access", b"user::rw-,user:x:r--:70000,group::r--,mask::r--,other::r--"),
        attribute("own-capability", "security.capability", &capability_of(0)),
        attribute("own-acl", "system.posix_acl_access", &acl_naming(5)),
    ]);
    let lines = logged(&archive, &store.root(), &shifting);
    assert!(lines.len() == 2 && lines.iter().any(|line| line.contains("another host's user namespace")), "{lines:#?}");
    let tree = look(&store.root());
    assert!(tree.contains("logged-capability f 755 100000:100000"), "{tree}");
    assert_eq!((tree.matches("security.capability=").count(), tree.matches("posix_acl_access=").count()), (1, 1), "{tree}");
    // Values that are no such values at all are the archive's fault, shifted or not.
    for way in [shifting, options(Whiteouts::Overlay)] {
        for (key, value) in [
            ("security.capability", &CAPABILITY[..5]),
            ("security.capability", &[0; 20]),
            ("system.posix_acl_access", &acl_naming(5)[..9]),
            ("system.posix_acl_access", &[3, 0, 0, 0]),
            // No mask, which the kernel wants where somebody is named.
            ("system.posix_acl_access", &[&acl_naming(5)[..28], &acl_naming(5)[36..]].concat()),
            ("user.a\0b", b"v"),
        ] {
            let e = unpack_with(&tar(&[attribute("f", key, value)]), &store.root(), &way).unwrap_err();
            assert_eq!(e.errno(), 74, "{key:?}: {e}");
        }
    }
}
