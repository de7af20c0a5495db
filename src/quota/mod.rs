//! Project quota: limits on what a directory tree occupies, in bytes and inodes, on ext4 and XFS.
//!
//! A tree is given a *project id*, which all that is made inside inherits; the kernel counts and limits what has the id.
//!
//! The id goes on the directory before the limit is set. A directory that is being made is empty and known to its maker only,
//! so nothing can be written past the limit; and it is the directory that tells after a crash which id was in use: who sweeps
//! it away clears the limit. (In the other order a crash would leave a limit that nobody knows of.) The kernel's count of
//! inodes shows the id as taken from that moment, to other processes too: see [`Control::limit`].
//!
//! Whether limits are enforced may change at any time, by a command of the administrator: it is asked for whenever it matters.

mod audit;
mod ids;
mod lending;
mod reason;
mod request;
mod room;

pub use audit::Belonging;
pub use lending::renaming;
pub use request::{check_size, limits};
pub use room::{is_note, project_of};

use crate::driver::Usage;
use crate::error::errno::{EACCES, EISDIR, ELOOP, ENOENT, ENOTDIR, EPERM, EROFS};
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::sys::fs::{self, FileKind};
use crate::sys::fsxattr::{self, Project};
use crate::sys::quota::{self, Amounts, Bounds, Grace};
use ids::Ids;
use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The device node that the C module makes in home to ask for quota by, and that it and older kernels need.
pub const NODE: &str = "backingFsBlockDev";

/// Draws of an id that somebody else took in the same moment, before giving up.
const COLLISIONS: u32 = 64;

/// Most that a directory may occupy; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, also those of directories and of what is still to be written back. In force is the largest multiple of the
    /// filesystem's block that is not above it, but one block at least.
    pub bytes: u64,
    /// Inodes: files, directories and all else that has a name.
    pub inodes: u64,
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Limits::default()
    }
}

/// A project id in use by a directory: neither 0 nor `u32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(u32);

impl ProjectId {
    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Project quota on the filesystem of one home directory, whether it is enforced at the moment or not. It holds no descriptor;
/// all methods may be called from any thread.
#[derive(Debug)]
pub struct Control {
    node: PathBuf,
    block: u64,
    ids: Mutex<Ids>,
    /// Ids that more than one directory in home has: layers of the C module, which could draw an id twice. Looked for when they
    /// first matter.
    shared: Mutex<Option<BTreeSet<u32>>>,
}

impl Control {
    /// Makes ready to use project quota on the filesystem of `home`, whose path is `path`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`]: it is a filesystem that never has project quota. Any other: that cannot be found out now.
    pub fn probe(home: BorrowedFd<'_>, path: &Path) -> Result<Control> {
        let control = Control::look(home, path)?;
        match make_node(home) {
            // Not needed from Linux 5.14 on.
            Err(e) if is_lasting(&e) => {
                log::info!("the device node '{}' cannot be made: {e}", control.node.display());
            }
            made => made?,
        }
        Ok(control)
    }

    /// The same, to look only: nothing is made.
    ///
    /// # Errors
    /// As for [`Control::probe`].
    pub fn look(home: BorrowedFd<'_>, path: &Path) -> Result<Control> {
        reason::check_filesystem(home)?;
        Ok(Control {
            block: quota::block_size(home)?.max(1),
            ids: Mutex::new(Ids::above(fsxattr::project(home)?.id)),
            shared: Mutex::new(None),
            node: path.join(NODE),
        })
    }

    /// Makes sure that limits are enforced at this moment.
    ///
    /// # Errors
    /// [`Kind::Unsupported`], saying why they are not and what to do about it.
    pub fn check_enforced(&self, home: BorrowedFd<'_>) -> Result<()> {
        reason::check_switches(home, &self.node)
    }

    /// Whether the kernel counts, and so knows limits and lets them be changed, be they enforced or not.
    fn is_counted(&self, home: BorrowedFd<'_>) -> Result<bool> {
        Ok(quota::switches(home, &self.node)?.is_some_and(|on| on.accounted))
    }

    /// Gives the empty directory `dir` of `home` a project of its own with these limits; all that is made in it belongs to it.
    ///
    /// Two processes may try the same id in the same moment. Each puts it on its directory first and then counts: the kernel
    /// shows both of them two inodes, unless one is done already, and who sees two tries another.
    ///
    /// # Errors
    /// The kernel refuses, or every id is taken; `dir` has the project it had then.
    pub fn limit(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>, limits: Limits) -> Result<ProjectId> {
        let before = fsxattr::project(dir)?;
        let limited = self.claim(home, dir).and_then(|id| match self.set_limits(dir, id, limits) {
            Ok(()) => Ok(ProjectId(id)),
            Err(e) => {
                lock(&self.ids).give_back(id);
                Err(e)
            }
        });
        limited.map_err(|e| match fsxattr::set_project(dir, before) {
            Ok(()) => e,
            Err(other) => e.and_also(other),
        })
    }

