//! Making a layer: everything under a temporary name, then one rename that publishes it.

use super::Shared;
use super::layout::{DIFF, DIFF_MODE, EMPTY, Found, LINK, LOWER, MERGED, STAGE, Vacant, WORK};
use super::layout::{Layer, LinkId, Lowers, find, link_text, set_access};
use super::leftover::Leftover;
use super::remove::Temporary;
use super::repair::lowers_of;
use crate::driver::{Access, CreateOptions};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::{Held, Mode};
use crate::log;
use crate::quota::{self, Limits};
use crate::room;
use crate::sys::{fs, place, rename};
use crate::undo::{self, Undo};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

/// What a new layer is to be.
struct Plan {
    lowers: Lowers,
    access: Access,
    limits: Limits,
    /// Its name in `l/`, if that is there already.
    link: Option<LinkId>,
}

/// What has the id of a layer that is being made.
enum Before {
    Nothing,
    /// A name without anything behind it.
    Hollow,
    Leftover(Leftover),
}

impl Before {
    /// The link of a leftover leads to its id, and so to what is made in its place: children that know it by that name keep their
    /// parent.
    fn link(&self, home: &OwnedFd, id: &LayerId) -> Result<Option<LinkId>> {
        let Before::Leftover(Leftover { link: Some(link), .. }) = self else { return Ok(None) };
        match fs::read_link_at(home, link.path()) {
            Ok(text) => Ok((text == link_text(id)).then(|| link.clone())),
            Err(e) if fs::is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Shared {
    pub(super) fn create_layer(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        access: Access,
        options: &mut CreateOptions,
    ) -> Result<()> {
        let limits = self.limits_for(access, options)?;
        let held = self.hold_with_parent(id, parent)?;
        let home = self.home.open()?;
        let lowers = match parent {
            Some(parent) => self.lowers_upon(&home, parent)?,
            None => Lowers::default(),
        };
        self.check_depth(id, &lowers, access)?;
        let before = self.before(&home, id)?;
        let stage = self.temporary(STAGE)?;
        undo::all_or_nothing(|undo| {
            let link = before.link(&home, id)?;
            let plan = Plan { lowers, access, limits, link };
            let explained = |e| room::explain(e, home.as_fd());
            self.build(&home, &stage, id, &plan, undo).map_err(explained)?;
            self.publish(&home, &stage, id, &before, undo).map_err(explained)?;
            self.flush(&home)
        })?;
        self.lease.tell(id);
        if let Some(parent) = parent {
            self.lease.tell(parent);
        }
        drop(held); // deleting may take long
        // What was there before has the temporary name now.
        if !matches!(before, Before::Nothing) {
            self.dispose(&home, &stage);
        }
        Ok(())
    }

    /// Takes the turn of a layer, and a share in its parent: that must not be replaced or unpacked into meanwhile.
    pub(super) fn hold_with_parent(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Held<'_>> {
        if parent == Some(id) {
            return Err(Error::new(Kind::Invalid, "a layer cannot be its own parent"));
        }
        let mut wanted = vec![(id.as_str(), Mode::Exclusive)];
        wanted.extend(parent.map(|parent| (parent.as_str(), Mode::Shared)));
        self.locks.hold(&wanted)
    }

    /// What has the id now. What could still be of use to anybody is an error.
    fn before(&self, home: &OwnedFd, id: &LayerId) -> Result<Before> {
        match find(&self.home, home, id)? {
            Found::Nothing(Vacant::Absent) => Ok(Before::Nothing),
            Found::Nothing(Vacant::Hollow) => Ok(Before::Hollow),
            Found::Foreign => {
                let what = format!(
                    "the name is taken by something that is no layer: '{}'",
                    self.home.path.join(id.as_str()).display()
                );
                Err(Error::new(Kind::Exists, what).hint("it is left alone; move it away or use another id"))
            }
            Found::Layer(layer) => {
                let leftover = self.leftover(home, &layer)?;
                log::warn!("layer '{id}' is there already, but {}; it is made anew", leftover.why);
                Ok(Before::Leftover(leftover))
            }
        }
    }

    /// Builds the layer under its temporary name.
    fn build<'a>(
        &'a self,
        home: &'a OwnedFd,
        stage: &'a Temporary<'a>,
        id: &LayerId,
        plan: &Plan,
        undo: &mut Undo<'a>,
    ) -> Result<()> {
        fs::make_dir_at(home, stage.name(), 0o700)?;
        undo.with(|| self.delete(home, OsStr::new(stage.name()), &|| false));
        let dir = fs::open_dir_at(home, stage.name())?;
        if let (Ok(quota), false) = (&self.quota, plan.limits.is_none()) {
            quota.limit(home.as_fd(), dir.as_fd(), plan.limits)?;
        }
        let link = match &plan.link {
            Some(link) => link.clone(),
            None => {
                let link = self.new_link(home, id)?;
                let path = link.path();
                undo.with(move || fs::remove_file_at(home, path));
                link
            }
        };
        self.fill(&dir, &link, plan)
    }

    /// A link of a random name in `l/`. There was no room for that directory if it is missing.
    pub(super) fn new_link(&self, home: &OwnedFd, id: &LayerId) -> Result<LinkId> {
        loop {
            let link = LinkId::random()?;
            match fs::symlink_at(link_text(id), home, link.path()) {
                Err(e) if e.kind() == Kind::Exists => {} // as likely as guessing a key; draw again
                Err(e) if fs::is_absent(&e) => super::home::make_links(home, &self.options)?,
                made => return made.map(|()| link),
            }
        }
    }

    /// Gives the layer its name. What had it before gets the temporary one, in the same step where the filesystem can do that: a
    /// crash leaves the one or the other.
    fn publish<'a>(
        &'a self,
        home: &'a OwnedFd,
        stage: &'a Temporary<'a>,
        id: &LayerId,
        before: &Before,
        undo: &mut Undo<'a>,
    ) -> Result<()> {
        let (from, name) = (OsStr::new(stage.name()), id.clone());
        if let Before::Nothing = before {
            quota::renaming(home.as_fd(), &[from], || rename::rename_new_at(home, from, id))?;
            undo.with(move || quota::renaming(home.as_fd(), &[name.as_ref()], || rename::rename_new_at(home, &name, from)));
            return Ok(());
        }
        self.exchange(home, from, id.as_ref())?;
        undo.with(move || self.exchange(home, from, name.as_ref()));
        Ok(())
    }

    /// Exchanges two names of home. Where that takes several steps, it is done by way of a third name: a crash in between leaves no
    /// layer under either, and nothing that was worth keeping is lost.
    fn exchange(&self, home: &OwnedFd, one: &OsStr, other: &OsStr) -> Result<()> {
        let at_once = quota::renaming(home.as_fd(), &[one, other], || rename::exchange_at(home, one, other));
        match at_once {
            Err(e) if e.kind() == Kind::Unsupported => {}
            outcome => return outcome,
        }
        let aside = self.temporary(STAGE)?;
        let third = OsStr::new(aside.name());
        let step =
            |from: &OsStr, to: &OsStr| quota::renaming(home.as_fd(), &[from], || rename::rename_new_at(home, from, to));
        undo::all_or_nothing(|undo| {
            for (from, to) in [(other, third), (one, other), (third, one)] {
                step(from, to)?;
                undo.with(move || step(to, from));
            }
            Ok(())
        })
    }

    fn fill(&self, dir: &OwnedFd, link: &LinkId, plan: &Plan) -> Result<()> {
        for (name, mode) in [(DIFF, DIFF_MODE), (WORK, 0o700), (MERGED, 0o700)] {
            fs::make_dir_at(dir, name, mode)?;
            self.give_to_containers(dir, name)?;
        }
        self.give_to_containers(dir, ".")?;
        set_access(dir, plan.access)?;
        let durable = self.options.durable;
        let link_file = fs::made_at(dir, LINK, link.as_str().as_bytes(), 0o644)?;
        if durable {
            // Filesystems give a file its place when they write it back: so `lower` and this get theirs in one commit of the journal.
            // One that cannot be told to begin does it below.
            let _ = place::start_write_back(&link_file, 0, 0);
        }
        if plan.lowers.0.is_empty() {
            fs::make_dir_at(dir, EMPTY, 0o700)?;
        } else {
            fs::write_new_at(dir, LOWER, plan.lowers.to_text().as_bytes(), 0o644, durable)?;
        }
        if durable { fs::fsync(link_file, LINK) } else { Ok(()) }
    }

    /// Makes what was renamed in home outlast a power cut. On filesystems with a journal, all that was made before comes with it.
    pub(super) fn flush(&self, home: &OwnedFd) -> Result<()> {
        if self.options.durable { fs::fsync(home, "home") } else { Ok(()) }
    }

    /// The lowers of a new child: its parent, then those of its parent.
    pub(super) fn lowers_upon(&self, home: &OwnedFd, parent: &LayerId) -> Result<Lowers> {
        let found = || -> Result<Lowers> {
            let layer = Layer::open(home, parent)?;
            layer.check_finished()?;
            let mut links = vec![layer.link()?];
            links.extend(lowers_of(home, &layer)?.0);
            Ok(Lowers(links))
        };
        found().context(|| "its parent")
    }

    /// The driver takes limits for read-write layers and no other options. Defaults in force are appended to the options. Limits
    /// that would not be enforced at this moment are refused.
    fn limits_for(&self, access: Access, options: &mut CreateOptions) -> Result<Limits> {
        match access {
            Access::ReadOnly if options.storage_opt.is_empty() => Ok(Limits::default()),
            Access::ReadOnly => Err(Error::new(Kind::Invalid, "--storage-opt size is only supported for ReadWrite Layers")),
            Access::ReadWrite if options.storage_opt.is_empty() && self.options.limits.is_none() => Ok(Limits::default()),
            Access::ReadWrite => match self.check_limits() {
                Ok(()) => quota::limits(&mut options.storage_opt, self.options.limits),
                Err(why) if why.kind() == Kind::Unsupported => {
                    let sentence = "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option";
                    Err(Error::new(Kind::Unsupported, format!("{sentence}: {why}")).user(sentence))
                }
                Err(e) => Err(e),
            },
        }
    }

    /// With remapped users, root of the containers owns what the kernel writes for them.
    pub(super) fn give_to_containers(&self, dir: &OwnedFd, name: &str) -> Result<()> {
        match &self.options.remap {
            Some(remap) => fs::chown_at(dir, name, remap.uid, remap.gid),
            None => Ok(()),
        }
    }
}
