//! Active devices: a thin device gets a block device while its layer is mounted.

use super::devices::Devices;
use super::names::node;
use super::pool::thin_id;
use super::record::Device;
use super::transaction::with_cleanup;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::sys::dm::{Info, Settle, Target, is_busy, is_gone};
use std::path::PathBuf;
use std::time::Duration;

/// How often, and how long apart, a device is looked at that the kernel is about to remove.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

impl Devices {
    /// Makes the block device of a thin device, or finds it, and returns its node.
    pub(super) fn activate(&self, device: &Device) -> Result<PathBuf> {
        let name = self.names.device(&device.hash, device.device_id);
        for _ in 0..TRIES {
            match self.kernel.create(&name) {
                Ok(()) => {
                    let started = self.start(&name, device);
                    return started.map_err(|e| with_cleanup(e, self.kernel.remove(&name, false).map(drop)));
                }
                Err(e) if is_busy(&e) => {}
                Err(e) => return Err(e),
            }
            match self.kernel.info(&name)? {
                Some(info) if self.adopt(&name, device, info)? => return Ok(node(&name)),
                _ => {}
            }
        }
        let what = format!("device '{name}' was neither there nor away for {} s", (PAUSE * TRIES).as_secs());
        Err(Error::new(Kind::Busy, what))
    }

    /// Gives a new device its table.
    fn start(&self, name: &str, device: &Device) -> Result<PathBuf> {
        let text = format!("{} {}", node(&self.names.pool).display(), device.device_id);
        let table = Target { kind: "thin".to_owned(), sectors: device.size / 512, text };
        self.kernel.load(name, &table).map_err(|e| self.blame_pool(e))?;
        self.kernel.resume(name, Settle::Wait)?;
        Ok(node(name))
    }

    /// Takes over a device that is active already. False if it has gone or is about to go.
    fn adopt(&self, name: &str, device: &Device, info: Info) -> Result<bool> {
        if info.removal_pending && !self.keep(name)? {
            return Ok(false);
        }
        let Some(table) = gone_is_none(self.kernel.table(name))? else {
            // Made by a process that died before it gave it a table.
            self.kernel.remove(name, false)?;
            return Ok(false);
        };
        if table.kind != "thin" || thin_id(&table.text) != Some(device.device_id.number()) {
            let what = format!("device '{name}' is active as '{} {}'", table.kind, table.text);
            return Err(
                Error::new(Kind::Busy, what).hint("it belongs to a deleted layer of the same name that is still in use")
            );
        }
        // Also where it is not suspended: that makes sure of its node.
        match self.kernel.resume(name, Settle::Wait) {
            Err(e) if is_gone(&e) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Takes back a deferred removal. False if the device is gone, or being removed this very moment.
    fn keep(&self, name: &str) -> Result<bool> {
        match self.kernel.message(name, "@cancel_deferred_remove") {
            Ok(()) => Ok(true),
            Err(e) if is_gone(&e) => Ok(false),
            Err(e) if is_busy(&e) => {
                std::thread::sleep(PAUSE);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes the block device away, now or when its last user closes it.
    pub(super) fn deactivate(&self, device: &Device) -> Result<()> {
        let name = self.names.device(&device.hash, device.device_id);
        self.kernel.remove(&name, true).map(drop)
    }

    /// Takes the block device away, and waits a moment for those who looked at it briefly, as udev's rules do.
    pub(super) fn deactivate_and_wait(&self, device: &Device) -> Result<()> {
        let name = self.names.device(&device.hash, device.device_id);
        let was_there = self.kernel.remove(&name, true)?;
        for _ in 0..20 {
            if !was_there || self.kernel.info(&name)?.is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        log::info!("devicemapper: '{name}' is still in use; it goes away when that ends");
        Ok(())
    }

    /// Whether the block device is there.
    pub(super) fn is_active(&self, device: &Device) -> Result<bool> {
        Ok(self.kernel.info(&self.names.device(&device.hash, device.device_id))?.is_some())
    }
}

fn gone_is_none<T>(outcome: Result<Option<T>>) -> Result<Option<T>> {
    match outcome {
        Err(e) if is_gone(&e) => Ok(None),
        outcome => outcome,
    }
}
