//! Work that could not be done at once and is tried again in the background, with growing pauses.
//!
//! The thread exists only while something is left to do, takes no signals, and ends with its driver. Whoever has leftovers tells how
//! to work on them ([`Chores`]); the locks of layers it takes only where nobody has to wait for it.

use crate::locks::lock;
use crate::log;
use crate::sys::process::SignalsBlocked;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause before the first retry; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest pause: that of the C module's thread.
const LONGEST: Duration = Duration::from_secs(60);

/// What there is to do in the background.
pub trait Chores: Send + Sync + 'static {
    /// Does what can be done now; returns whether something is left that may be possible later. Comes back soon once `stop` says so.
    fn round(&self, stop: &dyn Fn() -> bool) -> bool;
}

#[derive(Default)]
struct State {
    /// The driver is going away.
    stop: bool,
    /// Something was added since the worker looked.
    news: bool,
    /// Something may have become possible.
    nudged: bool,
    running: bool,
    /// Something is left to do, also where the thread that was to do it is gone.
    left: bool,
}

/// The handle that a driver keeps. Dropping it ends the thread.
pub struct Worker {
    name: &'static str,
    signal: Arc<(Mutex<State>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// A worker whose thread, when there is one, has this name.
    #[must_use]
    pub fn new(name: &'static str) -> Worker {
        Worker { name, signal: Arc::default(), thread: Mutex::default() }
    }

    /// There is something to do: it is done soon.
    pub fn wake(&self, chores: &Arc<impl Chores>) {
        let mut thread = lock(&self.thread);
        let mut state = lock(&self.signal.0);
        (state.news, state.left) = (true, true);
        self.signal.1.notify_all();
        if state.running || state.stop {
            return;
        }
        let (signal, chores) = (Arc::clone(&self.signal), Arc::clone(chores));
        // Blocked before the thread starts: it inherits that, and no signal of the host's finds it in between.
        let blocked = SignalsBlocked::now();
        let builder = std::thread::Builder::new().name(self.name.to_owned());
        let started = builder.spawn(move || run(&signal, &*chores));
        drop(blocked);
        match started {
            Ok(handle) => {
                state.running = true;
                // One that has ended needs no waiting for.
                if let Some(old) = thread.replace(handle) {
                    drop(state);
                    let _ = old.join();
                }
            }
            Err(e) => {
                drop((state, thread));
                log::warn!("cannot start the thread '{}'; what is left to do waits for the next operation: {e}", self.name);
            }
        }
    }

    /// Something may have become possible: what is left, if anything, is tried again, though not more often than every
    /// [`SHORTEST`].
    pub fn nudge(&self, chores: &Arc<impl Chores>) {
        let mut state = lock(&self.signal.0);
        if state.running {
            state.nudged = true;
            self.signal.1.notify_all();
        } else if state.left {
            drop(state);
            self.wake(chores);
        }
    }

    /// Ends the thread and waits for that. A later [`Worker::wake`] starts another.
    pub fn stop(&self) {
        let thread = lock(&self.thread).take();
        lock(&self.signal.0).stop = true;
        self.signal.1.notify_all();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        lock(&self.signal.0).stop = false;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(signal: &(Mutex<State>, Condvar), chores: &dyn Chores) {
    let _running = Running(signal);
    let mut pause = SHORTEST;
    loop {
        lock(&signal.0).news = false;
        let left = chores.round(&|| lock(&signal.0).stop);
        let ended = Instant::now();
        let mut state = lock(&signal.0);
        if state.stop || (!left && !state.news) {
            (state.running, state.left) = (false, left);
            return;
        }
        state.nudged = false;
        let goes_on = |state: &State| state.stop || state.news || (state.nudged && ended.elapsed() >= SHORTEST);
        while !goes_on(&state) && ended.elapsed() < pause {
            let rest = if state.nudged { SHORTEST } else { pause }.saturating_sub(ended.elapsed());
            state = signal.1.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        pause = if state.news { SHORTEST } else { (pause * 2).min(LONGEST) };
    }
}

/// Also a thread that panics says that it is gone: the next leftover starts another.
struct Running<'a>(&'a (Mutex<State>, Condvar));

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.0).running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    /// Needs so many rounds, and tells of each.
    struct Countdown(AtomicUsize, Mutex<Sender<usize>>);

    impl Chores for Countdown {
        fn round(&self, _: &dyn Fn() -> bool) -> bool {
            let left = self.0.fetch_sub(1, Ordering::SeqCst) - 1;
            lock(&self.1).send(left).unwrap();
            left > 0
        }
    }

    #[test]
    fn what_is_left_is_tried_again_and_then_the_thread_is_gone() {
        let (tell, told) = channel();
        let chores = Arc::new(Countdown(AtomicUsize::new(2), Mutex::new(tell)));
        let worker = Worker::new("test");
        for _ in 0..2 {
            chores.0.store(2, Ordering::SeqCst);
            worker.wake(&chores);
            assert_eq!([told.recv().unwrap(), told.recv().unwrap()], [1, 0]);
            while lock(&worker.signal.0).running {
                std::thread::yield_now();
            }
        }
    }

    struct Endless;

    impl Chores for Endless {
        fn round(&self, stop: &dyn Fn() -> bool) -> bool {
            while !stop() {
                std::thread::yield_now();
            }
            true
        }
    }

    #[test]
    fn a_round_under_way_is_stopped_and_another_can_start() {
        let worker = Worker::new("test");
        for _ in 0..3 {
            worker.wake(&Arc::new(Endless));
            worker.stop();
            assert!(!lock(&worker.signal.0).running);
        }
    }

    struct Panics(AtomicUsize);

    impl Chores for Panics {
        fn round(&self, _: &dyn Fn() -> bool) -> bool {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "deliberate");
            false
        }
    }

    #[test]
    fn a_panic_does_not_end_the_work_for_good() {
        let (worker, chores) = (Worker::new("test"), Arc::new(Panics(AtomicUsize::new(0))));
        while chores.0.load(Ordering::SeqCst) < 2 {
            worker.wake(&chores);
            std::thread::yield_now();
        }
    }
}
