//! Every system call that an export makes fails in turn: it fails with that error, or what it wrote is whole.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // prctl(2)

mod common;
mod tree_support;

use common::Store;
use graphdriver::driver::{Access, CreateOptions, Form, MountOptions};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use tree_support::{Random, work};

/// Calls by which a layer is read. The kernel may refuse the last ones: then the layer is read as it is.
const CALLS: [(&str, libc::c_long, i32); 17] = [
    ("openat", libc::SYS_openat, libc::EMFILE),
    ("openat2", libc::SYS_openat2, libc::EIO),
    ("newfstatat", libc::SYS_newfstatat, libc::EIO),
    ("fstat", libc::SYS_fstat, libc::EIO),
    ("getdents64", libc::SYS_getdents64, libc::EIO),
    ("read", libc::SYS_read, libc::EIO),
    ("readlinkat", libc::SYS_readlinkat, libc::EIO),
    ("flistxattr", libc::SYS_flistxattr, libc::EIO),
    ("fgetxattr", libc::SYS_fgetxattr, libc::EIO),
    ("listxattr", libc::SYS_listxattr, libc::EIO),
    ("lseek", libc::SYS_lseek, libc::EIO),
    ("clone3", libc::SYS_clone3, libc::EAGAIN),
    ("clone", libc::SYS_clone, libc::EAGAIN), // what glibc uses where it has no clone3
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask, libc::EIO),
    ("fsopen", libc::SYS_fsopen, libc::ENOMEM),
    ("open_tree", libc::SYS_open_tree, libc::EMFILE),
    ("mount_setattr", libc::SYS_mount_setattr, libc::EPERM),
];

fn id(text: &str) -> LayerId {
    LayerId::parse(text.as_bytes()).unwrap()
}

/// Makes a call fail for the calling thread and those that it starts.
fn fail(call: libc::c_long, errno: i32) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap()),
        op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()),
        op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

#[test]
fn root_every_call_of_an_export_fails_in_turn() {
    let store = Store::new();
    let graph = Graph::new();
    graph.init("overlay2", &store.root(), &["overlay2.sync=none"]).unwrap();
    let make = |name: &str, parent: Option<&str>, seed| {
        graph
            .with(|driver| {
                let parent = parent.map(id);
                driver.create(&id(name), parent.as_ref(), Access::ReadWrite, &mut CreateOptions::default())?;
                work(&mut Random::new(seed), &driver.mount(&id(name), &MountOptions::default())?, 150);
                driver.umount(&id(name))
            })
            .unwrap();
    };
    make("one", None, 1);
    make("two", Some("one"), 2);
    make("three", Some("two"), 3);
    // By its marks, and by comparing it with an ancestor further up.
    // On threads of their own, and on the caller's alone.
    for (base, digests) in [(None, true), (None, false), (Some("one"), true), (Some("one"), false)] {
        let export = |bytes: &mut Vec<u8>| {
            graph
                .with(|driver| driver.diff(&id("three"), &base.map(id).into(), Form { digests, ..Form::default() }, bytes))
                .map(drop)
        };
        let mut whole = Vec::new();
        export(&mut whole).unwrap();
        let mut failed = 0;
        for (name, call, errno) in CALLS {
            let (outcome, bytes) = std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    let mut bytes = Vec::new();
                    fail(call, errno);
                    (export(&mut bytes), bytes)
                });
                thread.join().unwrap_or_else(|_| panic!("{name}: a panic"))
            });
            match outcome {
                Ok(()) => assert!(bytes == whole, "{name}, base {base:?}: a success that is not whole"),
                Err(e) => {
                    assert_eq!(e.errno(), errno, "{name}, base {base:?}: {e}");
                    failed += 1;
                }
            }
            assert_eq!(common::mounts_below(&store.root()), [store.root().join("overlay2").display().to_string()], "{name}");
        }
        assert!(failed > 9, "only {failed} calls matter");
        let mut again = Vec::new();
        export(&mut again).unwrap();
        assert!(again == whole);
    }
    graph.cleanup().unwrap();
}
