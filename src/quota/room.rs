//! Room beyond the limit for the moment of a mount.
//!
//! Overlayfs makes a directory in `work` whenever a layer is mounted. Where that fails for want of room, it mounts the layer
//! read-only and tells nobody: a container that has used up its limit could be started no more, not even to delete files. (XFS
//! limits everyone and wants some blocks in reserve for each new directory; ext4 lets root through.)
//!
//! The limits are the administrator's. Before they are raised, a *note* is made of what they were and of what they become: a
//! symlink `.room-<project id>` in home, whose text is the two. After the mount, or after a crash at the next start or the next
//! mount, limits that still are what the note says they became are set to what they were, and the note goes. Limits that anyone
//! has changed since are left alone. Note and limits take one journal's way to the disk, in this order, so that no power cut
//! keeps the later without the earlier.

use super::{Control, own_project};
use crate::error::{Context, Result};
use crate::log;
use crate::sys::fs;
use crate::sys::quota::{self, Amounts, Bounds, Grace, Quota};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// More than any filesystem reserves for a few directories.
const ROOM: Amounts = Amounts { bytes: 1 << 20, inodes: 16 };
/// Prefix of notes in home.
const NOTE: &str = ".room-";
/// Quota files may keep limits in units of this many bytes; a raised one must be found as it was set.
const COARSEST: u64 = 1024;

/// What limits were before they were raised, and what they were raised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    found: Bounds,
    grace: Grace,
    raised: Bounds,
}

impl Control {
    /// Runs `action` with some room in the project of `dir`, a layer of `home`. Limits are raised only where usage leaves none,
    /// and are set to what they were afterwards.
    ///
    /// # Errors
    /// Those of `action`, or the limit cannot be raised.
    pub fn with_room<T>(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(id) = own_project(home, dir)? else { return action() };
        if !quota::switches(home, &self.node)?.is_some_and(|on| on.enforced) {
            return action();
        }
        // What a crash left is not what the limits are.
        self.settle(home, id)?;
        let quota = quota::get(home, &self.node, id)?;
        let raised = roomy(&quota, self.block.max(COARSEST), now());
        if raised == quota.bounds {
            return action();
        }
        let note = Note { found: quota.bounds, grace: quota.grace, raised };
        fs::symlink_at(note.text(), home, name(id)).context(|| "room beyond the layer's limit")?;
        let done = quota::set(home, &self.node, id, raised, Grace::default()).and_then(|()| action());
        if let Err(e) = self.settle(home, id) {
            log::warn!("limits of project {id} stay raised until its layer is next mounted: {e}");
        }
        done
    }

