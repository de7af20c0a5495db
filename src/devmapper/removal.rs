//! Deleting a layer: now, or as soon as nobody uses it. What is left is the worker's.

use super::record::{Device, file_name};
use super::transaction::Deleted;
use super::{DeviceMapper, Shared};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode::Exclusive;
use crate::log;
use crate::sys::{fs, grow};
use crate::worker::Chores;

impl DeviceMapper {
    pub(super) fn remove_layer(&self, id: &LayerId) -> Result<()> {
        let (shared, name) = (&self.shared, file_name(id));
        let _held = shared.locks.hold(&[(&name, Exclusive)])?;
        match shared.devices.find(&name) {
            Ok(Some(device)) => self.delete_device(&device)?,
            Err(e) if e.kind() != Kind::Corrupt => return Err(e),
            // What is unknown or damaged may be mounted nevertheless.
            lost => {
                shared.place.points.clear(&shared.devices, &Device::unknown(&name))?;
                if lost.is_err() {
                    shared.devices.store.set_aside(&name)?;
                }
            }
        }
        shared.lease.untell(id);
        shared.remove_mount_point(&name);
        Ok(())
    }

    /// Takes away the mounts and the device. The caller holds the layer.
    pub(super) fn delete_device(&self, device: &Device) -> Result<()> {
        let shared = &self.shared;
        shared.place.points.clear(&shared.devices, device)?;
        shared.devices.deactivate_and_wait(device)?;
        let given_back = if shared.options.discard { shared.give_back(device) } else { Ok(()) };
        if let Err(e) = given_back {
            log::warn!("devicemapper: what '{}' occupies is not given back to the host: {e}", device.hash);
        }
        match shared.devices.delete(&device.hash).context(|| "delete its thin device") {
            Ok(Deleted::Gone) => return Ok(()),
            Ok(Deleted::Later) => {
                log::info!("devicemapper: the device of '{}' is in use; it is deleted when that ends", device.hash);
            }
            // Its content was given back, and it is marked: there is no such layer any more.
            Err(e) if shared.devices.known(&device.hash).is_some_and(|known| known.deleted) => {
                log::warn!("devicemapper: deleting '{}': {e}; it will be tried again", device.hash);
            }
            Err(e) => return Err(e),
        }
        self.worker.wake(shared);
        Ok(())
    }

    /// Deletes a device of which nobody knows, and leaves to the worker what cannot be done now.
    pub(super) fn discard(&self, name: &str) {
        let Some(device) = self.shared.devices.known(name) else { return };
        if let Err(e) = self.delete_device(&device) {
            log::warn!("devicemapper: deleting '{name}': {e}; it will be tried again");
            self.shared.devices.remember(Device { deleted: true, ..device });
            self.worker.wake(&self.shared);
        }
    }
}

impl Shared {
    /// Removes `<home>/mnt/<name>`. What somebody else put there is no reason to keep the layer: it stays, and nothing else.
    pub(super) fn remove_mount_point(&self, name: &str) {
        match fs::remove_dir_at(&self.place.points.dir, name) {
            Err(e) if !fs::is_absent(&e) => log::warn!("devicemapper: the mount point 'mnt/{name}' stays: {e}"),
            _ => {}
        }
    }

    /// Gives what the device alone occupies back to what is below the pool, if nobody uses it. It is marked before: from then on it
    /// is no layer any more, whatever happens.
    fn give_back(&self, device: &Device) -> Result<()> {
        let devices = &self.devices;
        if devices.is_claimed_twice(device.device_id) || devices.is_active(device)? {
            return Ok(());
        }
        // Else the layer stays, whole.
        devices.pool_status()?.health.writable(&devices.names.pool)?;
        devices.save(Device { deleted: true, ..device.clone() })?;
        let active = devices.activate(device)?;
        devices.kernel.steps.make("discard", &device.hash, || grow::discard(&active.node))?;
        active.end()
    }

    /// Tries to delete a device again that was busy. The caller holds the layer.
    fn delete_marked(&self, name: &str) -> Result<()> {
        let Some(device) = self.devices.known(name).filter(|device| device.deleted) else { return Ok(()) };
        self.devices.deactivate(&device)?;
        let busy = || Error::new(Kind::Busy, "its device is in use");
        if self.devices.is_active(&device)? {
            return Err(busy());
        }
        match self.devices.delete(name)? {
            Deleted::Gone => Ok(()),
            Deleted::Later => Err(busy()),
        }
    }
}

impl Chores for Shared {
    /// Tries each marked device once.
    fn round(&self, stop: &dyn Fn() -> bool) -> bool {
        let gone = |name: &str| {
            // A layer that someone works on can wait for the next round; so can we not make them wait.
            let Some(_held) = self.locks.try_hold(&[(name, Exclusive)]) else { return false };
            match self.delete_marked(name) {
                Ok(()) => true,
                Err(e) if e.kind() == Kind::Busy => false,
                Err(e) => {
                    log::warn!("devicemapper: deleting '{name}' again: {e}");
                    false
                }
            }
        };
        let marked = self.devices.select(|device| device.deleted);
        marked.iter().filter(|device| stop() || !gone(&device.hash)).count() > 0
    }
}
