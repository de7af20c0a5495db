//! Room beyond the limit for the moment of a mount.
//!
//! Overlayfs makes a directory in `work` whenever a layer is mounted. Where that fails for want of room, it mounts the layer
//! read-only and tells nobody: a container that has used up its limit could be started no more, not even to delete files. (XFS
//! limits everyone and wants some blocks in reserve for each new directory; ext4 lets root through.)

use super::Control;
use crate::error::Result;
use crate::sys::quota::{self, Amounts};
use std::os::fd::BorrowedFd;

/// More than any filesystem reserves for a few directories.
const ROOM: Amounts = Amounts { bytes: 1 << 20, inodes: 16 };

impl Control {
    /// Runs `action` with some room in the project of `dir`. Only the hard limit is raised, and only if need be; the soft limit
    /// keeps the true one, so that the next call puts right what a crash in between would leave.
    ///
    /// # Errors
    /// Those of `action`, or the limit cannot be changed.
    pub fn with_room<T>(&self, dir: BorrowedFd<'_>, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(id) = self.own_project(dir)? else { return action() };
        let quota = quota::get(dir, &self.node, id)?;
        let raised = Amounts {
            bytes: roomy(quota.soft.bytes, quota.used.bytes, ROOM.bytes),
            inodes: roomy(quota.soft.inodes, quota.used.inodes, ROOM.inodes),
        };
        if raised == quota.soft && quota.hard == quota.soft {
            return action();
        }
        quota::set_limits(dir, &self.node, id, raised, quota.soft)?;
        let done = action();
        match (done, quota::set_limits(dir, &self.node, id, quota.soft, quota.soft)) {
            (Err(e), Err(other)) => Err(e.and_also(other)),
            (done, restored) => restored.and(done),
        }
    }
}

/// The limit that leaves so much room; `limit` itself if it does.
fn roomy(limit: u64, used: u64, room: u64) -> u64 {
    if limit == 0 { 0 } else { limit.max(used.saturating_add(room)) }
}

#[cfg(test)]
mod tests {
    use super::roomy;

    #[test]
    fn a_limit_is_raised_only_where_room_is_missing() {
        assert_eq!([roomy(0, 50, 10), roomy(100, 50, 10), roomy(100, 90, 10), roomy(100, 95, 10)], [0, 100, 100, 105]);
        assert_eq!(roomy(100, u64::MAX, 10), u64::MAX);
    }
}
