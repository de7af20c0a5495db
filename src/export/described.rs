//! What is known about a file or directory of a layer, and which of it is the archive's business.

use crate::archive;
use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, Stat};
use crate::sys::reading;
use std::os::fd::OwnedFd;

/// Overlay's own attributes (`Documentation/filesystems/overlayfs.rst`).
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";
const WHITEOUT: &[u8] = b"trusted.overlay.whiteout";
/// On files with several names that were copied up with `index=on`: the names that the lower layers have lead to the copy too.
const NLINK: &[u8] = b"trusted.overlay.nlink";

/// What overlay made of a file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// It hides what the lower layers have under its name.
    pub(super) opaque: bool,
    /// It may hold whiteouts that are files with an attribute (Linux 6.7).
    pub(super) may_hold_whiteouts: bool,
    /// Part of what it means is not in it.
    pub(super) elsewhere: Option<&'static str>,
}

/// A file or directory with its attributes.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) stat: Stat,
    /// Those that archives hold, by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) marks: Marks,
}

impl Described {
    /// Asks an open file or directory. `names` is memory to use.
    pub(super) fn of(fd: &OwnedFd, names: &mut Vec<u8>) -> Result<Described> {
        let stat = fs::stat_fd(fd)?;
        reading::xattr_names(fd, names)?;
        let (mut xattrs, mut marks) = (Vec::new(), Marks::default());
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match name {
                OPAQUE => {
                    let value = reading::xattr(fd, name)?;
                    marks.opaque = value.as_deref() == Some(b"y");
                    marks.may_hold_whiteouts = value.as_deref() == Some(b"x");
                }
                REDIRECT => marks.elsewhere = Some("it was renamed with redirect_dir=on"),
                METACOPY => marks.elsewhere = Some("only its metadata were copied up, with metacopy=on"),
                NLINK => marks.elsewhere = Some("it has other names in the lower layers, with index=on"),
                _ if archive::is_of_archives(name) => {
                    // `None`: removed meanwhile.
                    xattrs.extend(reading::xattr(fd, name)?.map(|value| (name.to_vec(), value)));
                }
                _ => {}
            }
        }
        xattrs.sort_unstable();
        Ok(Described { stat, xattrs, marks })
    }

    /// The same of a device node or a fifo, which is not opened.
    pub(super) fn of_node(node: &OwnedFd, names: &mut Vec<u8>) -> Result<Described> {
        let stat = fs::stat_fd(node)?;
        let mut xattrs = Vec::new();
        reading::node_xattr_names(node, names)?;
        for name in names.split(|byte| *byte == 0).filter(|name| archive::is_of_archives(name)) {
            xattrs.extend(reading::node_xattr(node, name)?.map(|value| (name.to_vec(), value)));
        }
        xattrs.sort_unstable();
        Ok(Described { stat, xattrs, marks: Marks::default() })
    }

    /// An error unless the layer's own directory says all about it.
    pub(super) fn check_whole(&self) -> Result<()> {
        let Some(why) = self.marks.elsewhere else { return Ok(()) };
        Err(Error::new(Kind::Busy, format!("the layer changed while it was read: {why}")).hint("try again"))
    }

    /// Whether an archive would say the same of both.
    pub(super) fn says_the_same(&self, other: &Described) -> bool {
        let said = |d: &Described| (d.stat.mode, d.stat.uid, d.stat.gid, d.stat.modified);
        said(self) == said(other) && self.xattrs == other.xattrs
    }
}

/// Whether two names, of different trees, are the same inode in the same state: nobody can set the time of the last change.
pub(super) fn same_inode(a: &Stat, b: &Stat) -> bool {
    let who = |s: &Stat| (s.inode, s.changed, s.modified, s.size, s.mode, s.uid, s.gid, s.links, s.rdev);
    who(a) == who(b)
}

/// Whether a name in a directory that may hold whiteouts is one.
pub(super) fn is_whiteout(node: &OwnedFd) -> Result<bool> {
    Ok(reading::node_xattr(node, WHITEOUT)?.is_some())
}
