//! Telling about layers and about the driver.

use super::Shared;
use super::layout::{DIFF, Found, Home, Layer, MERGED, Unfinished, WORK, find};
use super::repair::lowers_of;
use crate::driver::{Metadatum, Status, Usage};
use crate::error::errno::EPERM;
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::quota::Control;
use crate::sys::fs;
use crate::tree;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};

/// The error of whoever asks for a layer that is not there.
pub(super) fn absent(id: &LayerId) -> Error {
    Error::new(Kind::NotFound, format!("layer '{id}' does not exist"))
}

/// The four items in the order that `isula inspect` is used to; `LowerDir` only where there are lowers. Damage is told in the log:
/// a daemon that gets no metadata removes the layer.
pub(super) fn parts(home: &Home, dir: &OwnedFd, layer: &Layer, id: &LayerId) -> Vec<Metadatum> {
    let part = |name| home.path(id, name).into_os_string();
    let mut items = vec![("WorkDir", part(WORK)), ("MergedDir", part(MERGED)), ("UpperDir", part(DIFF))];
    let lowers = lowers_of(dir, layer).unwrap_or_else(|e| {
        log::warn!("the metadata of layer '{id}' lacks its lower layers: {e}");
        super::layout::Lowers::default()
    });
    if !lowers.0.is_empty() {
        let paths: Vec<OsString> = lowers.0.iter().map(|link| home.path.join(link.path()).into_os_string()).collect();
        items.push(("LowerDir", paths.join(OsStr::new(":"))));
    }
    items
}

/// From the quota, where the layer has one: that counts the few small files and directories beside `diff` as well.
pub(super) fn measure(quota: Option<&Control>, home: &OwnedFd, layer: &Layer) -> Result<Usage> {
    let diff = layer.diff()?;
    let counted = quota.map(|quota| quota.usage(home.as_fd(), diff.as_fd())).transpose()?.flatten();
    counted.map_or_else(|| tree::usage(diff.as_fd()), Ok)
}

/// Whether the layer still has its name: a removal takes that away before all else.
fn is_standing(home: &OwnedFd, layer: &Layer) -> Result<bool> {
    let this = fs::stat_fd(layer)?;
    match fs::stat_at_follow(home, layer.id.as_str()) {
        Ok(there) => Ok((there.device, there.inode) == (this.device, this.inode)),
        Err(e) if fs::is_absent(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

impl Shared {
    /// Looks for a layer of which the caller learns. Whoever replaces one that was never told of holds it, and this waits for that:
    /// what was told of is not replaced. Beside the layer: whether anything would be lost with it.
    fn find_and_tell(&self, home: &OwnedFd, id: &LayerId) -> Result<Option<(Layer, bool)>> {
        id.check_free(&super::layout::RESERVED)?;
        let is_known = self.lease.was_told(id);
        let _held = if is_known { None } else { Some(self.locks.hold(&[(id.as_str(), Mode::Shared)])?) };
        let Found::Layer(layer) = find(&self.home, home, id)? else { return Ok(None) };
        let is_worth = layer.unfinished()? != Some(Unfinished::First);
        if is_worth {
            self.lease.tell(id);
        }
        Ok(Some((layer, is_worth)))
    }

    /// Whether removing the layer would lose anything: damage can be mended, or at least be looked at. Nothing is written, and no
    /// other layer is looked at.
    pub(super) fn layer_exists(&self, id: &LayerId) -> Result<bool> {
        let found = self.find_and_tell(&self.home.open()?, id)?;
        Ok(found.is_some_and(|(_, is_worth)| is_worth))
    }

    /// What is told of a layer without waiting for whoever works on it. If it is removed meanwhile, what was seen may be the half
    /// of it: then it is as if it had been asked for later.
    fn telling<T>(&self, id: &LayerId, tell: impl FnOnce(&OwnedFd, &Layer) -> Result<T>) -> Result<T> {
        let home = self.home.open()?;
        let Some((layer, _)) = self.find_and_tell(&home, id)? else {
            return Err(absent(id));
        };
        let told = tell(&home, &layer);
        if is_standing(&home, &layer)? { told } else { Err(absent(id)) }
    }

    pub(super) fn metadata_of(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        self.telling(id, |home, layer| Ok(parts(&self.home, home, layer, id)))
    }

    /// Nobody waits for a long measurement.
    pub(super) fn usage_of(&self, id: &LayerId) -> Result<Usage> {
        self.telling(id, |home, layer| measure(self.quota.as_ref().ok(), home, layer))
    }

    /// Two lines that users' scripts read, and one that says whether layers can be limited at this moment. Most hosts never
    /// want that: what is missing is told as a fact, not as a fault. That d_type works was checked at start.
    pub(super) fn report_status(&self) -> Status {
        let quota = match self.check_limits() {
            Ok(()) => "true".to_owned(),
            Err(why) if why.kind() == Kind::Unsupported || why.errno() == EPERM => {
                format!("false (needed for size limits only: {why})")
            }
            Err(e) => format!("unknown: {e}"),
        };
        let mut text =
            format!("Backing Filesystem: {}\nSupports d_type: true\nSupports project quota: {quota}\n", self.backing_fs);
        let read_only = self.home.open().and_then(fs::is_read_only).unwrap_or(self.read_only);
        if read_only {
            text.push_str("Read-only: true\n");
        }
        Status { driver_name: self.name.clone(), backing_fs: self.backing_fs.clone(), text }
    }

    /// Makes sure that layers can be limited at this moment.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if they cannot; any other says that it cannot be found out now, or not by this process.
    pub(super) fn check_limits(&self) -> Result<()> {
        match &self.quota {
            Ok(quota) => quota.check_enforced(self.home.open()?.as_fd()),
            Err(why) => Err(Error::new(Kind::Unsupported, why.to_string())),
        }
    }
}
