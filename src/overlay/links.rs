//! The short names of layers in `l/`, which `lower` files and mount options consist of: finding, restoring and removing them.
//!
//! Who writes a layer's name there holds the layer.

use super::Shared;
use super::layout::{
    DIFF, LINKS, Layer, LinkId, each_layer, is_no_directory, leads_nowhere, link_text, owner_of, random_name,
};
use crate::error::errno::EINVAL;
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::sys::fs;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// A name in `l/` under which a link is made before it gets its own.
pub(super) fn is_staging(name: &[u8]) -> bool {
    name.strip_prefix(b".").is_some_and(|rest| rest.len() == 26 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// `l/`, if it is there: on a full disk it waits for the first layer.
pub(super) fn open(home: &OwnedFd) -> Result<Option<OwnedFd>> {
    match fs::open_dir_at(home, LINKS) {
        Err(e) if fs::is_absent(&e) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Calls `each` for every link in `l/` that is one, with the layer it is of.
pub(super) fn each_link(home: &OwnedFd, mut each: impl FnMut(LinkId, &LayerId)) -> Result<()> {
    let Some(links) = open(home)? else { return Ok(()) };
    fs::each_entry(&links, |entry| {
        let text = match fs::read_link_at(&links, &entry.name) {
            // No link, or gone meanwhile. One that cannot be read may be any layer's.
            Err(e) if e.errno() == EINVAL || fs::is_absent(&e) => return Ok(()),
            text => text?,
        };
        if let (Some(owner), Ok(name)) = (owner_of(&text), LinkId::parse(entry.name.as_bytes())) {
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
    names.extend(layer.known_link()?);
    Ok(names)
}

impl Shared {
    /// Removes the link of a layer that is gone; where it is not known, all links to that id. One that cannot be removed leads nowhere,
    /// and is left to the next start.
    pub(super) fn drop_links(&self, home: &OwnedFd, id: &LayerId, link: Option<&LinkId>) {
        let stale = match link {
            Some(link) => vec![link.clone()],
            None => all_to(home, id).unwrap_or_default(),
        };
        for link in &stale {
            if fs::read_link_at(home, link.path()).is_ok_and(|text| text == link_text(id)) {
                if let Err(e) = fs::remove_file_at(home, link.path()) {
                    log::warn!("the link of layer '{id}', which is gone, stays until the next start: {e}");
                }
            }
        }
    }

    /// Makes the names in `l/` of all layers that lack theirs, also of the one that the caller holds. False if somebody else holds one of
    /// them: it is left out.
    pub(super) fn restore_links(&self, home: &OwnedFd, held: Option<&LayerId>) -> Result<bool> {
        let mut missing = Vec::new();
        each_layer(home, |id, layer| {
            // What cannot be asked of a layer is told when that is used.
            let found = layer.and_then(|layer| standing(home, &layer.link()?, id));
            if found.is_ok_and(|found| found != Standing::Own) {
                missing.push(id.clone());
            }
            Ok(())
        })?;
        let mut all = true;
        for id in &missing {
            // Shared is enough against those who remove it or change its link; several who restore it make the same.
            let shared = self.locks.try_hold(&[(id.as_str(), Mode::Shared)]);
            if shared.is_none() && Some(id) != held {
                all = false;
                continue;
            }
            let Some(layer) = Layer::find(home, id)? else { continue };
            // One damaged layer must not keep the others from being mended.
            if let Err(e) = layer.link().and_then(|link| restore(home, &link, id)) {
                log::warn!("the link of layer '{id}' cannot be restored: {e}");
            }
        }
        Ok(all)
    }

    /// Removes links that a crash left while they were made: nobody makes any now who does not hold their layer.
    pub(super) fn sweep_staging(&self, home: &OwnedFd) -> Result<()> {
        let Some(links) = open(home)? else { return Ok(()) };
        let mut names = Vec::new();
        fs::each_entry(&links, |entry| {
            if is_staging(entry.name.as_bytes()) {
                names.push(entry.name);
            }
            Ok(())
        })?;
        for name in names {
            let owner = fs::read_link_at(&links, &name).ok().and_then(|text| owner_of(&text));
            let held = owner.as_ref().and_then(|id| self.locks.try_hold(&[(id.as_str(), Mode::Exclusive)]));
            if held.is_some() {
                fs::remove_file_at(&links, &name)?;
            }
        }
        Ok(())
    }

    /// Removes links to layers that are no more, and second names that no layer refers to. Whether all could be looked at.
    pub(super) fn sweep_links(&self, home: &OwnedFd) -> Result<bool> {
        self.sweep_staging(home)?;
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
            all &= self.sweep_link(home, &name, &owner).unwrap_or_else(|e| {
                log::warn!("the link '{}' to '{owner}', left by a crash, stays: {e}", name.as_str());
                false
            });
        }
        Ok(all)
    }

    /// Removes one link that nobody needs; false if that could not be looked at.
    pub(super) fn sweep_link(&self, home: &OwnedFd, name: &LinkId, owner: &LayerId) -> Result<bool> {
        let Some(_held) = self.locks.try_hold(&[(owner.as_str(), Mode::Exclusive)]) else { return Ok(false) };
        if is_unneeded(home, name, owner)? {
            log::info!("removed the link '{}' to '{owner}', left by a crash", name.as_str());
            fs::remove_file_at(home, name.path())?;
        }
        Ok(true)
    }
}

/// Whether nobody needs a link of `owner`, which is held: that is no more, or has another name by which all others know it.
pub(super) fn is_unneeded(home: &OwnedFd, name: &LinkId, owner: &LayerId) -> Result<bool> {
    match Layer::find(home, owner)? {
        None => Ok(true),
        Some(layer) => Ok(layer.link().is_ok_and(|own| own != *name) && !is_referred_to(home, name)?),
    }
}

/// Whether any layer is stacked upon the one with this link, or may be: the list of one cannot be read.
pub(super) fn is_referred_to(home: &OwnedFd, name: &LinkId) -> Result<bool> {
    let mut found = false;
    each_layer(home, |_, layer| {
        found |= match layer.and_then(|layer| layer.own_lowers()) {
            Ok(Some(lowers)) => lowers.0.contains(name),
            Ok(None) | Err(_) => true,
        };
        Ok(())
    })?;
    Ok(found)
}

/// Makes a layer's name in `l/` lead to it; true if it did not before.
pub(super) fn restore(home: &OwnedFd, link: &LinkId, id: &LayerId) -> Result<bool> {
    match standing(home, link, id)? {
        Standing::Own => return Ok(false),
        // It must not be taken from a layer that claims it as well.
        Standing::Others => {
            let what = format!("the link '{}' of layer '{id}' is another layer's", link.as_str());
            return Err(Error::new(Kind::Corrupt, what).hint("remove the layer and make it anew"));
        }
        Standing::Missing => {}
    }
    let staging = format!("{LINKS}/.{}", random_name()?);
    fs::symlink_at(link_text(id), home, &staging)?;
    fs::rename_at(home, &staging, home, link.path())?;
    Ok(true)
}

/// What a layer's name in `l/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It leads to the layer.
    Own,
    /// It leads to another layer, whose own it is as well, or may be.
    Others,
    /// It is not there, or leads to none that it is the name of.
    Missing,
}

/// Where the name leads that the layer says is its own.
///
/// # Errors
/// That cannot be found out now: the name may be another layer's.
pub(super) fn standing(home: &OwnedFd, link: &LinkId, id: &LayerId) -> Result<Standing> {
    match text(home, link)? {
        Some(found) if found == link_text(id) => Ok(Standing::Own),
        Some(found) if leads_to_owner(home, &found, link)? => Ok(Standing::Others),
        _ => Ok(Standing::Missing),
    }
}

/// Whether the layer that a link's text names may say that the link is its own: what it says may be lost.
fn leads_to_owner(home: &OwnedFd, text: &OsStr, link: &LinkId) -> Result<bool> {
    let Some(id) = owner_of(text) else { return Ok(false) };
    match Layer::find(home, &id) {
        Err(e) if is_no_directory(&e) => Ok(false),
        found => match found? {
            None => Ok(false),
            Some(layer) => match layer.known_link()? {
                Some(own) => Ok(own == *link),
                None => layer.has_dir(DIFF),
            },
        },
    }
}

/// The layer that a link is of, there or not.
pub(super) fn owner(home: &OwnedFd, link: &LinkId) -> Result<Option<LayerId>> {
    Ok(text(home, link)?.and_then(|text| owner_of(&text)))
}

/// The text of a link; `None` if there is none.
fn text(home: &OwnedFd, link: &LinkId) -> Result<Option<OsString>> {
    match fs::read_link_at(home, link.path()) {
        Err(e) if leads_nowhere(&e) || e.errno() == EINVAL => Ok(None),
        text => text.map(Some),
    }
}
