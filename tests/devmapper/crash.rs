//! Processes that are killed at a chosen moment of the driver's work.

#![allow(dead_code)] // each test binary uses a part of it
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // fork has no safe form

use super::ground::Ground;
use graphdriver::devmapper::{DeviceMapper, Observer};
use graphdriver::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a child did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    Succeeded,
}

/// When the killing starts to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The driver's start.
    Open,
    /// The operation's.
    Operation,
}

/// Steps that only look: dying there is the same as dying at the change before them.
const LOOKS: [&str; 5] = ["version", "names", "info", "status", "table"];

/// An archive that arrives up to a point, at which the process that reads it dies.
pub struct Deadly<'a>(pub &'a [u8]);

impl std::io::Read for Deadly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        self.0.read(buffer)
    }
}

/// Runs `operation` in a child that kills itself at the `at`-th moment: before or after a device-mapper request that changes
/// something, a metadata write or a program.
pub fn child(ground: &Ground, at: usize, from: From, operation: impl FnOnce(&DeviceMapper) -> Result<()>) -> End {
    let moments = Arc::new(AtomicUsize::new(0));
    let armed = Arc::new(AtomicUsize::new(usize::from(from == From::Open)));
    let (seen, live) = (Arc::clone(&moments), Arc::clone(&armed));
    let observer: Arc<Observer> = Arc::new(move |step| {
        if live.load(Ordering::SeqCst) == 1 && !LOOKS.contains(&step.what) && seen.fetch_add(1, Ordering::SeqCst) == at {
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        Ok(())
    });
    match unsafe { libc::fork() } {
        0 => {
            let outcome = ground.observed(Some(observer)).and_then(|driver| {
                armed.store(1, Ordering::SeqCst);
                operation(&driver)
            });
            if let Err(e) = &outcome {
                eprintln!("child: {e}");
            }
            // No destructor: a process that ends well is the same as one that is killed after its last moment.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        pid => {
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            if libc::WIFSIGNALED(status) {
                assert_eq!(libc::WTERMSIG(status), libc::SIGKILL);
                return End::Killed;
            }
            assert_eq!(libc::WEXITSTATUS(status), 0, "the operation failed in the child");
            End::Succeeded
        }
    }
}
