//! Choosing a driver and using it: what the C interface is built upon, and what a Rust program would use.

use crate::cancel::Cancel;
use crate::driver::{Driver, Inspect};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::lease::Lease;
use crate::log;
use crate::{devmapper, overlay};
use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Makes a driver ready on its home. `name` is the name it was asked for by.
type Open = fn(name: &str, home: &Path, options: &[&str], lease: Arc<Lease>) -> Result<Box<dyn Driver>>;

/// A driver that can be chosen.
#[derive(Clone, Copy)]
struct Choice {
    name: &'static str,
    /// Refuses paths that cannot be its home, before anything is made there.
    check: fn(home: &Path) -> Result<()>,
    open: Open,
    /// Makes ready to look at the store in a home past its driver.
    inspect: fn(home: &Path) -> Result<Box<dyn Inspect>>,
}

/// The drivers by name. Names are exact; `overlay` is what iSulad calls `overlay2`.
const DRIVERS: [Choice; 3] = [
    Choice { name: "overlay2", check: overlay::check_home, open: overlay::open, inspect: overlay::inspect },
    Choice { name: "overlay", check: overlay::check_home, open: overlay::open, inspect: overlay::inspect },
    Choice {
        name: "devicemapper",
        check: |_| Ok(()),
        open: |_, home, options, lease| devmapper::open(home, options, lease),
        inspect: devmapper::inspect,
    },
];

/// The driver `name`.
fn choice(name: &str) -> Result<Choice> {
    let found = DRIVERS.iter().find(|driver| driver.name == name).copied();
    found.ok_or_else(|| {
        let known = DRIVERS.map(|driver| driver.name).join(", ");
        let what = format!("there is no driver '{}'", name.escape_debug());
        Error::new(Kind::Invalid, what).hint(format!("there are {known}"))
    })
}

/// A place for one driver, which comes and goes while threads use it.
///
/// Operations run side by side. Initialising and cleaning up wait for those that are under way, and make new ones fail at once
/// instead of wait: a read callback may call back into the library, and a daemon that exits has no use for more work.
#[derive(Default)]
pub struct Graph {
    state: Mutex<State>,
    idle: Condvar,
    transfers: Mutex<Vec<(LayerId, Cancel)>>,
}

#[derive(Default)]
struct State {
    selected: Option<Selected>,
    users: usize,
    changing: bool,
}

/// The driver in use, and its right to its home.
#[derive(Clone)]
struct Selected {
    driver: Arc<dyn Driver>,
    lease: Arc<Lease>,
}

