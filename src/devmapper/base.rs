//! The base device: an empty filesystem of which every layer without a parent is a snapshot. Its UUID, which all layers inherit, is
//! what tells that pool and files belong together.

use super::create::rounded;
use super::devices::{DeviceId, Devices};
use super::filesystem::{self, Filesystem, Superblock};
use super::identity::{self, SECTOR, node};
use super::mount::Place;
use super::options::{DEFAULT_BASE_SIZE, Options};
use super::pool;
use super::record::{BASE, Device, DeviceSet};
use super::transaction::{Deleted, once_released};
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::mounts::Words;
use crate::sys::dm::{Writes, is_busy, is_unknown_id};
use crate::sys::newmount;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// What a start found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The base device that the files speak of.
    Whole(Superblock),
    /// None, in a pool that nothing else is in, or one whose making a crash ended.
    Unfinished,
}

/// Makes sure that the pool is the one that the files speak of. Nothing is changed, neither in the pool nor in the files.
pub(super) fn verify(devices: &Devices, options: &Options, pool: &pool::Status) -> Result<Found> {
    let base = devices.find(BASE)?;
    if let Some(base) = base.as_ref().filter(|base| base.initialized && !base.deleted) {
        return whole(devices, options, base, pool).map(Found::Whole).context(|| "check the base device");
    }
    if !devices.select(|device| device.hash != BASE && !device.deleted).is_empty() {
        let what = "there are layers in this home, but no record of a finished base device";
        return Err(Error::new(Kind::Corrupt, what).hint("restore the file 'base' of the metadata directory"));
    }
    match base {
        Some(base) => unfinished(devices, &base, pool)?,
        None => empty(devices, pool)?,
    }
    Ok(Found::Unfinished)
}

/// The base that is in use: its filesystem must be the recorded one.
fn whole(devices: &Devices, options: &Options, base: &Device, pool: &pool::Status) -> Result<Superblock> {
    let set = devices.store.device_set()?;
    let wrong = |what: String| Error::new(Kind::Corrupt, what).hint("is this the pool that belongs to this home?");
    let none = || wrong(format!("device {} of pool '{}' has neither ext4 nor XFS", base.device_id, devices.names.pool));
    let found = look(devices, base, |node| {
        let found = Superblock::read(node)?.ok_or_else(none)?;
        if set.base_uuid.is_empty() || set.base_uuid == found.uuid {
            check_mount_options(options, found.filesystem, node)?;
        }
        Ok(found)
    });
    let found = found?.ok_or_else(|| wrong(format!("pool '{}' has no device {}", devices.names.pool, base.device_id)))?;
    if !set.base_uuid.is_empty() && set.base_uuid != found.uuid {
        return Err(wrong(format!("the base device has UUID {}, but {} was recorded", found.uuid, set.base_uuid)));
    }
    let newest = devices.select(|_| true).iter().map(|device| device.transaction_id).max().unwrap_or(0);
    // One more is what a crash leaves of the last transaction.
    if set.base_uuid.is_empty() && newest > pool.transaction + 1 {
        let what = format!("the pool is at transaction {}, but a layer was made in {newest}", pool.transaction);
        return Err(wrong(what));
    }
    if !set.base_filesystem.is_empty() && Filesystem::parse(&set.base_filesystem) != Some(found.filesystem) {
        let what = format!("the base device is {}, but '{}' was recorded", found.filesystem, set.base_filesystem);
        return Err(Error::new(Kind::Corrupt, what));
    }
    if let Some(wanted) = options.filesystem.filter(|&wanted| wanted != found.filesystem) {
        let what = format!("dm.fs={wanted}, but the base device of this pool is {}", found.filesystem);
        return Err(Error::new(Kind::Unsupported, what).hint("dm.fs decides only when the base device is made"));
    }
    if let Some(size) = options.base_size.map(rounded).filter(|&size| size < base.size) {
        let what = format!("dm.basesize={size} is smaller than the base device, which has {} bytes", base.size);
        return Err(Error::new(Kind::Invalid, what).hint("a base device can only grow"));
    }
    Ok(found)
}

