//! Unpacking an archive into a layer.

use super::Overlay;
use super::layout::{DIFF_MODE, Layer};
use crate::archive::{self, Options, Whiteouts};
use crate::driver::Unpack;
use crate::error::{Error, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::sys::fs;
use crate::sys::place::{self, Time};
use crate::tree;
use std::os::fd::{AsFd, OwnedFd};

impl Overlay {
    /// The layer is marked while the unpack is under way: after a crash, or a failure in a layer that was not empty before, it
    /// is refused until it is made anew. A failure in an empty layer leaves it empty.
    pub(super) fn apply(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let home = self.home.open()?;
        let layer = Layer::open(&home, id)?;
        layer.check_finished()?;
        let diff = layer.diff()?;
        let was_empty = is_empty(&diff)?;
        layer.set_unfinished()?;
        if was_empty {
            // A root that the archive does not describe is not to tell when it was unpacked.
            place::set_times(&diff, Time::KEEP, Time::default())?;
        }
        let options = Options {
            whiteouts: Whiteouts::Overlay,
            shift: self.options.remap,
            limits: request.limits,
            sync: self.options.durable,
            cancel: request.cancel,
            digests: request.digests,
        };
        let unpacked =
            archive::unpack_showing(request.content, diff.as_fd(), &options, request.progress).and_then(|outcome| {
                if outcome.root_opaque {
                    layer.set_root_opaque()?;
                    self.make_base(&layer)?;
                }
                if let Some(size) = request.size {
                    *size = tree::size(diff.as_fd())?;
                }
                self.finish(&layer)?;
                if let Some(wanted) = request.outcome {
                    *wanted = outcome;
                }
                Ok(())
            });
        match unpacked {
            Ok(()) => Ok(()),
            Err(e) if was_empty => Err(match self.restore(&layer, &diff).and_then(|()| self.finish(&layer)) {
                Ok(()) => e,
                Err(other) => e.and_also(other),
            }),
            Err(e) => Err(e.hint("the layer is incomplete now; remove it and make it anew")),
        }
    }

    /// Makes an empty layer of one that an archive failed in: also the root's owner, mode and attributes (an ACL among them
    /// would be handed down) are as they are made. In place, because the layer may be mounted.
    fn restore(&self, layer: &Layer, diff: &OwnedFd) -> Result<()> {
        tree::empty(diff.as_fd())?;
        let owner = self.options.remap.as_ref().map_or((0, 0), |remap| (remap.uid, remap.gid));
        place::set_owner(diff, owner.0, owner.1)?;
        archive::remove_xattrs(diff.as_fd())?;
        layer.set_root_transparent()?;
        place::set_mode(diff, DIFF_MODE)
    }

    fn finish(&self, layer: &Layer) -> Result<()> {
        layer.set_finished()?;
        if self.options.durable { fs::fsync(layer, "layer directory") } else { Ok(()) }
    }
}

fn is_empty(dir: &OwnedFd) -> Result<bool> {
    let mut empty = true;
    fs::each_entry(dir, |_| -> Result<(), Error> {
        empty = false;
        Ok(())
    })?;
    Ok(empty)
}