    /// Puts an id on `dir` that nobody else has.
    fn claim(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<u32> {
        let mut reserved = reserved_ids()?;
        reserved.insert(fsxattr::project(home)?.id);
        for collision in 0..COLLISIONS {
            let id = lock(&self.ids).draw(|id| Ok(reserved.contains(&id) || self.is_used(dir, id)?))?;
            fsxattr::set_project(dir, Project { id, inherited: true })?;
            if quota::get(dir, &self.node, id)?.used.inodes <= 1 {
                return Ok(id);
            }
            // Whoever else drew it will not draw the same number of steps.
            let [steps] = fs::random()?;
            lock(&self.ids).skip(u32::from(steps) % (collision + 2));
        }
        Err(Error::new(Kind::Busy, format!("{COLLISIONS} project ids were taken by others in the moment they were drawn")))
    }

    /// Whether anyone has the id: has files with it or a limit for it. (XFS gives every new project the limits of project 0.)
    fn is_used(&self, fd: BorrowedFd<'_>, id: u32) -> Result<bool> {
        let found = quota::get(fd, &self.node, id)?;
        if found.used != Amounts::default() {
            return Ok(true);
        }
        Ok(found.bounds != Bounds::default() && found.bounds != quota::get(fd, &self.node, 0)?.bounds)
    }

    /// Both limits are the same: the C module has it so, and `df` shows the soft one where there is one.
    fn set_limits(&self, fd: BorrowedFd<'_>, id: u32, limits: Limits) -> Result<()> {
        let bytes = match limits.bytes {
            0 => 0,
            bytes => (bytes - bytes % self.block).max(self.block),
        };
        let amounts = Amounts { bytes, inodes: limits.inodes };
        quota::set(fd, &self.node, id, Bounds { hard: amounts, soft: amounts }, Grace::default())
    }

    /// What must be done before a layer, the directory `dir` of `home`, is used: a log line where it has a limit that is not
    /// enforced, and putting right what a crash left of its limit and its project. Nothing of this keeps a layer from use.
    pub fn before_use(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>, layer: &str) {
        if let Err(e) = self.look_after(home, dir, layer) {
            log::warn!("the limit of layer '{layer}' is uncertain: {e}");
        }
    }

    fn look_after(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>, layer: &str) -> Result<()> {
        if fsxattr::project(home)?.inherited {
            self.reclaim(home, dir)?;
        }
        let Some(id) = own_project(home, dir)? else { return Ok(()) };
        let Err(why) = self.check_enforced(home) else { return self.settle(home, id) };
        // Where nothing is counted, that there is a project is all that tells of a limit.
        if self.is_counted(home)? {
            self.settle(home, id)?;
            if quota::get(home, &self.node, id)?.bounds == Bounds::default() {
                return Ok(());
            }
        }
        log::warn!("layer '{layer}' is used without its limit (project {id}): {why}");
        Ok(())
    }

    /// Takes the limits of `dir` away, which is about to be deleted from `home` and should be empty. Its id is drawn again when
    /// nothing has it any more: a file that is deleted but still open keeps it. One without a project is left alone, and so
    /// are limits that another layer has as well. Where nothing is counted the kernel knows no limits, and they stay on disk.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<()> {
        let Some(id) = own_project(home, dir)? else { return Ok(()) };
        if !self.is_counted(home)? {
            log::warn!(
                "limits of project {id} cannot be cleared while the filesystem is mounted without project quota; \
                 mounted with it, run setquota -P {id} 0 0 0 0 on its mount point"
            );
            return Ok(());
        }
        // Only where the kernel counts more than the directory itself can there be another layer; or files of this one that are
        // still open, or that XFS has not got round to freeing yet.
        if quota::get(dir, &self.node, id)?.used.inodes > 1 && self.is_left_to_others(home, dir, id)? {
            log::warn!("project {id} keeps its limits: another layer has the same project id");
            return Ok(());
        }
        self.set_limits(dir, id, Limits::default())?;
        room::forget(home, id)?;
        lock(&self.ids).give_back(id);
        Ok(())
    }

    /// Whether directories of home other than `dir`, which is about to go, have the id; `dir` has not any more then, so that of
    /// several who go at once one is the last. Who shared it may be gone by now.
    fn is_left_to_others(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>, id: u32) -> Result<bool> {
        let mut shared = lock(&self.shared);
        if shared.as_ref().is_none_or(|known| known.contains(&id)) {
            *shared = Some(shared_ids(home).context(|| "look for project ids that layers share")?);
        }
        let is_shared = shared.as_ref().is_some_and(|shared| shared.contains(&id));
        if is_shared {
            fsxattr::set_project(dir, Project { id: 0, inherited: false })?;
        }
        Ok(is_shared)
    }

