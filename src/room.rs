//! What it is that there was no room for: the kernel says "no space" of blocks, of inodes and of quotas alike.

use crate::error::errno::EDQUOT;
use crate::error::{Error, Kind};
use crate::sys::fsxattr;
use crate::sys::room::{self, Room};
use std::os::fd::BorrowedFd;

/// Less than this is nothing: filesystems keep some blocks for themselves.
const NOTHING: u64 = 1 << 20;

/// Adds to an error about room what is used up where `dir` is, and what to do. To be called before anything is deleted; leaves
/// other errors alone.
pub(crate) fn explain(error: Error, dir: BorrowedFd<'_>) -> Error {
    if error.kind() != Kind::NoSpace {
        return error;
    }
    let limited = fsxattr::project(dir).is_ok_and(|project| project.id != 0);
    match room::room(dir) {
        Ok(room) => {
            let advice = advice(error.errno(), room, limited);
            error.hint(advice)
        }
        Err(_) => error,
    }
}

fn advice(errno: i32, room: Room, limited: bool) -> String {
    if errno == EDQUOT {
        return "a quota is used up: raise the layer's limit, or delete some of its files".to_owned();
    }
    let (on, remedy) = if limited {
        ("on the filesystem, or to the layer's project quota", "delete files, or raise the limit")
    } else {
        ("on the filesystem", "delete files or layers there")
    };
    match room {
        Room { inodes: Some(0), .. } => format!("no inodes are free {on}: {remedy}; mkfs.ext4 -N makes one with more"),
        Room { bytes: ..NOTHING, .. } => format!("no blocks are free {on}: {remedy}"),
        Room { bytes, inodes } => {
            let inodes = inodes.map_or_else(String::new, |inodes| format!(" and {inodes} inodes"));
            format!("{} MiB{inodes} are free {on}, less than this needed: {remedy}", bytes >> 20)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_named_and_what_to_do() {
        let of = |errno, bytes, inodes, limited| advice(errno, Room { bytes, inodes }, limited);
        assert!(of(28, 9 << 30, Some(0), false).starts_with("no inodes are free on the filesystem: delete"));
        assert!(of(28, 4096, Some(7), false).starts_with("no blocks are free on the filesystem: delete"));
        assert!(of(28, 4096, None, true).contains("project quota: delete files, or raise the limit"));
        assert!(of(28, 9 << 20, Some(7), false).starts_with("9 MiB and 7 inodes are free"));
        assert!(of(EDQUOT, 9 << 30, Some(7), true).starts_with("a quota is used up"));
    }
}
