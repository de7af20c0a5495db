//! Mending a layer: its link, its list of lowers, and the directories that hold nothing of anybody's.

use super::Shared;
use super::layout::{
    DIFF, EMPTY, Found, LINK, LOWER, Layer, LinkId, Lowers, MAX_LOWER, MERGED, WORK, find, hides_all, leads_nowhere,
    random_name,
};
use super::leftover::{children, holds_nothing};
use super::links::{self, is_referred_to, owner};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::log;
use crate::sys::fs::{self, FileKind};
use crate::undo::{self, Undo};
use std::os::fd::OwnedFd;

/// A list of lowers that a layer had before it became one without.
const ASIDE: &str = "lower.before";

/// What who has a layer mended says of its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent<'a> {
    Is(&'a LayerId),
    None,
    /// Nothing: the layer becomes one without parents only where it tells that itself.
    Unsaid,
}

impl Shared {
    /// See [`crate::driver::Driver::repair_lowers`]. A layer that does not exist needs no repair.
    pub(super) fn repair(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<()> {
        let _held = self.hold_with_parent(id, parent)?;
        let home = self.home.open()?;
        let Found::Layer(layer) = find(&self.home, &home, id)? else { return Ok(()) };
        self.mend(&home, &layer, parent.map_or(Parent::None, Parent::Is))
    }

    /// Mends a layer, which is held.
    pub(super) fn mend(&self, home: &OwnedFd, layer: &Layer, parent: Parent<'_>) -> Result<()> {
        let id = &layer.id;
        self.lease.tell(id);
        if !layer.has_dir(DIFF)? {
            let what = format!("layer '{id}' has lost its content, '{}'", self.home.path(id, DIFF).display());
            return Err(Error::new(Kind::Corrupt, what).hint("restore the directory, or remove the layer and make it anew"));
        }
        undo::all_or_nothing(|undo| {
            self.mend_link(home, layer, undo)?;
            self.mend_lowers(home, layer, parent, undo)?;
            self.furnish(home, layer)
        })
    }

    /// A layer whose note of its own link is lost gets the link by which others know it, or a new one.
    fn mend_link<'a>(&'a self, home: &OwnedFd, layer: &'a Layer, undo: &mut Undo<'a>) -> Result<()> {
        let id = &layer.id;
        match layer.link().and_then(|link| links::restore(home, &link, id)) {
            Err(e) if e.kind() == Kind::Corrupt => log::warn!("{e}"),
            outcome => return outcome.map(drop),
        }
        let mut names = links::all_to(home, id)?;
        names.sort_by_key(|name| name.as_str().to_owned());
        let known = names.iter().map(|name| Ok((is_referred_to(home, name)?, name)));
        let known: Vec<(bool, &LinkId)> = known.collect::<Result<_>>()?;
        let link = match known.iter().find(|(is_used, _)| *is_used).or(known.first()) {
            Some((_, name)) => (*name).clone(),
            None => self.new_link(home, id)?,
        };
        log::warn!("layer '{id}' is given back its link '{}'", link.as_str());
        self.replace(layer, LINK, link.as_str(), undo)
    }

