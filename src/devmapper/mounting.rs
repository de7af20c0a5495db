//! Mounting a layer, filling it, and growing its filesystem, which needs a mount as well.

use super::Shared;
use super::devices::Devices;
use super::filesystem::{Filesystem, Superblock};
use super::record::Device;
use super::store::make_dir;
use super::transaction::with_cleanup;
use crate::archive::{self, Options, Whiteouts};
use crate::driver::{MountOptions, Unpack};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::mounts::{self, Words};
use crate::sys::fs;
use crate::sys::mount::{self, Flags};
use crate::sys::place::{self, Time};
use crate::tree;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the layer's files are within its filesystem.
pub(super) const ROOTFS: &str = "rootfs";
/// A file beside it that names the layer, or the first of its ancestors that was mounted.
const ID_FILE: &str = "id";

/// Activates a device and mounts it. If that fails, it is not active any more.
fn mount_device(devices: &Devices, device: &Device, filesystem: Filesystem, target: &Path, words: &Words) -> Result<()> {
    let node = devices.activate(device)?;
    let mounted = mount_node(&node, filesystem, target, words).and_then(|()| match words.propagation.is_empty() {
        true => Ok(()),
        false => mount::mount(OsStr::new(""), target, "", words.propagation, OsStr::new(""))
            .map_err(|e| with_cleanup(e, mount::umount_detach(target).map(drop))),
    });
    mounted.map_err(|e| with_cleanup(devices.blame_pool(e), devices.deactivate(device)))
}

/// Mounts a block device, or changes the options of its mount.
fn mount_node(node: &Path, filesystem: Filesystem, target: &Path, words: &Words) -> Result<()> {
    let mut data: Vec<OsString> = words.data.clone();
    data.extend(filesystem.mount_option().filter(|option| !words.data.iter().any(|word| word == option)).map(Into::into));
    mount::mount(node.as_os_str(), target, filesystem.name(), words.flags, &data.join(OsStr::new(",")))
        .map_err(mounts::explained)
}

/// Grows the filesystem of an inactive device to the device's recorded size, through a mount on `target` meanwhile.
pub(super) fn grow(devices: &Devices, device: &Device, filesystem: Filesystem, target: &Path) -> Result<()> {
    let parent = fs::open_dir(target.parent().unwrap_or(target))?;
    drop(make_dir(parent, &device.hash, 0o750)?);
    mount_device(devices, device, filesystem, target, &Words::parse([""; 0]))?;
    let grown = grow_mounted(devices, device, target);
    let released = mount::umount_detach(target).and_then(|_| devices.deactivate_and_wait(device));
    match grown {
        Ok(()) => released,
        Err(e) => Err(with_cleanup(e, released)),
    }
}

fn grow_mounted(devices: &Devices, device: &Device, target: &Path) -> Result<()> {
    let node = super::names::node(&devices.names.device(&device.hash, device.device_id));
    let none = || Error::new(Kind::Corrupt, format!("no filesystem on '{}'", node.display()));
    let superblock = Superblock::read(&node)?.ok_or_else(none)?;
    superblock.grow(fs::open_dir(target)?, &node).map_err(|e| devices.blame_pool(e))
}

impl Shared {
    pub(super) fn mount_layer(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let device = self.usable(id.as_str())?;
        let words = self.words(options);
        if !self.is_mounted(id)? {
            self.mount_whole(&device, &words)?;
        } else if words.flags.contains(Flags::MS_REMOUNT) {
            let node = super::names::node(&self.devices.names.device(&device.hash, device.device_id));
            mount_node(&node, self.filesystem, &self.mount_point(id.as_str()), &words)?;
        }
        Ok(self.mount_point(id.as_str()).join(ROOTFS))
    }

    /// Mounts a layer and makes sure that it has what the C module expects of a mounted one.
    pub(super) fn mount_whole(&self, device: &Device, words: &Words) -> Result<()> {
        let target = self.mount_point(&device.hash);
        drop(make_dir(&self.mnt, &device.hash, 0o750)?);
        mount_device(&self.devices, device, self.filesystem, &target, words)?;
        let furnished = self.furnish(&device.hash, words.flags.contains(Flags::MS_RDONLY));
        furnished.map_err(|e| with_cleanup(e, self.take_off(device)))
    }

    fn furnish(&self, name: &str, is_read_only: bool) -> Result<()> {
        let top = fs::open_dir_at(&self.mnt, name)?;
        if is_read_only {
            return Ok(());
        }
        if fs::open_dir_at(&top, ROOTFS).is_err_and(|e| fs::is_absent(&e)) {
            fs::make_dir_at(&top, ROOTFS, 0o755)?;
        }
        match fs::stat_at(&top, ID_FILE) {
            Err(e) if fs::is_absent(&e) => fs::write_new_at(&top, ID_FILE, name.as_bytes(), 0o600, false),
            found => found.map(drop),
        }
    }

