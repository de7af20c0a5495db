//! Proving that a layer is a leftover: that whoever made it does not know of it any more, and nobody else could miss it.
//!
//! A pull that crashed leaves a layer behind and comes again with the same id: that must not be refused for ever. But a layer that
//! anybody may still want must not be replaced. So the proof is about what the layer is, and about what was said: a layer of which
//! this process has told its caller is the caller's.

use super::Shared;
use super::layout::{DIFF, EMPTY, LOWER, Layer, LinkId, Lowers, MERGED, Unfinished, WORK, each_layer};
use super::links;
use crate::driver::Access;
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::sys::fs;
use std::os::fd::OwnedFd;

/// A layer that may be replaced.
pub(super) struct Leftover {
    /// Its name in `l/`, where that is known.
    pub(super) link: Option<LinkId>,
    /// Why it is one; follows "there is such a layer, but".
    pub(super) why: &'static str,
}

impl Shared {
    /// The layer as a leftover, which is to be held exclusively.
    ///
    /// # Errors
    /// [`Kind::Exists`], with the reason why it is none.
    pub(super) fn leftover(&self, home: &OwnedFd, layer: &Layer) -> Result<Leftover> {
        let proven = |why| Ok(Leftover { link: layer.known_link()?, why });
        let taken = |why: &str| {
            // Now the caller knows that it is there.
            self.lease.tell(&layer.id);
            Err(Error::new(Kind::Exists, format!("the id is taken by a layer that {why}"))
                .hint("remove it first if it is not wanted any more"))
        };
        if layer.is_mounted(&self.home)? {
            return taken("is mounted");
        }
        match layer.unfinished()? {
            Some(Unfinished::First) => return proven("unpacking into it was interrupted"),
            Some(Unfinished::Again) => return taken("has content, into which an unpack was interrupted"),
            None => {}
        }
        if self.lease.was_told(&layer.id) {
            return taken("was made, found or used before");
        }
        let children = children(home, layer)?;
        if children.lowers.is_some() {
            return taken("has layers on top of it");
        }
        // What is made in its place has its link: should anybody refer to that, nothing changes.
        if lacks_parts(layer)? && holds_nothing(layer)? {
            return proven("it was never made whole");
        }
        if let Some((other, why)) = children.unreadable {
            // What another time may tell is no reason for good.
            if why.kind() != Kind::Corrupt {
                return Err(why.context("look for layers on top of it"));
            }
            return taken(&format!("layer '{other}' may be stacked upon, whose list of parents cannot be read"));
        }
        match self.may_be_written(layer)? {
            true => taken("is read-write"),
            false => proven("nobody has used it since the start"),
        }
    }

    /// Whether containers may have written into the layer. Layers of the C module are not marked; that the kernel has used their
    /// scratch directory is the best hint there is, and where there is none, nobody knows.
    fn may_be_written(&self, layer: &Layer) -> Result<bool> {
        match layer.access()? {
            Some(access) => Ok(access == Access::ReadWrite),
            None => Ok(!layer.has_dir(WORK)? || layer.has_dir(&format!("{WORK}/work"))?),
        }
    }
}

/// Which layers are stacked upon this one, by whichever of its names. A `link` file that was lost does not mean that nobody
/// refers to the layer: all its names in `l/` count.
pub(super) fn children(home: &OwnedFd, layer: &Layer) -> Result<Children> {
    let names = links::of(home, layer)?;
    let mut children = Children::default();
    each_layer(home, |id, other| {
        if *id == layer.id {
            return Ok(());
        }
        match other.and_then(|other| other.own_lowers()) {
            Ok(Some(lowers)) => {
                if let Some(at) = lowers.0.iter().position(|link| names.contains(link)) {
                    children.lowers.get_or_insert_with(|| Lowers(lowers.0[at + 1..].to_vec()));
                }
            }
            Ok(None) => children.cannot_be_read(id, Error::new(Kind::Corrupt, "it tells no parents")),
            Err(e) => children.cannot_be_read(id, e),
        }
        Ok(())
    })?;
    Ok(children)
}

/// What the other layers say about one.
#[derive(Default)]
pub(super) struct Children {
    /// If it has children: its lowers, as one of them has them. See [`Children::told`].
    lowers: Option<Lowers>,
    /// A layer that may be a child or not: what it is stacked upon cannot be read, and why. A reason that may pass counts for more than
    /// damage.
    unreadable: Option<(LayerId, Error)>,
}

impl Children {
    /// The layer's lowers, if a child tells them. One that cannot be read at the moment may be the child that does: that is an error.
    pub(super) fn told(self) -> Result<Option<Lowers>> {
        match (self.lowers, self.unreadable) {
            (None, Some((other, why))) if why.kind() != Kind::Corrupt => {
                Err(why.context(format!("look whether layer '{other}' is stacked upon it")))
            }
            (lowers, _) => Ok(lowers),
        }
    }

    /// Whether it has none for certain.
    pub(super) fn are_none(&self) -> bool {
        self.lowers.is_none() && self.unreadable.is_none()
    }

    fn cannot_be_read(&mut self, id: &LayerId, why: Error) {
        if self.unreadable.as_ref().is_none_or(|(_, known)| known.kind() == Kind::Corrupt) {
            self.unreadable = Some((id.clone(), why));
        }
    }
}

/// Whether a part is missing that every layer has from the moment it gets its name.
fn lacks_parts(layer: &Layer) -> Result<bool> {
    let tells_lowers = match fs::stat_at(layer, LOWER) {
        Ok(_) => true,
        Err(e) if fs::is_absent(&e) => layer.has_dir(EMPTY)?,
        Err(e) => return Err(e),
    };
    let mut whole = tells_lowers && layer.known_link()?.is_some();
    for part in [DIFF, WORK, MERGED] {
        whole = whole && layer.has_dir(part)?;
    }
    Ok(!whole)
}

/// Whether there is no content in it.
pub(super) fn holds_nothing(layer: &Layer) -> Result<bool> {
    if layer.has_dir(DIFF)? { fs::is_empty_dir(layer.diff()?) } else { Ok(true) }
}
