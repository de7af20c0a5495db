//! Looking whether a layer is whole, and mending its links.

use super::Overlay;
use super::create::lowers_upon;
use super::layout::{DIFF, EMPTY, LINKS, LOWER, Layer, LinkId, each_layer, link_text, random_name};
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::log;
use crate::sys::fs::{self, FileKind};
use std::os::fd::OwnedFd;

impl Overlay {
    /// A layer is there when it has its link, its content and a finished unpack. A missing name in `l/` is made again.
    pub(super) fn layer_exists(&self, id: &LayerId) -> Result<bool> {
        let home = self.home.open()?;
        let Some(layer) = Layer::find(&home, id)? else { return Ok(false) };
        let link = match layer.link() {
            Ok(link) => link,
            Err(e) if [Kind::NotFound, Kind::Corrupt].contains(&e.kind()) => return Ok(false),
            Err(e) => return Err(e),
        };
        if !layer.has_dir(DIFF)? || layer.is_unfinished()? {
            return Ok(false);
        }
        match layer.lowers() {
            Err(e) if e.kind() == Kind::Corrupt => {
                log::warn!("{e}");
                // Repair can mend it as long as the file is there; without one the layer was never finished.
                if fs::stat_at(&layer, LOWER).is_err() {
                    return Ok(false);
                }
            }
            lowers => drop(lowers?),
        }
        restore_link(&home, &link, id).map(|_| true)
    }

    /// Makes the names in `l/` of all layers that lack theirs; returns how many.
    pub(super) fn restore_links(&self, home: &OwnedFd) -> Result<usize> {
        let mut restored = 0;
        each_layer(home, |layer| {
            // One damaged layer must not keep the others from being mended.
            match layer.link().and_then(|link| restore_link(home, &link, &layer.id)) {
                Ok(done) => restored += usize::from(done),
                Err(e) => log::warn!("the link of layer '{}' cannot be restored: {e}", layer.id),
            }
            Ok(())
        })?;
        Ok(restored)
    }

    /// See [`crate::driver::Driver::repair_lowers`]. A layer that does not exist needs no repair.
    pub(super) fn repair(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<()> {
        let _held = self.hold_with_parent(id, parent)?;
        let home = self.home.open()?;
        let Some(layer) = Layer::find(&home, id)? else { return Ok(()) };
        if layer.is_root_opaque()? || self.lowers_are_good(&home, &layer)? {
            return Ok(());
        }
        match parent {
            None => self.make_base(&layer),
            Some(parent) => {
                let lowers = lowers_upon(&home, parent)?;
                self.check_depth(id, &lowers)?;
                restore_link(&home, &lowers.0[0], parent)?;
                self.write_lowers(&layer, &lowers)
            }
        }
    }

    /// Whether there are lowers and each of them can be reached.
    fn lowers_are_good(&self, home: &OwnedFd, layer: &Layer) -> Result<bool> {
        let lowers = match layer.lowers() {
            Ok(lowers) if !lowers.0.is_empty() => lowers,
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == Kind::Corrupt => return Ok(false),
            Err(e) => return Err(e),
        };
        let reachable = |link: &LinkId| fs::stat_at_follow(home, link.path()).is_ok_and(|stat| stat.kind == FileKind::Dir);
        if lowers.0.iter().all(reachable) {
            return Ok(true);
        }
        self.restore_links(home)?;
        Ok(lowers.0.iter().all(reachable))
    }

    /// Makes the layer one without parents.
    pub(super) fn make_base(&self, layer: &Layer) -> Result<()> {
        if !layer.has_dir(EMPTY)? {
            fs::make_dir_at(layer, EMPTY, 0o700)?;
        }
        match fs::remove_file_at(layer, LOWER) {
            Err(e) if !fs::is_absent(&e) => Err(e),
            _ if self.options.durable => fs::fsync(layer, "layer directory"),
            _ => Ok(()),
        }
    }

    fn write_lowers(&self, layer: &Layer, lowers: &super::layout::Lowers) -> Result<()> {
        let staging = format!(".tmp-{LOWER}-{}", &random_name()?[..10]);
        fs::replace_at(layer, LOWER, &staging, lowers.to_text().as_bytes(), 0o644, self.options.durable)
    }
}

/// Makes a layer's name in `l/` lead to it; true if it did not before.
fn restore_link(home: &OwnedFd, link: &LinkId, id: &LayerId) -> Result<bool> {
    let text = link_text(id);
    match fs::read_link_at(home, link.path()) {
        Ok(found) if found == text => return Ok(false),
        // A name that leads to another layer which claims it as well must not be taken from it.
        Ok(found) if leads_to_owner(home, &found, link) => {
            let what = format!("the link '{}' of layer '{id}' is another layer's", link.as_str());
            return Err(Error::new(Kind::Corrupt, what).hint("remove the layer and make it anew"));
        }
        _ => {}
    }
    let staging = format!("{LINKS}/.{}", random_name()?);
    fs::symlink_at(text, home, &staging)?;
    fs::rename_at(home, &staging, home, link.path())?;
    Ok(true)
}

fn leads_to_owner(home: &OwnedFd, text: &std::ffi::OsStr, link: &LinkId) -> bool {
    let owner = text.to_str().and_then(|t| t.strip_prefix("../")).and_then(|t| t.strip_suffix("/diff"));
    let owner = owner.and_then(|id| LayerId::parse(id.as_bytes()).ok());
    owner.and_then(|id| Layer::open(home, &id).ok()).is_some_and(|layer| layer.link().is_ok_and(|own| own == *link))
}
