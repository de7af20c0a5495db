//! One lock per layer, any number of which are taken in one step, so that their order cannot matter.

use crate::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// Takes a lock whether or not a thread panicked with it: what the locks here protect is valid after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layers that are being worked on.
#[derive(Default)]
pub struct Locks {
    held: Mutex<HashMap<String, ThreadId>>,
    released: Condvar,
}

/// Layers held; released when dropped.
pub struct Held<'a> {
    locks: &'a Locks,
    names: Vec<String>,
}

impl Locks {
    /// Waits until nobody holds any of these, and takes them.
    ///
    /// # Errors
    /// [`Kind::Busy`]: the calling thread holds one of them itself. It is in a callback of an operation on that layer, and would
    /// wait forever.
    pub fn hold(&self, names: &[&str]) -> Result<Held<'_>> {
        let own = std::thread::current().id();
        let held = lock(&self.held);
        if let Some(name) = names.iter().find(|name| held.get(**name) == Some(&own)) {
            return Err(Error::new(
                Kind::Busy,
                format!("layer '{name}' is being worked on by the operation that called back"),
            ));
        }
        let busy = |held: &mut HashMap<String, ThreadId>| names.iter().any(|name| held.contains_key(*name));
        let held = self.released.wait_while(held, busy).unwrap_or_else(PoisonError::into_inner);
        Ok(self.take(held, names))
    }

    /// Takes it if nobody holds it.
    pub fn try_hold(&self, name: &str) -> Option<Held<'_>> {
        let held = lock(&self.held);
        if held.contains_key(name) { None } else { Some(self.take(held, &[name])) }
    }

    fn take(&self, mut held: MutexGuard<'_, HashMap<String, ThreadId>>, names: &[&str]) -> Held<'_> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let own = std::thread::current().id();
        held.extend(names.iter().map(|name| (name.clone(), own)));
        Held { locks: self, names }
    }
}

impl Held<'_> {
    /// Releases one of them early.
    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.names.iter().position(|held| held == name) {
            lock(&self.locks.held).remove(&self.names.swap_remove(at));
            self.locks.released.notify_all();
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.locks.held);
        for name in &self.names {
            held.remove(name);
        }
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_layer_is_held_by_one_at_a_time() {
        let locks = Locks::default();
        let in_there = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for names in [["a", "b"], ["b", "a"], ["a", "c"], ["b", "c"]] {
                let (locks, in_there) = (&locks, &in_there);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let held = locks.hold(&names).unwrap();
                        if names.contains(&"a") {
                            assert!(!in_there.swap(true, Ordering::SeqCst));
                            std::thread::yield_now();
                            in_there.store(false, Ordering::SeqCst);
                        }
                        drop(held);
                    }
                });
            }
        });
        assert!(locks.try_hold("a").is_some());
    }

    #[test]
    fn one_of_several_can_be_released_early() {
        let locks = Locks::default();
        let mut held = locks.hold(&["child", "parent"]).unwrap();
        assert!(locks.try_hold("parent").is_none());
        assert_eq!(locks.hold(&["parent"]).map(drop).unwrap_err().kind(), Kind::Busy, "not a deadlock");
        held.release("parent");
        assert!(locks.try_hold("parent").is_some() && locks.try_hold("child").is_none());
        drop(held);
        assert!(locks.try_hold("child").is_some());
    }
}
