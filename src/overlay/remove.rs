//! Deleting a layer: one rename takes it away, then its content is deleted.

use super::Overlay;
use super::layout::{Layer, LinkId, MERGED, TRASH, link_text, random_name};
use crate::error::{Context, Result};
use crate::id::LayerId;
use crate::log;
use crate::sys::fs;
use crate::sys::mount;
use crate::tree;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

impl Overlay {
    pub(super) fn remove_layer(&self, id: &LayerId) -> Result<()> {
        let home = self.home.open()?;
        match fs::stat_at(&home, id) {
            Err(e) if fs::is_absent(&e) => return Ok(()),
            found => found?,
        };
        let target = self.home.path(id, MERGED);
        while mount::umount_detach(&target)? {}
        self.discard(&home, id)
    }

    /// Takes the name away and deletes what had it, and its link. In a remote store the name is a symlink to a layer that other
    /// hosts share: only the symlink is ours to delete.
    pub(super) fn discard(&self, home: &OwnedFd, id: &LayerId) -> Result<()> {
        let link = Layer::open(home, id).and_then(|layer| layer.link());
        let trash = format!("{TRASH}{}", random_name()?);
        fs::rename_at(home, id, home, &trash)?;
        match link {
            Ok(link) => remove_link(home, &link, id)?,
            Err(e) => log::warn!("the link of layer '{id}' is unknown and stays until the next start: {e}"),
        }
        tree::remove(home.as_fd(), OsStr::new(&trash))
            .context(|| format!("the layer is gone, but some of its files stay in '{trash}' until the next start"))
    }
}

/// Removes a layer's name in `l/`, unless it is in truth another layer's.
fn remove_link(home: &OwnedFd, link: &LinkId, id: &LayerId) -> Result<()> {
    match fs::read_link_at(home, link.path()) {
        Ok(text) if text == link_text(id) => fs::remove_file_at(home, link.path()),
        _ => Ok(()),
    }
}
