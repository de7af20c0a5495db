//! Threads that borrow from the one that starts them: failing to start, and a panic, are errors like others.

use crate::error::{Error, Kind, Result};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Starts a thread; it gets root, umask, signal mask and capabilities of the one that starts it.
pub fn start<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    name: &str,
    task: impl FnOnce() -> Result<T> + Send + 's,
) -> Result<ScopedJoinHandle<'s, Result<T>>> {
    let started = Builder::new().name(name.into()).spawn_scoped(scope, task);
    started.map_err(|e| Error::sys("start a thread", e.raw_os_error().unwrap_or(libc::EAGAIN)))
}

/// Waits for the end of a thread.
pub fn outcome_of<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let this = thread.thread().clone();
    let panicked = || Error::new(Kind::Internal, format!("the thread '{}' panicked", this.name().unwrap_or_default()));
    thread.join().unwrap_or_else(|_| Err(panicked()))
}
