//! The scenarios again, on a kernel that seems to lack newer system calls: a seccomp filter answers them with ENOSYS. The
//! fallbacks are code as well, and no kernel here is old enough to run them otherwise.

mod common;

use common::old_kernel::{FCHMODAT2, GETXATTRAT, without};
use common::scenarios::{World, run_each};
use common::subject::{Rust, Subject};
use common::{Store, run};
use std::process::Command;

fn run_all() {
    run_each(|_, scenario| {
        let store = Store::new();
        let subject = Rust::default();
        let (root, options) = (store.root(), ["overlay2.sync=none"]);
        subject.init("overlay2", &root, &options).unwrap();
        scenario(&World { subject: &subject, driver: "overlay2", root: &root, options: &options });
        subject.cleanup().unwrap();
    });
}

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

#[test]
fn root_before_linux_5_2_without_the_new_mount_api() {
    without(&[libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_move_mount]);
    run_all();
}

#[test]
fn root_before_linux_5_6_without_openat2_and_the_new_mount_api() {
    without(&[libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_move_mount, libc::SYS_openat2]);
    run_all();
}

#[test]
fn root_before_linux_5_12_without_views_of_mounts() {
    without(&[libc::SYS_mount_setattr, libc::SYS_open_tree]);
    run_all();
}

#[test]
fn root_before_linux_5_8_without_mount_attributes_in_statx() {
    without(&[libc::SYS_statx]);
    run_all();
}

/// All that is left out above and below by itself.
const NEWER: [libc::c_long; 11] = [
    libc::SYS_openat2,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_statx,
    FCHMODAT2,
    libc::SYS_mount_setattr,
    libc::SYS_renameat2,
    GETXATTRAT,
];

#[test]
fn root_before_linux_6_6_without_fchmodat2_and_getxattrat() {
    without(&[FCHMODAT2, GETXATTRAT]);
    run_all();
}

#[test]
fn root_without_renameat2() {
    without(&[libc::SYS_renameat2]);
    run_all();
}

#[test]
fn root_without_openat2() {
    without(&[libc::SYS_openat2]);
    run_all();
}

#[test]
fn root_without_any_of_them() {
    without(&NEWER);
    run_all();
}

/// Before Linux 6.8 a chain must fit into one page of options; past that, names relative to home are used, and past those the
/// chain is refused when it is made and not when a container is to start.
#[test]
fn root_a_page_of_options_bounds_the_chain_and_is_used_to_its_end() {
    let store = Store::new();
    without(&[libc::SYS_fsopen]);
    let subject = Rust::default();
    subject.init("overlay2", &store.root(), &["overlay2.sync=none"]).unwrap();
    let mut parent: Option<String> = None;
    let refused = (0..200).find_map(|i| {
        let id = format!("{i:064}");
        let made = subject.create_ro(&id, parent.as_deref());
        made.map(|()| parent = Some(id)).err()
    });
    let refused = refused.expect("200 layers do not fit into a page");
    assert!(refused.text.contains("Max depth exceeded"), "{refused:?}");
    let deepest = parent.unwrap();
    assert!(deepest.trim_start_matches('0').parse::<usize>().unwrap() > 126, "{deepest}");
    let root = subject.mount(&deepest, &[]).unwrap();
    run(Command::new("mountpoint").arg("-q").arg(&root));
    subject.umount(&deepest).unwrap();
    subject.cleanup().unwrap();
}