thread_local! {
    /// Operations that the calling thread is in: a callback of one of them may be running.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

impl Graph {
    /// A place without a driver.
    #[must_use]
    pub const fn new() -> Graph {
        Graph {
            state: Mutex::new(State { selected: None, users: 0, changing: false }),
            idle: Condvar::new(),
            transfers: Mutex::new(Vec::new()),
        }
    }

    /// Initialises the driver `name` with its home at `<storage_root>/<name>`, in place of the present one, which goes on if that
    /// fails. If the two have different homes, the present one is cleaned up as far as its layers that are still in use allow.
    ///
    /// # Errors
    /// There is no such driver, an option is bad, or the host cannot run it. [`Kind::Busy`] if another process uses the home, from a
    /// callback, or while another thread does the same.
    pub fn init(&self, name: &str, storage_root: &Path, options: &[&str]) -> Result<()> {
        let change = self.change()?;
        let old = change.graph.lock().selected.clone();
        let new = replacement(old.as_ref(), name, storage_root, options)
            .context(|| format!("initialise driver '{}'", name.escape_debug()))?;
        if let Some(Err(e)) = old.map(|old| retire(&old, &new)) {
            log::warn!("the driver before is not cleaned up: {e}");
        }
        let before = change.graph.lock().selected.replace(new);
        drop(before); // without the lock: it ends a thread
        Ok(())
    }

    /// Cleans the driver up ([`Driver::cleanup`]) and lets go of it.
    ///
    /// # Errors
    /// There is none, or it cannot be cleaned up and stays; [`Kind::Busy`] from a callback of an operation.
    pub fn cleanup(&self) -> Result<()> {
        let change = self.change()?;
        let driver = change.graph.lock().driver()?;
        driver.cleanup()?;
        let last = change.graph.lock().selected.take();
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
            let driver = state.driver()?;
            state.users += 1;
            driver
        };
        DEPTH.set(DEPTH.get() + 1);
        let user = User { graph: self, driver: Some(driver) };
        user.driver.as_deref().map_or_else(|| Err(Error::new(Kind::Internal, "an operation without a driver")), operation)
    }

    /// Lists or checks a store: the driver's, or past it that of the driver `name` at `<storage_root>/<name>`, which any process may have.
    ///
    /// # Errors
    /// There is no driver, or no such store; those of `look`.
    pub fn inspect<T>(&self, past: Option<(&str, &Path)>, look: impl FnOnce(&dyn Inspect) -> Result<T>) -> Result<T> {
        let Some((name, storage_root)) = past else { return self.with(|driver| look(driver)) };
        let store = (choice(name)?.inspect)(&storage_root.join(name))?;
        look(&*store)
    }

    /// Runs an operation on the driver that goes through a whole layer, where [`Graph::cancel`] can reach it: it is to look at the
    /// [`Cancel`] that it is given.
    ///
    /// # Errors
    /// There is no driver, or the operation's own.
    pub fn transfer<T>(&self, id: &LayerId, operation: impl FnOnce(&dyn Driver, Cancel) -> Result<T>) -> Result<T> {
        let cancel = Cancel::default();
        self.transfers().push((id.clone(), cancel.clone()));
        let listed = Listed(self, cancel);
        self.with(|driver| operation(driver, listed.1.clone()))
    }

    /// Tells transfers to end early with [`Kind::Cancelled`]: those of this layer, or all. Waits for nothing, and returns how many
    /// there are.
    pub fn cancel(&self, id: Option<&LayerId>) -> usize {
        let transfers = self.transfers();
        let meant = transfers.iter().filter(|(layer, _)| id.is_none_or(|id| id == layer));
        meant.map(|(_, cancel)| cancel.request()).count()
    }

    fn transfers(&self) -> MutexGuard<'_, Vec<(LayerId, Cancel)>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps new operations out and waits for those under way.
    fn change(&self) -> Result<Change<'_>> {
        if DEPTH.get() > 0 || log::is_delivering() {
            let what = "the calling thread is in a callback, which would have to end first";
            return Err(Error::new(Kind::Busy, what));
        }
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

/// Opens the driver that is to take the place of `old`. Two on one home share its lease, and the old one pauses: it can go on if
/// there is no new one, which needs nothing that may be missing then.
fn replacement(old: Option<&Selected>, name: &str, storage_root: &Path, options: &[&str]) -> Result<Selected> {
    let choice = choice(name)?;
    let home = storage_root.join(name);
    (choice.check)(&home).context(|| format!("home '{}'", home.display()))?;
    let before = match old {
        Some(old) if old.lease.is_of(&home)? => Some(old),
        _ => None,
    };
    let lease = match before {
        Some(before) => Arc::clone(&before.lease),
        None => Arc::new(Lease::take(&home)?),
    };
    if let Some(before) = before {
        before.driver.pause();
    }
    match (choice.open)(name, &home, options, Arc::clone(&lease)) {
        Ok(driver) => Ok(Selected { driver: driver.into(), lease }),
        Err(e) => {
            if let Some(before) = before {
                before.driver.resume();
            }
            Err(e)
        }
    }
}

/// Lets the driver go that has been replaced. On the same home there is nothing to clean up: all of it is the new one's.
fn retire(old: &Selected, new: &Selected) -> Result<()> {
    if Arc::ptr_eq(&old.lease, &new.lease) { Ok(()) } else { old.driver.cleanup() }
}

impl State {
    fn driver(&self) -> Result<Arc<dyn Driver>> {
        let none = || Error::new(Kind::NotInitialised, "no driver is initialised").hint("call graphdriver_init first");
        self.selected.as_ref().map(|selected| Arc::clone(&selected.driver)).ok_or_else(none)
    }
}

/// An operation under way; ends also when it panics.
struct User<'a> {
    graph: &'a Graph,
    /// Let go of before the operation counts as ended: who waits for that is to find nobody who still holds the driver's home.
    driver: Option<Arc<dyn Driver>>,
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        drop(self.driver.take());
        DEPTH.set(DEPTH.get() - 1);
        let mut state = self.graph.lock();
        state.users -= 1;
        if state.changing {
            self.graph.idle.notify_all();
        }
    }
}

/// A transfer that can be cancelled; its entry goes also when it panics.
struct Listed<'a>(&'a Graph, Cancel);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.transfers().retain(|(_, cancel)| *cancel != self.1);
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
            assert_eq!(choice(name).map(drop).unwrap_err().kind(), Kind::Invalid, "{name}");
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
