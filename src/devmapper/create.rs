//! Making a layer: a snapshot, grown if it was asked to be larger, that takes its name when it is done.

use super::base;
use super::looppool;
use super::mount::Occupant;
use super::options::PoolSource;
use super::record::{BASE, Device, file_name, staged};
use super::store::make_dir;
use super::transaction::Deleted;
use super::{DeviceMapper, Shared};
use crate::driver::{Access, CreateOptions};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode::{Exclusive, Shared as Sharing};
use crate::log;
use crate::options::size;
use crate::sys::fs;
use crate::undo;

/// Sizes are multiples of this many bytes: the largest logical block of a disk, of which a device has whole ones only.
const SIZE_UNIT: u64 = 4096;

/// The size of a device for one of `bytes` bytes.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(SIZE_UNIT).unwrap_or(bytes)
}

impl DeviceMapper {
    pub(super) fn create_layer(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        access: Access,
        options: &CreateOptions,
    ) -> Result<()> {
        let shared = &self.shared;
        let wanted = requested_size(options)?;
        let (name, parent_name) = (&file_name(id), parent.map(file_name));
        let origin_name = parent_name.as_deref().unwrap_or(BASE);
        if parent == Some(id) {
            return Err(Error::new(Kind::Invalid, "a layer cannot be its own parent"));
        }
        let stage = &staged(name);
        let mut held = shared.locks.hold(&[(name, Exclusive), (stage, Exclusive), (origin_name, Sharing)])?;
        let origin = shared.usable(origin_name).context(|| "its parent")?;
        let size = wanted.unwrap_or(origin.size);
        if size < origin.size {
            let sentence = format!("Container size cannot be smaller than {}", origin.size);
            return Err(Error::new(Kind::Invalid, format!("size={size}: {sentence}")).user(sentence));
        }
        shared.check_free_space()?;
        let is_replacing = self.make_room(id, name, stage)?;
        let grows = size > origin.size;
        let device = Device {
            hash: if is_replacing || grows { stage.clone() } else { name.clone() },
            size,
            parent: parent_name.clone().unwrap_or_default(),
            read_only: access == Access::ReadOnly,
            unfilled: access == Access::ReadOnly,
            ..Device::default()
        };
        shared.write_back(&origin)?;
        undo::all_or_nothing(|undo| {
            make_dir(&shared.place.points.dir, name, 0o750)?;
            undo.with(|| {
                shared.remove_mount_point(name);
                Ok(())
            });
            let device = shared.devices.add(device, name, Some(&origin))?;
            held.release(origin_name);
            let made = device.hash.clone();
            undo.with(move || {
                self.discard(&made);
                Ok(())
            });
            if grows {
                shared.place.grow(&shared.devices, &device).context(|| "grow its filesystem")?;
            }
            if device.hash == *name { Ok(()) } else { shared.devices.publish(device, name) }
        })?;
        if let Some(parent) = parent {
            shared.lease.tell(parent);
        }
        shared.lease.tell(id);
        if is_replacing {
            self.discard(stage);
        }
        Ok(())
    }

    /// Sees to it that the id can be had: false if it is free, true if it is that of a leftover, whose place the new layer takes
    /// when it is done. Only what is proven to be of no use to anybody is one.
    fn make_room(&self, id: &LayerId, name: &str, stage: &str) -> Result<bool> {
        let shared = &self.shared;
        // What an earlier attempt left there goes first.
        self.delete_now(stage)?;
        let taken = |why: &str| Err(Error::new(Kind::Exists, format!("the layer exists {why}")));
        let device = match shared.devices.find(name) {
            Ok(Some(device)) => device,
            Ok(None) => return Ok(false),
            Err(e) if e.kind() == Kind::Corrupt => return taken(&format!("and is damaged: {e}")),
            Err(e) => return Err(e),
        };
        if device.deleted {
            log::info!("devicemapper: layer '{id}' was deleted while busy; deleting it now to make it anew");
            return self.delete_now(name).map(|()| false);
        }
        let is_parent = !shared.devices.select(|other| other.parent == name && !other.deleted).is_empty();
        if shared.devices.is_active(&device)? || shared.place.points.occupant(&shared.devices, &device)? != Occupant::Nobody
        {
            return taken("and is in use");
        } else if is_parent {
            return taken("and is the parent of another");
        } else if device.incomplete {
            log::warn!("devicemapper: layer '{id}', which was left incomplete, is made anew");
        } else if device.read_only && !shared.lease.was_told(id) {
            log::warn!(
                "devicemapper: read-only layer '{id}', which an earlier process made and nobody knows of, is made anew"
            );
        } else if base::look(&shared.devices, &device, |_| Ok(()))?.is_none() {
            log::warn!("devicemapper: layer '{id}', of which the pool has no device, is made anew");
        } else {
            return taken("and is not known to be a leftover");
        }
        Ok(true)
    }

