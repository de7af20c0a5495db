//! Making the driver ready, and giving back at the end what it holds.

use super::Shared;
use super::base;
use super::devices::Devices;
use super::kernel::Kernel;
use super::looppool;
use super::names::{self, Names};
use super::options::{Options, PoolSource};
use super::pool::Health;
use super::record::{BASE, DeviceSet};
use super::steps::Steps;
use super::store::{Store, make_dir};
use super::transaction::with_cleanup;
use crate::backing::filesystem_name;
use crate::error::{Error, Kind, Result};
use crate::lease::Lease;
use crate::locks::Locks;
use crate::log;
use crate::sys::{dm, fs};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// The oldest interface of the kernel with deferred removal.
const LEAST_VERSION: (u32, u32, u32) = (4, 27, 0);

impl Shared {
    pub(super) fn open(home: &Path, options: &[&str], lease: Arc<Lease>, steps: Steps) -> Result<Shared> {
        let options = Options::parse(options)?;
        let dir = fs::open_dir(home)?;
        let parent = fs::open_dir(home.parent().unwrap_or(home))?;
        let backing_fs = filesystem_name(fs::filesystem_magic(parent)?);
        let mnt = make_dir(&dir, "mnt", 0o750)?;
        let prefix = names::prefix(&fs::stat_fd(&dir)?);
        let store = Store::open(dir, steps.clone())?;
        let kernel = Kernel::new(Box::new(dm::Kernel::open()?), steps.clone());
        check_version(&kernel)?;
        let (pool, loop_backed) = match &options.pool {
            PoolSource::Device(name) => (name.clone(), false),
            PoolSource::Loop(files) => (looppool::attach(&kernel, &prefix, home, files)?, true),
        };
        let names = Names::new(prefix, pool.clone());
        let ready = Devices::load(kernel, store, names).and_then(|devices| {
            let filesystem = prepare(&devices, &options, home, &mnt, &steps)?;
            Ok((devices, filesystem))
        });
        let (devices, filesystem) =
            ready.map_err(|e| if loop_backed { with_cleanup(e, detach(&pool, steps)) } else { e })?;
        let home = home.to_owned();
        let (locks, _lease) = (Locks::default(), lease);
        Ok(Shared { devices, locks, _lease, options, loop_backed, home, mnt, filesystem, backing_fs })
    }

    /// Lets go of everything but the layers that are mounted.
    pub(super) fn release(&self) -> Result<()> {
        let devices = &self.devices;
        let set = devices.store.device_set()?;
        devices.save_set(DeviceSet { ..set })?;
        for name in devices.kernel.names()?.into_iter().filter(|name| devices.names.is_ours(name)) {
            if devices.kernel.info(&name)?.is_some_and(|info| info.open_count == 0) {
                devices.kernel.remove(&name, true)?;
            }
        }
        if self.loop_backed { looppool::detach(&devices.kernel, &devices.names.pool) } else { Ok(()) }
    }
}

/// Lets a pool of ours go, when there is no driver that could.
fn detach(pool: &str, steps: Steps) -> Result<()> {
    looppool::detach(&Kernel::new(Box::new(dm::Kernel::open()?), steps), pool)
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

fn prepare(devices: &Devices, options: &Options, home: &Path, mnt: impl AsFd, steps: &Steps) -> Result<super::Filesystem> {
    let health = devices.pool_status()?.health;
    if health != Health::Good {
        log::warn!("devicemapper: thin pool '{}' is in state {health}", devices.names.pool);
    }
    let filesystem = base::prepare(devices, options, &home.join("mnt"), steps)?;
    sweep(devices, mnt)?;
    Ok(filesystem)
}

/// Removes the empty mount points of layers that are no more.
fn sweep(devices: &Devices, mnt: impl AsFd) -> Result<()> {
    let mut stale = Vec::new();
    fs::each_entry(&mnt, |entry| {
        if entry.name.to_str().is_some_and(|name| name == BASE || devices.known(name).is_none()) {
            stale.push(entry.name);
        }
        Ok(())
    })?;
    for name in stale {
        // One that is not empty, or is no directory, is not ours to judge.
        if fs::remove_dir_at(&mnt, &name).is_ok() {
            log::info!("devicemapper: removed '{}' from the mount points: there is no such layer", fs::shown(&name));
        }
    }
    Ok(())
}
