//! Making a layer: everything under a temporary name, then one rename.

use super::Overlay;
use super::layout::{ACCESS, DIFF, DIFF_MODE, EMPTY, LINK, LINKS, LOWER, MERGED, STAGE, WORK};
use super::layout::{Layer, LinkId, Lowers, each_layer, link_text, random_name};
use super::remove::delete;
use crate::driver::{Access, CreateOptions};
use crate::error::errno::ENOTDIR;
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::{Held, Mode};
use crate::log;
use crate::quota::{self, Limits};
use crate::sys::{fs, xattr};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What a new layer is to be.
struct Plan {
    lowers: Lowers,
    access: Access,
    limits: Limits,
}

impl Overlay {
    pub(super) fn create_layer(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        access: Access,
        options: &mut CreateOptions,
    ) -> Result<()> {
        let limits = self.limits_for(access, options)?;
        // The parent as well: it must not be made anew while it gets a child.
        let _held = self.hold_with_parent(id, parent)?;
        let home = self.home.open()?;
        let lowers = match parent {
            Some(parent) => lowers_upon(&home, parent)?,
            None => Lowers::default(),
        };
        self.check_depth(id, &lowers)?;
        self.make_room(&home, id)?;
        let stage = format!("{STAGE}{}", random_name()?);
        fs::make_dir_at(&home, &stage, 0o700)?;
        let made = self.build(&home, &stage, id, &Plan { lowers, access, limits });
        made.map_err(|e| match delete(&home, OsStr::new(&stage), self.quota.as_ref().ok()) {
            Err(other) if !fs::is_absent(&other) => e.and_also(other),
            _ => e,
        })
    }

    /// Takes the turn of a layer and of its parent.
    pub(super) fn hold_with_parent(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Held<'_>> {
        let mut wanted = vec![(id.as_str(), Mode::Exclusive)];
        wanted.extend(parent.filter(|parent| *parent != id).map(|parent| (parent.as_str(), Mode::Shared)));
        self.locks.hold(&wanted)
    }

    /// Builds the layer in the directory `stage` and gives it its name.
    fn build(&self, home: &OwnedFd, stage: &str, id: &LayerId, plan: &Plan) -> Result<()> {
        let dir = fs::open_dir_at(home, stage)?;
        if let (Ok(quota), false) = (&self.quota, plan.limits.is_none()) {
            quota.limit(dir.as_fd(), plan.limits)?;
        }
        let link = new_link(home, id)?;
        let publish = || fs::rename_new_at(home, stage, home, id);
        let built = self.fill(&dir, &link, plan).and_then(|()| quota::renaming(home.as_fd(), OsStr::new(stage), publish));
        built.map_err(|e| match fs::remove_file_at(home, link.path()) {
            Ok(()) => e,
            Err(other) => e.and_also(other),
        })
    }

    fn fill(&self, dir: &OwnedFd, link: &LinkId, plan: &Plan) -> Result<()> {
        for (name, mode) in [(DIFF, DIFF_MODE), (WORK, 0o700), (MERGED, 0o700)] {
            fs::make_dir_at(dir, name, mode)?;
            self.give_to_containers(dir, name)?;
        }
        self.give_to_containers(dir, ".")?;
        let label = match plan.access {
            Access::ReadWrite => b"rw",
            Access::ReadOnly => b"ro",
        };
        xattr::set(dir, ACCESS, label)?;
        if plan.lowers.0.is_empty() {
            fs::make_dir_at(dir, EMPTY, 0o700)?;
        } else {
            fs::write_new_at(dir, LOWER, plan.lowers.to_text().as_bytes(), 0o644, self.options.durable)?;
        }
        fs::write_new_at(dir, LINK, link.as_str().as_bytes(), 0o644, self.options.durable)?;
        if self.options.durable { fs::fsync(dir, "layer directory") } else { Ok(()) }
    }

    /// The driver takes limits for read-write layers and no other options. Defaults in force are appended to the options.
    fn limits_for(&self, access: Access, options: &mut CreateOptions) -> Result<Limits> {
        match (access, &self.quota) {
            (Access::ReadOnly, _) if options.storage_opt.is_empty() => Ok(Limits::default()),
            (Access::ReadOnly, _) => {
                Err(Error::new(Kind::Invalid, "--storage-opt size is only supported for ReadWrite Layers"))
            }
            (Access::ReadWrite, Ok(_)) => quota::limits(&mut options.storage_opt, self.options.limits),
            (Access::ReadWrite, Err(_)) if options.storage_opt.is_empty() => Ok(Limits::default()),
            (Access::ReadWrite, Err(why)) => {
                let sentence = "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option";
                Err(Error::new(Kind::Unsupported, format!("{sentence}: {why}")).user(sentence))
            }
        }
    }

