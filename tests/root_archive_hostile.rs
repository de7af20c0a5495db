//! Archives made to be slow, deep or misleading. Needs root.

mod archive_support;
#[path = "common/chroot.rs"]
mod chroot;

use archive_support::*;
use graphdriver::archive::Whiteouts;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Makes `depth` directories, each in the one before.
fn deep(top: &Path, depth: usize) {
    let mut here = std::os::fd::OwnedFd::from(std::fs::File::open(top).unwrap());
    for _ in 0..depth {
        nix::sys::stat::mkdirat(&here, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
        here = nix::fcntl::openat(&here, "d", nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
    }
}

/// Deleting needs neither stack nor descriptors for each level.
#[test]
fn a_whiteout_deletes_a_tree_of_any_depth() {
    let scratch = Scratch::new("deep");
    for (name, marker) in [("a", ".wh.a"), ("b", "b/.wh..wh..opq")] {
        deep(&scratch.dir(name), 6_000);
        let archive = tar(&[file(&format!("{name}/new"), ""), file(marker, "")]);
        unpack_with(&archive, &scratch.0, &options(Whiteouts::Delete)).unwrap();
        let names: Vec<_> = std::fs::read_dir(scratch.0.join(name)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["new"], "{marker}");
    }
}

/// A directory that a whiteout spares only for what the layer has in it is one that the layer implies; one that the layer
/// describes keeps what it says. Neither gets the time of the deletion.
#[test]
fn what_a_whiteout_spares_is_the_layers() {
    let scratch = Scratch::new("spared");
    let at = |name: &str| scratch.0.join(name);
    for dir in ["d/sub", "d/said", "w/sub"] {
        std::fs::create_dir_all(at(dir)).unwrap();
        std::fs::write(at(dir).join("old"), "").unwrap();
        std::fs::set_permissions(at(dir), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(at(dir), Some(55), Some(55)).unwrap();
    }
    // Enough other directories that none of the first ones is still open when the whiteouts come.
    let mut items = vec![file("d/sub/n", ""), dir("d/said").mode(0o711).owner(7, 7).mtime(1_000_000_000)];
    items.extend([file("d/said/n", ""), file("w/sub/n", "")]);
    items.extend((0..40).map(|n| dir(&format!("other/{n}"))));
    items.extend([file("d/.wh..wh..opq", ""), file(".wh.w", "")]);
    unpack_with(&tar(&items), &scratch.0, &options(Whiteouts::Delete)).unwrap();
    let look = |name: &str| {
        let st = std::fs::metadata(at(name)).unwrap();
        (st.mode() & 0o7777, st.uid(), st.gid())
    };
    for name in ["d/sub", "w", "w/sub"] {
        assert_eq!(look(name), (0o755, 0, 0), "{name}");
    }
    assert_eq!(look("d/said"), (0o711, 7, 7));
    assert_eq!(std::fs::metadata(at("d/said")).unwrap().mtime(), 1_000_000_000);
    for name in ["d/sub", "d/said", "w/sub"] {
        assert!(at(name).join("n").exists() && !at(name).join("old").exists(), "{name}");
    }
}

/// What a directory hid when it was something else in the same layer stays hidden.
#[test]
fn a_directory_in_the_place_of_a_file_is_opaque() {
    let scratch = Scratch::new("turned");
    let archive = tar(&[
        file("file", ""),
        dir("file"),
        symlink("link", "nowhere"),
        dir("link"),
        item(b'6', "fifo"),
        dir("fifo"),
        dir("again"),
        dir("again"),
    ]);
    unpack(&archive, &scratch.0).unwrap();
    let opaque = |name: &str| {
        let mut command = std::process::Command::new("getfattr");
        command.args(["-n", "trusted.overlay.opaque"]).arg(scratch.0.join(name)).output().unwrap().status.success()
    };
    assert_eq!(["file", "link", "fifo", "again"].map(opaque), [true, true, true, false]);
}

/// A whiteout is no file: not one to link to, and not one to be had by the name of a device.
#[test]
fn whiteouts_are_made_by_whiteouts() {
    let scratch = Scratch::new("forged");
    let e = unpack(&tar(&[file(".wh.gone", ""), hardlink("h", "gone")]), &scratch.0).unwrap_err();
    assert_eq!(e.to_string(), "unpack 'h': a hard link to 'gone', which this layer does not hold");
    assert!(!scratch.0.join("h").exists());
    // Hides what is there, and is marked as a whiteout is, so that it is not listed where the layer is alone.
    unpack(&tar(&[file("d/c", "x"), item(b'3', "d/c")]), &scratch.0).unwrap();
    assert_eq!(std::fs::symlink_metadata(scratch.0.join("d/c")).unwrap().rdev(), 0);
    let marks = std::process::Command::new("getfattr").args(["-d", "-m", "-"]).arg(scratch.0.join("d")).output().unwrap();
    assert!(String::from_utf8_lossy(&marks.stdout).contains("trusted.overlay.origin"), "{marks:?}");
    // The deleting form makes the device.
    unpack_with(&tar(&[item(b'3', "c")]), &scratch.0, &options(Whiteouts::Delete)).unwrap();
    assert_eq!(std::fs::symlink_metadata(scratch.0.join("c")).unwrap().mode() & 0o170_000, 0o020_000);
}

#[test]
fn names_of_unusual_headers() {
    let scratch = Scratch::new("names");
    // Behind the magic stand two blanks, or nothing, where POSIX has "00".
    for (prefix, version) in [("one", b"  "), ("two", b"\0\0"), ("three", b"00")] {
        let mut block = file("name", "").blocks();
        block[257..265].copy_from_slice(&[&b"ustar\0"[..], version].concat());
        block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        checksum(&mut block[..512]);
        unpack(&block, &scratch.0).unwrap();
        assert!(scratch.0.join(prefix).join("name").exists(), "{prefix}");
    }
    unpack(&tar(&[file("stand-in", "x").pax("GNU.sparse.name", b"real")]), &scratch.0).unwrap();
    assert!(scratch.0.join("real").exists() && !scratch.0.join("stand-in").exists());
}

#[test]
fn what_is_no_tar_is_called_by_its_name() {
    let scratch = Scratch::new("foreign");
    for (start, name) in
        [(&b"PK\x03\x04"[..], "a zip archive"), (b"{\"errors\":[]}", "a JSON text"), (b"7z\xbc\xaf\x27\x1c", "7z")]
    {
        for length in [start.len(), 300, 5000] {
            let mut content = start.to_vec();
            content.resize(length.max(start.len()), b'x');
            let e = unpack(&content, &scratch.0).unwrap_err().to_string();
            assert!(e.contains("not a tar archive") && e.contains(name), "{e}");
        }
    }
    unpack(&tar(&[file("{name}", "")]), &scratch.0).unwrap();
}

/// Neither directories that nobody described nor a compressed stream without content go on for ever.
#[test]
fn what_no_entry_says_is_bounded_too() {
    use std::io::Write;
    let scratch = Scratch::new("bounded");
    let mut small = options(Whiteouts::Overlay);
    small.limits.entries = 20;
    let e = unpack_with(
        &tar(&[file(&"d/".repeat(30), "").mode(0o700), file(&format!("{}f", "e/".repeat(30)), "")]),
        &scratch.0,
        &small,
    );
    assert!(e.unwrap_err().to_string().contains("limit 'entries'"));
    small.limits.stream = 1 << 20;
    // Frames of zstd that are to be skipped: no byte of content in 2 MiB.
    let mut frames = Vec::new();
    for _ in 0..2048 {
        frames.write_all(&[0x50, 0x2a, 0x4d, 0x18, 0xf8, 0x03, 0, 0]).unwrap();
        frames.resize(frames.len() + 1016, 0);
    }
    let e = unpack_with(&frames, &scratch.0, &small).unwrap_err();
    assert!(e.to_string().contains("limit 'stream'"), "{e}");
}

/// What the kernel would refuse of an attribute is no reason to refuse the layer.
#[test]
fn attributes_that_no_file_can_have_are_left_out() {
    let scratch = Scratch::new("refused-attributes");
    let acl = b"user::rwx,group::r-x,other::r-x";
    unpack(
        &tar(&[
            file("f", "").pax("SCHILY.acl.default", acl),
            item(b'6', "p").pax("SCHILY.acl.default", acl),
            file("long", "").pax("SCHILY.xattr.user.long", &vec![b'x'; 70_000]),
        ]),
        &scratch.0,
    )
    .unwrap();
    assert!(scratch.0.join("long").exists());
}

/// The host's log function may open files: inside the layer they would be the image's.
#[test]
fn what_is_left_out_is_logged_once_and_on_the_callers_thread() {
    use std::sync::{Arc, Mutex};
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    graphdriver::log::set_sink(Some(Arc::new(move |_, line: &str| {
        if line.contains("-left-out") {
            let first = line.split('\'').nth(1).unwrap().to_owned();
            copy.lock().unwrap().push((first, std::thread::current().id()));
        }
    })));
    let scratch = Scratch::new("losses");
    let archive = tar(&[
        file("acl-left-out", "").pax("SCHILY.acl.access", b"user::rw-,user:lisa:rw-,group::r--,mask::rw-,other::---"),
        file("acl-left-out2", "").pax("SCHILY.acl.access", b"user::rw-,user:lisa:rw-,group::r--,mask::rw-,other::---"),
        item(b'3', "device-left-out"),
        item(b'3', "device-left-out2"),
    ]);
    unpack(&archive, &scratch.0).unwrap();
    graphdriver::log::set_sink(None);
    let caller = std::thread::current().id();
    let expected = ["acl-left-out", "device-left-out"].map(|name| (name.to_owned(), caller));
    assert_eq!(*seen.lock().unwrap(), expected);
}

const CHILD: &str = "ARCHIVE_HOSTILE_CHILD";

/// libc reads files of the system when it pleases, such as one of these when it gives memory back to the kernel: in a chroot
/// they are the archive's, and a fifo would be waited for without end. In a process of its own, because libc reads it once.
#[test]
fn what_libc_would_read_is_not_the_layers() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let dir = Path::new(&dir);
        let archive = std::fs::File::open(dir.join("tar")).unwrap();
        let target = std::fs::File::open(dir.join("target")).unwrap();
        let mut read = std::io::BufReader::new(archive);
        archive_support::unpack_from(&mut read, std::os::fd::AsFd::as_fd(&target), &options(Whiteouts::Overlay)).unwrap();
        return;
    }
    let scratch = Scratch::new("libc");
    scratch.dir("target");
    let names = ["proc/sys/vm/overcommit_memory", "sys/devices/system/cpu/online", "proc/stat", "proc/self/maps"];
    let mut items: Vec<Item> = names.iter().map(|name| item(b'6', name)).collect();
    // Memory is given back where much of it is released at once.
    items.extend((0..8).map(|n| {
        let file = file(&format!("f{n}"), "");
        (0..16).fold(file, |file, n| file.pax(&format!("SCHILY.xattr.trusted.{n}"), &vec![b'x'; 60_000]))
    }));
    std::fs::write(scratch.0.join("tar"), tar(&items)).unwrap();
    let status = std::process::Command::new("timeout")
        .args(["-s", "KILL", "60"])
        .arg(chroot::this_program())
        .args(["--exact", "what_libc_would_read_is_not_the_layers", "--test-threads", "1"])
        .env(CHILD, &scratch.0)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the unpacker waits for a fifo of the layer: {status}");
}