/// A base whose making a crash ended: nothing else was done in its pool, and what is on it was to be its filesystem.
fn unfinished(devices: &Devices, base: &Device, pool: &pool::Status) -> Result<()> {
    let name = &devices.names.pool;
    let foreign = |what: String| {
        let what = format!("the base device of this home was not finished, and pool '{name}' {what}");
        Err(Error::new(Kind::Exists, what).hint("is this the pool that belongs to this home?"))
    };
    if pool.transaction > base.transaction_id {
        return foreign(format!("went on to transaction {}", pool.transaction));
    }
    let recorded = devices.store.device_set()?.base_uuid;
    match look(devices, base, Superblock::read)? {
        Some(Some(found)) if found.uuid != recorded => {
            foreign(format!("has a filesystem with UUID {} in its place", found.uuid))
        }
        None if pool.data.used > 0 => foreign(format!("has other devices, but not {}", base.device_id)),
        _ => Ok(()),
    }
}

/// A pool to begin with. All that may be in it is a device that a crash left before it was recorded.
fn empty(devices: &Devices, pool: &pool::Status) -> Result<()> {
    let name = &devices.names.pool;
    let foreign = devices.pending()?.filter(|pending| pending.device_hash != BASE);
    if pool.data.used == 0 && pool.transaction == 0 && foreign.is_none() {
        return Ok(());
    }
    let what = format!(
        "Unable to take ownership of thin-pool ({name}): it has {} used data blocks and transaction id {}, \
         but there is no record of a base device in this home",
        pool.data.used, pool.transaction
    );
    Err(Error::new(Kind::Exists, what).hint("use an empty pool, or restore the metadata directory"))
}

/// Looks at a device through another one that cannot be written to; `None` if the pool has none of this id. Whatever is active
/// under the device's own name, perhaps frozen, perhaps of another pool, is not touched.
pub(super) fn look<T>(devices: &Devices, device: &Device, at: impl FnOnce(&Path) -> Result<T>) -> Result<Option<T>> {
    through(devices, device.device_id, |name| match devices.start(name, device, Writes::Refused) {
        Err(e) if is_unknown_id(&e) => Ok(None),
        started => started.and_then(|()| at(&node(name))).map(Some),
    })
}

/// Whether the pool has a thin device of this id. Nothing gets active: the kernel takes no table that names one which is not there.
pub(super) fn is_there(devices: &Devices, id: DeviceId) -> Result<bool> {
    let smallest = Device { device_id: id, size: SECTOR, ..Device::default() };
    let table = identity::table(&devices.pool_number()?, &smallest);
    through(devices, id, |name| match devices.kernel.load(name, &table, Writes::Refused) {
        Err(e) if is_unknown_id(&e) => Ok(false),
        loaded => loaded.map(|()| true).map_err(|e| devices.blame_pool(e)),
    })
}

