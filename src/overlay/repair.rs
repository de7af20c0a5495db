//! Mending a layer: its link, its list of lowers, and the directories that hold nothing of anybody's.

use super::Shared;
use super::layout::{DIFF, EMPTY, Found, LINK, LOWER, Layer, LinkId, Lowers, MERGED, WORK, find, random_name};
use super::links;
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::log;
use crate::sys::fs::{self, FileKind};
use std::os::fd::OwnedFd;

impl Shared {
    /// See [`crate::driver::Driver::repair_lowers`]. A layer that does not exist needs no repair.
    pub(super) fn repair(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<()> {
        let _held = self.hold_with_parent(id, parent)?;
        let home = self.home.open()?;
        let Found::Layer(layer) = find(&self.home, &home, id)? else { return Ok(()) };
        if !layer.has_dir(DIFF)? {
            let what = format!("layer '{id}' has lost its content, '{}'", self.home.path(id, DIFF).display());
            return Err(Error::new(Kind::Corrupt, what).hint("restore the directory, or remove the layer and make it anew"));
        }
        self.mend_link(&home, &layer)?;
        self.mend_lowers(&home, &layer, parent)?;
        self.furnish(&home, &layer).map(drop)
    }

    /// A layer whose note of its own link is lost gets the link by which others know it, or a new one.
    fn mend_link(&self, home: &OwnedFd, layer: &Layer) -> Result<()> {
        let id = &layer.id;
        match layer.link().and_then(|link| links::restore(home, &link, id)) {
            Err(e) if e.kind() == Kind::Corrupt => log::warn!("{e}"),
            outcome => return outcome.map(drop),
        }
        let mut names = links::all_to(home, id)?;
        names.sort_by_key(|name| name.as_str().to_owned());
        let known = names.iter().map(|name| Ok((self.is_referred_to(home, name)?, name)));
        let known: Vec<(bool, &LinkId)> = known.collect::<Result<_>>()?;
        let link = match known.iter().find(|(is_used, _)| *is_used).or(known.first()) {
            Some((_, name)) => (*name).clone(),
            None => super::create::new_link(home, id)?,
        };
        log::warn!("layer '{id}' is given back its link '{}'", link.as_str());
        self.replace(layer, LINK, link.as_str())
    }

    /// Makes the list of lowers good: from what is still known, else from the parent that the caller names.
    fn mend_lowers(&self, home: &OwnedFd, layer: &Layer, parent: Option<&LayerId>) -> Result<()> {
        if layer.is_root_opaque()? {
            return self.make_base(layer);
        }
        let own = self.known_lowers(layer.own_lowers())?;
        if let Some(own) = own.filter(|own| !own.0.is_empty()) {
            if self.are_reachable(home, &own, &layer.id)? {
                return Ok(());
            }
        }
        let lowers = match parent {
            // The caller holds it shared, as those do who only read its link: nobody else writes that.
            Some(parent) => {
                let lowers = self.lowers_upon(home, parent)?;
                if links::of(home, layer)?.iter().any(|own| lowers.0.contains(own)) {
                    let what = format!("'{parent}' is stacked upon layer '{}' itself", layer.id);
                    return Err(Error::new(Kind::Invalid, what).hint("name the parent that the layer was made with"));
                }
                links::restore(home, &lowers.0[0], parent)?;
                lowers
            }
            None => self.as_children_say(home, layer)?.unwrap_or_default(),
        };
        if lowers.0.is_empty() {
            return self.make_base(layer);
        }
        log::warn!("layer '{}' is given back its parents", layer.id);
        self.replace(layer, LOWER, &lowers.to_text())
    }

    /// The list of lowers, `None` where it is damaged.
    fn known_lowers(&self, lowers: Result<Option<Lowers>>) -> Result<Option<Lowers>> {
        match lowers {
            Err(e) if e.kind() == Kind::Corrupt => Ok(None),
            outcome => outcome,
        }
    }

    /// Whether each of them can be reached, if need be by making links anew.
    fn are_reachable(&self, home: &OwnedFd, lowers: &Lowers, held: &LayerId) -> Result<bool> {
        let reachable = |link: &LinkId| fs::stat_at_follow(home, link.path()).is_ok_and(|stat| stat.kind == FileKind::Dir);
        if lowers.0.iter().all(reachable) {
            return Ok(true);
        }
        self.restore_links(home, held)?;
        Ok(lowers.0.iter().all(reachable))
    }

    /// The ancestors of a layer. One that does not tell them itself is a base layer if its children say so, or if all directories
    /// are missing that are empty in a base layer that was never mounted: tools that skip empty directories leave that. Anything
    /// else is damage, since taking it for a base layer would mount it without its parents.
    pub(super) fn lowers_of(&self, home: &OwnedFd, layer: &Layer) -> Result<Lowers> {
        if let Some(lowers) = layer.own_lowers()? {
            return Ok(lowers);
        }
        if let Some(lowers) = self.as_children_say(home, layer)? {
            return Ok(lowers);
        }
        if !layer.has_dir(WORK)? && !layer.has_dir(MERGED)? {
            return Ok(Lowers::default());
        }
        let what = format!("layer '{}': both its 'lower' file and its 'empty' directory are missing", layer.id);
        Err(Error::new(Kind::Corrupt, what)
            .hint("call graphdriver_try_repair_lowers with its parent, or with none if it has none"))
    }

    /// Makes the directories that hold nothing of anybody's, where they are missing; whether one was.
    pub(super) fn furnish(&self, home: &OwnedFd, layer: &Layer) -> Result<bool> {
        // Asked first: what is missing tells as well.
        let tells_no_lowers = !layer.has_dir(EMPTY)? && matches!(fs::stat_at(layer, LOWER), Err(e) if fs::is_absent(&e));
        let is_base = tells_no_lowers
            && self.known_lowers(self.lowers_of(home, layer).map(Some))?.is_some_and(|lowers| lowers.0.is_empty());
        let mut was_missing = false;
        for (name, wanted) in [(WORK, true), (MERGED, true), (EMPTY, is_base)] {
            if wanted && !layer.has_dir(name)? {
                if fs::stat_at(layer, name).is_ok() {
                    let what = format!("layer '{}': '{name}' is no directory", layer.id);
                    return Err(Error::new(Kind::Corrupt, what).hint("move it away; it is made again then"));
                }
                log::warn!("layer '{}': '{name}' was missing, and is made again", layer.id);
                fs::make_dir_at(layer, name, 0o700)?;
                if name != EMPTY {
                    self.give_to_containers(layer.dir(), name)?;
                }
                was_missing = true;
            }
        }
        Ok(was_missing)
    }

    /// Makes the layer one without parents.
    pub(super) fn make_base(&self, layer: &Layer) -> Result<()> {
        if !layer.has_dir(EMPTY)? {
            fs::make_dir_at(layer, EMPTY, 0o700)?;
        }
        match fs::remove_file_at(layer, LOWER) {
            Err(e) if fs::is_absent(&e) => Ok(()),
            Ok(()) if self.options.durable => fs::fsync(layer, "layer directory"),
            outcome => outcome,
        }
    }

    /// Writes one of the layer's small files anew.
    pub(super) fn replace(&self, layer: &Layer, name: &str, content: &str) -> Result<()> {
        let staging = format!(".tmp-{name}-{}", &random_name()?[..10]);
        fs::replace_at(layer, name, &staging, content.as_bytes(), 0o644, self.options.durable)
            .context(|| format!("layer '{}'", layer.id))
    }
}