    fn delete_now(&self, name: &str) -> Result<()> {
        match self.shared.devices.delete(name)? {
            Deleted::Gone => Ok(()),
            Deleted::Later => {
                self.worker.wake(&self.shared);
                let what = "the layer was deleted, but its device is still in use";
                Err(Error::new(Kind::Busy, what).hint("find its holder with lsof or in /proc/*/mountinfo"))
            }
        }
    }
}

impl Shared {
    /// Writes out what a mounted layer has in memory, before it is frozen for a snapshot: that must not take long, since others
    /// wait.
    fn write_back(&self, device: &Device) -> Result<()> {
        if device.hash == BASE || !self.is_mounted(device)? {
            return Ok(());
        }
        let top = fs::open_dir_at(&self.place.points.dir, &device.hash)?;
        self.devices.kernel.steps.make("sync", &device.hash, || fs::syncfs(top)).context(|| "write its parent to disk")
    }

    /// Refuses new layers while there is too little space in the pool for what the present ones may still need.
    fn check_free_space(&self) -> Result<()> {
        let pool = &self.devices.names.pool;
        let status = self.devices.pool_status()?;
        let percent = self.options.min_free_space;
        let rows = [(status.data, "data", ""), (status.metadata, "metadata", "metadata ")];
        for (blocks, kind, more) in rows {
            let (free, least) = (blocks.free(), blocks.least(percent));
            if free < least && percent > 0 {
                let sentence = format!(
                    "devmapper: Thin Pool has {free} free {kind} blocks which is less than minimum required {least} free \
                     {kind} blocks. Create more free {more}space in thin pool or use dm.min_free_space option to change behavior"
                );
                return Err(Error::new(Kind::NoSpace, format!("pool '{pool}': {sentence}")).user(sentence));
            }
        }
        if let PoolSource::Loop(files) = &self.options.pool {
            let host = looppool::host_space(&self.home, files)?;
            if host.free() < host.least(percent) && percent > 0 {
                let what = format!(
                    "the filesystem below pool '{pool}' has {} free bytes, {} at least are required",
                    host.free(),
                    host.least(percent)
                );
                return Err(Error::new(Kind::NoSpace, what).hint("make room on it, or lower dm.min_free_space"));
            }
        }
        status.health.writable(pool)
    }
}

/// The size asked for in the storage options, bytes; `None` and 0 mean that of the parent.
fn requested_size(options: &CreateOptions) -> Result<Option<u64>> {
    let mut wanted = None;
    for (name, value) in &options.storage_opt {
        if !name.eq_ignore_ascii_case("size") {
            let sentence = format!("Unknown option {name}");
            return Err(Error::new(Kind::Invalid, sentence.clone()).user(sentence));
        }
        let bytes = size(value).map_err(|e| e.user(format!("Invalid size: '{value}'")))?;
        wanted = Some(rounded(bytes)).filter(|&bytes| bytes > 0);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(options: &[(&str, &str)]) -> Result<Option<u64>> {
        let storage_opt = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        requested_size(&CreateOptions { mount_label: None, storage_opt })
    }

    #[test]
    fn a_size_is_the_only_storage_option() {
        assert_eq!(sized(&[]).unwrap(), None);
        assert_eq!(sized(&[("size", "0")]).unwrap(), None);
        assert_eq!(sized(&[("SIZE", "11G")]).unwrap(), Some(11 << 30));
        assert_eq!(sized(&[("size", "1G"), ("colour", "red")]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(sized(&[("size", "big")]).unwrap_err().user_message(), Some("Invalid size: 'big'"));
    }

    #[test]
    fn a_size_is_made_of_whole_blocks() {
        assert_eq!(sized(&[("size", "1000001")]).unwrap(), Some(1_003_520));
        assert_eq!((rounded(4096), rounded(0), rounded(u64::MAX)), (4096, 0, u64::MAX));
    }
}
