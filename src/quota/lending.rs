//! Directories lent to the project of home, because the kernel renames no others in it.

use super::{Control, own_project};
use crate::error::Result;
use crate::error::errno::{ENOTDIR, EXDEV};
use crate::log;
use crate::sys::fs::{self, FileKind};
use crate::sys::fsxattr::{self, Project};
use crate::sys::subdir;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Does `rename`, which renames or exchanges the directories `names` of `home`. Where home hands its own project on to its
/// entries, the kernel lets no directory of another project be renamed in it (`EXDEV`): they are given to home's project for the
/// moment of the rename. What is inside keeps its project and its limit, and tells it after a crash: see [`Control::reclaim`].
///
/// # Errors
/// Those of `rename`, or the project cannot be set.
pub fn renaming(home: BorrowedFd<'_>, names: &[&OsStr], mut rename: impl FnMut() -> Result<()>) -> Result<()> {
    match rename() {
        Err(e) if e.errno() == EXDEV => {}
        renamed => return renamed,
    }
    let mut lent = Vec::new();
    let renamed = names.iter().try_for_each(|name| lend(home, name, &mut lent)).and_then(|()| rename());
    for (dir, own) in lent {
        if let Err(e) = fsxattr::set_project(&dir, own) {
            log::warn!("a layer's directory stays in the project of home until the layer is next used: {e}");
        }
    }
    renamed
}

/// Gives one directory to home's project, and notes whose it was.
fn lend(home: BorrowedFd<'_>, name: &OsStr, lent: &mut Vec<(OwnedFd, Project)>) -> Result<()> {
    let dir = match fs::open_dir_at(home, name) {
        // A symlink into a store that hosts share has no project that could be set.
        Err(e) if e.errno() == ENOTDIR => return Ok(()),
        opened => opened?,
    };
    let (own, homes) = (fsxattr::project(&dir)?, fsxattr::project(home)?);
    if own.id != homes.id {
        fsxattr::set_project(&dir, Project { id: homes.id, ..own })?;
        lent.push((dir, own));
    }
    Ok(())
}

impl Control {
    /// Gives `dir`, a directory of `home` that a crash left in home's project, back to its own: that of everything inside. To be
    /// done before it is emptied, or nothing would tell any more whose limit is to be cleared.
    ///
    /// # Errors
    /// The directories inside cannot be looked at, or the project cannot be set.
    pub fn reclaim(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<()> {
        if fsxattr::project(dir)?.id != fsxattr::project(home)?.id {
            return Ok(());
        }
        match project_inside(home, dir)? {
            Some(id) => fsxattr::set_project(dir, Project { id, inherited: true }),
            None => Ok(()),
        }
    }
}

/// The project that all directories in `dir` have, if it is one that was made for them. Where they differ, somebody else has
/// given them out.
pub(super) fn project_inside(home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<Option<u32>> {
    let (mut common, mut differ) = (None, false);
    fs::each_entry(dir, |entry| {
        if differ || entry.kind.is_some_and(|kind| kind != FileKind::Dir) {
            return Ok(());
        }
        match subdir::open_same_mount(dir, &entry.name) {
            Ok(inside) => {
                let own = own_project(home, inside.as_fd())?;
                differ = own.is_none() || common.is_some_and(|id| Some(id) != own);
                common = own;
                Ok(())
            }
            // What is mounted there is not part of it; and where the kind is not told, it may be no directory.
            Err(e) if [EXDEV, ENOTDIR].contains(&e.errno()) => Ok(()),
            Err(e) => Err(e),
        }
    })?;
    Ok(common.filter(|_| !differ))
}
