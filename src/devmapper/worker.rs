//! Deletes in the background what was busy when it was to be deleted.
//!
//! The thread runs only while there is something to do, and ends with its driver.

use super::Shared;
use super::transaction::Deleted;
use crate::locks::lock;
use crate::log;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause before the first retry; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(250);
/// The C module's period.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    /// The driver is going away.
    stop: bool,
    /// Something was added since the worker looked.
    news: bool,
    running: bool,
}

/// The handle that the driver keeps.
#[derive(Default)]
pub(super) struct Worker {
    signal: Arc<(Mutex<State>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Sees to it that marked devices are tried again soon.
    pub(super) fn wake(&self, shared: &Arc<Shared>) {
        let mut thread = lock(&self.thread);
        let mut state = lock(&self.signal.0);
        state.news = true;
        self.signal.1.notify_all();
        if state.running || state.stop {
            return;
        }
        let (signal, shared) = (Arc::clone(&self.signal), Arc::clone(shared));
        let started = std::thread::Builder::new().name("dm-deleter".to_owned()).spawn(move || run(&signal, &shared));
        match started {
            Ok(handle) => {
                state.running = true;
                // One that has ended needs no waiting for.
                if let Some(old) = thread.replace(handle) {
                    drop(state);
                    let _ = old.join();
                }
            }
            Err(e) => log::warn!("devicemapper: cannot start the deletion thread: {e}"),
        }
    }

    /// Ends the thread and waits for that. A later [`Worker::wake`] starts another.
    pub(super) fn stop(&self) {
        let thread = lock(&self.thread).take();
        lock(&self.signal.0).stop = true;
        self.signal.1.notify_all();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        lock(&self.signal.0).stop = false;
    }
}

fn run(signal: &(Mutex<State>, Condvar), shared: &Shared) {
    if let Err(e) = crate::sys::process::block_signals() {
        log::warn!("devicemapper: the deletion thread may receive signals: {e}");
    }
    let mut pause = SHORTEST;
    loop {
        let left = retry(shared);
        let mut state = lock(&signal.0);
        if state.stop || (left == 0 && !state.news) {
            state.running = false;
            return;
        }
        pause = if state.news { SHORTEST } else { (pause * 2).min(LONGEST) };
        state.news = false;
        let idle = |state: &mut State| !state.stop && !state.news;
        drop(signal.1.wait_timeout_while(state, pause, idle).unwrap_or_else(PoisonError::into_inner));
    }
}

/// Tries each marked device once; returns how many are left.
fn retry(shared: &Shared) -> usize {
    let marked = shared.devices.select(|device| device.deleted);
    let gone = |name: &str| {
        // A layer that someone works on can wait for the next round; so can we not make them wait.
        let Some(_held) = shared.locks.try_hold(name) else { return false };
        match shared.delete_marked(name) {
            Ok(outcome) => outcome == Deleted::Gone,
            Err(e) => {
                log::warn!("devicemapper: deleting '{name}' again: {e}");
                false
            }
        }
    };
    marked.iter().filter(|device| !gone(&device.hash)).count()
}
