//! Choosing a driver and using it: what the C interface is built upon, and what a Rust program would use.

use crate::driver::Driver;
use crate::error::{Context, Error, Kind, Result};
use crate::{devmapper, overlay};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Makes a driver ready on a home directory. `name` is the name it was asked for by.
type Open = fn(name: &str, home: &Path, options: &[&str]) -> Result<Box<dyn Driver>>;

/// The drivers by name. Names are exact; `overlay` is what iSulad calls `overlay2`.
const DRIVERS: [(&str, Open); 3] = [
    ("overlay2", overlay::open),
    ("overlay", overlay::open),
    ("devicemapper", |_, home, options| devmapper::open(home, options)),
];

/// Initialises the driver `name` with its home at `<storage_root>/<name>`.
///
/// # Errors
/// There is no such driver, an option is bad, or the host cannot run it.
pub fn open(name: &str, storage_root: &Path, options: &[&str]) -> Result<Box<dyn Driver>> {
    let Some((_, open)) = DRIVERS.iter().find(|(known, _)| *known == name) else {
        let known = DRIVERS.map(|(known, _)| known).join(", ");
        let what = format!("there is no driver '{}'", name.escape_debug());
        return Err(Error::new(Kind::Invalid, what).hint(format!("there are {known}")));
    };
    open(name, &storage_root.join(name), options).context(|| format!("initialise driver '{name}'"))
}

/// A place for one driver, which comes and goes while threads use it.
///
/// Operations run side by side. Initialising and cleaning up wait for those that are under way, and make new ones fail at once
/// instead of wait: a read callback may call back into the library, and a daemon that exits has no use for more work.
#[derive(Default)]
pub struct Graph {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    driver: Option<Arc<dyn Driver>>,
    users: usize,
    changing: bool,
}

impl Graph {
    /// A place without a driver.
    #[must_use]
    pub const fn new() -> Graph {
        Graph { state: Mutex::new(State { driver: None, users: 0, changing: false }), idle: Condvar::new() }
    }

    /// Initialises a driver ([`open`]) in place of the present one, which is kept if that fails.
    ///
    /// # Errors
    /// As for [`open`].
    pub fn init(&self, name: &str, storage_root: &Path, options: &[&str]) -> Result<()> {
        let change = self.change()?;
        let driver = open(name, storage_root, options)?;
        // The old driver is dropped outside the lock, and before anyone can use the new one.
        let old = change.graph.lock().driver.replace(driver.into());
        drop(old);
        Ok(())
    }

    /// Cleans the driver up ([`Driver::cleanup`]) and lets go of it.
    ///
    /// # Errors
    /// There is none, or it cannot be cleaned up and stays.
    pub fn cleanup(&self) -> Result<()> {
        let change = self.change()?;
        let driver = change.graph.lock().driver.clone().ok_or_else(not_initialised)?;
        driver.cleanup()?;
        let last = change.graph.lock().driver.take();
        drop(last);
        Ok(())
    }

    /// Runs an operation on the driver.
    ///
    /// # Errors
    /// There is no driver, or the operation's own.
    pub fn with<T>(&self, operation: impl FnOnce(&dyn Driver) -> Result<T>) -> Result<T> {
        let driver = {
            let mut state = self.lock();
            if state.changing {
                let what = "the driver is being initialised or cleaned up by another thread";
                return Err(Error::new(Kind::NotInitialised, what));
            }
            let driver = state.driver.clone().ok_or_else(not_initialised)?;
            state.users += 1;
            driver
        };
        let _user = User(self);
        operation(&*driver)
    }

    /// Keeps new operations out and waits for those under way.
    fn change(&self) -> Result<Change<'_>> {
        let mut state = self.lock();
        if state.changing {
            return Err(Error::new(Kind::Busy, "the driver is being initialised or cleaned up by another thread"));
        }
        state.changing = true;
        let change = Change { graph: self };
        while state.users > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(change)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_initialised() -> Error {
    Error::new(Kind::NotInitialised, "no driver is initialised").hint("call graphdriver_init first")
}

/// An operation under way; ends also when it panics.
struct User<'a>(&'a Graph);

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.users -= 1;
        if state.changing {
            self.0.idle.notify_all();
        }
    }
}

/// An initialisation or clean-up under way.
struct Change<'a> {
    graph: &'a Graph,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.graph.lock().changing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_drivers_are_exact() {
        for name in ["", "Overlay2", "overlay3", "aufs", "overlay2 "] {
            assert_eq!(open(name, Path::new("/nowhere"), &[]).map(drop).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
    }

    #[test]
    fn without_a_driver_every_call_fails_at_once() {
        let graph = Graph::new();
        assert_eq!(graph.with(|_| Ok(())).unwrap_err().kind(), Kind::NotInitialised);
        assert_eq!(graph.cleanup().unwrap_err().kind(), Kind::NotInitialised);
        assert!(graph.init("overlay3", Path::new("/nowhere"), &[]).is_err());
        assert_eq!(graph.cleanup().unwrap_err().kind(), Kind::NotInitialised);
    }
}
