//! The base image: an empty filesystem of which every layer without a parent is a snapshot.

use super::devices::Devices;
use super::filesystem::{self, Filesystem, Superblock};
use super::mounting::grow;
use super::options::{DEFAULT_BASE_SIZE, Options};
use super::record::{BASE, Device, DeviceSet};
use super::steps::Steps;
use super::transaction::{Deleted, with_cleanup};
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use std::path::Path;

/// Makes the base image or checks the one that is there, grows it if that was asked for, and returns its filesystem.
pub(super) fn prepare(devices: &Devices, options: &Options, mnt: &Path, steps: &Steps) -> Result<Filesystem> {
    match devices.find(BASE)? {
        Some(base) if base.initialized && !base.deleted => {
            let found = verify(devices, options, &base).context(|| "check the base device")?;
            let base = resize(devices, options, base, &found, mnt).context(|| "grow the base device")?;
            log::info!("devicemapper: base device {} of {} bytes, {}", base.device_id, base.size, found.filesystem);
            Ok(found.filesystem)
        }
        // A crash came between making the device and its filesystem.
        Some(base) if !base.deleted => {
            let size = options.base_size.unwrap_or(base.size);
            format(devices, options, Device { size, ..base }, steps)
        }
        Some(_) => {
            if devices.delete(BASE)? == Deleted::Later {
                return Err(Error::new(Kind::Busy, "the old base device was deleted but is still in use"));
            }
            create(devices, options, steps)
        }
        None => {
            let status = devices.pool_status()?;
            status.health.writable(&devices.names.pool)?;
            if status.data.used != 0 || status.transaction != 0 {
                let pool = &devices.names.pool;
                let what = format!(
                    "Unable to take ownership of thin-pool ({pool}): it has {} used data blocks and transaction id {}, \
                     but there is no record of a base device in this home",
                    status.data.used, status.transaction
                );
                return Err(Error::new(Kind::Exists, what).hint("use an empty pool, or restore the metadata directory"));
            }
            create(devices, options, steps)
        }
    }
}

fn create(devices: &Devices, options: &Options, steps: &Steps) -> Result<Filesystem> {
    let size = options.base_size.unwrap_or(DEFAULT_BASE_SIZE);
    let base = devices.add(Device { hash: BASE.to_owned(), size, ..Device::default() }, None);
    format(devices, options, base.context(|| "create the base device")?, steps)
}

/// Makes the filesystem, and records it as the last thing.
fn format(devices: &Devices, options: &Options, base: Device, steps: &Steps) -> Result<Filesystem> {
    let filesystem = options.filesystem.unwrap_or(Filesystem::Ext4);
    let node = devices.activate(&base)?;
    let made = filesystem::make(filesystem, &options.mkfs_args, &node, steps).and_then(|()| superblock(&node));
    let done = devices.deactivate_and_wait(&base);
    let found = match made {
        Ok(found) => done.map(|()| found)?,
        Err(e) => return Err(with_cleanup(e, done)),
    };
    devices.save_set(DeviceSet {
        base_filesystem: found.filesystem.name().to_owned(),
        base_uuid: found.uuid,
        ..DeviceSet::default()
    })?;
    devices.save(Device { initialized: true, ..base })?;
    Ok(found.filesystem)
}

fn superblock(node: &Path) -> Result<Superblock> {
    let none = || Error::new(Kind::Corrupt, format!("there is neither ext4 nor XFS on '{}'", node.display()));
    Superblock::read(node)?.ok_or_else(none)
}

/// Makes sure that the pool's base device is the one that the files speak of.
fn verify(devices: &Devices, options: &Options, base: &Device) -> Result<Superblock> {
    let node = devices.activate(base)?;
    let found = superblock(&node);
    let done = devices.deactivate_and_wait(base);
    let found = match found {
        Ok(found) => done.map(|()| found)?,
        Err(e) => return Err(with_cleanup(e, done)),
    };
    let set = devices.store.device_set()?;
    if !set.base_uuid.is_empty() && set.base_uuid != found.uuid {
        let what = format!("the base device has UUID {}, but {} was recorded", found.uuid, set.base_uuid);
        return Err(Error::new(Kind::Corrupt, what).hint("is this the pool that belongs to this home?"));
    }
    if !set.base_filesystem.is_empty() && Filesystem::parse(&set.base_filesystem) != Some(found.filesystem) {
        let what = format!("the base device is {}, but '{}' was recorded", found.filesystem, set.base_filesystem);
        return Err(Error::new(Kind::Corrupt, what));
    }
    if let Some(wanted) = options.filesystem.filter(|&wanted| wanted != found.filesystem) {
        let what = format!("dm.fs={wanted}, but the base device of this pool is {}", found.filesystem);
        return Err(Error::new(Kind::Unsupported, what).hint("dm.fs decides only when the base device is made"));
    }
    if set.base_uuid.is_empty() || set.base_filesystem.is_empty() {
        let base_filesystem = found.filesystem.name().to_owned();
        devices.save_set(DeviceSet { base_filesystem, base_uuid: found.uuid.clone(), ..set })?;
    }
    Ok(found)
}

/// Grows the base to `dm.basesize`. The new size is recorded last, so that a crash makes the next start do it again.
fn resize(devices: &Devices, options: &Options, base: Device, found: &Superblock, mnt: &Path) -> Result<Device> {
    let Some(size) = options.base_size.filter(|&size| size != base.size) else { return Ok(base) };
    if size < base.size {
        let what = format!("dm.basesize={size} is smaller than the base device, which has {} bytes", base.size);
        return Err(Error::new(Kind::Invalid, what).hint("a base device can only grow"));
    }
    log::info!("devicemapper: growing the base device from {} to {size} bytes", base.size);
    let grown = Device { size, ..base };
    grow(devices, &grown, found.filesystem, &mnt.join(BASE))?;
    devices.save(grown.clone())?;
    Ok(grown)
}
