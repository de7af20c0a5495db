//! Layers that were mounted with `volatile`: overlayfs writes nothing back for them, and refuses them until its mark is gone.
//!
//! The mark, a directory in the work directory, stays after every such mount. While the machine has not gone down since, all that was
//! written is there, in memory if not on disk, and the mark means nothing. After that the layer may be damaged; whoever configures
//! the driver decides what becomes of it.

use super::Shared;
use super::layout::{Layer, WORK};
use super::options::Volatile;
use crate::error::errno::{ENOENT, ENOTDIR};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::log;
use crate::sys::{fs, xattr};
use crate::tree;
use std::ffi::OsStr;
use std::os::fd::AsFd;

/// On the layer's directory: during which boot (`boot_id`, `random(4)`) it was mounted so.
const BOOT: &str = "trusted.graphdriver.volatile";
/// Where overlayfs has its mark (`Documentation/filesystems/overlayfs.rst`).
const INCOMPAT: &str = "incompat";
const MARK: &str = "incompat/volatile";

impl Shared {
    /// Notes that the layer is about to be mounted so.
    pub(super) fn note_volatile(&self, layer: &Layer) -> Result<()> {
        xattr::set(layer, BOOT, this_boot()?.as_bytes())
    }

    /// Whether the layer was last mounted so.
    pub(super) fn was_volatile(&self, id: &LayerId) -> Result<bool> {
        match xattr::is_set_at(&self.home.real.join(id.as_str()), BOOT) {
            Err(e) if [ENOENT, ENOTDIR].contains(&e.errno()) => Ok(false),
            outcome => outcome,
        }
    }

    /// After the mount was taken away in good order: writes back what overlayfs did not, and takes mark and note away.
    pub(super) fn settle_volatile(&self, id: &LayerId) -> Result<()> {
        let layer = Layer::open(&self.home.open()?, id)?;
        fs::syncfs(layer.diff()?).context(|| "write a volatile layer back")?;
        take_mark(&layer)?;
        xattr::remove(&layer, BOOT)
    }

    /// Takes overlayfs' mark away, if it is there, when the layer cannot be damaged, or the configuration says that it is to be used
    /// all the same.
    ///
    /// # Errors
    /// [`Kind::Corrupt`]: the machine went down while the layer was mounted, and the configuration says nothing.
    pub(super) fn check_volatile(&self, layer: &Layer) -> Result<()> {
        match fs::stat_at(layer, format!("{WORK}/{WORK}/{MARK}")) {
            Err(e) if [ENOENT, ENOTDIR].contains(&e.errno()) => return Ok(()),
            found => found?,
        };
        let boot = xattr::get::<64>(layer, BOOT).unwrap_or_default();
        match self.options.volatile {
            _ if boot == this_boot()?.as_bytes() => {}
            Volatile::Accept => {
                log::warn!("layer '{}' was volatile when the machine went down; it is used as it is", layer.id);
            }
            Volatile::Discard => {
                log::warn!("layer '{}' was volatile when the machine went down; its content is discarded", layer.id);
                tree::empty(layer.diff()?.as_fd())?;
            }
            Volatile::Refuse => {
                let what =
                    format!("layer '{}' was mounted 'volatile' when the machine went down, and may be damaged", layer.id);
                let hint =
                    "remove it; or set overlay2.volatile=accept to use it as it is, =discard to use it without its content";
                return Err(Error::new(Kind::Corrupt, what).hint(hint));
            }
        }
        take_mark(layer)
    }
}

fn take_mark(layer: &Layer) -> Result<()> {
    let work = match fs::open_dir_at(layer, WORK).and_then(|work| fs::open_dir_at(work, WORK)) {
        Err(e) if fs::is_absent(&e) => return Ok(()),
        opened => opened?,
    };
    match tree::remove(work.as_fd(), OsStr::new(INCOMPAT)) {
        Err(e) if !fs::is_absent(&e) => Err(e.context("take the mark of a volatile mount away")),
        _ => Ok(()),
    }
}

fn this_boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let read = std::fs::read_to_string(path);
    read.map(|text| text.trim().to_owned())
        .map_err(|e| Error::sys(format!("read {path}"), e.raw_os_error().unwrap_or_default()))
}
