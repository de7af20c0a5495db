//! Thin device ids: 24 bits, handed out in turn so that a deleted one comes back late.

use crate::error::{Error, Kind, Result};
use std::collections::HashSet;
use std::fmt;

/// The id of a thin device in its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DeviceId(u32);

/// The largest id: `MAX_DEV_ID` of the kernel's `dm-thin.c`.
const MAX: u32 = (1 << 24) - 1;

impl DeviceId {
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for DeviceId {
    type Error = Error;

    fn try_from(number: u64) -> Result<DeviceId> {
        match u32::try_from(number) {
            Ok(id) if id <= MAX => Ok(DeviceId(id)),
            _ => Err(Error::new(Kind::Corrupt, format!("thin device id {number} is larger than {MAX}"))),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which ids are in use, and where to look for the next one.
#[derive(Debug)]
pub(super) struct Ids {
    used: HashSet<u32>,
    last: u32,
    largest: u32,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { used: HashSet::new(), last: 0, largest: MAX }
    }
}

impl Ids {
    /// Marks an id as in use.
    pub(super) fn take(&mut self, id: DeviceId) {
        self.used.insert(id.0);
    }

    /// Makes an id available again.
    pub(super) fn release(&mut self, id: DeviceId) {
        self.used.remove(&id.0);
    }

    /// Continues behind this id, which the last session recorded.
    pub(super) fn continue_after(&mut self, last: u64) {
        self.last = u32::try_from(last).unwrap_or(0).min(self.largest);
    }

    /// The id handed out last.
    pub(super) fn last(&self) -> u64 {
        self.last.into()
    }

    /// Takes the next free id. Never 0, which the files cannot tell from "none".
    pub(super) fn next(&mut self) -> Result<DeviceId> {
        for _ in 0..self.largest {
            self.last = if self.last == self.largest { 1 } else { self.last + 1 };
            if self.used.insert(self.last) {
                return Ok(DeviceId(self.last));
            }
        }
        Err(Error::new(Kind::Limit, format!("all {} thin device ids of the pool are in use", self.largest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_turn_and_return_late() {
        let mut ids = Ids::default();
        let first = ids.next().unwrap();
        assert_eq!((first.number(), ids.next().unwrap().number()), (1, 2));
        ids.release(first);
        assert_eq!(ids.next().unwrap().number(), 3);
        ids.continue_after(u64::from(MAX));
        assert_eq!(ids.next().unwrap().number(), 1);
        assert_eq!(ids.next().unwrap().number(), 4);
    }

    #[test]
    fn a_full_space_is_an_error() {
        let mut ids = Ids { used: (1..=9).collect(), last: 5, largest: 9 };
        assert_eq!(ids.next().unwrap_err().kind(), Kind::Limit);
        ids.release(DeviceId(4));
        assert_eq!(ids.next().unwrap().number(), 4);
        assert!(DeviceId::try_from(u64::from(MAX) + 1).is_err());
    }
}
