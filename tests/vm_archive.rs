//! Unpacking where the filesystem is mounted without attributes: newer kernels have no such mount options for ext4.

mod archive_support;
mod common;

use archive_support::*;
use common::Store;
use std::process::Command;
use std::sync::{Arc, Mutex};

fn shell(store: &Store, script: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(script).current_dir(store.root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn vm_a_mount_without_attributes_costs_a_line_in_the_log_and_nothing_else() {
    let acl = b"user::rw-,user:9:rw-,group::r--,mask::rw-,other::---";
    let archive = tar(&[
        dir("d")
            .mode(0o2775)
            .owner(0, 50)
            .pax("SCHILY.acl.default", b"user::rwx,user:9:rwx,group::r-x,mask::rwx,other::r-x"),
        file("d/a", "x").mode(0o660).pax("SCHILY.acl.access", acl).pax("SCHILY.xattr.user.x", b"y"),
        file("d/b", "x").mode(0o4755).owner(1, 2).pax("SCHILY.acl.access", acl).pax("SCHILY.xattr.user.x", b"y"),
        item(b'6', "d/p").mode(0o640).pax("SCHILY.acl.access", acl),
    ]);
    for (how, user, acls, lines) in [("loop", 2, 4, 0), ("loop,nouser_xattr", 0, 4, 1), ("loop,noacl", 2, 0, 1)] {
        let store = Store::with("mkfs.f2fs", &["-q"], how);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        graphdriver::log::set_sink(Some(Arc::new(move |_, line: &str| copy.lock().unwrap().push(line.to_owned()))));
        unpack(&archive, &store.root()).unwrap();
        graphdriver::log::set_sink(None);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), lines, "{how}: {seen:#?}");
        assert!(seen.iter().all(|line| line.contains("the filesystem has no place for it")), "{seen:#?}");
        let attributes = shell(&store, "getfattr -R -d -m - .");
        assert_eq!(attributes.matches("user.x=").count(), user, "{how}: {attributes}");
        assert_eq!(attributes.matches("system.posix_acl_").count(), acls, "{how}: {attributes}");
        // With an ACL the group's bits are its mask.
        let (a, b) = if acls == 0 { (660, 4755) } else { (660, 4660) };
        let listing = shell(&store, "stat -c '%a %u:%g' d d/a d/b");
        assert_eq!(listing, format!("2775 0:50\n{a} 0:0\n{b} 1:2\n"), "{how}");
    }
}
