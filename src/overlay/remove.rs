//! Deleting a layer: one rename takes it away, then its content is deleted.

use super::Overlay;
use super::layout::{Layer, LinkId, TRASH, link_text, random_name};
use crate::error::{Context, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::quota::{self, Control};
use crate::sys::fs;
use crate::sys::mount;
use crate::tree;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

impl Overlay {
    pub(super) fn remove_layer(&self, id: &LayerId) -> Result<()> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let home = self.home.open()?;
        match fs::stat_at(&home, id) {
            Err(e) if fs::is_absent(&e) => return Ok(()),
            found => found?,
        };
        let target = self.home.mount_point(id);
        while mount::umount_detach(&target)? {}
        self.discard(&home, id)
    }

    /// Takes the name away and deletes what had it, and its link. In a remote store the name is a symlink to a layer that other
    /// hosts share: only the symlink is ours to delete.
    pub(super) fn discard(&self, home: &OwnedFd, id: &LayerId) -> Result<()> {
        let link = Layer::open(home, id).and_then(|layer| layer.link());
        let trash = format!("{TRASH}{}", random_name()?);
        quota::renaming(home.as_fd(), id.as_ref(), || fs::rename_at(home, id, home, &trash))?;
        match link {
            Ok(link) => remove_link(home, &link, id)?,
            Err(e) => log::warn!("the link of layer '{id}' is unknown and stays until the next start: {e}"),
        }
        delete(home, OsStr::new(&trash), self.quota.as_ref().ok())
            .context(|| format!("the layer is gone, but some of its files stay in '{trash}' until the next start"))
    }
}

/// Deletes an entry of home with all that is in it. Its limit is cleared when only the directory itself is left: from then on
/// nothing can be written, and a crash before leaves the directory to tell the next start which limit that was.
pub(super) fn delete(home: &OwnedFd, name: &OsStr, quota: Option<&Control>) -> Result<()> {
    if let (Some(quota), Ok(dir)) = (quota, fs::open_dir_at(home, name)) {
        let cleared = tree::empty(dir.as_fd()).and_then(|()| quota.clear(home.as_fd(), dir.as_fd()));
        if let Err(e) = cleared {
            log::warn!("the limit of '{}', which is being deleted, is not cleared: {e}", fs::shown(name));
        }
    }
    tree::remove(home.as_fd(), name)
}

/// Removes a layer's name in `l/`, unless it is in truth another layer's.
fn remove_link(home: &OwnedFd, link: &LinkId, id: &LayerId) -> Result<()> {
    match fs::read_link_at(home, link.path()) {
        Ok(text) if text == link_text(id) => fs::remove_file_at(home, link.path()),
        _ => Ok(()),
    }
}