    /// With remapped users, root of the containers owns what the kernel writes for them.
    fn give_to_containers(&self, dir: &OwnedFd, name: &str) -> Result<()> {
        match &self.options.remap {
            Some(remap) => fs::chown_at(dir, name, remap.uid, remap.gid),
            None => Ok(()),
        }
    }

    /// Makes sure that nothing has the id. What must not be lost is an error; a leftover that nobody can use is moved away.
    fn make_room(&self, home: &OwnedFd, id: &LayerId) -> Result<()> {
        match fs::stat_at(home, id) {
            Err(e) if fs::is_absent(&e) => return Ok(()),
            found => found?,
        };
        let taken = |why: &str| Err(Error::new(Kind::Exists, format!("the id is taken by a layer that {why}")));
        match Layer::find(home, id) {
            Ok(None) => {} // a symlink into a remote store that has it no more
            Err(e) if e.errno() == ENOTDIR => {}
            Err(e) => return Err(e),
            Ok(Some(layer)) => {
                if layer.has_dir(MERGED)? && layer.is_mounted(&self.home)? {
                    return taken("is mounted");
                }
                if may_be_written(&layer)? && has_content(&layer)? {
                    return taken("is read-write and has content");
                }
                if is_parent(home, &layer)? {
                    return taken("has layers on top of it");
                }
            }
        }
        log::warn!("layer '{id}' is there already, but nobody uses it; it is made anew");
        self.discard(home, id)
    }
}

/// The lowers of a new child: its parent, then those of its parent.
pub(super) fn lowers_upon(home: &OwnedFd, parent: &LayerId) -> Result<Lowers> {
    let layer = Layer::open(home, parent).context(|| "its parent")?;
    layer.check_finished().context(|| "its parent")?;
    let mut links = vec![layer.link().context(|| "its parent")?];
    links.extend(layer.lowers().context(|| "its parent")?.0);
    Ok(Lowers(links))
}

/// A link of a random name in `l/`.
fn new_link(home: &OwnedFd, id: &LayerId) -> Result<LinkId> {
    loop {
        let link = LinkId::random()?;
        match fs::symlink_at(link_text(id), home, link.path()) {
            Err(e) if e.kind() == Kind::Exists => {} // as likely as guessing a key; draw again
            made => return made.map(|()| link),
        }
    }
}

/// Whether containers may have written into the layer. Layers of the C module are not marked; that the kernel has used their
/// scratch directory is the best hint there is.
fn may_be_written(layer: &Layer) -> Result<bool> {
    match xattr::get::<8>(layer, ACCESS) {
        Ok(access) => Ok(access == b"rw"),
        Err(e) if xattr::is_absent(&e) => match fs::stat_at(layer, format!("{WORK}/work")) {
            Ok(_) => Ok(true),
            Err(e) if fs::is_absent(&e) => Ok(false),
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    }
}

fn has_content(layer: &Layer) -> Result<bool> {
    if !layer.has_dir(DIFF)? {
        return Ok(false);
    }
    let mut found = false;
    fs::each_entry(layer.diff()?, |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// Whether any layer is stacked upon this one, by whichever of its names: a `link` file that was lost in a power cut does not
/// mean that nobody refers to the layer.
fn is_parent(home: &OwnedFd, layer: &Layer) -> Result<bool> {
    let names = names_of(home, layer)?;
    let mut found = false;
    each_layer(home, |other| {
        found = found
            || match other.lowers() {
                Ok(lowers) => lowers.0.iter().any(|link| names.contains(link)),
                // A damaged list names nobody; its own error is shown when that layer is used.
                Err(e) if e.kind() == Kind::Corrupt => false,
                Err(e) => return Err(e),
            };
        Ok(())
    })?;
    Ok(found)
}

/// Every name in `l/` that leads to a layer, and the one in its `link` file.
fn names_of(home: &OwnedFd, layer: &Layer) -> Result<Vec<LinkId>> {
    let mut names = match layer.link() {
        Ok(link) => vec![link],
        Err(e) if e.kind() == Kind::Corrupt => Vec::new(),
        Err(e) => return Err(e),
    };
    let (links, text) = (fs::open_dir_at(home, LINKS)?, link_text(&layer.id));
    fs::each_entry(&links, |entry| {
        if fs::read_link_at(&links, &entry.name).is_ok_and(|found| found == text) {
            names.extend(LinkId::parse(entry.name.as_bytes()));
        }
        Ok(())
    })?;
    Ok(names)
}
