//! A thin device's way to its files: it becomes a block device, which is mounted. Mounting a layer, filling it, and growing its
//! filesystem, which needs a mount as well.

use super::Shared;
use super::devices::Devices;
use super::filesystem::{Filesystem, Superblock};
use super::identity::{self, Likeness, node};
use super::record::{Device, file_name, layer_id, staged};
use super::store::make_dir;
use super::transaction::{once_released, with_cleanup};
use crate::archive::{self, Options, Whiteouts};
use crate::driver::{MountOptions, Unpack};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode::Exclusive;
use crate::log;
use crate::mounts::{self, Words};
use crate::sys::dm::{Settle, Writes, is_busy, is_gone};
use crate::sys::mount::{self, Flags};
use crate::sys::place::{self, Time};
use crate::sys::{dm_node, fs};
use crate::tree;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the layer's files are within its filesystem.
pub(super) const ROOTFS: &str = "rootfs";
/// The directory in home that layers are mounted in, each on one of its own.
pub(super) const POINTS: &str = "mnt";
/// A file beside it that names the layer, or the first of its ancestors that was mounted.
const ID_FILE: &str = "id";

/// How often, and how long apart, a device is looked at that the kernel is about to remove.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// A block device in use; goes away again with this, unless it was there before or is kept.
pub(super) struct Active<'a> {
    devices: &'a Devices,
    device: &'a Device,
    /// Its node.
    pub node: PathBuf,
    passing: bool,
}

impl Active<'_> {
    /// The device stays.
    fn keep(mut self) {
        self.passing = false;
    }

    /// Takes the device away if it was not there before, and waits a moment for those who look at it briefly, as udev's rules do.
    pub(super) fn end(mut self) -> Result<()> {
        if std::mem::take(&mut self.passing) { self.devices.deactivate_and_wait(self.device) } else { Ok(()) }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let gone = if self.passing { self.devices.deactivate(self.device) } else { Ok(()) };
        if let Err(e) = gone {
            log::warn!("devicemapper: a device is left active: {e}");
        }
    }
}

impl Devices {
    /// Makes the block device of a thin device, or finds it.
    pub(super) fn activate<'a>(&'a self, device: &'a Device) -> Result<Active<'a>> {
        let name = self.name(device);
        let active = |passing| Active { devices: self, device, node: node(&name), passing };
        for _ in 0..TRIES {
            match self.kernel.create(&name) {
                Ok(()) => {
                    let started = self.start(&name, device, Writes::Allowed);
                    started.map_err(|e| with_cleanup(e, self.kernel.remove(&name, false).map(drop)))?;
                    return Ok(active(true));
                }
                Err(e) if is_busy(&e) => {}
                Err(e) => return Err(e),
            }
            if let Some(was_to_go) = self.adopt(&name, device)? {
                return Ok(active(was_to_go));
            }
        }
        let what = format!("device '{name}' was neither there nor away for {} s", (PAUSE * TRIES).as_secs());
        Err(Error::new(Kind::Busy, what))
    }

    /// Gives a new device its table.
    pub(super) fn start(&self, name: &str, device: &Device, writes: Writes) -> Result<()> {
        let table = identity::table(&self.pool_number()?, device);
        self.kernel.load(name, &table, writes).map_err(|e| self.blame_pool(e))?;
        self.kernel.resume(name, Settle::Wait)
    }

