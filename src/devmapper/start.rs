//! Making the driver ready, and giving back at the end what it holds.

use super::Shared;
use super::base;
use super::devices::{Devices, gone_is_none};
use super::identity::{self, Names, is_in_pool};
use super::kernel::{Kernel, Steps};
use super::looppool;
use super::mount::{POINTS, Place, Points};
use super::options::{Options, PoolSource};
use super::pool;
use super::record::{BASE, Device, in_stage};
use super::store::{Contents, Store, make_dir};
use super::transaction::with_cleanup;
use crate::backing::filesystem_name;
use crate::error::{Context, Error, Kind, Result};
use crate::lease::Lease;
use crate::locks::Locks;
use crate::log;
use crate::sys::dm::Settle;
use crate::sys::fs::{self, FileKind};
use crate::sys::{dm, dm_event, dm_node, mount};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The oldest interface of the kernel with deferred removal.
const LEAST_VERSION: (u32, u32, u32) = (4, 27, 0);

impl Shared {
    pub(super) fn start(home: &Path, options: &[&str], lease: Arc<Lease>, steps: Steps) -> Result<Shared> {
        let options = Options::parse(options)?;
        let ground = Ground::open(home)?;
        let kernel = Kernel::new(Box::new(dm::Kernel::open()?), steps.clone());
        check_version(&kernel)?;
        let pool = Pool::find(&kernel, &ground.prefix, home, &options)?;
        let backing_fs = ground.backing_fs.clone();
        let started = in_order(kernel, ground, &pool.name, &options, home, steps.clone());
        let (devices, place) = started.map_err(|e| pool.give_back(e, steps))?;
        dm_event::sweep();
        let (locks, home) = (Locks::default(), home.to_owned());
        let asking = Mutex::default();
        Ok(Shared { devices, locks, lease, options, home, place, backing_fs, asking })
    }

    /// Lets go of everything but the layers that are mounted; their devices, and then the embedded pool, go when they are unmounted.
    pub(super) fn release(&self) -> Result<()> {
        let devices = &self.devices;
        if let Err(e) = devices.store.device_set().and_then(|set| devices.save_set(set)) {
            log::warn!("devicemapper: the last device id is not recorded: {e}");
        }
        let pool = devices.pool_number()?;
        for name in devices.kernel.names()?.into_iter().filter(|name| devices.names.is_ours(name)) {
            if gone_is_none(devices.kernel.table(&name))?.is_some_and(|table| is_in_pool(&table, &pool)) {
                devices.kernel.remove(&name, true)?;
            }
        }
        match self.options.pool {
            PoolSource::Loop(_) => looppool::detach(&devices.kernel, &devices.names.pool),
            PoolSource::Device(_) => Ok(()),
        }
    }
}

/// The start, in the order in which it must happen: nothing is changed, forgotten or deleted before the base device has told that
/// this pool is the one that belongs to this home. That nobody else works on home, the lease says.
fn in_order(
    kernel: Kernel,
    ground: Ground,
    pool: &str,
    options: &Options,
    home: &Path,
    steps: Steps,
) -> Result<(Devices, Place)> {
    let store = Store::open(ground.home, steps)?;
    let (devices, contents) = Devices::read(kernel, store, Names::new(ground.prefix, pool.to_owned()))?;
    let status = check(&devices)?;
    let found = base::verify(&devices, options, &status)?;
    devices.recover()?;
    tidy(&devices, &contents, &ground.points)?;
    if let PoolSource::Loop(files) = &options.pool {
        looppool::grow(&devices.kernel, pool, home, files)?;
    }
    let base = base::complete(&devices, options, found)?;
    let (points, max_retries) = (ground.points, options.xfs_retries);
    let place = Place { points, filesystem: base.filesystem, uuid: base.uuid, max_retries };
    base::grow(&devices, options, &place)?;
    Ok((devices, place))
}

/// The driver's directories.
struct Ground {
    home: OwnedFd,
    points: Points,
    /// Of the names of home's devices.
    prefix: String,
    backing_fs: String,
}

