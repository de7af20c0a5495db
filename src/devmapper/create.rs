//! Making a layer: a snapshot, grown if it was asked to be larger.

use super::mounting::grow;
use super::record::{BASE, Device};
use super::store::make_dir;
use super::transaction::{Deleted, with_cleanup};
use super::{DeviceMapper, Shared};
use crate::driver::{Access, CreateOptions};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::options::size;
use crate::sys::fs;

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
        let origin_name = parent.map_or(BASE, LayerId::as_str);
        if origin_name == id.as_str() {
            return Err(Error::new(Kind::Invalid, "a layer cannot be its own parent"));
        }
        let mut held = shared.locks.hold(&[(id.as_str(), Mode::Exclusive), (origin_name, Mode::Shared)])?;
        let origin = shared.usable(origin_name).context(|| "its parent")?;
        let size = wanted.unwrap_or(origin.size);
        if size < origin.size {
            let sentence = format!("Container size cannot be smaller than {}", origin.size);
            return Err(Error::new(Kind::Invalid, format!("size={size}: {sentence}")).user(sentence));
        }
        shared.check_free_space()?;
        self.make_room(id)?;
        make_dir(&shared.mnt, id.as_str(), 0o750)?;
        let device = Device {
            hash: id.as_str().to_owned(),
            size,
            parent: parent.map(|parent| parent.as_str().to_owned()).unwrap_or_default(),
            read_only: access == Access::ReadOnly,
            incomplete: size > origin.size,
            ..Device::default()
        };
        let made = shared.devices.add(device, Some(&origin));
        let device = made.map_err(|e| with_cleanup(e, shared.remove_mount_point(id)))?;
        held.release(origin_name);
        if device.incomplete {
            self.grow_new(id, device)?;
        }
        Ok(())
    }

    /// Grows the filesystem of a new layer to the size of its device. If that fails, the layer is gone again.
    fn grow_new(&self, id: &LayerId, device: Device) -> Result<()> {
        let shared = &self.shared;
        let target = shared.mount_point(id.as_str());
        let grown = grow(&shared.devices, &device, shared.filesystem, &target);
        let recorded = grown.and_then(|()| shared.devices.save(Device { incomplete: false, ..device }));
        recorded.map_err(|e| with_cleanup(e, self.delete_and_forget(id)).context("grow its filesystem"))
    }

    /// Sees to it that the id is free, without destroying what anybody may still want.
    fn make_room(&self, id: &LayerId) -> Result<()> {
        let shared = &self.shared;
        let Some(device) = shared.devices.find(id.as_str())? else { return Ok(()) };
        let taken = |why: &str| Err(Error::new(Kind::Exists, format!("the layer exists {why}")));
        if device.deleted {
            log::info!("devicemapper: layer '{id}' was deleted while busy; deleting it now to make it anew");
        } else if shared.devices.is_active(&device)? {
            return taken("and is in use");
        } else if !shared.devices.select(|other| other.parent == id.as_str() && !other.deleted).is_empty() {
            return taken("and is the parent of another");
        } else if device.incomplete {
            log::warn!("devicemapper: replacing layer '{id}', which was left incomplete");
        } else if device.read_only {
            log::warn!("devicemapper: replacing read-only layer '{id}', which nobody uses");
        } else {
            return taken("and may have content");
        }
        match shared.devices.delete(id.as_str())? {
            Deleted::Gone => Ok(()),
            Deleted::Later => {
                self.worker.wake(shared);
                let what = "the layer was deleted, but its device is still in use";
                Err(Error::new(Kind::Busy, what).hint("find its holder with lsof or in /proc/*/mountinfo"))
            }
        }
    }
}

impl Shared {
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
        status.health.writable(pool)
    }

    /// Removes `<home>/mnt/<id>`; if it is not there, that is a success.
    pub(super) fn remove_mount_point(&self, id: &LayerId) -> Result<()> {
        match fs::remove_dir_at(&self.mnt, id) {
            Err(e) if fs::is_absent(&e) => Ok(()),
            outcome => outcome.context(|| "remove its mount point"),
        }
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
        wanted = Some(bytes).filter(|&bytes| bytes > 0);
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
}
