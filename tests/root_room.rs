//! A layer that does not fit says what it is that is used up. Needs root.

mod archive_support;
mod common;

use archive_support::{Item, file, options, tar, unpack_with};
use common::{Store, subject::Rust, subject::Subject};
use graphdriver::archive::Whiteouts;
use graphdriver::error::{Error, Kind};

fn full(store: &Store, items: &[Item]) -> Error {
    let target = store.root().join("target");
    std::fs::create_dir_all(&target).unwrap();
    let error = unpack_with(&tar(items), &target, &options(Whiteouts::Overlay)).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::NoSpace, libc::ENOSPC), "{error}");
    error
}

fn many(count: usize, bytes: usize) -> Vec<Item> {
    (0..count).map(|n| Item { data: vec![1; bytes], ..file(&format!("f{n}"), "") }).collect()
}

/// Leaves little room.
fn take_most(store: &Store) {
    std::fs::create_dir(store.root().join("target")).unwrap();
    let filler = std::fs::File::create(store.root().join("filler")).unwrap();
    let free = nix::sys::statvfs::fstatvfs(&filler).unwrap();
    let bytes = i64::try_from(free.blocks_free() * free.fragment_size()).unwrap();
    let mut left = 16 << 20;
    while nix::fcntl::fallocate(&filler, nix::fcntl::FallocateFlags::empty(), 0, bytes - left).is_err() {
        left += 1 << 20;
        assert!(left < 64 << 20);
    }
}

#[test]
fn inodes_and_blocks_are_told_apart() {
    let few = Store::with("mkfs.ext4", &["-q", "-F", "-N", "100"], "loop");
    let error = full(&few, &many(2000, 0)).to_string();
    assert!(error.contains("no free inodes of the filesystem"), "{error}");
    for (mkfs, args) in [("mkfs.ext4", ["-q", "-F"]), ("mkfs.xfs", ["-q", "-f"])] {
        let small = Store::with(mkfs, &args, "loop");
        take_most(&small);
        let error = full(&small, &many(80, 1 << 20)).to_string();
        assert!(error.contains("no free space") || error.contains("are free, less"), "{error}");
        assert!(error.contains("remove layers or files"), "{error}");
    }
}

#[test]
fn the_drivers_own_advice_stands_beside_it() {
    let store = Store::with("mkfs.ext4", &["-q", "-F", "-N", "200"], "loop");
    let subject = Rust::default();
    subject.init("overlay", &store.root(), &["overlay2.sync=none"]).unwrap();
    subject.create_ro("a", None).unwrap();
    subject.apply("a", &tar(&many(10, 0))).unwrap();
    let failure = subject.apply("a", &tar(&many(2000, 0))).unwrap_err();
    assert!(failure.text.contains("no free inodes") && failure.text.contains("the layer is incomplete"), "{failure:?}");
    subject.remove("a").unwrap();
    subject.cleanup().unwrap();
}