impl Ground {
    fn open(home: &Path) -> Result<Ground> {
        let dir = fs::open_dir(home)?;
        let parent = fs::open_dir(home.parent().unwrap_or(home))?;
        let backing_fs = filesystem_name(fs::filesystem_magic(parent)?);
        let points = Points { dir: make_dir(&dir, POINTS, 0o750)?, path: home.join(POINTS) };
        let prefix = identity::prefix(&fs::stat_fd(&dir)?);
        Ok(Ground { home: dir, points, prefix, backing_fs })
    }
}

/// The pool that was asked for.
struct Pool {
    name: String,
    /// This start activated it.
    is_new: bool,
}

impl Pool {
    fn find(kernel: &Kernel, prefix: &str, home: &Path, options: &Options) -> Result<Pool> {
        match &options.pool {
            PoolSource::Device(name) => Ok(Pool { name: name.clone(), is_new: false }),
            PoolSource::Loop(files) => {
                let name = identity::loop_pool(prefix);
                let is_new = looppool::attach(kernel, &name, home, files)?;
                Ok(Pool { name, is_new })
            }
        }
    }

    /// After a start that failed: a pool that was active before has other users.
    fn give_back(&self, error: Error, steps: Steps) -> Error {
        if !self.is_new {
            return error;
        }
        let given_back = dm::Kernel::open().and_then(|dm| looppool::detach(&Kernel::new(Box::new(dm), steps), &self.name));
        with_cleanup(error, given_back)
    }
}

fn check_version(kernel: &Kernel) -> Result<()> {
    let version = kernel.version()?;
    if version >= LEAST_VERSION {
        return Ok(());
    }
    let what =
        format!("device-mapper {}.{}.{} of this kernel does not support deferred removal", version.0, version.1, version.2);
    Err(Error::new(Kind::Unsupported, what).hint("4.27.0 or later is needed"))
}

/// Type, health and size of the pool.
fn check(devices: &Devices) -> Result<pool::Status> {
    let (name, status) = (&devices.names.pool, devices.pool_status()?);
    match status.health {
        pool::Health::Good => {}
        pool::Health::Failed => {
            return Err(status.health.explain(Error::new(Kind::Unsupported, "nothing can be read"), name));
        }
        health => log::warn!("devicemapper: thin pool '{name}' is in state {health}"),
    }
    if status.data.total == 0 || status.metadata.total == 0 {
        return Err(Error::new(Kind::Unsupported, format!("thin pool '{name}' has no size")));
    }
    Ok(status)
}

/// Puts right what a crash left, in the pool that is known to be ours.
fn tidy(devices: &Devices, contents: &Contents, points: &Points) -> Result<()> {
    thaw(devices)?;
    tidy_files(devices, contents);
    unmount_unfinished(devices, points)?;
    deactivate_unused(devices)?;
    sweep_nodes(devices);
    condemn(devices);
    sweep_mount_points(devices, points)
}

/// Names and tables of the active devices of this home that are in its pool. Others with names of this home are left alone.
fn own_active(devices: &Devices) -> Result<Vec<(String, dm::Info)>> {
    let pool = devices.pool_number()?;
    let mut own = Vec::new();
    for name in devices.kernel.names()?.into_iter().filter(|name| devices.names.is_ours(name)) {
        let Some(info) = devices.kernel.info(&name)? else { continue };
        match gone_is_none(devices.kernel.table(&name))? {
            Some(table) if !is_in_pool(&table, &pool) => {
                let (kind, text) = (table.kind, table.text);
                log::warn!("devicemapper: '{name}' is active as '{kind} {text}', not in this pool; left alone");
            }
            _ => own.push((name, info)),
        }
    }
    Ok(own)
}

/// What was left frozen goes on, before anything could wait for it.
fn thaw(devices: &Devices) -> Result<()> {
    for (name, info) in own_active(devices)? {
        if info.active && info.suspended {
            log::warn!("devicemapper: '{name}' was left suspended; resuming it");
            devices.kernel.resume(&name, Settle::AtOnce)?;
        }
    }
    Ok(())
}

