//! What the background worker does: it deletes devices that were busy when they were to be deleted.

use super::Shared;
use super::transaction::Deleted;
use crate::locks::Mode::Exclusive;
use crate::log;
use crate::worker::Chores;

impl Chores for Shared {
    /// Tries each marked device once.
    fn round(&self, stop: &dyn Fn() -> bool) -> bool {
        let marked = self.devices.select(|device| device.deleted);
        let gone = |name: &str| {
            // A layer that someone works on can wait for the next round; so can we not make them wait.
            let Some(_held) = self.locks.try_hold(&[(name, Exclusive)]) else { return false };
            match self.delete_marked(name) {
                Ok(outcome) => outcome == Deleted::Gone,
                Err(e) => {
                    log::warn!("devicemapper: deleting '{name}' again: {e}");
                    false
                }
            }
        };
        marked.iter().filter(|device| stop() || !gone(&device.hash)).count() > 0
    }
}