    /// Makes the list of lowers good: from what is still known, else from the parent that the caller names.
    fn mend_lowers<'a>(&'a self, home: &OwnedFd, layer: &'a Layer, said: Parent<'_>, undo: &mut Undo<'a>) -> Result<()> {
        let parent = match said {
            Parent::Is(id) => Some(id),
            Parent::None | Parent::Unsaid => None,
        };
        if layer.is_root_opaque()? {
            return self.make_base(layer, undo);
        }
        let own = known_lowers(layer.own_lowers())?.filter(|own| !own.0.is_empty());
        if let Some(own) = &own {
            if self.are_reachable(home, own, &layer.id)? {
                return Ok(());
            }
        }
        let known = own.as_ref().map(|own| owner(home, &own.0[0])).transpose()?.flatten();
        let lowers = match (known, parent) {
            // What the layer itself says of its parent counts, also while that is missing: it may come back.
            (Some(known), Some(parent)) if known != *parent => {
                let what = format!("layer '{}' is stacked upon '{known}', and not upon '{parent}'", layer.id);
                return Err(Error::new(Kind::Invalid, what).hint("name the parent that the layer was made with"));
            }
            (Some(known), None) if Layer::find(home, &known)?.is_none() => {
                let what = format!("layer '{}' is stacked upon layer '{known}', which is missing", layer.id);
                return Err(Error::new(Kind::Corrupt, what).hint("restore that layer"));
            }
            (Some(known), _) => self.lowers_upon(home, &known)?,
            (None, Some(parent)) => self.lowers_upon_named(home, layer, parent, own.as_ref())?,
            (None, None) if own.is_some() => {
                let what = format!("layer '{}' is stacked upon a layer that is missing", layer.id);
                return Err(Error::new(Kind::Corrupt, what).hint("restore that layer, or name the parent"));
            }
            (None, None) => match children(home, layer)?.told()? {
                Some(lowers) => lowers,
                None if said == Parent::Unsaid => lowers_of(home, layer)?,
                None => Lowers::default(),
            },
        };
        if lowers.0.is_empty() {
            return self.make_base(layer, undo);
        }
        if !self.are_reachable(home, &lowers, &layer.id)? {
            let what = format!("a layer below the parent of layer '{}' is missing", layer.id);
            return Err(Error::new(Kind::Corrupt, what).hint("repair the parent first"));
        }
        log::warn!("layer '{}' is given back its parents", layer.id);
        self.replace(layer, LOWER, &lowers.to_text(), undo)
    }

    /// The lowers upon the parent that the caller names, of a layer whose own list is lost or begins with a name that is. Whoever is
    /// left in that list must be among them: else the caller names another layer's parent, and the list could not be had back.
    fn lowers_upon_named(&self, home: &OwnedFd, layer: &Layer, parent: &LayerId, own: Option<&Lowers>) -> Result<Lowers> {
        let wrong = |what: String| Err(Error::new(Kind::Invalid, what).hint("name the parent that the layer was made with"));
        let lowers = self.lowers_upon(home, parent)?;
        if links::of(home, layer)?.iter().any(|own| lowers.0.contains(own)) {
            return wrong(format!("'{parent}' is stacked upon layer '{}' itself", layer.id));
        }
        // A root that has become opaque ends the chain of those upon it.
        let is_cut_off = lowers.0.last().map(|last| hides_all(home, last)).transpose()?.unwrap_or(false);
        let own = own.map_or(&[][..], |own| &own.0);
        for left in own.iter().filter(|link| !is_cut_off && !lowers.0.contains(link)) {
            if leads_to_layer(home, left)? {
                let name = owner(home, left)?.map_or_else(|| left.as_str().to_owned(), |id| id.to_string());
                return wrong(format!("layer '{}' is stacked upon '{name}', and '{parent}' is not", layer.id));
            }
        }
        links::restore(home, &lowers.0[0], parent)?;
        Ok(lowers)
    }

    /// Whether each of them can be reached, if need be by making links anew.
    fn are_reachable(&self, home: &OwnedFd, lowers: &Lowers, held: &LayerId) -> Result<bool> {
        let are_there = || -> Result<bool> {
            for link in &lowers.0 {
                if !leads_to_layer(home, link)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if are_there()? {
            return Ok(true);
        }
        self.restore_links(home, Some(held))?;
        are_there()
    }

    /// Makes the directories that hold nothing of anybody's, where they are missing.
    pub(super) fn furnish(&self, home: &OwnedFd, layer: &Layer) -> Result<()> {
        for (name, is_hidden) in missing_parts(home, layer)? {
            if is_hidden {
                let what = format!("layer '{}': '{name}' is no directory", layer.id);
                return Err(Error::new(Kind::Corrupt, what).hint("move it away; it is made again then"));
            }
            log::warn!("layer '{}': '{name}' was missing, and is made again", layer.id);
            fs::make_dir_at(layer, name, 0o700)?;
            if name != EMPTY {
                self.give_to_containers(layer.dir(), name)?;
            }
        }
        Ok(())
    }

    /// Makes the layer one without parents.
    pub(super) fn make_base<'a>(&'a self, layer: &'a Layer, undo: &mut Undo<'a>) -> Result<()> {
        if !layer.has_dir(EMPTY)? {
            fs::make_dir_at(layer, EMPTY, 0o700)?;
            undo.with(move || fs::remove_dir_at(layer, EMPTY));
        }
        // Kept aside: to put it back takes no room, and no flush that a failing disk would refuse.
        match fs::rename_at(layer, LOWER, layer, ASIDE) {
            Ok(()) => undo.with(move || fs::rename_at(layer, ASIDE, layer, LOWER)),
            Err(e) if !fs::is_absent(&e) => return Err(e),
            Err(_) => {}
        }
        if self.options.durable { fs::fsync(layer, "layer directory") } else { Ok(()) }
    }

    /// Writes one of the layer's small files anew.
    fn replace<'a>(&'a self, layer: &'a Layer, name: &'static str, new: &str, undo: &mut Undo<'a>) -> Result<()> {
        let before = content(layer, name)?;
        // Recorded first: it may fail when the new one is there, but not yet safe.
        undo.with(move || match &before {
            Some(before) => self.write(layer, name, before),
            None => match fs::remove_file_at(layer, name) {
                Err(e) if !fs::is_absent(&e) => Err(e),
                _ => Ok(()),
            },
        });
        self.write(layer, name, new.as_bytes())
    }

    fn write(&self, layer: &Layer, name: &str, content: &[u8]) -> Result<()> {
        let staging = format!(".tmp-{name}-{}", &random_name()?[..10]);
        fs::replace_at(layer, name, &staging, content, 0o644, self.options.durable)
            .context(|| format!("layer '{}'", layer.id))
    }
}

