//! Deleting a layer: one rename takes it away, then its content is deleted, by the background worker if it cannot be at once.

use super::Shared;
use super::layout::{Found, Layer, MERGED, TRASH, Unfinished, Vacant, each_layer, find, is_temporary, random_name};
use super::leftover::children;
use crate::driver::Access;
use crate::error::errno::{ELOOP, ENOENT, ENOTDIR};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::{Mode, lock};
use crate::log;
use crate::quota;
use crate::sys::fs;
use crate::sys::mount;
use crate::sys::rename;
use crate::tree;
use crate::undo;
use crate::worker::Chores;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

/// A temporary name in home, in use: the worker leaves it alone.
pub(super) struct Temporary<'a> {
    shared: &'a Shared,
    name: String,
}

impl Temporary<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        lock(&self.shared.temporaries).remove(&self.name);
    }
}

impl Shared {
    /// A new temporary name.
    pub(super) fn temporary(&self, prefix: &str) -> Result<Temporary<'_>> {
        let name = format!("{prefix}{}", random_name()?);
        lock(&self.temporaries).insert(name.clone());
        Ok(Temporary { shared: self, name })
    }

    pub(super) fn remove_layer(&self, id: &LayerId) -> Result<()> {
        let home = self.home.open()?;
        let held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let trash = match find(&self.home, &home, id)? {
            Found::Nothing(Vacant::Absent) => None,
            Found::Nothing(Vacant::Hollow) => Some(self.take_away(&home, id, None)?),
            Found::Foreign => {
                let what = format!("'{}' is no layer", self.home.path.join(id.as_str()).display());
                return Err(Error::new(Kind::Invalid, what).hint("it is left alone"));
            }
            Found::Layer(layer) => {
                while mount::umount_detach(&self.home.mount_point(id))? {}
                Some(self.take_away(&home, id, Some(&layer))?)
            }
        };
        self.lease.untell(id);
        drop(held); // the id is free, and deleting may take long
        if let Some(trash) = trash {
            self.dispose(&home, &trash);
        }
        Ok(())
    }

    /// Takes the name away for good, and the link. Returns the name under which what had it is to be deleted. In a remote store the
    /// name is a symlink to a layer that other hosts share: only the symlink is ours to delete.
    fn take_away(&self, home: &OwnedFd, id: &LayerId, layer: Option<&Layer>) -> Result<Temporary<'_>> {
        let link = layer.and_then(|layer| layer.link().ok());
        let trash = self.temporary(TRASH)?;
        let to = OsStr::new(trash.name());
        undo::all_or_nothing(|undo| {
            quota::renaming(home.as_fd(), &[id.as_ref()], || rename::rename_new_at(home, id, to))?;
            undo.with(|| quota::renaming(home.as_fd(), &[to], || rename::rename_new_at(home, to, id)));
            self.flush(home)
        })?;
        self.drop_links(home, id, link.as_ref());
        Ok(trash)
    }

    /// Deletes what has a temporary name, as far as it can be: the worker does the rest.
    pub(super) fn dispose(&self, home: &OwnedFd, temporary: &Temporary<'_>) {
        if let Err(e) = self.delete(home, OsStr::new(temporary.name()), &|| false) {
            log::warn!("the layer is gone, but not all of its files; the rest goes as soon as it can: {e}");
            self.is_left.store(true, Ordering::SeqCst);
        }
    }

    /// Deletes an entry of home with all that is in it; one that is not there is a success. Its limit is cleared when only the
    /// directory itself is left: from then on nothing can be written, and as long as that has not been done the directory stays, to
    /// tell which limit it was.
    pub(super) fn delete(&self, home: &OwnedFd, name: &OsStr, stop: &dyn Fn() -> bool) -> Result<()> {
        // The probe of older kernels mounts there for a moment.
        mount::umount_detach(&self.home.real.join(name).join(MERGED))?;
        let what = || format!("delete '{}'", fs::shown(self.home.path.join(name)));
        self.clear_limit(home, name, stop).context(what)?;
        match tree::remove_unless(home.as_fd(), name, stop) {
            Err(e) if fs::is_absent(&e) => Ok(()),
            outcome => outcome.context(what),
        }
    }

    /// Empties a directory of home that may have a limit, and takes that away.
    fn clear_limit(&self, home: &OwnedFd, name: &OsStr, stop: &dyn Fn() -> bool) -> Result<()> {
        let Ok(quota) = &self.quota else { return Ok(()) };
        let dir = match fs::open_dir_at(home, name) {
            Ok(dir) => dir,
            // What is no directory has none.
            Err(e) if [ENOENT, ENOTDIR, ELOOP].contains(&e.errno()) => return Ok(()),
            Err(e) => return Err(e),
        };
        quota.reclaim(home.as_fd(), dir.as_fd())?;
        tree::empty_unless(dir.as_fd(), stop)?;
        quota.clear(home.as_fd(), dir.as_fd()).context(|| "clear its limit")
    }

    /// The names of what is half made or half deleted, and of no operation under way.
    pub(super) fn leftovers(&self, home: &OwnedFd) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        fs::each_entry(home, |entry| {
            if is_temporary(entry.name.as_bytes()) {
                names.push(entry.name);
            }
            Ok(())
        })?;
        let used = lock(&self.temporaries);
        names.retain(|name| !name.to_str().is_some_and(|name| used.contains(name)));
        Ok(names)
    }

    /// Takes read-only layers away whose first unpack a crash interrupted: nothing is lost with them, and whoever pulls them again
    /// makes them anew. Whether all that could be looked at.
    fn sweep_unfinished(&self, home: &OwnedFd, stop: &dyn Fn() -> bool) -> Result<bool> {
        let mut found = Vec::new();
        each_layer(home, |id, layer| {
            // What cannot be asked of a layer is told when that is used.
            let Ok(layer) = layer else { return Ok(()) };
            let is_marked = matches!(layer.unfinished(), Ok(Some(Unfinished::First)));
            if is_marked && matches!(layer.access(), Ok(Some(Access::ReadOnly))) {
                found.push(id.clone());
            }
            Ok(())
        })?;
        let mut all = true;
        for id in found {
            if stop() {
                return Ok(false);
            }
            all &= self.sweep_unfinished_layer(home, &id).unwrap_or_else(|e| {
                log::warn!("layer '{id}', which a crash left unfinished, stays: {e}");
                false
            });
        }
        Ok(all)
    }

    /// Takes one away, for the worker to delete; false if that could not be looked at. One with layers on top keeps its name for
    /// them, and is made anew under it.
    fn sweep_unfinished_layer(&self, home: &OwnedFd, id: &LayerId) -> Result<bool> {
        let Some(_held) = self.locks.try_hold(&[(id.as_str(), Mode::Exclusive)]) else { return Ok(false) };
        // Its own failures this process knows of, and has its caller deal with.
        if self.lease.was_told(id) {
            return Ok(true);
        }
        let Found::Layer(layer) = find(&self.home, home, id)? else { return Ok(true) };
        // Somebody may have begun anew, or finished, before we held it.
        if layer.unfinished()? != Some(Unfinished::First) || layer.is_mounted(&self.home)? {
            return Ok(true);
        }
        if !children(home, &layer)?.are_none() {
            return Ok(true);
        }
        log::info!("layer '{id}' is removed: unpacking into it was interrupted by a crash");
        drop(self.take_away(home, id, Some(&layer))?);
        Ok(true)
    }

    /// What a crash of an earlier process left. Whether nothing of it is left.
    fn sweep(&self, home: &OwnedFd, stop: &dyn Fn() -> bool) -> Result<bool> {
        let unfinished = self.sweep_unfinished(home, stop)?;
        let links = self.sweep_links(home)?;
        // The C module, for one, wants them.
        let names = self.restore_links(home, None)?;
        Ok(unfinished && links && names)
    }
}