    /// Deals with a note that a start found in home by its name. While nothing is counted it stays.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settle_note(&self, home: BorrowedFd<'_>, note: &OsStr) -> Result<()> {
        match project_of(note) {
            Some(id) if self.is_counted(home)? => self.settle(home, id),
            _ => Ok(()),
        }
    }

    /// Sets the limits of a project to what its note says they were, if there is one, and removes it.
    pub(super) fn settle(&self, home: BorrowedFd<'_>, id: u32) -> Result<()> {
        let text = match fs::read_link_at(home, name(id)) {
            Ok(text) => text,
            Err(e) if fs::is_absent(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        match text.to_str().and_then(Note::parse) {
            Some(note) if quota::get(home, &self.node, id)?.bounds == note.raised => {
                quota::set(home, &self.node, id, note.found, note.grace)?;
            }
            Some(_) => {} // not raised yet, or somebody has set other limits since
            None => log::warn!("the note '{}' makes no sense: {}", name(id), fs::shown(&text)),
        }
        forget(home, id)
    }
}

/// Removes the note about a project, if there is one.
pub(super) fn forget(home: BorrowedFd<'_>, id: u32) -> Result<()> {
    match fs::remove_file_at(home, name(id)) {
        Err(e) if !fs::is_absent(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Whether an entry of home is a note about limits, for [`Control::settle_note`].
#[must_use]
pub fn is_note(name: &OsStr) -> bool {
    project_of(name).is_some()
}

fn name(id: u32) -> String {
    format!("{NOTE}{id}")
}

/// The project that a note is about, if it is one.
#[must_use]
pub fn project_of(note: &OsStr) -> Option<u32> {
    let id = note.to_str()?.strip_prefix(NOTE)?.parse().ok()?;
    Some(id).filter(|&id| note == name(id).as_str())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Note {
    fn text(&self) -> String {
        let numbers = [
            self.found.hard.bytes,
            self.found.hard.inodes,
            self.found.soft.bytes,
            self.found.soft.inodes,
            self.grace.bytes,
            self.grace.inodes,
            self.raised.hard.bytes,
            self.raised.hard.inodes,
            self.raised.soft.bytes,
            self.raised.soft.inodes,
        ];
        numbers.map(|number| number.to_string()).join(" ")
    }

    fn parse(text: &str) -> Option<Note> {
        let numbers = text.split(' ').map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
        let [hb, hi, sb, si, gb, gi, rhb, rhi, rsb, rsi] = numbers.try_into().ok()?;
        let bounds = |hard: [u64; 2], soft: [u64; 2]| Bounds {
            hard: Amounts { bytes: hard[0], inodes: hard[1] },
            soft: Amounts { bytes: soft[0], inodes: soft[1] },
        };
        Some(Note {
            found: bounds([hb, hi], [sb, si]),
            grace: Grace { bytes: gb, inodes: gi },
            raised: bounds([rhb, rhi], [rsb, rsi]),
        })
    }
}

/// The limits that leave room in a filesystem with such blocks; those that do already are not changed. A soft limit is in the way only
/// when it may be exceeded no more.
fn roomy(quota: &Quota, block: u64, now: u64) -> Bounds {
    let Quota { bounds: Bounds { hard, soft }, grace, used } = quota;
    let bytes = used.bytes.saturating_add(ROOM.bytes).checked_next_multiple_of(block).unwrap_or(u64::MAX);
    let inodes = used.inodes.saturating_add(ROOM.inodes);
    let raised = |limit: u64, needed: u64| if limit == 0 { 0 } else { limit.max(needed) };
    let due = |limit: u64, needed: u64, end: u64| if end != 0 && end <= now { raised(limit, needed) } else { limit };
    Bounds {
        hard: Amounts { bytes: raised(hard.bytes, bytes), inodes: raised(hard.inodes, inodes) },
        soft: Amounts { bytes: due(soft.bytes, bytes, grace.bytes), inodes: due(soft.inodes, inodes, grace.inodes) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    fn bounds(hard: u64, soft: u64) -> Bounds {
        Bounds { hard: Amounts { bytes: hard, inodes: 0 }, soft: Amounts { bytes: soft, inodes: 0 } }
    }

    fn used(bytes: u64) -> Amounts {
        Amounts { bytes, inodes: 5 }
    }

    #[test]
    fn a_limit_is_raised_only_where_room_is_missing() {
        for (hard, soft, in_use, expected) in [
            (0, 0, 9 * M, (0, 0)),
            (4 * M, 4 * M, 2 * M, (4 * M, 4 * M)),
            (4 * M, 0, 3 * M, (4 * M, 0)),
            (4 * M, 4 * M, 3 * M + 1, (4 * M + 4096, 4 * M)),
            (4 * M, 2 * M, 4 * M, (5 * M, 2 * M)),
            (0, 2 * M, 4 * M, (0, 2 * M)),
        ] {
            let quota = Quota { bounds: bounds(hard, soft), used: used(in_use), ..Quota::default() };
            assert_eq!(roomy(&quota, 4096, 100), bounds(expected.0, expected.1), "{quota:?}");
        }
        let quota = Quota { bounds: bounds(M, M), used: used(u64::MAX), ..Quota::default() };
        assert_eq!(roomy(&quota, 4096, 0).hard.bytes, u64::MAX);
    }

    #[test]
    fn a_soft_limit_is_raised_when_its_time_is_over() {
        let at = |bytes, now| {
            let grace = Grace { bytes, inodes: 0 };
            roomy(&Quota { bounds: bounds(9 * M, 2 * M), grace, used: used(4 * M) }, 4096, now)
        };
        assert_eq!([at(0, 100), at(101, 100)], [bounds(9 * M, 2 * M); 2]);
        assert_eq!(at(100, 100), bounds(9 * M, 5 * M));
    }

    #[test]
    fn inodes_get_room_like_bytes() {
        let limits = Amounts { bytes: 0, inodes: 20 };
        let bounds = Bounds { hard: limits, soft: limits };
        let grace = Grace { bytes: 0, inodes: 7 };
        let raised = roomy(&Quota { bounds, grace, used: Amounts { bytes: 0, inodes: 20 } }, 4096, 7);
        assert_eq!((raised.hard.inodes, raised.soft.inodes), (36, 36));
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_nothing_else_is_one() {
        let note = Note {
            found: Bounds { hard: Amounts { bytes: 1, inodes: 2 }, soft: Amounts { bytes: 3, inodes: 4 } },
            grace: Grace { bytes: 5, inodes: 6 },
            raised: Bounds { hard: Amounts { bytes: 7, inodes: 8 }, soft: Amounts { bytes: 9, inodes: u64::MAX } },
        };
        assert_eq!(Note::parse(&note.text()), Some(note));
        for text in ["", "1", "1 2 3 4 5 6 7 8 9", "1 2 3 4 5 6 7 8 9 10 11", "1 2 3 4 5 6 7 8 9 x", "1 2 3 4 5 6 7 8 9 -1"]
        {
            assert_eq!(Note::parse(text), None, "{text}");
        }
        for (name, id) in [(".room-7", Some(7)), (".room-", None), (".room-07", None), (".room-x", None), ("room-7", None)] {
            assert_eq!(project_of(OsStr::new(name)), id, "{name}");
        }
    }
}
