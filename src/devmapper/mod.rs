//! The devicemapper driver: every layer is a thin device with a filesystem, a snapshot of its parent's.
//!
//! Read on in this order: `record` and `store` (what is on disk), `devices` (pool and files together), `identity` (what a device
//! is), `transaction` (how pool and files change), `start` (in which order the driver gets ready) and `base` (what layers start
//! from), `mount` (block devices and mounts come and go), then the operations in `create`, `removal` and `report`. `looppool` makes
//! a pool where there is none.

mod audit;
mod base;
mod create;
mod devices;
mod diff;
mod filesystem;
mod identity;
mod judge;
mod kernel;
mod looppool;
mod mount;
mod options;
mod pool;
mod record;
mod removal;
mod report;
mod start;
mod store;
#[cfg(test)]
mod testing;
mod transaction;

use crate::driver::{Access, Against, Change, CreateOptions, Driver, Exported, Form, MountOptions, Status, Unpack};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::lease::Lease;
use crate::locks::Locks;
use crate::log;
use crate::worker::Worker;
use devices::Devices;
use mount::Place;
use record::{Device, file_name};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use audit::inspect;
pub use kernel::{Moment, Observer, Step};

/// Opens the driver on its home directory. Options are those of `dm.*`, each `name=value`.
///
/// # Errors
/// An option is bad, the pool is missing, in a bad state or not ours, or the files in home do not belong to it.
pub fn open(home: &Path, options: &[&str], lease: Arc<Lease>) -> Result<Box<dyn Driver>> {
    Ok(Box::new(DeviceMapper::open(home, options, lease)?))
}

/// The driver. Dropping it ends its thread; [`Driver::cleanup`] also gives the pool back.
pub struct DeviceMapper {
    shared: Arc<Shared>,
    worker: Worker,
}

/// What the driver's operations and its worker work on.
struct Shared {
    devices: Devices,
    locks: Locks,
    /// The right to use home, for as long as this lives.
    lease: Arc<Lease>,
    options: options::Options,
    home: PathBuf,
    place: Place,
    /// The filesystem of home.
    backing_fs: String,
    /// Whoever asks the pool for a device takes a turn: the device that it does that through has one name.
    asking: Mutex<()>,
}

impl DeviceMapper {
    /// As [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(home: &Path, options: &[&str], lease: Arc<Lease>) -> Result<DeviceMapper> {
        DeviceMapper::open_observed(home, options, lease, None)
    }

    /// As [`open`], with an observer who is told of every step: for tests and for measuring.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open_observed(
        home: &Path,
        options: &[&str],
        lease: Arc<Lease>,
        observer: Option<Arc<Observer>>,
    ) -> Result<DeviceMapper> {
        let shared = Arc::new(Shared::start(home, options, lease, kernel::Steps(observer))?);
        let driver = DeviceMapper { shared, worker: Worker::new("dm-deleter") };
        driver.resume();
        Ok(driver)
    }
}

/// The error of whoever asks for a layer that is not there.
fn absent(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("layer '{name}' does not exist"))
}

impl Shared {
    /// A layer, or the base device, that can be mounted and snapshotted.
    fn usable(&self, name: &str) -> Result<Device> {
        let device = self.recorded(name)?;
        if device.incomplete {
            let what = format!("layer '{name}' is incomplete: filling or growing it was interrupted");
            return Err(Error::new(Kind::Corrupt, what).hint("remove it and make it anew"));
        }
        if self.devices.is_claimed_twice(device.device_id) {
            let what = format!("layer '{name}' and another one claim the same device, {}", device.device_id);
            return Err(Error::new(Kind::Corrupt, what).hint("one of their metadata files is a copy: remove that layer"));
        }
        Ok(device)
    }

    /// A layer that exists and was not deleted.
    fn there(&self, id: &LayerId) -> Result<Device> {
        self.recorded(&file_name(id))
    }

    fn recorded(&self, name: &str) -> Result<Device> {
        let found = self.devices.find(name)?.filter(|device| !device.deleted);
        found.ok_or_else(|| absent(name))
    }

    /// Whether there is a layer that it would be a loss to remove. That may be damaged.
    fn is_there(&self, id: &LayerId) -> Result<bool> {
        match self.devices.find(&file_name(id)) {
            Ok(found) => Ok(found.is_some_and(|device| !device.is_void())),
            Err(e) if e.kind() == Kind::Corrupt => {
                log::warn!("devicemapper: layer '{id}' exists, but cannot be used: {e}");
                Ok(true)
            }
            Err(e) => Err(e),
        }
    }
}

impl Driver for DeviceMapper {
    fn create(&self, id: &LayerId, parent: Option<&LayerId>, access: Access, options: &mut CreateOptions) -> Result<()> {
        self.create_layer(id, parent, access, options).context(|| format!("create layer '{id}'"))
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        self.remove_layer(id).context(|| format!("remove layer '{id}'"))
    }

    fn mount(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        self.shared.mount_layer(id, options).context(|| format!("mount layer '{id}'"))
    }

    fn umount(&self, id: &LayerId) -> Result<()> {
        self.shared.umount_layer(id).context(|| format!("unmount layer '{id}'"))
    }

    fn exists(&self, id: &LayerId) -> Result<bool> {
        let found = self.shared.is_there(id)?;
        if found {
            self.shared.lease.tell(id);
        }
        Ok(found)
    }

    fn unpack(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        self.shared.apply(id, request).context(|| format!("unpack into layer '{id}'"))
    }

    fn diff(&self, id: &LayerId, against: &Against, form: Form, to: &mut dyn Write) -> Result<Exported> {
        self.shared.export(id, against, form, to).context(|| format!("export layer '{id}'"))
    }

    fn changes(&self, id: &LayerId, against: &Against, each: &mut dyn FnMut(&[u8], Change) -> Result<()>) -> Result<()> {
        self.shared.list_changes(id, against, each).context(|| format!("list the changes of layer '{id}'"))
    }

    fn diff_size(&self, id: &LayerId, against: &Against) -> Result<u64> {
        self.shared.size_of_changes(id, against).context(|| format!("measure the changes of layer '{id}'"))
    }

    /// A thin device does not depend on the record of its parent: there is nothing to repair.
    fn repair_lowers(&self, _id: &LayerId, _parent: Option<&LayerId>) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> Result<Status> {
        self.shared.status()
    }

    fn pause(&self) {
        self.worker.stop();
    }

    fn resume(&self) {
        if !self.shared.devices.select(|device| device.deleted).is_empty() {
            self.worker.wake(&self.shared);
        }
    }

    fn cleanup(&self) -> Result<()> {
        self.worker.stop();
        self.shared.release()
    }
}
