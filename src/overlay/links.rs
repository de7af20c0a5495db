//! The short names of layers in `l/`, which `lower` files and mount options consist of: finding, restoring and removing them.
//!
//! Who writes a layer's name there holds the layer.

use super::Shared;
use super::layout::{LINKS, Layer, LinkId, each_layer, link_text, owner_of, random_name};
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::sys::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Calls `each` for every link in `l/` that is one, with the layer it is of.
fn each_link(home: &OwnedFd, mut each: impl FnMut(LinkId, &LayerId)) -> Result<()> {
    let links = fs::open_dir_at(home, LINKS)?;
    fs::each_entry(&links, |entry| {
        let owner = fs::read_link_at(&links, &entry.name).ok().and_then(|text| owner_of(&text));
        if let (Some(owner), Ok(name)) = (owner, LinkId::parse(entry.name.as_bytes())) {
            each(name, &owner);
        }
        Ok(())
    })
}

/// The links with the text of this id's layer.
pub(super) fn all_to(home: &OwnedFd, id: &LayerId) -> Result<Vec<LinkId>> {
    let mut found = Vec::new();
    each_link(home, |name, owner| {
        if owner == id {
            found.push(name);
        }
    })?;
    Ok(found)
}

/// Every name that others may know a layer by: those in `l/`, and the one in its `link` file.
pub(super) fn of(home: &OwnedFd, layer: &Layer) -> Result<Vec<LinkId>> {
    let mut names = all_to(home, &layer.id)?;
    names.extend(layer.link());
    Ok(names)
}

impl Shared {
    /// Removes the link of a layer that is gone; where it is not known, all links to that id but the present layer's own. One that
    /// cannot be removed leads nowhere, and is left to the next start.
    pub(super) fn drop_links(&self, home: &OwnedFd, id: &LayerId, link: Option<&LinkId>) {
        let own = Layer::open(home, id).and_then(|layer| layer.link()).ok();
        let stale = match link {
            Some(link) => vec![link.clone()],
            None => all_to(home, id).unwrap_or_default(),
        };
        for link in stale.iter().filter(|link| Some(*link) != own.as_ref()) {
            if fs::read_link_at(home, link.path()).is_ok_and(|text| text == link_text(id)) {
                if let Err(e) = fs::remove_file_at(home, link.path()) {
                    log::warn!("the link of layer '{id}', which is gone, stays until the next start: {e}");
                }
            }
        }
    }

    /// Makes the names in `l/` of all layers that lack theirs, but for the one that is held already; returns how many.
    pub(super) fn restore_links(&self, home: &OwnedFd, held: &LayerId) -> Result<usize> {
        let mut missing = Vec::new();
        each_layer(home, |layer| {
            let leads = |link: &LinkId| fs::read_link_at(home, link.path()).is_ok_and(|text| text == link_text(&layer.id));
            if layer.link().is_ok_and(|link| !leads(&link)) {
                missing.push(layer.id);
            }
            Ok(())
        })?;
        let mut restored = 0;
        for id in missing.iter().filter(|id| *id != held) {
            // A layer that is being worked on has its link, or is about to lose it.
            let Some(_held) = self.locks.try_hold(&[(id.as_str(), Mode::Exclusive)]) else { continue };
            let Some(layer) = Layer::find(home, id)? else { continue };
            // One damaged layer must not keep the others from being mended.
            match layer.link().and_then(|link| restore(home, &link, id)) {
                Ok(done) => restored += usize::from(done),
                Err(e) => log::warn!("the link of layer '{id}' cannot be restored: {e}"),
            }
        }
        Ok(restored)
    }

    /// Removes links to layers that are no more, and second names that no layer refers to. Whether all could be looked at.
    pub(super) fn sweep_links(&self, home: &OwnedFd) -> Result<bool> {
        let mut stale = Vec::new();
        each_link(home, |name, owner| {
            let known = Layer::open(home, owner).and_then(|layer| layer.link());
            match known {
                Ok(own) if own == name => {}
                Ok(_) => stale.push((name, owner.clone())),
                // A layer that has lost its own note of the name is mended by it.
                Err(e) if e.kind() == Kind::NotFound => stale.push((name, owner.clone())),
                Err(_) => {}
            }
        })?;
        let mut all = true;
        for (name, owner) in stale {
            let Some(_held) = self.locks.try_hold(&[(owner.as_str(), Mode::Exclusive)]) else {
                all = false;
                continue;
            };
            let unused = match Layer::find(home, &owner)? {
                None => true,
                Some(layer) => layer.link().is_ok_and(|own| own != name) && !self.is_referred_to(home, &name)?,
            };
            if unused {
                log::info!("removed the link '{}' to '{owner}', left by a crash", name.as_str());
                fs::remove_file_at(home, name.path())?;
            }
        }
        Ok(all)
    }

    pub(super) fn is_referred_to(&self, home: &OwnedFd, name: &LinkId) -> Result<bool> {
        let mut found = false;
        each_layer(home, |layer| {
            found |= layer.own_lowers().ok().flatten().is_some_and(|lowers| lowers.0.contains(name));
            Ok(())
        })?;
        Ok(found)
    }
}

/// Makes a layer's name in `l/` lead to it; true if it did not before.
pub(super) fn restore(home: &OwnedFd, link: &LinkId, id: &LayerId) -> Result<bool> {
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

/// Whether the layer that a link's text names says that the link is its own.
fn leads_to_owner(home: &OwnedFd, text: &std::ffi::OsStr, link: &LinkId) -> bool {
    let owner = owner_of(text).and_then(|id| Layer::open(home, &id).ok());
    owner.is_some_and(|layer| layer.link().is_ok_and(|own| own == *link))
}
