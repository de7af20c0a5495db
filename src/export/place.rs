//! A directory on the way down a tree: open, or closed for the sake of deeper ones and found again from below.

use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, Stat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Directories of each tree that are kept open on the way down.
pub(super) const OPEN: usize = 32;

pub(super) enum Place {
    Open(OwnedFd),
    Closed(Stat),
}

impl Place {
    pub(super) fn open(&self) -> Result<BorrowedFd<'_>> {
        match self {
            Place::Open(dir) => Ok(dir.as_fd()),
            Place::Closed(_) => Err(Error::new(Kind::Internal, "a walk lost its place")),
        }
    }

    /// Lets go of the directory, but remembers which it is.
    pub(super) fn close(&mut self) -> Result<()> {
        if let Place::Open(dir) = self {
            *self = Place::Closed(fs::stat_fd(dir)?);
        }
        Ok(())
    }

    /// Opens the directory again, if it was closed, as the parent of one that is open.
    pub(super) fn reopen(&mut self, from: &Place) -> Result<()> {
        if let Place::Closed(expected) = self {
            let dir = fs::open_dir_at(from.open()?, "..")?;
            let found = fs::stat_fd(&dir)?;
            if (found.device, found.inode) != (expected.device, expected.inode) {
                return Err(Error::new(Kind::Busy, "a directory was moved away while the layer was read").hint("try again"));
            }
            *self = Place::Open(dir);
        }
        Ok(())
    }
}
