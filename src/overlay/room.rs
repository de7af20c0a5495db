//! Saying what there is no room for: the kernel has one error number for all of it.

use crate::error::errno::EDQUOT;
use crate::error::{Error, Kind};
use crate::sys::fs::{self, Room};
use std::os::fd::AsFd;

/// Adds to an error for want of room what the filesystem that holds `at` has none of, unless it says that already. To be asked
/// before anything is undone.
pub(super) fn told(at: impl AsFd, error: Error) -> Error {
    match fs::room(at) {
        Ok(room) if error.kind() == Kind::NoSpace && !error.has_hint() => explained(&room, error),
        _ => error,
    }
}

/// The same of a filesystem that has been asked.
pub(super) fn explained(room: &Room, error: Error) -> Error {
    // XFS makes inodes out of space: without that it says that it has none of either.
    let hint = match room.inodes {
        _ if error.errno() == EDQUOT => "the layer has reached its limit; remove files from it, or give it a higher limit",
        Some(0) if room.bytes > 0 => "the filesystem of home has no free inodes; remove layers that are not needed",
        _ => {
            "the filesystem of home has no free space, or the layer has reached its limit; remove layers that are not needed"
        }
    };
    error.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::errno::ENOSPC;

    #[test]
    fn the_sentence_names_what_is_missing() {
        let text = |inodes, bytes, errno| {
            explained(&Room { inodes, bytes, read_only: false }, Error::sys("mkdir 'x'", errno)).to_string()
        };
        assert!(text(Some(0), 4096, ENOSPC).contains("no free inodes"));
        assert!(text(Some(0), 0, ENOSPC).contains("no free space"), "XFS");
        assert!(text(None, 0, ENOSPC).contains("no free space"), "btrfs");
        assert!(text(Some(0), 0, EDQUOT).contains("reached its limit") && !text(Some(0), 0, EDQUOT).contains("no free"));
    }
}
