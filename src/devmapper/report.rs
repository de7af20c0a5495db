//! What the driver tells about itself and its layers.

use super::Shared;
use super::filesystem::Superblock;
use super::identity::SECTOR;
use super::looppool;
use super::mount::ROOTFS;
use super::options::PoolSource;
use super::pool::{self, Blocks};
use super::record::{BASE, Device};
use crate::driver::{Metadatum, Status, Usage};
use crate::error::Result;
use crate::id::LayerId;
use crate::locks::Mode::Exclusive;
use crate::sys::{dm_event, fs};
use std::fmt::Write;
use std::path::Path;

/// Metadata block size of every thin pool, bytes: `THIN_METADATA_BLOCK_SIZE` of the kernel's `dm-thin-metadata.h`.
const METADATA_BLOCK: u64 = 4096;

/// The items in the order that `isula inspect` is used to; the block device's name where it is known.
pub(super) fn parts(device: &Device, name: Option<String>, points: &Path) -> Vec<Metadatum> {
    let mut items = vec![("DeviceId", device.device_id.to_string().into()), ("DeviceSize", device.size.to_string().into())];
    items.extend(name.map(|name| ("DeviceName", name.into())));
    items.push(("MergedDir", points.join(&device.hash).join(ROOTFS).into()));
    items
}

impl Shared {
    pub(super) fn metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        let device = self.there(id)?;
        self.lease.tell(id);
        Ok(parts(&device, Some(self.devices.name(&device)), &self.place.points.path))
    }

    /// What the layer occupies beyond its parent, as the pool and the two filesystems count it.
    pub(super) fn usage(&self, id: &LayerId) -> Result<Usage> {
        let device = self.there(id)?;
        let parent = if device.parent.is_empty() { BASE } else { &device.parent };
        let _held = self.locks.hold(&[(&device.hash, Exclusive), (parent, Exclusive)])?;
        let own = self.occupied(&device)?;
        // The parent may have been deleted: a snapshot does not need it. Then nobody shares with this layer.
        let Some(parent) = self.devices.find(parent)?.filter(|parent| !parent.deleted) else { return Ok(own) };
        let inherited = self.occupied(&parent)?;
        Ok(Usage { bytes: own.bytes.saturating_sub(inherited.bytes), inodes: own.inodes.saturating_sub(inherited.inodes) })
    }

    fn occupied(&self, device: &Device) -> Result<Usage> {
        let active = self.devices.activate(device)?;
        let status = self.devices.kernel.status(&self.devices.name(device))?;
        let sectors = status.and_then(|target| pool::mapped_sectors(&target.text)).unwrap_or(0);
        // Asked of the mounted filesystem, else read from the superblock of the clean one.
        let inodes = match self.is_mounted(device)? {
            true => fs::inodes_in_use(fs::open_dir_at(&self.place.points.dir, &device.hash)?)?,
            false => Superblock::read(&active.node)?.map_or(0, |found| found.inodes_used),
        };
        active.end()?;
        Ok(Usage { bytes: sectors * SECTOR, inodes })
    }

    pub(super) fn status(&self) -> Result<Status> {
        let devices = &self.devices;
        let pool_name = &devices.names.pool;
        let status = devices.pool_status()?;
        let table = devices.kernel.table(pool_name)?;
        let sectors = table.as_ref().map_or(0, |table| table.sectors);
        let (metadata_file, data_file) = table.and_then(|table| pool::devices(&table.text).map(backing)).unwrap_or_default();
        let block = (sectors * SECTOR).checked_div(status.data.total).unwrap_or(0);
        let base = devices.find(BASE)?.unwrap_or_default();
        let least = status.data.least(self.options.min_free_space) * u64::from(self.options.min_free_space > 0);
        let (used, total) = dm_event::semaphore_sets().unwrap_or_default();
        let (major, minor, patch) = devices.kernel.version()?;

        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name}: {value}");
        };
        line("Pool Name", pool_name);
        line("Pool Blocksize", &amount(block));
        line("Base Device Size", &amount(base.size));
        line("Backing Filesystem", &self.place.filesystem);
        line("Data file", &data_file);
        line("Metadata file", &metadata_file);
        for (name, blocks, unit) in [("Data", status.data, block), ("Metadata", status.metadata, METADATA_BLOCK)] {
            let Blocks { used, total } = blocks;
            line(&format!("{name} Space Used"), &amount(used * unit));
            line(&format!("{name} Space Total"), &amount(total * unit));
            line(&format!("{name} Space Available"), &amount(blocks.free() * unit));
        }
        line("Thin Pool Minimum Free Space", &amount(least * block));
        line("Udev Sync Supported", &dm_event::udev_runs());
        line("Deferred Removal Enabled", &true);
        line("Deferred Deletion Enabled", &true);
        line("Deferred Deleted Device Count", &devices.select(|device| device.deleted).len());
        line("Library Version", &format!("{} (driver {major}.{minor}.{patch})", env!("CARGO_PKG_VERSION")));
        line("Semaphore Set Used", &used);
        line("Semaphore Set Total", &total);
        if used == total {
            line("WARNING", &format!("system semaphore nums has attached limit: {used}"));
        }
        line("Pool State", &status.health);
        if let PoolSource::Loop(files) = &self.options.pool {
            line("Loop Backed", &"true (for trials and tests, not for production: use dm.thinpooldev there)");
            line("Host Space Available", &amount(looppool::host_space(&self.home, files)?.free()));
        }
        Ok(Status { driver_name: "devicemapper".to_owned(), backing_fs: self.backing_fs.clone(), text })
    }
}

/// A size as `isula info` shows it: binary units, three decimals.
fn amount(bytes: u64) -> String {
    for (shift, unit) in [(30, "GB"), (20, "MB"), (10, "KB")] {
        if bytes >= 1 << shift {
            #[allow(clippy::cast_precision_loss)] // three decimals are shown
            return format!("{:.3}{unit}", bytes as f64 / f64::from(1 << shift));
        }
    }
    format!("{bytes}B")
}

/// What is behind the two devices `major:minor` of a pool.
fn backing((metadata, data): (&str, &str)) -> (String, String) {
    (backing_file(metadata), backing_file(data))
}

/// The file behind a loop device, the name of a device-mapper device, else the kernel's name of the device (`sysfs(5)`).
fn backing_file(device: &str) -> String {
    let dir = Path::new("/sys/dev/block").join(device);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok().map(|text| text.trim_end().to_owned());
    let node = || Some(format!("/dev/{}", fs::shown(std::fs::read_link(&dir).ok()?.file_name()?)));
    let mapped = || read("dm/name").map(|name| format!("/dev/mapper/{name}"));
    read("loop/backing_file").or_else(mapped).or_else(node).unwrap_or_else(|| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_form_that_ci_reads() {
        for (bytes, shown) in [(0, "0B"), (1023, "1023B"), (65536, "64.000KB"), (1 << 20, "1.000MB"), (10 << 30, "10.000GB")]
        {
            assert_eq!(amount(bytes), shown);
        }
    }
}
