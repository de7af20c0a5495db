//! Where there is no project quota: limits are refused with the reason, everything else works. What works with quota is in
//! `vm_quota.rs`.

mod common;

use common::subject::{Rust, Subject};
use common::{Store, own_namespace, run};
use graphdriver::driver::Access;
use std::path::Path;
use std::process::Command;

const EXT4: (&str, &[&str]) = ("mkfs.ext4", &["-q", "-F"]);
const XFS: (&str, &[&str]) = ("mkfs.xfs", &["-q", "-f"]);

/// Whether this kernel mounts such a filesystem with project quota, found out by doing it.
fn kernel_has_quota(mkfs: &str, args: &[&str]) -> bool {
    own_namespace();
    let dir = std::env::temp_dir().join(format!("graphdriver-quota-{}-{mkfs}", std::process::id()));
    let (image, point) = (dir.join("image"), dir.join("mnt"));
    std::fs::create_dir_all(&point).unwrap();
    std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    run(Command::new(mkfs).args(args).arg(&image));
    let mounted = Command::new("mount").args(["-o", "loop,prjquota"]).arg(&image).arg(&point).output().unwrap();
    if mounted.status.success() {
        run(Command::new("umount").arg(&point));
    }
    std::fs::remove_dir_all(&dir).unwrap();
    mounted.status.success()
}

/// Limits are refused in every way they can be asked for, and all else works.
fn refuses(root: &Path, complaint: &str, reason: &str, advice: &str) {
    let subject = Rust::default();
    let init = |options: &[&str]| subject.init("overlay2", root, options);
    for limit in ["overlay2.size=1G", "overlay2.basesize=1G", "overlay2.inodes=1000"] {
        let refused = init(&[limit]).unwrap_err();
        for part in [complaint, reason, advice] {
            assert!(refused.text.contains(part), "{limit}: '{part}' is not in {refused:?}");
        }
        assert_eq!(refused.errno, libc::EOPNOTSUPP);
    }
    init(&["overlay2.size=0"]).unwrap();
    for option in [("size", "1G"), ("inodes", "10"), ("nonsense", "1")] {
        let refused = subject.create("a", None, Access::ReadWrite, &[option]).unwrap_err();
        let sentence = "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option";
        assert_eq!((refused.text.as_str(), refused.errno), (sentence, libc::EOPNOTSUPP));
        assert!(!subject.exists("a"));
    }
    let status = subject.status().unwrap().2;
    assert!(
        status.contains("\nSupports d_type: true\nSupports project quota: false (needed for size limits only: "),
        "{status}"
    );
    assert!(status.contains(reason) && status.ends_with('\n'), "{status}");

    assert_eq!(subject.create("a", None, Access::ReadWrite, &[]).unwrap(), []);
    let merged = subject.mount("a", &[]).unwrap();
    std::fs::write(merged.join("file"), vec![1; 100_000]).unwrap();
    assert!(subject.usage("a").unwrap().0 >= 100_000);
    subject.remove("a").unwrap();
    subject.cleanup().unwrap();
}

const NO_QUOTA: &str = "Storage option overlay.size not supported. Filesystem does not support Project Quota";

#[test]
fn root_ext4_without_project_quota_says_what_is_missing() {
    let kernel = kernel_has_quota("mkfs.ext4", &["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"]);
    let store = Store::with(EXT4.0, EXT4.1, "loop");
    if kernel {
        refuses(&store.root(), NO_QUOTA, "made without the features 'quota' and 'project'", "tune2fs -O project,quota");
    } else {
        refuses(
            &store.root(),
            NO_QUOTA,
            "this kernel has no quota for ext4 (CONFIG_QUOTA and CONFIG_QFMT_V2)",
            "another kernel",
        );
    }
}

#[test]
fn root_xfs_without_project_quota_says_what_is_missing() {
    let kernel = kernel_has_quota(XFS.0, XFS.1);
    let store = Store::with(XFS.0, XFS.1, "loop");
    if kernel {
        refuses(&store.root(), NO_QUOTA, "XFS is mounted without project quota", "mount it with -o prjquota");
    } else {
        refuses(&store.root(), NO_QUOTA, "this kernel's XFS is built without quota (CONFIG_XFS_QUOTA)", "another kernel");
    }
}

#[test]
fn root_other_filesystems_have_no_project_quota() {
    own_namespace();
    let dir = std::env::temp_dir().join(format!("graphdriver-quota-{}-tmpfs", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&dir));
    let complaint = "Storage option overlay.size only supported for backingFS XFS or ext4.";
    refuses(&dir, complaint, "project quota works on ext4 and XFS only", "");
    run(Command::new("umount").arg(&dir));
    std::fs::remove_dir(&dir).unwrap();
}

/// XFS keeps project ids without quota, and a home that hands its own on (`chattr +P`) lets no layer of another be renamed.
#[test]
fn root_layers_with_a_project_can_be_removed_where_quota_is_off() {
    let store = Store::with(XFS.0, XFS.1, "loop");
    let subject = Rust::default();
    let give = |path: &Path, id: &str| run(Command::new("chattr").args(["-p", id, "+P"]).arg(path));
    let home = store.root().join("overlay2");
    std::fs::create_dir(&home).unwrap();
    give(&home, "100");
    subject.init("overlay2", &store.root(), &[]).unwrap();
    subject.create_rw("a", None).unwrap();
    for part in ["", "diff", "work", "merged"] {
        give(&home.join("a").join(part), "7");
    }
    assert!(std::fs::rename(home.join("a"), home.join("b")).is_err(), "the kernel allows what this test is about");
    subject.remove("a").unwrap();
    assert!(!subject.exists("a"));
    let left =
        std::fs::read_dir(&home).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0);
}