/// Does something with a device that is there for the moment, under a name of its own for each thin device.
fn through<T>(devices: &Devices, id: DeviceId, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let (kernel, name) = (&devices.kernel, devices.names.look(id));
    let mut tries = 0..100;
    while let Err(e) = kernel.create(&name) {
        // An earlier start died over it, or somebody looks at the last one still.
        if !is_busy(&e) || tries.next().is_none() {
            return Err(e);
        }
        kernel.remove(&name, true)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = work(&name);
    let gone = kernel.remove(&name, true);
    once_released(done, gone.map(drop))
}

/// Lets the kernel judge `dm.mountopt` now rather than when a container is to start. What it does not take without them either (a
/// filesystem that a crash left mounted, on a device that cannot be written to) says nothing about them.
fn check_mount_options(options: &Options, filesystem: Filesystem, device: &Path) -> Result<()> {
    let Some(configured) = &options.mount_options else { return Ok(()) };
    let Err(e) = configure(filesystem, device, &Words::parse([configured]).data) else { return Ok(()) };
    if let Err(e) = configure(filesystem, device, &[]) {
        log::info!("devicemapper: dm.mountopt cannot be tried now: {e}");
        return Ok(());
    }
    let sentence = format!("Invalid dm.mountopt: '{}'", configured.to_string_lossy().escape_debug());
    Err(e.context(format!("{sentence}: {filesystem} refuses it")).with_kind(Kind::Invalid).user(sentence))
}

/// Opens the filesystem read-only with these options, and mounts it nowhere. [`Kind::Unsupported`] before Linux 5.2.
fn configure(filesystem: Filesystem, device: &Path, words: &[OsString]) -> Result<()> {
    let context = newmount::Context::open(filesystem.name())?;
    context.string("source", device)?;
    context.flag("ro")?;
    for word in words.iter().map(|word| word.to_string_lossy()) {
        match word.split_once('=') {
            Some((key, value)) => context.string(key, value)?,
            None => context.flag(&word)?,
        }
    }
    filesystem.mount_option().map_or(Ok(()), |option| context.flag(option))?;
    context.create()
}

/// Makes the base device or finishes it, if there is none that is whole, and returns its superblock.
pub(super) fn complete(devices: &Devices, options: &Options, found: Found) -> Result<Superblock> {
    if let Found::Whole(found) = found {
        record(devices, &found)?;
        return Ok(found);
    }
    let made = match devices.known(BASE) {
        Some(base) if !base.deleted && look(devices, &base, |_| Ok(()))?.is_some() => {
            let size = options.base_size.map_or(base.size, rounded);
            format(devices, options, Device { size, ..base })
        }
        Some(_) if devices.delete(BASE)? == Deleted::Later => {
            Err(Error::new(Kind::Busy, "the old base device was deleted but is still in use"))
        }
        _ => create(devices, options),
    };
    let found = made.context(|| "make the base device")?;
    look(devices, &devices.find(BASE)?.unwrap_or_default(), |node| check_mount_options(options, found.filesystem, node))?;
    Ok(found)
}

/// Notes what tells the base, where that is not known yet.
fn record(devices: &Devices, found: &Superblock) -> Result<()> {
    let set = devices.store.device_set()?;
    if !set.base_uuid.is_empty() && !set.base_filesystem.is_empty() {
        return Ok(());
    }
    let base_filesystem = found.filesystem.name().to_owned();
    devices.save_set(DeviceSet { base_filesystem, base_uuid: found.uuid.clone(), ..set })
}

fn create(devices: &Devices, options: &Options) -> Result<Superblock> {
    devices.pool_status()?.health.writable(&devices.names.pool)?;
    let size = rounded(options.base_size.unwrap_or(DEFAULT_BASE_SIZE));
    let base = devices.add(Device { hash: BASE.to_owned(), size, ..Device::default() }, BASE, None)?;
    format(devices, options, base)
}

/// Makes the filesystem. Its UUID is recorded before, so that after a crash it is known for ours; that it is whole, as the last
/// thing.
fn format(devices: &Devices, options: &Options, base: Device) -> Result<Superblock> {
    let filesystem = options.filesystem.unwrap_or(Filesystem::Ext4);
    let uuid = filesystem::new_uuid()?;
    let base_filesystem = filesystem.name().to_owned();
    devices.save_set(DeviceSet { base_filesystem, base_uuid: uuid.clone(), ..DeviceSet::default() })?;
    let active = devices.activate(&base)?;
    filesystem::make(filesystem, &uuid, &options.mkfs_args, &active.node, &devices.kernel.steps)?;
    let none = || Error::new(Kind::Corrupt, format!("there is neither ext4 nor XFS on '{}'", active.node.display()));
    let found = Superblock::read(&active.node)?.ok_or_else(none)?;
    active.end()?;
    if found.uuid != uuid || found.filesystem != filesystem {
        // dm.mkfsarg asked for another one.
        let (base_filesystem, base_uuid) = (found.filesystem.name().to_owned(), found.uuid.clone());
        devices.save_set(DeviceSet { base_filesystem, base_uuid, ..DeviceSet::default() })?;
    }
    devices.save(Device { initialized: true, ..base })?;
    Ok(found)
}

/// Grows the base to `dm.basesize`. The new size is recorded last, so that a crash makes the next start do it again.
pub(super) fn grow(devices: &Devices, options: &Options, place: &Place) -> Result<()> {
    let Some(base) = devices.known(BASE) else { return Ok(()) };
    let Some(size) = options.base_size.map(rounded).filter(|&size| size > base.size) else { return Ok(()) };
    log::info!("devicemapper: growing the base device from {} to {size} bytes", base.size);
    let grown = Device { size, ..base };
    place.grow(devices, &grown).and_then(|()| devices.save(grown)).context(|| "grow the base device")
}