    pub(super) fn umount_layer(&self, id: &LayerId) -> Result<()> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        mount::umount_detach(&self.mount_point(id.as_str()))?;
        match self.devices.find(id.as_str())? {
            Some(device) => self.devices.deactivate(&device),
            None => Ok(()),
        }
    }

    /// Unmounts and deactivates.
    pub(super) fn take_off(&self, device: &Device) -> Result<()> {
        mount::umount_detach(&self.mount_point(&device.hash))?;
        self.devices.deactivate(device)
    }

    /// A directory for the root of threads that unpack.
    fn nowhere(&self) -> Result<OwnedFd> {
        fs::make_nowhere(&self.mnt, format!(".nowhere-{:016x}", u64::from_ne_bytes(fs::random()?)))
    }

    pub(super) fn is_mounted(&self, id: &LayerId) -> Result<bool> {
        match mounts::is_mount_point(&self.mnt, id, &self.mount_point(id.as_str())) {
            Err(e) if fs::is_absent(&e) => Ok(false),
            outcome => outcome,
        }
    }

    /// The layer's own options replace the configured ones; the label goes with either.
    fn words(&self, options: &MountOptions) -> Words {
        let mut words = match &self.options.mount_options {
            Some(configured) if options.options.is_empty() => Words::parse([configured]),
            _ => Words::parse(&options.options),
        };
        if let Some(label) = options.mount_label.as_deref().filter(|label| !label.is_empty()) {
            words.data.push([OsStr::new("context=\""), label, OsStr::new("\"")].into_iter().collect());
        }
        words
    }

    /// Runs `work` on the root directory of a layer, which is mounted for it if it is not.
    pub(super) fn with_root<T>(&self, device: &Device, id: &LayerId, work: impl FnOnce(OwnedFd) -> Result<T>) -> Result<T> {
        let was_mounted = self.is_mounted(id)?;
        if !was_mounted {
            self.mount_whole(device, &Words::parse([""; 0]))?;
        }
        let root = fs::open_dir_at(&self.mnt, id).and_then(|top| fs::open_dir_at(top, ROOTFS));
        let done = root.and_then(work);
        let released = if was_mounted { Ok(()) } else { self.take_off(device) };
        match done {
            Ok(value) => released.map(|()| value),
            Err(e) => Err(with_cleanup(e, released)),
        }
    }

    /// Unpacks an archive. The layer is marked meanwhile, and stays so if that fails: a snapshot cannot be emptied again.
    pub(super) fn apply(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let device = self.usable(id.as_str())?;
        self.devices.save(Device { incomplete: true, ..device.clone() })?;
        self.with_root(&device, id, |root| unpack(request, &root, &self.nowhere()?, &self.options))
            .map_err(|e| self.devices.blame_pool(e).hint("the layer is incomplete now; remove it and make it anew"))?;
        self.devices.save(device)
    }
}

/// Unpacks into a root directory, forces it to disk, and measures what was unpacked: not what the parents had there before.
fn unpack(request: Unpack<'_>, root: &OwnedFd, nowhere: &OwnedFd, configured: &super::options::Options) -> Result<()> {
    // Its own change of attributes tells the time as this filesystem's clock has it.
    fs::chmod_at(root, ".", fs::stat_fd(root)?.mode & 0o7777)?;
    let start = fs::stat_fd(root)?.changed;
    let limits = request.limits.unwrap_or_else(|| configured.archive.clone());
    let options = Options {
        whiteouts: Whiteouts::Delete,
        shift: None,
        limits,
        sync: true,
        below: archive::Below::default(),
        cancel: request.cancel,
        digests: request.digests,
    };
    let was_empty = fs::is_empty_dir(root)?;
    let (content, progress) = (request.content, request.progress);
    let outcome = archive::unpack_showing(content, root.as_fd(), nowhere.as_fd(), &options, &|| Ok(()), progress)?;
    if was_empty && !outcome.root_described {
        // Not the time when it was made: the same archive is to make the same layer.
        place::set_times(root, Time::KEEP, Time::default())?;
    }
    if let Some(size) = request.size {
        *size = tree::size_changed_since(root.as_fd(), start).context(|| "measure what was unpacked")?;
    }
    if let Some(wanted) = request.outcome {
        *wanted = outcome;
    }
    Ok(())
}
