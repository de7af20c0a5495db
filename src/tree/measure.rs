//! Measuring: what a tree occupies, each inode once.

use super::walk::{Next, Visitor, walk};
use crate::error::Result;
use crate::sys::fs::{self, Stat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

/// What a tree occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk space allocated.
    pub bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// The sum of the sizes, in bytes, of all that is not a directory, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn size(dir: BorrowedFd<'_>) -> Result<u64> {
    Ok(measure(dir, Measure::default())?.size)
}

/// The same, of what was changed at this moment ([`Stat::changed`]) or later.
///
/// # Errors
/// Something cannot be read.
pub fn size_changed_since(dir: BorrowedFd<'_>, since: (i64, i64)) -> Result<u64> {
    Ok(measure(dir, Measure { since, ..Measure::default() })?.size)
}

/// The disk space and the inodes that a tree occupies, its top directory included, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn usage(dir: BorrowedFd<'_>) -> Result<Usage> {
    Ok(measure(dir, Measure::default())?.usage)
}

fn measure(dir: BorrowedFd<'_>, mut measure: Measure) -> Result<Measure> {
    walk(fs::open_dir_at(dir, ".")?, &mut measure, &|| false)?;
    Ok(measure)
}

/// A set of inodes: one bit for each, in words of 64 neighbours.
///
/// Filesystems hand out numbers that lie close together, so an inode takes about half a byte: ten million of them 7 MiB. Whoever
/// wants to make it take more has to make 64 inodes, of which one has several names, for each word of 24 bytes.
#[derive(Default)]
struct Inodes(HashMap<(u64, u64), u64>);

impl Inodes {
    /// Whether the inode is a new one.
    fn insert(&mut self, device: u64, inode: u64) -> bool {
        let (word, bit) = (self.0.entry((device, inode / 64)).or_default(), 1 << (inode % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[derive(Default)]
struct Measure {
    size: u64,
    usage: Usage,
    /// Older files do not count; all are younger than the default.
    since: (i64, i64),
    /// Those with several names that were counted.
    linked: Inodes,
}

impl Measure {
    /// Counts what is not a directory, unless another of its names was met before.
    fn count(&mut self, stat: &Stat) {
        if stat.links == 1 || self.linked.insert(stat.device, stat.inode) {
            // Sparse files may add up to more than there are numbers for.
            self.size = self.size.saturating_add(stat.size);
            self.add(stat);
        }
    }

    fn add(&mut self, stat: &Stat) {
        self.usage.bytes = self.usage.bytes.saturating_add(stat.allocated);
        self.usage.inodes += 1;
    }
}

impl Visitor for Measure {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let stat = match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => return Ok(()), // a container may be at work in there
            outcome => outcome?,
        };
        if stat.changed < self.since {
            return Ok(());
        }
        self.count(&stat);
        Ok(())
    }

    fn done_already(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> Result<bool> {
        Ok(false)
    }

    fn enter(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        self.add(&fs::stat_fd(dir)?);
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: Option<&OsStr>) -> Result<Next> {
        Ok(Next::On)
    }

    fn mount_point(&mut self, _: &OsStr) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_set_of_inodes_is_exact_and_small() {
        let mut inodes = Inodes::default();
        // Neighbours, and one here and there; the same numbers on two devices.
        let numbers = || (0..1_000_000_u64).chain((1 << 32..1 << 33).step_by(1 << 22));
        for device in [1, 2] {
            assert!(numbers().all(|inode| inodes.insert(device, inode)));
        }
        assert!(!numbers().any(|inode| inodes.insert(1, inode)));
        // A word and its key take 24 bytes; a table grows at seven eighths, to twice its size.
        assert!(inodes.0.capacity() * 24 < 2 << 20, "{}", inodes.0.capacity());
    }

    #[test]
    fn more_than_can_be_counted_is_the_most() {
        let mut stat = fs::stat_fd(fs::open_dir(Path::new("/")).unwrap()).unwrap();
        (stat.size, stat.links) = (i64::MAX as u64, 1);
        let mut measured = Measure::default();
        (0..3).for_each(|_| measured.count(&stat));
        assert_eq!(measured.size, u64::MAX);
    }
}
