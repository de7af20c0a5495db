//! What a check of a store asks: whose a layer's directories are, and which limits are nobody's.

use super::{Control, lending, own_project, reserved_ids};
use crate::error::Result;
use crate::sys::fsxattr;
use crate::sys::quota::{self, Bounds};
use std::os::fd::{AsFd, BorrowedFd};

/// How a layer's directories belong to a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// To none that was made for the layer.
    Nobodys,
    /// All to this one.
    Project(u32),
    /// The layer's own directory is in the project of home, where a crash left it; what is inside has this one.
    Lent(u32),
    /// To this one, but either the layer's directory or its content does not.
    Divided(u32),
}

impl Control {
    /// Whose the layer directory `dir` of `home` is, and its content `diff`.
    ///
    /// # Errors
    /// They cannot be asked.
    pub fn belonging(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>, diff: BorrowedFd<'_>) -> Result<Belonging> {
        match (own_project(home, dir)?, own_project(home, diff)?) {
            (Some(id), Some(inside)) if id == inside => Ok(Belonging::Project(id)),
            (Some(id), _) => Ok(Belonging::Divided(id)),
            (None, None) => Ok(Belonging::Nobodys),
            (None, Some(inside)) => {
                let homes = fsxattr::project(home)?;
                let is_lent = homes.inherited && fsxattr::project(dir)?.id == homes.id;
                let common = if is_lent { lending::project_inside(home, dir)? } else { None };
                Ok(common.map_or(Belonging::Divided(inside), Belonging::Lent))
            }
        }
    }

    /// The project that was made for the layer directory `dir` of `home`, if one was.
    ///
    /// # Errors
    /// They cannot be asked.
    pub fn project(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<Option<u32>> {
        own_project(home, dir)
    }

    /// Projects that have a limit and no files, and are not in the administrator's lists. None where nothing is counted, and where the
    /// kernel (before Linux 4.6) cannot list them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unused_limits(&self, home: BorrowedFd<'_>) -> Result<Vec<u32>> {
        let mut unused = Vec::new();
        if !self.is_counted(home)? {
            return Ok(unused);
        }
        let reserved = reserved_ids()?;
        // XFS gives every new project the limits of project 0.
        let usual = quota::get(home, &self.node, 0)?.bounds;
        let mut next = Some(1);
        while let Some(from) = next {
            let Some((id, found)) = quota::from(home.as_fd(), &self.node, from)? else { break };
            let is_limited = found.bounds != Bounds::default() && found.bounds != usual;
            if is_limited && found.used.inodes == 0 && !reserved.contains(&id) {
                unused.push(id);
            }
            // Some kernels begin again at the end.
            next = id.max(from).checked_add(1).filter(|_| id >= from);
        }
        Ok(unused)
    }
}
