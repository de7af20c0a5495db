//! Layers that were mounted with `volatile`: overlayfs writes nothing back for them, and refuses them until its mark is gone.
//!
//! The mark, a directory in the work directory, stays after every such mount. While the machine has not gone down since, all that was
//! written is there, in memory if not on disk, and the mark means nothing. After that the layer may be damaged; whoever configures
//! the driver decides what becomes of it. An orderly end of the driver forces such layers to disk and takes their marks away.

use super::Shared;
use super::layout::{Home, Layer, WORK, each_layer};
use super::options::Volatile;
use crate::error::errno::{ENOENT, ENOTDIR};
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::sys::{fs, xattr};
use crate::tree;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

/// On the layer's directory: during which boot (`boot_id`, `random(4)`) it was mounted so. On home: there may be such layers.
const BOOT: &str = "trusted.graphdriver.volatile";
/// Where overlayfs has its mark (`Documentation/filesystems/overlayfs.rst`).
const INCOMPAT: &str = "incompat";
const MARK: &str = "incompat/volatile";

impl Shared {
    /// Notes that the layer is about to be mounted so.
    pub(super) fn note_volatile(&self, home: &OwnedFd, layer: &Layer) -> Result<()> {
        if !xattr::is_set(home, BOOT)? {
            xattr::set(home, BOOT, b"y")?;
        }
        xattr::set(layer, BOOT, this_boot()?.as_bytes())
    }

    /// At the end: the layers of this boot that are not mounted any more are made as durable as others, all with one `syncfs`.
    pub(super) fn settle_volatile(&self) -> Result<()> {
        let home = self.home.open()?;
        if !xattr::is_set(&home, BOOT)? {
            return Ok(());
        }
        let this = this_boot()?;
        let (mut marked, mut others) = (Vec::new(), false);
        each_layer(&home, |id, layer| {
            let layer = layer?;
            match xattr::get::<64>(&layer, BOOT) {
                Err(e) if xattr::is_absent(&e) => {}
                Ok(boot) if boot == this.as_bytes() && !layer.is_mounted(&self.home)? => marked.push(id.clone()),
                noted => others |= noted.map(|_| true)?,
            }
            Ok(())
        })?;
        if !marked.is_empty() {
            fs::syncfs(&home)?;
        }
        for id in &marked {
            let Some(layer) = Layer::find(&home, id)? else { continue };
            if let Some(work) = marked_work(&layer)? {
                tree::remove(work.as_fd(), OsStr::new(INCOMPAT))?;
            }
            xattr::remove(&layer, BOOT)?;
        }
        if !marked.is_empty() {
            fs::syncfs(&home)?; // else a power cut would bring the marks back, of another boot
        }
        if others { Ok(()) } else { xattr::remove(&home, BOOT) }
    }

    /// Takes overlayfs' mark away if the layer cannot be damaged, or the configuration says that it is to be used all the same.
    /// Whether there was one.
    ///
    /// # Errors
    /// [`Kind::Corrupt`]: the machine went down while the layer was mounted, and the configuration says nothing.
    pub(super) fn forget_volatile(&self, layer: &Layer) -> Result<bool> {
        let Some(work) = marked_work(layer)? else { return Ok(false) };
        let is_safe = match is_of_this_boot(layer) {
            Err(_) if self.options.volatile == Volatile::Accept => false, // the same is done either way
            answer => answer?,
        };
        match self.options.volatile {
            _ if is_safe => {}
            Volatile::Accept => {
                log::warn!("layer '{}' was volatile when the machine went down; it is used as it is", layer.id)
            }
            Volatile::Discard => {
                log::warn!("layer '{}' was volatile when the machine went down; its content is discarded", layer.id);
                tree::empty(layer.diff()?.as_fd())?;
            }
            Volatile::Refuse => return Err(doubtful(layer)),
        }
        tree::remove(work.as_fd(), OsStr::new(INCOMPAT)).context(|| "take the mark of a volatile mount away")?;
        Ok(true)
    }

    /// An error for the content of a layer that may be damaged, unless the configuration says that it is to be used all the same.
    pub(super) fn check_sure(&self, layer: &Layer) -> Result<()> {
        let is_sure = self.options.volatile == Volatile::Accept || !is_doubtful(&self.home, layer)?;
        if is_sure { Ok(()) } else { Err(doubtful(layer)) }
    }
}

fn doubtful(layer: &Layer) -> Error {
    let what = format!("layer '{}' was mounted 'volatile' when the machine went down, and may be damaged", layer.id);
    let hint = "remove it; or set overlay2.volatile=accept to use it as it is, =discard to use it without its content";
    Error::new(Kind::Corrupt, what).hint(hint)
}

/// Whether the machine went down while the layer was mounted so: nobody knows what of its content reached the disk.
///
/// The mark of a layer that is mounted is that mount's: the kernel mounts none that has one. Whose it was of the C module has no note.
pub(super) fn is_doubtful(home: &Home, layer: &Layer) -> Result<bool> {
    Ok(marked_work(layer)?.is_some() && !is_of_this_boot(layer)? && !layer.is_mounted(home)?)
}

/// What cannot be read now is no answer: the configuration may have the content of a layer of another boot discarded.
fn is_of_this_boot(layer: &Layer) -> Result<bool> {
    match xattr::get::<64>(layer, BOOT) {
        Err(e) if xattr::is_absent(&e) => Ok(false),
        boot => Ok(boot? == this_boot()?.as_bytes()),
    }
}

/// The kernel's part of the layer's work directory, if overlayfs' mark is in it.
fn marked_work(layer: &Layer) -> Result<Option<OwnedFd>> {
    match fs::stat_at(layer, format!("{WORK}/{WORK}/{MARK}")) {
        Err(e) if [ENOENT, ENOTDIR].contains(&e.errno()) => return Ok(None),
        found => found?,
    };
    fs::open_dir_at(layer, WORK).and_then(|work| fs::open_dir_at(work, WORK)).map(Some)
}

fn this_boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let read = std::fs::read_to_string(path);
    read.map(|text| text.trim().to_owned()).map_err(|e| Error::io(format!("read {path}"), &e))
}
