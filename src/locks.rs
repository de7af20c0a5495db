//! One lock per layer, held alone or shared. Any number of layers are taken in one step, so that their order cannot matter, and
//! a thread that holds a layer never waits for another: two callbacks that each wait for the other's layer would wait for ever.

use crate::error::{Error, Kind, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Takes a lock whether or not a thread panicked with it: what the locks here protect is valid after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who else may hold a layer at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All who hold it shared: a parent that gets children, a layer that is read.
    Shared,
    /// Nobody: whoever writes.
    Exclusive,
}

/// The layers that are being worked on.
#[derive(Default)]
pub struct Locks {
    table: Mutex<Table>,
    released: Condvar,
}

#[derive(Default)]
struct Table {
    /// How many hold a layer shared; 0 for one that is held exclusively.
    held: HashMap<String, usize>,
    /// Who waits to hold which layer exclusively, by the order of arrival: later sharers let them go first.
    waiting: Vec<(u64, String)>,
    arrivals: u64,
}

thread_local! {
    /// How many times the calling thread holds layers, of whichever driver.
    static HOLDING: Cell<usize> = const { Cell::new(0) };
}

/// Layers held; released when dropped, by the thread that took them.
pub struct Held<'a> {
    locks: &'a Locks,
    names: Vec<String>,
    not_send: PhantomData<*const ()>,
}

impl Table {
    /// Whether all of them can be had now, by one who has waited since `arrival`; by one who must not wait without that.
    fn can(&self, wanted: &[(&str, Mode)], arrival: Option<u64>) -> bool {
        wanted.iter().all(|(name, mode)| match (self.held.get(*name), mode) {
            (None, Mode::Exclusive) => true,
            (None | Some(1..), Mode::Shared) => arrival.is_none_or(|mine| !self.somebody_waits(name, mine)),
            (Some(_), _) => false,
        })
    }

    fn somebody_waits(&self, name: &str, before: u64) -> bool {
        self.waiting.iter().any(|(arrival, wanted)| wanted == name && *arrival < before)
    }

    fn take(&mut self, wanted: &[(&str, Mode)]) {
        for (name, mode) in wanted {
            let sharers = self.held.entry((*name).to_owned()).or_default();
            *sharers += usize::from(*mode == Mode::Shared);
        }
    }

    fn give_back(&mut self, name: &str) {
        match self.held.get_mut(name) {
            Some(sharers @ 2..) => *sharers -= 1,
            _ => drop(self.held.remove(name)),
        }
    }
}

impl Locks {
    /// Waits until all of these, no name twice, can be held, and takes them.
    ///
    /// # Errors
    /// [`Kind::Busy`]: they are held by others, and the calling thread, which is in a callback of another operation, holds a layer
    /// itself.
    pub fn hold(&self, wanted: &[(&str, Mode)]) -> Result<Held<'_>> {
        if HOLDING.get() > 0 {
            return self.try_hold(wanted).ok_or_else(|| {
                let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
                let what = format!(
                    "layer '{}' is being worked on; the calling thread, in a callback of another operation, must not wait for that",
                    names.join("' or '")
                );
                Error::new(Kind::Busy, what).hint("try again when the callback has returned")
            });
        }
        let mut table = lock(&self.table);
        let arrival = table.arrivals;
        table.arrivals += 1;
        if !table.can(wanted, Some(arrival)) {
            let exclusive = wanted.iter().filter(|(_, mode)| *mode == Mode::Exclusive);
            table.waiting.extend(exclusive.map(|(name, _)| (arrival, (*name).to_owned())));
            while !table.can(wanted, Some(arrival)) {
                table = self.released.wait(table).unwrap_or_else(PoisonError::into_inner);
            }
            table.waiting.retain(|(other, _)| *other != arrival);
            // Sharers that stood behind the one who now has what it waited for may share with it.
            self.released.notify_all();
        }
        Ok(self.taken(table, wanted))
    }

    /// Takes them if they can be held now.
    pub fn try_hold(&self, wanted: &[(&str, Mode)]) -> Option<Held<'_>> {
        let table = lock(&self.table);
        if table.can(wanted, None) { Some(self.taken(table, wanted)) } else { None }
    }

    fn taken(&self, mut table: MutexGuard<'_, Table>, wanted: &[(&str, Mode)]) -> Held<'_> {
        table.take(wanted);
        HOLDING.set(HOLDING.get() + 1);
        let names = wanted.iter().map(|(name, _)| (*name).to_owned()).collect();
        Held { locks: self, names, not_send: PhantomData }
    }
}

