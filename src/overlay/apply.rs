//! Unpacking an archive into a layer.

use super::Shared;
use super::layout::{DIFF, Layer, STAGE, Unfinished, is_no_directory, look, owner_of};
use super::repair::lowers_of;
use crate::archive::{self, Below, Lower, Options, Whiteouts};
use crate::driver::Unpack;
use crate::error::errno::EINVAL;
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::room;
use crate::sys::fs::{self, FileKind, Stat};
use crate::sys::place::{self, Time};
use crate::tree;
use crate::undo::{self, Undo};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Shared {
    /// The layer is marked from the first change to the end. A failure in a layer that was empty leaves it as it was; in one that had
    /// content it stays marked, and is refused until it is made anew. A failure before the first change leaves either as it was.
    pub(super) fn apply(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        id.check_free(&super::layout::RESERVED)?;
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let home = self.home.open()?;
        let layer = Layer::open(&home, id)?;
        self.lease.tell(id);
        layer.check_finished()?;
        self.check_sure(&layer)?;
        self.before_use(&home, &layer);
        let diff = layer.diff()?;
        let root = fs::stat_fd(&diff)?;
        // What a container may write meanwhile is not the archive's to take back.
        let was_empty = fs::is_empty_dir(&diff)? && !layer.is_mounted(&self.home)?;
        let kind = if was_empty { Unfinished::First } else { Unfinished::Again };
        let options = Options {
            whiteouts: Whiteouts::Overlay,
            shift: self.options.remap,
            limits: request.limits.unwrap_or_else(|| self.options.archive.clone()),
            sync: self.options.durable,
            below: below(&home, &layer)?,
            cancel: request.cancel,
            digests: request.digests,
        };
        let nowhere = fs::make_nowhere(&home, self.temporary(STAGE)?.name()).map_err(|e| room::explain(e, home.as_fd()))?;
        let is_changed = AtomicBool::new(false);
        let mark = || {
            is_changed.store(true, Ordering::SeqCst);
            layer.set_unfinished(kind)
        };
        let unpacked = undo::all_or_nothing(|undo| {
            undo.with(|| match (is_changed.load(Ordering::SeqCst), kind) {
                (true, Unfinished::First) => self.empty_again(&layer, &diff, &root),
                _ => Ok(()),
            });
            let outcome =
                archive::unpack(request.content, diff.as_fd(), nowhere.as_fd(), &options, &mark, request.progress)?;
            if kind == Unfinished::First && !outcome.root_described && is_changed.load(Ordering::SeqCst) {
                // Not the time when it was made: the same archive is to make the same layer.
                place::set_times(&diff, Time::KEEP, Time::default())?;
            }
            if outcome.root_opaque {
                self.cut_off(&layer, undo)?;
            }
            let size = request.size.map(|size| Ok((size, tree::size(diff.as_fd())?))).transpose()?;
            if is_changed.load(Ordering::SeqCst) {
                undo.with(|| layer.set_unfinished(kind));
                self.finish(&layer)?;
            }
            if let Some((place, size)) = size {
                *place = size;
            }
            if let Some(wanted) = request.outcome {
                *wanted = outcome;
            }
            Ok(())
        });
        let is_lost = is_changed.load(Ordering::SeqCst) && kind == Unfinished::Again;
        unpacked.map_err(|e| if is_lost { e.hint("the layer is incomplete now; remove it and make it anew") } else { e })
    }

    /// Makes an empty layer of one that an archive failed in: also the root's owner, mode and attributes (an ACL among them
    /// would be handed down) are as they were. In place, because the layer may be mounted.
    fn empty_again(&self, layer: &Layer, diff: &OwnedFd, root: &Stat) -> Result<()> {
        tree::empty(diff.as_fd())?;
        archive::remove_xattrs(diff.as_fd())?;
        place::set_owner(diff, root.uid, root.gid)?;
        place::set_mode(diff, root.mode & 0o7777)?;
        self.finish(layer)
    }

    fn finish(&self, layer: &Layer) -> Result<()> {
        layer.set_finished()?;
        if self.options.durable { fs::fsync(layer, "layer directory") } else { Ok(()) }
    }

    /// The layer's root hides everything below: it becomes one without parents.
    fn cut_off<'a>(&'a self, layer: &'a Layer, undo: &mut Undo<'a>) -> Result<()> {
        layer.set_root_opaque()?;
        undo.with(|| layer.set_root_transparent());
        self.make_base(layer, undo)
    }
}

/// The content of the lower layers. One that cannot be found is left out: the layer can be filled before those below it are.
fn below(home: &OwnedFd, layer: &Layer) -> Result<Below> {
    let lowers = found(lowers_of(home, layer))?.unwrap_or_default();
    let base = Arc::new(fs::open_dir_at(home, ".")?);
    let mut layers = Vec::with_capacity(lowers.0.len());
    for link in &lowers.0 {
        let owner = found(fs::read_link_at(home, link.path()))?.and_then(|text| owner_of(&text));
        layers.extend(owner.map(|id| lower(&base, &id)).transpose()?.flatten());
        if found(look(home, link))?.is_some_and(|seen| seen.root_opaque) {
            break;
        }
    }
    Ok(Below::new(layers))
}

/// Where a lower layer has its content. One that is a symlink, as those of a remote store, is held open, wherever that leads.
fn lower(home: &Arc<OwnedFd>, id: &LayerId) -> Result<Option<Lower>> {
    match found(fs::stat_at(home, id))?.map(|stat| stat.kind) {
        Some(FileKind::Dir) => Ok(Some(Lower { base: Arc::clone(home), path: Path::new(id.as_str()).join(DIFF) })),
        Some(FileKind::Symlink) => {
            let held = found(fs::open_dir_at_follow(home, id))?;
            Ok(held.map(|dir| Lower { base: Arc::new(dir), path: DIFF.into() }))
        }
        _ => Ok(None),
    }
}

/// `None` for what is missing or damaged.
fn found<T>(looked: Result<T>) -> Result<Option<T>> {
    let is_damaged = |e: &Error| e.kind() == Kind::Corrupt || e.errno() == EINVAL || is_no_directory(e);
    match looked {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == Kind::NotFound || is_damaged(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
