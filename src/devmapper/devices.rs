//! The set of thin devices: what the metadata files and the pool say together, the table of it in memory, and the ids.

use super::identity::{self, Likeness, Names};
use super::kernel::Kernel;
use super::pool;
use super::record::{Device, DeviceSet, in_stage};
use super::store::{Contents, Store};
use crate::error::{Error, Kind, Result};
use crate::locks::lock;
use crate::log;
use crate::sys::dm::{Info, Target, is_gone};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

/// The id of a thin device in its pool: 24 bits. 0, which the files cannot tell from "none", is never handed out.
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

/// Which ids are in use, and where to look for the next one: in turn, so that a deleted one comes back late.
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
    fn continue_after(&mut self, last: u64) {
        self.last = u32::try_from(last).unwrap_or(0).min(self.largest);
    }

    /// Those that may have been handed out: up to the largest that is in use, or that was the last one.
    pub(super) fn ever_used(&self) -> impl Iterator<Item = DeviceId> + use<> {
        let largest = self.used.iter().copied().max().unwrap_or(0).max(self.last);
        (1..=largest).map(DeviceId)
    }

    /// Takes the next free id.
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

/// All devices of one driver home in one pool.
///
/// Two locks: the ledger is held through a transaction, which talks to the pool and writes files; `table` only while looking
/// something up. Whoever holds the ledger may take the table, not the other way round. Under neither does anything happen that
/// can wait for others or call out: no wait for udev, no mounting, formatting, growing or unpacking, no write-back of somebody's
/// files, no line of the log.
pub(super) struct Devices {
    pub kernel: Kernel,
    pub store: Store,
    pub names: Names,
    ledger: Mutex<Ledger>,
    table: Mutex<Table>,
}

/// Where the pool's transactions and device ids stand.
#[derive(Default)]
pub(super) struct Ledger {
    /// The pool's transaction id.
    pub current: u64,
    pub ids: Ids,
}

/// The ledger in the hands of one thread. What there is to say meanwhile goes to the log when it is given back: who reads the log
/// may call the driver.
pub(super) struct Entry<'a> {
    ledger: MutexGuard<'a, Ledger>,
    // After the guard: fields are dropped in this order.
    notes: Notes,
}

/// Lines for the log, which get there when this is dropped.
#[derive(Default)]
struct Notes(Vec<String>);

impl Entry<'_> {
    /// A warning, for later.
    pub(super) fn note(&mut self, text: String) {
        self.notes.0.push(text);
    }
}

impl Deref for Entry<'_> {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl DerefMut for Entry<'_> {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        for note in &self.0 {
            log::warn!("devicemapper: {note}");
        }
    }
}

/// The devices by file name, and how many files claim each id.
#[derive(Default)]
struct Table {
    devices: HashMap<String, Device>,
    claims: HashMap<DeviceId, usize>,
}

impl Table {
    fn insert(&mut self, device: Device) {
        self.remove(&device.hash);
        *self.claims.entry(device.device_id).or_default() += 1;
        self.devices.insert(device.hash.clone(), device);
    }

    fn remove(&mut self, name: &str) {
        let removed = self.devices.remove(name);
        if let Some(claims) = removed.and_then(|device| self.claims.get_mut(&device.device_id)) {
            *claims -= 1;
        }
    }
}

impl Devices {
    /// What the files say of the pool's devices. Nothing is changed, neither in the pool nor in the files.
    pub(super) fn read(kernel: Kernel, store: Store, names: Names) -> Result<(Devices, Contents)> {
        let devices = Devices { kernel, store, names, ledger: Mutex::default(), table: Mutex::default() };
        let mut contents = devices.store.scan()?;
        let current = devices.pool_status()?.transaction;
        let last = devices.store.device_set()?.next_device_id;
        let mut ledger = devices.ledger();
        ledger.current = current;
        ledger.ids.continue_after(last);
        for mut device in std::mem::take(&mut contents.devices) {
            ledger.ids.take(device.device_id);
            // Whatever it was to become, nobody was told of it.
            device.deleted |= in_stage(&device.hash);
            devices.remember(device);
        }
        drop(ledger);
        Ok((devices, contents))
    }

