//! What a test has done in another process because it might never come back from it, or because it uses several threads there.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // fork has no safe form

use super::Tar;
use super::subject::{Failure, Subject};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;

type Program = fn(&dyn Subject);

const PROGRAMS: &[(&str, Program)] = &[
    ("two callbacks that each want the other's layer", two_callbacks_that_each_want_the_others_layer),
    ("start a program that stays", start_a_program_that_stays),
    ("fork a child that stays", fork_a_child_that_stays),
];

/// Runs a program by its name. A panic is its failure.
pub fn run(name: &str, subject: &dyn Subject) -> Result<(), Failure> {
    let outcome = match PROGRAMS.iter().find(|(own, _)| *own == name) {
        None => Err(format!("there is no program '{name}'")),
        Some((_, program)) => catch_unwind(AssertUnwindSafe(|| program(subject))).map_err(|why| {
            let why = why.downcast_ref::<String>().map(String::as_str).or_else(|| why.downcast_ref::<&str>().copied());
            format!("{name}: {}", why.unwrap_or("a thread panicked; see its own text"))
        }),
    };
    outcome.map_err(|text| Failure { errno: 0, text })
}

/// Calls the library between two pieces of an archive.
struct Calling<'a> {
    archive: &'a [u8],
    call: Option<Box<dyn FnOnce() + 'a>>,
}

impl Read for Calling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(call) = self.call.take() {
            call();
        }
        self.archive.read(buffer)
    }
}

/// Layers "one" and "two" are there, and empty. While each is being unpacked the source of each calls umount on the other one.
fn two_callbacks_that_each_want_the_others_layer(subject: &dyn Subject) {
    let archive = Tar::new().file("f", "x").done();
    let both_hold = Barrier::new(2);
    let both_have_asked = Barrier::new(2);
    std::thread::scope(|scope| {
        for (own, other) in [("one", "two"), ("two", "one")] {
            let (archive, both_hold, both_have_asked) = (&archive, &both_hold, &both_have_asked);
            scope.spawn(move || {
                let call = move || {
                    both_hold.wait();
                    let outcome = subject.umount(other);
                    both_have_asked.wait();
                    let failure = outcome.expect_err("the other layer is being unpacked");
                    assert_eq!(failure.errno, nix::errno::Errno::EBUSY as i32, "{failure:?}");
                };
                let mut source = Calling { archive, call: Some(Box::new(call)) };
                assert_eq!(subject.apply_from(own, &mut source).unwrap(), 1);
            });
        }
    });
}

/// As a daemon starts a container's process: it outlives the daemon, here for a while.
fn start_a_program_that_stays(_: &dyn Subject) {
    super::run(std::process::Command::new("sh").args(["-c", "sleep 20 < /dev/null > /dev/null 2>&1 &"]));
}

/// As every daemon has one for a moment, whenever it starts a program: a child that still has all of its descriptors.
fn fork_a_child_that_stays(_: &dyn Subject) {
    match unsafe { libc::fork() } {
        0 => unsafe {
            libc::sleep(20);
            libc::_exit(0)
        },
        pid => assert!(pid > 0),
    }
}