/// Leaves of the files only what means something, and makes room for what must be written when the disk is full.
fn tidy_files(devices: &Devices, contents: &Contents) {
    for (name, why) in &contents.damaged {
        match in_stage(name) {
            true => drop(devices.store.set_aside(name).inspect_err(|e| log::warn!("devicemapper: {e}"))),
            false => log::warn!("devicemapper: layer '{name}' cannot be used: {why}"),
        }
    }
    for name in &contents.foreign {
        log::warn!("devicemapper: '{name}' in the metadata directory is none of ours; left alone");
    }
    let all = devices.select(|_| true);
    for device in all.into_iter().filter(|device| devices.is_claimed_twice(device.device_id)) {
        let (name, id) = (device.hash, device.device_id);
        log::warn!("devicemapper: layer '{name}' cannot be used: another one claims its device {id} as well");
    }
    let swept = contents.stale.iter().try_for_each(|name| devices.store.sweep(name));
    let current = devices.ledger().current;
    if let Err(e) = swept.and_then(|()| devices.store.make_room_for_transactions(current)) {
        log::warn!("devicemapper: {e}");
    }
}

/// What a crash left mounted: a layer that was being filled or grown, on the stage; one that cannot be used until it is made anew.
fn unmount_unfinished(devices: &Devices, points: &Points) -> Result<()> {
    let own: Vec<u64> = own_active(devices)?.into_iter().map(|(_, info)| info.device).collect();
    let mut on_stage = Vec::new();
    fs::each_entry(&points.dir, |entry| {
        on_stage.extend(entry.name.to_str().filter(|name| in_stage(name)).map(str::to_owned));
        Ok(())
    })?;
    for name in on_stage {
        while points.is_mounted(&name)? && own.contains(&fs::stat_at(&points.dir, &name)?.device) {
            log::info!("devicemapper: unmounting '{name}', which a crash left mounted");
            mount::umount_detach(&points.of(&name))?;
        }
    }
    for device in devices.select(|device| device.incomplete || device.deleted || device.hash == BASE) {
        if points.clear(devices, &device)? {
            log::info!("devicemapper: unmounted '{}', which a crash left mounted", device.hash);
        }
    }
    Ok(())
}

/// A process may have died between a device and its node.
fn sweep_nodes(devices: &Devices) {
    let swept = devices.kernel.names().and_then(|active| {
        dm_node::sweep(|name| devices.names.is_ours(name) && !active.iter().any(|device| device == name))
    });
    if let Err(e) = swept {
        log::warn!("devicemapper: nodes of devices that are no more stay: {e}");
    }
}

/// What is active without being used goes away.
fn deactivate_unused(devices: &Devices) -> Result<()> {
    for (name, info) in own_active(devices)? {
        if info.open_count == 0 {
            log::info!("devicemapper: removing '{name}', active but used by nobody");
            devices.kernel.remove(&name, true)?;
        }
    }
    Ok(())
}

/// A layer of an image whose first unpacking a crash ended is of no use to anybody: it is the worker's to delete, unless others were
/// made from it.
fn condemn(devices: &Devices) {
    let parents: std::collections::HashSet<String> =
        devices.select(|device| !device.deleted).into_iter().map(|device| device.parent).collect();
    for device in devices.select(|device| device.is_void() && !device.deleted && !parents.contains(&device.hash)) {
        log::warn!("devicemapper: layer '{}' was not filled to the end; it is deleted", device.hash);
        devices.remember(Device { deleted: true, ..device });
    }
}

/// Removes the empty mount points of layers that are no more.
fn sweep_mount_points(devices: &Devices, points: &Points) -> Result<()> {
    let is_no_layer = |name: &str| {
        name == BASE || in_stage(name) || devices.find(name).is_ok_and(|found| found.is_none_or(|it| it.deleted))
    };
    let mut stale = Vec::new();
    fs::each_entry(&points.dir, |entry| {
        let is_dir = entry.kind.is_none_or(|kind| kind == FileKind::Dir);
        if is_dir && entry.name.to_str().is_some_and(is_no_layer) {
            stale.push(entry.name);
        }
        Ok(())
    })
    .context(|| "list the mount points")?;
    for name in stale {
        // One that is not empty is not ours to judge.
        if fs::remove_dir_at(&points.dir, &name).is_ok() {
            log::info!("devicemapper: removed '{}' from the mount points: there is no such layer", fs::shown(&name));
        }
    }
    Ok(())
}
