//! Where log lines go: nowhere, until the host program installs a sink.
//!
//! The library never writes to the host's stdout or stderr (Rust's own message of a panic, which is a defect, goes to stderr). A sink is called on the thread that logs, without any lock of
//! this library held, so that it may call back into it.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, RwLock};

/// Severity; the numbers are those of `syslog(3)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    /// An operation failed (`LOG_ERR`).
    Error = 3,
    /// Something is wrong but was dealt with (`LOG_WARNING`).
    Warn = 4,
    /// A rare, normal event worth a line (`LOG_INFO`).
    Info = 6,
    /// For developers (`LOG_DEBUG`).
    Debug = 7,
}

/// Receives each line, without a newline at its end.
pub type Sink = dyn Fn(Level, &str) + Send + Sync;

static SINK: RwLock<Option<Arc<Sink>>> = RwLock::new(None);

/// Installs the sink, or removes it. Lines being delivered on other threads may still reach the old one.
pub fn set_sink(sink: Option<Arc<Sink>>) {
    *SINK.write().unwrap_or_else(std::sync::PoisonError::into_inner) = sink;
}

/// Hands one line to the sink, if there is one.
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    let sink = SINK.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    if let Some(sink) = sink {
        DELIVERING.set(DELIVERING.get() + 1);
        let _delivered = Delivered;
        sink(level, &text.to_string());
    }
}

/// Whether the calling thread is in the sink.
#[must_use]
pub fn is_delivering() -> bool {
    DELIVERING.get() > 0
}

thread_local! {
    /// How many lines the calling thread is delivering: a sink may log.
    static DELIVERING: Cell<usize> = const { Cell::new(0) };
}

/// Ends a delivery, also when the sink panics.
struct Delivered;

impl Drop for Delivered {
    fn drop(&mut self) {
        DELIVERING.set(DELIVERING.get() - 1);
    }
}

macro_rules! warn_line {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($arg)*)) };
}
macro_rules! info_line {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($arg)*)) };
}
pub(crate) use {info_line as info, warn_line as warn};

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_sink_may_log_and_replace_itself() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        set_sink(Some(Arc::new(move |level, text: &str| {
            if text.starts_with("log-test") {
                copy.lock().unwrap().push((level, text.to_owned()));
                set_sink(None);
                line(Level::Debug, format_args!("log-test again"));
            }
        })));
        warn!("log-test {}", 1);
        warn!("log-test 2");
        assert_eq!(*seen.lock().unwrap(), [(Level::Warn, "log-test 1".to_owned())]);
    }
}