    /// What `dir`, in a layer of `home`, occupies with all that has its project, in one question to the kernel; `None` if it has
    /// no project of its own, or nothing is counted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn usage(&self, home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<Option<Usage>> {
        let Some(id) = own_project(home, dir)? else { return Ok(None) };
        match quota::get(dir, &self.node, id) {
            Ok(found) => Ok(Some(Usage { bytes: found.used.bytes, inodes: found.used.inodes })),
            Err(_) if !self.is_counted(home)? => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The project that was made for `dir`, if one was. That of home is everybody's, whatever it is at the moment; and in a store that
/// hosts share the number means another filesystem's.
fn own_project(home: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<Option<u32>> {
    let id = fsxattr::project(dir)?.id;
    let is_own = id != 0
        && id != u32::MAX
        && id != fsxattr::project(home)?.id
        && fs::stat_fd(home)?.device == fs::stat_fd(dir)?.device;
    Ok(is_own.then_some(id))
}

/// Makes the block device node of the filesystem that holds `home`. One that is there already, of the same device, stays.
fn make_node(home: BorrowedFd<'_>) -> Result<()> {
    const BLOCK_0600: u32 = 0o060_600;
    let device = fs::stat_fd(home)?.device;
    match fs::stat_at(home, NODE) {
        Ok(node) if node.mode == BLOCK_0600 && node.rdev == device => return Ok(()),
        Err(e) if !fs::is_absent(&e) => return Err(e),
        _ => {}
    }
    // In one step: older kernels can be asked by nothing else.
    let made = format!(".{NODE}");
    match fs::remove_file_at(home, &made) {
        Err(e) if !fs::is_absent(&e) => return Err(e),
        _ => fs::make_node_at(home, &made, BLOCK_0600, device)?,
    }
    fs::rename_at(home, &made, home, NODE).map_err(|e| match fs::remove_file_at(home, &made) {
        Ok(()) => e,
        Err(other) => e.and_also(other),
    })
}

/// Whether the node cannot be made now, nor ever as things are: no right to, no room, or something else in its place.
fn is_lasting(error: &Error) -> bool {
    [Kind::NoSpace, Kind::Unsupported, Kind::Busy].contains(&error.kind())
        || [EPERM, EACCES, EROFS, EISDIR].contains(&error.errno())
}

/// The ids in the administrator's lists of projects: `id:path` and `name:id` (`projects(5)`, `projid(5)`).
///
/// # Errors
/// There is a list, and it cannot be read: any id may be in it.
fn reserved_ids() -> Result<BTreeSet<u32>> {
    let read = |path| match std::fs::read(path).map_err(|e| Error::io(format!("read '{path}'"), &e)) {
        // There is none. A container runtime that is to hand on a file that is not there makes a directory.
        Err(e) if [ENOENT, ENOTDIR, EISDIR, ELOOP].contains(&e.errno()) => Ok(Vec::new()),
        Err(e) => Err(e.context("which project ids are the administrator's").hint("make it readable, or move it away")),
        list => list,
    };
    let (projects, names) = (read("/etc/projects")?, read("/etc/projid")?);
    Ok(field(&projects, 0).chain(field(&names, 1)).collect())
}

/// The numbers in one of the `:`-separated fields of every line that is no comment.
fn field(list: &[u8], number: usize) -> impl Iterator<Item = u32> {
    list.split(|&b| b == b'\n').filter(|line| !line.starts_with(b"#")).filter_map(move |line| {
        let field = line.split(|&b| b == b':').nth(number)?;
        std::str::from_utf8(field).ok()?.trim().parse().ok()
    })
}

/// The project ids that several directories in `home` have.
fn shared_ids(home: BorrowedFd<'_>) -> Result<BTreeSet<u32>> {
    let device = fs::stat_fd(home)?.device;
    let (mut ids, mut shared) = (HashSet::new(), BTreeSet::new());
    fs::each_entry(home, |entry| {
        let project = || match fs::stat_at(home, &entry.name)? {
            dir if dir.kind == FileKind::Dir && dir.device == device => {
                fs::open_dir_at(home, &entry.name).and_then(|dir| fsxattr::project(dir.as_fd())).map(Some)
            }
            _ => Ok(None), // others' ids mean something else
        };
        match project() {
            Err(e) if fs::is_absent(&e) => {} // deleted meanwhile
            project => {
                let id = project.context(|| fs::shown(&entry.name))?.map(|project| project.id);
                shared.extend(id.filter(|id| !ids.insert(*id)));
            }
        }
        Ok(())
    })?;
    Ok(shared)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_administrators_files_are_read_leniently() {
        let projects = b"# comment\n42:/srv/a\n 7 :/srv/b:with colon\nx:/srv\n\n4294967296:/big\n";
        assert_eq!(field(projects, 0).collect::<Vec<_>>(), [42, 7]);
        assert_eq!(field(b"name:10\nbare\n#n:11\nother: 12", 1).collect::<Vec<_>>(), [10, 12]);
    }
}
