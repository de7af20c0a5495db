//! Archives made to be slow, deep or misleading. Needs root.

mod archive_support;

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
