//! Deleting a layer: now, or as soon as nobody uses it.

use super::transaction::Deleted;
use super::{DeviceMapper, Shared};
use crate::error::{Context, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::sys::mount;

impl DeviceMapper {
    pub(super) fn remove_layer(&self, id: &LayerId) -> Result<()> {
        let _held = self.shared.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        self.delete_and_forget(id)
    }

    /// Takes away the mounts, the device and the mount point. The caller holds the layer.
    pub(super) fn delete_and_forget(&self, id: &LayerId) -> Result<()> {
        let shared = &self.shared;
        let target = shared.mount_point(id.as_str());
        while mount::umount_detach(&target)? {}
        if let Some(device) = shared.devices.find(id.as_str())? {
            shared.devices.deactivate_and_wait(&device)?;
            if shared.devices.delete(id.as_str()).context(|| "delete its thin device")? == Deleted::Later {
                log::info!("devicemapper: the device of layer '{id}' is in use; it is deleted when that ends");
                self.worker.wake(shared);
            }
        }
        shared.remove_mount_point(id)
    }
}

impl Shared {
    /// Tries to delete a device again that was busy. Used by the worker, which holds the layer.
    pub(super) fn delete_marked(&self, name: &str) -> Result<Deleted> {
        let Some(device) = self.devices.known(name).filter(|device| device.deleted) else { return Ok(Deleted::Gone) };
        self.devices.deactivate(&device)?;
        if self.devices.is_active(&device)? {
            return Ok(Deleted::Later);
        }
        self.devices.delete(name)
    }
}
