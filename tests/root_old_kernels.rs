//! The scenarios again, on a kernel that seems to lack newer system calls: a seccomp filter answers them with ENOSYS. The
//! fallbacks are code as well, and no kernel here is old enough to run them otherwise.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // prctl(2)

mod common;

use common::scenarios::{SCENARIOS, World};
use common::subject::{Rust, Subject};
use common::{Store, run};
use std::process::Command;

/// Makes these system calls fail with ENOSYS for the calling thread and all that it starts.
fn without(calls: &[libc::c_long]) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let (load, equal, ret) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET);
    let mut program = vec![op(load, 0, 0, 0)]; // the number is the first member of struct seccomp_data
    for call in calls {
        program.push(op(equal, 0, 1, u32::try_from(*call).unwrap()));
        program.push(op(ret, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
    }
    program.push(op(ret, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

fn run_all() {
    for (name, scenario) in SCENARIOS {
        let store = Store::new();
        let subject = Rust::default();
        subject.init("overlay2", &store.root(), &["overlay2.sync=none"]).unwrap();
        println!("scenario {name}");
        scenario(&World { subject: &subject });
        subject.cleanup().unwrap();
    }
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
fn root_before_linux_5_8_without_mount_attributes_in_statx() {
    without(&[libc::SYS_statx]);
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
