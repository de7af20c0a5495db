//! The set of thin devices: what the metadata files and the pool say together, and the table of it in memory.

use super::ids::Ids;
use super::kernel::Kernel;
use super::names::Names;
use super::pool;
use super::record::{Device, DeviceSet};
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::locks::lock;
use crate::log;
use std::collections::HashMap;
use std::sync::Mutex;

/// All devices of one driver home in one pool.
///
/// Two locks: `ledger` is held through a transaction, which talks to the pool and writes files; `table` only while looking
/// something up. Whoever holds the ledger may take the table, not the other way round. Neither is held while waiting for
/// udev, mounting, formatting, growing or unpacking.
pub(super) struct Devices {
    pub kernel: Kernel,
    pub store: Store,
    pub names: Names,
    pub(super) ledger: Mutex<Ledger>,
    table: Mutex<HashMap<String, Device>>,
}

/// Where the pool's transactions and device ids stand.
#[derive(Default)]
pub(super) struct Ledger {
    /// The pool's transaction id.
    pub current: u64,
    pub ids: Ids,
}

impl Devices {
    /// Reads the files, settles the transaction that a crash interrupted, and tidies the devices it left.
    pub(super) fn load(kernel: Kernel, store: Store, names: Names) -> Result<Devices> {
        let devices = Devices { kernel, store, names, ledger: Mutex::default(), table: Mutex::default() };
        devices.tidy()?;
        let current = devices.pool_status()?.transaction;
        let mut ledger = lock(&devices.ledger);
        ledger.current = current;
        for device in devices.store.scan()?.devices {
            ledger.ids.take(device.device_id);
            lock(&devices.table).insert(device.hash.clone(), device);
        }
        ledger.ids.continue_after(devices.store.device_set()?.next_device_id);
        devices.recover(&mut ledger)?;
        drop(ledger);
        Ok(devices)
    }

    /// Puts right what a crash left of our active devices: a frozen one goes on, an unfinished or unused one goes away.
    fn tidy(&self) -> Result<()> {
        for name in self.kernel.names()?.into_iter().filter(|name| self.names.is_ours(name)) {
            let Some(info) = self.kernel.info(&name)? else { continue };
            if info.active && info.suspended {
                log::warn!("devicemapper: '{name}' was left suspended; resuming it");
                self.kernel.resume(&name, crate::sys::dm::Settle::AtOnce)?;
            }
            if info.open_count == 0 {
                log::info!("devicemapper: removing '{name}', active but used by nobody");
                self.kernel.remove(&name, true)?;
            }
        }
        Ok(())
    }

    /// The state of the pool.
    pub(super) fn pool_status(&self) -> Result<pool::Status> {
        let name = &self.names.pool;
        let missing = |e: Error| match crate::sys::dm::is_gone(&e) {
            true => Error::new(Kind::NotFound, format!("thin pool '{name}' does not exist"))
                .hint("activate it (lvchange -ay), or correct dm.thinpooldev"),
            false => e,
        };
        match self.kernel.status(name).map_err(missing)? {
            Some(target) if target.kind == "thin-pool" => pool::Status::parse(target.text.as_bytes()),
            Some(target) => {
                let what = format!("device '{name}' is no thin pool but of type '{}'", target.kind);
                Err(Error::new(Kind::Unsupported, what).hint("correct dm.thinpooldev"))
            }
            None => Err(Error::new(Kind::Unsupported, format!("device '{name}' has no table"))),
        }
    }

    /// Adds the pool's state to an error, if it is in a bad one.
    pub(super) fn blame_pool(&self, error: Error) -> Error {
        match self.pool_status() {
            Ok(status) => status.health.explain(error, &self.names.pool),
            Err(_) => error,
        }
    }

    /// What is known about a layer; its file is read if it appeared behind our back.
    pub(super) fn find(&self, name: &str) -> Result<Option<Device>> {
        if let Some(device) = self.known(name) {
            return Ok(Some(device));
        }
        let Some(device) = self.store.device(name)? else { return Ok(None) };
        lock(&self.ledger).ids.take(device.device_id);
        Ok(Some(lock(&self.table).entry(name.to_owned()).or_insert(device).clone()))
    }

    /// What the table says about a layer.
    pub(super) fn known(&self, name: &str) -> Option<Device> {
        lock(&self.table).get(name).cloned()
    }

    /// Saves a device and puts it into the table.
    pub(super) fn save(&self, device: Device) -> Result<()> {
        self.store.save_device(&device)?;
        self.remember(device);
        Ok(())
    }

    pub(super) fn remember(&self, device: Device) {
        lock(&self.table).insert(device.hash.clone(), device);
    }

    pub(super) fn forget(&self, name: &str) {
        lock(&self.table).remove(name);
    }

    /// The devices for which `wanted` holds, in no particular order.
    pub(super) fn select(&self, wanted: impl Fn(&Device) -> bool) -> Vec<Device> {
        lock(&self.table).values().filter(|device| wanted(device)).cloned().collect()
    }

    /// Saves what concerns the whole set.
    pub(super) fn save_set(&self, mut set: DeviceSet) -> Result<()> {
        set.next_device_id = lock(&self.ledger).ids.last();
        self.store.save_device_set(&set)
    }
}