    /// Takes the ledger.
    pub(super) fn ledger(&self) -> Entry<'_> {
        Entry { ledger: lock(&self.ledger), notes: Notes::default() }
    }

    /// The state of the pool.
    pub(super) fn pool_status(&self) -> Result<pool::Status> {
        let name = &self.names.pool;
        match self.kernel.status(name).map_err(|e| self.missing_pool(e))? {
            Some(target) if target.kind == "thin-pool" => pool::Status::parse(target.text.as_bytes()),
            Some(target) => {
                let what = format!("device '{name}' is no thin pool but of type '{}'", target.kind);
                Err(Error::new(Kind::Unsupported, what).hint("correct dm.thinpooldev"))
            }
            None => Err(Error::new(Kind::Unsupported, format!("device '{name}' has no table"))),
        }
    }

    fn missing_pool(&self, error: Error) -> Error {
        match is_gone(&error) {
            true => Error::new(Kind::NotFound, format!("thin pool '{}' does not exist", self.names.pool))
                .hint("activate it (lvchange -ay), or correct dm.thinpooldev"),
            false => error,
        }
    }

    /// The pool's device number, as tables have it. Asked anew each time: a pool may have been deactivated and activated again.
    pub(super) fn pool_number(&self) -> Result<String> {
        let none = || self.missing_pool(Error::sys("info", crate::error::errno::ENXIO));
        Ok(identity::number(self.kernel.info(&self.names.pool)?.ok_or_else(none)?.device))
    }

    /// The name of a device.
    pub(super) fn name(&self, device: &Device) -> String {
        self.names.device(&device.hash, device.device_id)
    }

    /// What is active under a device's name, and how like it is to the device; `None` if nothing is. One without a table is
    /// [`Likeness::Same`] as none: it was made by a process that died before it gave it one.
    pub(super) fn active(&self, device: &Device) -> Result<Option<(Info, Likeness, Option<Target>)>> {
        let name = self.name(device);
        let Some(info) = self.kernel.info(&name)? else { return Ok(None) };
        let found = gone_is_none(self.kernel.table(&name))?;
        let expected = identity::table(&self.pool_number()?, device);
        let likeness = found.as_ref().map_or(Likeness::Same, |found| identity::compare(found, &expected));
        Ok(Some((info, likeness, found)))
    }

    /// Adds the pool's state to an error, if it is in a bad one.
    pub(super) fn blame_pool(&self, error: Error) -> Error {
        match self.pool_status() {
            Ok(status) => status.health.explain(error, &self.names.pool),
            Err(_) => error,
        }
    }

    /// What is known about a layer; its file is read if it appeared behind our back. A damaged file is an error.
    pub(super) fn find(&self, name: &str) -> Result<Option<Device>> {
        if let Some(device) = self.known(name) {
            return Ok(Some(device));
        }
        let Some(device) = self.store.device(name)? else { return Ok(None) };
        self.ledger().ids.take(device.device_id);
        let mut table = lock(&self.table);
        if !table.devices.contains_key(name) {
            table.insert(device);
        }
        Ok(table.devices.get(name).cloned())
    }

    /// What the table says about a layer.
    pub(super) fn known(&self, name: &str) -> Option<Device> {
        lock(&self.table).devices.get(name).cloned()
    }

    /// Whether the file of another layer claims the same thin device: then one of them is a copy.
    pub(super) fn is_claimed_twice(&self, id: DeviceId) -> bool {
        lock(&self.table).claims.get(&id).is_some_and(|claims| *claims > 1)
    }

    /// Whether any file claims a thin device.
    pub(super) fn is_claimed(&self, id: DeviceId) -> bool {
        lock(&self.table).claims.get(&id).is_some_and(|claims| *claims > 0)
    }

    /// Saves a device and puts it into the table.
    pub(super) fn save(&self, device: Device) -> Result<()> {
        self.store.save_device(&device, &device.hash)?;
        self.remember(device);
        Ok(())
    }

    pub(super) fn remember(&self, device: Device) {
        lock(&self.table).insert(device);
    }

    pub(super) fn forget(&self, name: &str) {
        lock(&self.table).remove(name);
    }

    /// The devices for which `wanted`, which must not ask the table itself, holds; in no particular order.
    pub(super) fn select(&self, wanted: impl Fn(&Device) -> bool) -> Vec<Device> {
        lock(&self.table).devices.values().filter(|device| wanted(device)).cloned().collect()
    }

    /// Saves what concerns the whole set.
    pub(super) fn save_set(&self, mut set: DeviceSet) -> Result<()> {
        set.next_device_id = self.ledger().ids.last.into();
        self.store.save_device_set(&set)
    }
}

/// A device that was there a moment ago may be gone by now.
pub(super) fn gone_is_none<T>(outcome: Result<Option<T>>) -> Result<Option<T>> {
    match outcome {
        Err(e) if is_gone(&e) => Ok(None),
        outcome => outcome,
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

    #[test]
    fn claims_are_counted() {
        let mut table = Table::default();
        let device = |name: &str, id| Device { hash: name.to_owned(), device_id: DeviceId(id), ..Device::default() };
        table.insert(device("a", 5));
        table.insert(device("a", 5));
        assert_eq!(table.claims[&DeviceId(5)], 1);
        table.insert(device("b", 5));
        assert_eq!(table.claims[&DeviceId(5)], 2);
        table.insert(device("b", 6));
        table.remove("a");
        assert_eq!((table.claims[&DeviceId(5)], table.claims[&DeviceId(6)]), (0, 1));
    }
}