    /// Takes over a device that is active already, if it is this one, and says whether it was to go away. `None` if it has gone
    /// or is about to go.
    fn adopt(&self, name: &str, device: &Device) -> Result<Option<bool>> {
        let Some((info, likeness, found)) = self.active(device)? else { return Ok(None) };
        let Some(found) = found else {
            self.kernel.remove(name, true)?;
            return Ok(None);
        };
        match likeness {
            Likeness::Same => {}
            Likeness::Other => {
                let what =
                    format!("device '{name}' is active as '{} {}', which is not this layer's", found.kind, found.text);
                let hint = "it belongs to a deleted layer of this name that is still in use, or to another pool";
                return Err(Error::new(Kind::Busy, what).hint(hint));
            }
            _ if info.open_count == 0 => {
                self.kernel.remove(name, true)?;
                return Ok(None);
            }
            Likeness::Shorter => {
                log::info!("devicemapper: '{name}' is in use; it grows to {} bytes under its users", device.size);
                let table = identity::table(&self.pool_number()?, device);
                self.kernel.load(name, &table, Writes::Allowed).map_err(|e| self.blame_pool(e))?;
            }
            Likeness::Longer => {
                let bytes = found.sectors.saturating_mul(identity::SECTOR);
                let what = format!("device '{name}' is in use with {bytes} bytes, but is to have {}", device.size);
                return Err(Error::new(Kind::Busy, what).hint("find its holder with lsof or in /proc/*/mountinfo"));
            }
        }
        if info.removal_pending && !self.keep(name)? {
            return Ok(None);
        }
        // Also where it is not suspended: that makes sure of its node.
        match self.kernel.resume(name, Settle::Wait) {
            Err(e) if is_gone(&e) => Ok(None),
            outcome => outcome.map(|()| Some(info.removal_pending)),
        }
    }

