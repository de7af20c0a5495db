//! Unpacking layer archives. This is the interface that the drivers use; what is behind it comes with the next commits.

use crate::error::{Error, Kind, Result};
use std::io::Read;
use std::os::fd::BorrowedFd;

/// How far the ids in an archive are shifted for a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdShift {
    /// What user id 0 becomes.
    pub uid: u32,
    /// What group id 0 becomes.
    pub gid: u32,
    /// How many ids there are; a larger one in an archive is an error.
    pub size: u32,
}

/// What a whiteout becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// What overlayfs understands: a 0:0 character device, or the opaque mark of a directory.
    Overlay,
    /// What it names is deleted.
    Delete,
}

/// Bounds of what an archive may ask for.
#[derive(Clone, Debug, Default)]
pub struct Limits;

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Options {
    /// What whiteouts become.
    pub whiteouts: Whiteouts,
    /// User namespace shift.
    pub shift: Option<IdShift>,
    /// Bounds.
    pub limits: Limits,
    /// Force everything to disk before success is reported.
    pub sync: bool,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The archive says that the layer hides everything below it.
    pub root_opaque: bool,
}

/// Unpacks an archive into a directory.
///
/// # Errors
/// Always, for now.
pub fn unpack(_content: &mut dyn Read, _target: BorrowedFd<'_>, _options: &Options) -> Result<Outcome> {
    Err(Error::new(Kind::Unsupported, "unpacking is not built yet"))
}