/// The ancestors of a layer. One that does not tell them itself is a base layer if its children say so, or if it has content and
/// lacks all directories that are empty in such a layer: tools that skip empty directories leave that. Anything else is damage,
/// since taking it for a base layer would mount it without its parents.
pub(super) fn lowers_of(home: &OwnedFd, layer: &Layer) -> Result<Lowers> {
    if let Some(lowers) = layer.own_lowers()? {
        return Ok(lowers);
    }
    if let Some(lowers) = children(home, layer)?.told()? {
        return Ok(lowers);
    }
    if !layer.has_dir(WORK)? && !layer.has_dir(MERGED)? && !holds_nothing(layer)? {
        return Ok(Lowers::default());
    }
    let what = format!("layer '{}': both its 'lower' file and its 'empty' directory are missing", layer.id);
    Err(Error::new(Kind::Corrupt, what)
        .hint("call graphdriver_try_repair_lowers with its parent, or with none if it has none"))
}

/// The list of lowers, `None` where it is damaged.
pub(super) fn known_lowers(lowers: Result<Option<Lowers>>) -> Result<Option<Lowers>> {
    match lowers {
        Err(e) if e.kind() == Kind::Corrupt => Ok(None),
        outcome => outcome,
    }
}

/// The directories that hold nothing of anybody's and are missing, each with whether something else has its name.
pub(super) fn missing_parts(home: &OwnedFd, layer: &Layer) -> Result<Vec<(&'static str, bool)>> {
    let tells_no_lowers = !layer.has_dir(EMPTY)? && matches!(fs::stat_at(layer, LOWER), Err(e) if fs::is_absent(&e));
    let is_base =
        tells_no_lowers && known_lowers(lowers_of(home, layer).map(Some))?.is_some_and(|lowers| lowers.0.is_empty());
    let mut missing = Vec::new();
    for (name, wanted) in [(WORK, true), (MERGED, true), (EMPTY, is_base)] {
        if wanted && !layer.has_dir(name)? {
            missing.push((name, fs::stat_at(layer, name).is_ok()));
        }
    }
    Ok(missing)
}

fn leads_to_layer(home: &OwnedFd, link: &LinkId) -> Result<bool> {
    match fs::stat_at_follow(home, link.path()) {
        Err(e) if leads_nowhere(&e) => Ok(false),
        stat => Ok(stat?.kind == FileKind::Dir),
    }
}

/// What one of the layer's small files holds, good or bad; `None` if there is none.
fn content(layer: &Layer, name: &str) -> Result<Option<Vec<u8>>> {
    match fs::read_at(layer, name, MAX_LOWER) {
        Ok(content) => Ok(Some(content)),
        Err(e) if fs::is_absent(&e) => Ok(None),
        Err(e) => Err(e.context(format!("layer '{}'", layer.id))),
    }
}