impl Chores for Shared {
    fn round(&self, stop: &dyn Fn() -> bool) -> bool {
        let left = self.delete_leftovers(stop);
        // After what somebody may come upon: it can take long.
        lock(&self.remains).clear();
        left
    }
}

impl Shared {
    /// Deletes what can be deleted now; whether something is left.
    fn delete_leftovers(&self, stop: &dyn Fn() -> bool) -> bool {
        let home = match self.home.open() {
            Ok(home) => home,
            Err(e) => {
                log::warn!("what is left to delete waits: {e}");
                return true;
            }
        };
        let mut left = false;
        if !self.swept.load(Ordering::SeqCst) {
            match self.sweep(&home, stop) {
                Ok(done) => self.swept.store(done, Ordering::SeqCst),
                Err(e) => log::warn!("looking for what a crash left: {e}"),
            }
            left |= !self.swept.load(Ordering::SeqCst);
        }
        let leftovers = self.leftovers(&home).unwrap_or_else(|e| {
            log::warn!("looking for what is half deleted: {e}");
            left = true;
            Vec::new()
        });
        for name in leftovers {
            if stop() {
                return true;
            }
            match self.delete(&home, &name, stop) {
                Ok(()) => drop(lock(&self.stuck).remove(&name)),
                Err(e) => {
                    if lock(&self.stuck).insert(name) {
                        log::warn!("{e}; this is tried again and again");
                    }
                    left = true;
                }
            }
        }
        left
    }
}