impl Held<'_> {
    /// Releases one of them early.
    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.names.iter().position(|held| held == name) {
            lock(&self.locks.table).give_back(&self.names.swap_remove(at));
            self.locks.released.notify_all();
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.locks.table);
        for name in &self.names {
            table.give_back(name);
        }
        HOLDING.set(HOLDING.get() - 1);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::Mode::{Exclusive, Shared};
    use super::*;
    use std::sync::atomic::{AtomicIsize, Ordering};
    use std::sync::mpsc;

    #[test]
    fn exclusive_excludes_and_shared_shares() {
        let locks = Locks::default();
        // Positive: so many sharers. Negative: somebody alone.
        let inside = AtomicIsize::new(0);
        std::thread::scope(|scope| {
            for wanted in
                [[("a", Exclusive), ("p", Shared)], [("p", Shared), ("b", Exclusive)], [("p", Exclusive), ("a", Shared)]]
            {
                let (locks, inside) = (&locks, &inside);
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 30 } else { 300 } {
                        let held = locks.hold(&wanted).unwrap();
                        let change = if wanted.contains(&("p", Exclusive)) { -1000 } else { 1 };
                        let before = inside.fetch_add(change, Ordering::SeqCst);
                        assert!(before >= 0 && (change > 0 || before == 0), "{before}");
                        std::thread::yield_now();
                        inside.fetch_sub(change, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        assert!(lock(&locks.table).held.is_empty() && lock(&locks.table).waiting.is_empty());
    }

    #[test]
    fn who_holds_a_layer_never_waits() {
        let locks = Locks::default();
        let mut held = locks.hold(&[("child", Exclusive), ("parent", Shared)]).unwrap();
        for wanted in [("child", Shared), ("child", Exclusive), ("parent", Exclusive)] {
            assert_eq!(locks.hold(&[wanted]).map(drop).unwrap_err().kind(), Kind::Busy, "{wanted:?}: not a deadlock");
        }
        drop(locks.hold(&[("parent", Shared), ("other", Exclusive)]).unwrap());
        held.release("parent");
        drop(locks.hold(&[("parent", Exclusive)]).unwrap());
        drop(held);
        drop(locks.hold(&[("child", Exclusive)]).unwrap());
    }

    #[test]
    fn many_sharers_do_not_starve_one_who_wants_a_layer_alone() {
        let locks = Locks::default();
        let first = locks.hold(&[("p", Shared)]).unwrap();
        std::thread::scope(|scope| {
            let (locks, (tell, told)) = (&locks, mpsc::channel());
            let (tell_later, waited) = (tell.clone(), |count| {
                while lock(&locks.table).arrivals < count {
                    std::thread::yield_now();
                }
            });
            scope.spawn(move || {
                let held = locks.hold(&[("p", Exclusive)]).unwrap();
                tell.send("alone").unwrap();
                drop(held);
            });
            waited(2);
            scope.spawn(move || {
                let _held = locks.hold(&[("p", Shared)]).unwrap();
                tell_later.send("shared").unwrap();
            });
            waited(3);
            drop(first);
            assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["alone", "shared"]);
        });
    }

    /// Each of two wants alone what the other wants to share.
    #[test]
    fn waiting_across_does_not_lock_up() {
        let locks = Locks::default();
        let both = locks.hold(&[("a", Exclusive), ("p", Exclusive)]).unwrap();
        std::thread::scope(|scope| {
            for wanted in [[("a", Exclusive), ("p", Shared)], [("p", Exclusive), ("a", Shared)]] {
                let locks = &locks;
                scope.spawn(move || drop(locks.hold(&wanted).unwrap()));
            }
            while lock(&locks.table).waiting.len() < 2 {
                std::thread::yield_now();
            }
            drop(both);
        });
    }
}