    /// Takes back a deferred removal. False if the device is gone, or being removed this very moment.
    fn keep(&self, name: &str) -> Result<bool> {
        match self.kernel.message(name, "@cancel_deferred_remove") {
            Ok(()) => Ok(true),
            Err(e) if is_gone(&e) => Ok(false),
            Err(e) if is_busy(&e) => {
                std::thread::sleep(PAUSE);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes the block device away, now or when its last user closes it. Another one with its name stays.
    pub(super) fn deactivate(&self, device: &Device) -> Result<()> {
        self.take_away(device).map(drop)
    }

    /// Whether there was a device to take away.
    fn take_away(&self, device: &Device) -> Result<bool> {
        let name = self.name(device);
        match self.active(device)? {
            None => Ok(false),
            Some((_, Likeness::Other, _)) => {
                log::warn!("devicemapper: device '{name}' is active, but not in this pool as this layer; left alone");
                Ok(false)
            }
            Some(_) => self.kernel.remove(&name, true),
        }
    }

    /// Takes the block device away, and waits a moment for those who looked at it briefly, as udev's rules do.
    pub(super) fn deactivate_and_wait(&self, device: &Device) -> Result<()> {
        if !self.take_away(device)? {
            return Ok(());
        }
        let name = self.name(device);
        for _ in 0..20 {
            if self.kernel.info(&name)?.is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        log::info!("devicemapper: '{name}' is still in use; it goes away when that ends");
        Ok(())
    }

    /// Whether a block device is there, be it this one or another of its name.
    pub(super) fn is_active(&self, device: &Device) -> Result<bool> {
        Ok(self.kernel.info(&self.name(device))?.is_some())
    }
}

/// What is on a layer's mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    Nobody,
    /// The layer.
    Layer,
    /// Another filesystem, which somebody else mounted there.
    Stranger,
}

/// Where layers are mounted.
pub(super) struct Points {
    /// `<home>/mnt`
    pub dir: OwnedFd,
    /// The same, as a path.
    pub path: PathBuf,
}

impl Points {
    /// `<home>/mnt/<layer>`
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is mounted on the mount point of a layer. The mount point may be missing.
    pub(super) fn occupant(&self, devices: &Devices, device: &Device) -> Result<Occupant> {
        match self.is_mounted(&device.hash) {
            Ok(true) => {}
            Ok(false) => return Ok(Occupant::Nobody),
            Err(e) if fs::is_absent(&e) => return Ok(Occupant::Nobody),
            Err(e) => return Err(e),
        }
        let own = devices.kernel.info(&devices.name(device))?.map(|info| info.device);
        let found = fs::stat_at(&self.dir, &device.hash)?.device;
        Ok(if own == Some(found) { Occupant::Layer } else { Occupant::Stranger })
    }

    /// Whether anything is mounted there.
    pub(super) fn is_mounted(&self, name: &str) -> Result<bool> {
        mounts::is_mount_point(&self.dir, name, &self.of(name))
    }

    /// Takes all mounts of a layer off its mount point. Says whether there were any.
    pub(super) fn clear(&self, devices: &Devices, device: &Device) -> Result<bool> {
        let mut cleared = false;
        while self.occupant(devices, device)? == Occupant::Layer && mount::umount_detach(&self.of(&device.hash))? {
            cleared = true;
        }
        Ok(cleared)
    }
}

/// How layers are mounted: what they all have in common.
pub(super) struct Place {
    pub points: Points,
    /// Of the base device, and so of all.
    pub filesystem: Filesystem,
    /// That too.
    pub uuid: String,
    /// `dm.xfs_nospace_max_retries`
    pub max_retries: Option<u32>,
}

impl Place {
    /// Activates a device and mounts it on the mount point `at`. If that fails, it is as active as before.
    fn mount(&self, devices: &Devices, device: &Device, at: &str, words: &Words) -> Result<()> {
        drop(make_dir(&self.points.dir, at, 0o750)?);
        let target = self.points.of(at);
        let active = devices.activate(device)?;
        self.check_uuid(&active.node)?;
        self.mount_node(&active.node, &target, words).map_err(|e| devices.blame_pool(e))?;
        if !words.propagation.is_empty() {
            let changed = mount::mount(OsStr::new(""), &target, "", words.propagation, OsStr::new(""));
            changed.map_err(|e| with_cleanup(e, mount::umount_detach(&target).map(drop)))?;
        }
        active.keep();
        Ok(())
    }

    /// Makes sure that a device holds a layer of this home: all have the UUID of its base.
    pub(super) fn check_uuid(&self, node: &Path) -> Result<()> {
        let found = Superblock::read(node)?.map(|found| found.uuid);
        if found.as_ref() == Some(&self.uuid) {
            return Ok(());
        }
        let found = found.map_or("no filesystem".to_owned(), |uuid| format!("a filesystem with UUID {uuid}"));
        let what = format!("'{}' holds {found}; layers of this home have {}", node.display(), self.uuid);
        Err(Error::new(Kind::Corrupt, what).hint("the metadata files do not belong to this pool, or are of another time"))
    }

    /// Mounts a block device, or changes the options of its mount. If that fails, as much is mounted as before.
    fn mount_node(&self, node: &Path, target: &Path, words: &Words) -> Result<()> {
        let mut data: Vec<OsString> = words.data.clone();
        let own = self.filesystem.mount_option().filter(|option| !words.data.iter().any(|word| word == option));
        data.extend(own.map(Into::into));
        mount::mount(node.as_os_str(), target, self.filesystem.name(), words.flags, &data.join(OsStr::new(",")))
            .map_err(mounts::explained)?;
        match (self.filesystem, self.max_retries) {
            (Filesystem::Xfs, Some(retries)) => limit_retries(node, retries).map_err(|e| {
                let is_new = !words.flags.contains(Flags::MS_REMOUNT);
                if is_new { with_cleanup(e, mount::umount_detach(target).map(drop)) } else { e }
            }),
            _ => Ok(()),
        }
    }

    /// Grows the filesystem of a device to the device's recorded size, through a mount meanwhile.
    pub(super) fn grow(&self, devices: &Devices, device: &Device) -> Result<()> {
        let target = self.points.of(&device.hash);
        self.mount(devices, device, &device.hash, &Words::parse([""; 0]))?;
        let grown = self.grow_mounted(devices, device, &target);
        let released = mount::umount_detach(&target).and_then(|_| devices.deactivate_and_wait(device));
        let released = released.and_then(|()| fs::remove_dir_at(&self.points.dir, &device.hash));
        once_released(grown, released)
    }

    fn grow_mounted(&self, devices: &Devices, device: &Device, target: &Path) -> Result<()> {
        let node = node(&devices.name(device));
        let none = || Error::new(Kind::Corrupt, format!("no filesystem on '{}'", node.display()));
        let superblock = Superblock::read(&node)?.ok_or_else(none)?;
        superblock.grow(fs::open_dir(target)?, &node).map_err(|e| devices.blame_pool(e))
    }
}

/// `dm.xfs_nospace_max_retries`: how often XFS writes its metadata again that the pool has no space for, before it gives up
/// (`Documentation/admin-guide/xfs.rst`, "Error handling").
fn limit_retries(node: &Path, retries: u32) -> Result<()> {
    let device = fs::stat_at_follow(fs::open_dir(Path::new(dm_node::DIR))?, node)?.rdev;
    let (_, minor) = crate::sys::process::device_numbers(device);
    let file = format!("/sys/fs/xfs/dm-{minor}/error/metadata/ENOSPC/max_retries");
    let written = std::fs::write(&file, retries.to_string());
    written.map_err(|e| Error::io(format!("write '{file}'"), &e))
}

impl Shared {
    pub(super) fn mount_layer(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        let name = file_name(id);
        let _held = self.locks.hold(&[(&name, Exclusive)])?;
        let device = self.usable(&name)?;
        let mut words = self.words(options);
        if device.read_only {
            words.flags |= Flags::MS_RDONLY;
        }
        let target = self.place.points.of(&name);
        match self.place.points.occupant(&self.devices, &device)? {
            Occupant::Nobody => self.mount_whole(&device, &name, &words)?,
            Occupant::Layer if words.flags.contains(Flags::MS_REMOUNT) => {
                self.place.mount_node(&node(&self.devices.name(&device)), &target, &words)?;
            }
            Occupant::Layer => {}
            Occupant::Stranger => {
                let what = format!("something else is mounted on '{}'", target.display());
                return Err(Error::new(Kind::Busy, what).hint("unmount it"));
            }
        }
        self.lease.tell(id);
        Ok(target.join(ROOTFS))
    }

    /// Mounts a layer and makes sure that it has what the C module expects of a mounted one.
    fn mount_whole(&self, device: &Device, at: &str, words: &Words) -> Result<()> {
        self.place.mount(&self.devices, device, at, words)?;
        let furnished = self.furnish(device, at, words);
        furnished.map_err(|e| with_cleanup(e, self.take_off(device, at)))
    }

    /// Where it is mounted read-only, it can be written to for the moment that this takes.
    fn furnish(&self, device: &Device, at: &str, words: &Words) -> Result<()> {
        let top = fs::open_dir_at(&self.place.points.dir, at)?;
        let is_there = |name: &str| match fs::stat_at(&top, name) {
            Err(e) if fs::is_absent(&e) => Ok(false),
            found => found.map(|_| true),
        };
        let read_only = words.flags.contains(Flags::MS_RDONLY);
        if is_there(ROOTFS)? && (read_only || is_there(ID_FILE)?) {
            return Ok(());
        }
        let again = |flags| {
            let words = Words { flags: words.flags & !Flags::MS_RDONLY | Flags::MS_REMOUNT | flags, ..words.clone() };
            self.place.mount_node(&node(&self.devices.name(device)), &self.place.points.of(at), &words)
        };
        if read_only {
            again(Flags::empty())?;
        }
        if !is_there(ROOTFS)? {
            fs::make_dir_at(&top, ROOTFS, 0o755)?;
        }
        if !is_there(ID_FILE)? {
            fs::write_new_at(&top, ID_FILE, layer_id(&device.hash).as_bytes(), 0o600, false)?;
        }
        drop(top);
        if read_only { again(Flags::MS_RDONLY) } else { Ok(()) }
    }

    pub(super) fn umount_layer(&self, id: &LayerId) -> Result<()> {
        let name = file_name(id);
        let _held = self.locks.hold(&[(&name, Exclusive)])?;
        let known = match self.devices.find(&name) {
            Err(e) if e.kind() == Kind::Corrupt => None,
            known => known?,
        };
        // Also of a layer whose record was lost or is damaged; its device is left to the next start.
        let device = known.unwrap_or_else(|| Device::unknown(&name));
        match self.place.points.occupant(&self.devices, &device)? {
            Occupant::Layer => drop(mount::umount_detach(&self.place.points.of(&name))?),
            Occupant::Nobody => {}
            Occupant::Stranger => log::warn!("devicemapper: what is mounted on 'mnt/{id}' is not the layer; left alone"),
        }
        self.devices.deactivate(&device)
    }

    /// Takes away a mount of ours and the device.
    fn take_off(&self, device: &Device, at: &str) -> Result<()> {
        mount::umount_detach(&self.place.points.of(at))?;
        self.devices.deactivate(device)
    }

    /// Whether the layer is mounted.
    pub(super) fn is_mounted(&self, device: &Device) -> Result<bool> {
        Ok(self.place.points.occupant(&self.devices, device)? == Occupant::Layer)
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

    /// Runs `work` on the root directory of a layer. If it is not mounted, it is for that time, on a mount point of the stage, where a
    /// start after a crash takes it off again.
    pub(super) fn with_root<T>(&self, device: &Device, work: impl FnOnce(OwnedFd) -> Result<T>) -> Result<T> {
        let root = |at: &str| fs::open_dir_at(&self.place.points.dir, at).and_then(|top| fs::open_dir_at(top, ROOTFS));
        if self.is_mounted(device)? {
            return root(&device.hash).and_then(work);
        }
        let at = staged(&device.hash);
        self.mount_whole(device, &at, &Words::parse([""; 0]))?;
        let done = root(&at).and_then(work);
        let released = self.take_off(device, &at).and_then(|()| fs::remove_dir_at(&self.place.points.dir, &at));
        once_released(done, released)
    }

    /// Unpacks an archive. The layer is marked from the first change to the end, and stays so if that fails: a snapshot cannot be
    /// emptied again. A failure before the first change leaves it as it was.
    pub(super) fn apply(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        let name = file_name(id);
        let _held = self.locks.hold(&[(&name, Exclusive)])?;
        let device = self.usable(&name)?;
        if device.read_only && self.is_mounted(&device)? {
            let what = "a layer of an image is mounted read-only, and nothing can be unpacked into it";
            return Err(Error::new(Kind::Busy, what).hint("unmount it first"));
        }
        let is_changed = AtomicBool::new(false);
        let mark = || {
            self.devices.save(Device { incomplete: true, ..device.clone() })?;
            is_changed.store(true, Ordering::SeqCst);
            Ok(())
        };
        let unpacked = self.with_root(&device, |root| {
            self.unpack(request, &root, &mark)?;
            // Before Linux 5.8 syncfs does not tell that something could not be written.
            self.devices.pool_status()?.health.writable(&self.devices.names.pool)
        });
        match unpacked {
            Ok(()) if is_changed.load(Ordering::SeqCst) || device.unfilled => {
                self.devices.save(Device { unfilled: false, ..device })
            }
            Ok(()) => Ok(()),
            Err(e) if !is_changed.load(Ordering::SeqCst) => Err(e),
            Err(e) => Err(self.devices.blame_pool(e).hint("the layer is incomplete now; remove it and make it anew")),
        }
    }

    /// Unpacks into a root directory, forces it to disk, and measures what was unpacked: not what the parents had there before.
    fn unpack(&self, request: Unpack<'_>, root: &OwnedFd, mark: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        // Its own change of attributes tells the time as this filesystem's clock has it.
        fs::chmod_at(root, ".", fs::stat_fd(root)?.mode & 0o7777)?;
        let start = fs::stat_fd(root)?.changed;
        let limits = request.limits.unwrap_or_else(|| self.options.archive.clone());
        let (below, cancel, digests) = (archive::Below::default(), request.cancel, request.digests);
        let options = Options { whiteouts: Whiteouts::Delete, shift: None, limits, sync: true, below, cancel, digests };
        let nowhere = format!(".nowhere-{:016x}", u64::from_ne_bytes(fs::random()?));
        let nowhere = fs::make_nowhere(&self.place.points.dir, nowhere)?;
        let was_empty = fs::is_empty_dir(root)?;
        let (content, progress) = (request.content, request.progress);
        let outcome = archive::unpack(content, root.as_fd(), nowhere.as_fd(), &options, mark, progress)?;
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
}
