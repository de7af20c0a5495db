//! The home directory: making it ready at start, and letting go of it at the end.

use super::Shared;
use super::layout::{Home, LINKS};
use super::options::Options;
use super::probe::{self, Probed};
use crate::backing;
use crate::error::errno::{EPERM, EROFS};
use crate::error::{Context, Error, Kind, Result};
use crate::lease;
use crate::log;
use crate::mounts;
use crate::quota::{self, Control};
use crate::sys::fs::{self, FileKind};
use crate::sys::mount::{self, Flags};
use crate::sys::xattr;
use crate::undo;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A home that is ready for use.
pub(super) struct Prepared {
    pub(super) home: Home,
    pub(super) probed: Probed,
    pub(super) backing_fs: String,
    pub(super) read_only: bool,
    pub(super) quota: Result<Control>,
    pub(super) bind: Option<u64>,
}

/// Makes home ready. On a store that has layers nothing is written: a full disk must not keep anybody from deleting some.
pub(super) fn prepare(path: &Path, options: &Options) -> Result<Prepared> {
    let real = real_path(path)?;
    check_home(&real)?;
    let parent = fs::open_dir(real.parent().unwrap_or(&real))?;
    let backing_fs = backing::filesystem_name(fs::filesystem_magic(parent)?);
    let home = Home { path: path.to_owned(), real };
    let dir = home.open()?;
    let read_only = fs::is_read_only(&dir)?;
    match make_links(&dir, options) {
        Err(e) if is_without_room(&e) => log::warn!("'{LINKS}' waits for the first layer that is made: {e}"),
        outcome => outcome?,
    }
    check_marks(&dir)?;
    let quota = find_quota(&dir, &home.real, options, &backing_fs)?;
    if let Ok(quota) = &quota {
        settle_limits(&dir, quota)?;
    }
    probe::check_d_type(&dir)?;
    let mut probed = probe::probe(&home, &dir).context(|| format!("overlay on {backing_fs}"))?;
    if read_only {
        probed.remains.clear(); // there is no worker
    }
    // Last, so that a start that fails leaves no mount behind.
    let bind = if options.skip_mount_home { None } else { make_private(&home.real)? };
    Ok(Prepared { home, probed, backing_fs, read_only, quota, bind })
}

/// Refuses a path that cannot be home. Overlayfs separates paths with `:` and options with `,`, and unescapes `\`: such a home would mount something else.
///
/// # Errors
/// [`Kind::Invalid`], with the reason.
pub fn check_home(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() {
        return Err(Error::new(Kind::Invalid, "not an absolute path"));
    }
    match bytes.iter().find(|b| b",:\\\"".contains(b) || b.is_ascii_control()) {
        Some(b) => {
            Err(Error::new(Kind::Invalid, format!("the path has a '{}', which overlayfs cannot take", b.escape_ascii()))
                .hint("keep layers in a directory without , : \\ \" and control characters"))
        }
        None => Ok(()),
    }
}

/// The path without symlinks, which is what the kernel's mount table shows.
pub(super) fn real_path(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| Error::io("resolve the path", &e))
}

/// No room, or not to be written: nothing can be made then, but what is there can be used and deleted.
pub(super) fn is_without_room(error: &Error) -> bool {
    error.kind() == Kind::NoSpace || error.errno() == EROFS
}

/// Makes `l/`, and gives it and home the owner and mode that they are to have.
pub(super) fn make_links(home: &OwnedFd, options: &Options) -> Result<()> {
    let links = match fs::stat_at(home, LINKS) {
        Err(e) if fs::is_absent(&e) => {
            fs::make_dir_at(home, LINKS, 0o700)?;
            fs::stat_at(home, LINKS)?
        }
        found => found?,
    };
    if links.kind != FileKind::Dir {
        return Err(Error::new(Kind::Corrupt, format!("'{LINKS}' is no directory")).hint("move it away"));
    }
    if links.mode & 0o7777 != 0o700 {
        fs::chmod_at(home, LINKS, 0o700)?;
    }
    if let Some(remap) = &options.remap {
        for (name, stat) in [(LINKS, links), (".", fs::stat_fd(home)?)] {
            if (stat.uid, stat.gid) != (remap.uid, remap.gid) {
                fs::chown_at(home, name, remap.uid, remap.gid)?;
            }
        }
    }
    Ok(())
}

/// Layers are marked by trusted attributes, and so are overlayfs' opaque directories. In a user namespace nobody can set them.
fn check_marks(home: &OwnedFd) -> Result<()> {
    // The lease has set it, if it could.
    if xattr::is_set(home, lease::NAME)? {
        return Ok(());
    }
    match xattr::set(home, lease::NAME, b"") {
        Err(e) if e.errno() == EPERM => {
            let e = e.context("layers need 'trusted' attributes");
            Err(e.hint("run as root of the initial user namespace, with CAP_SYS_ADMIN"))
        }
        Err(e) if xattr::is_absent(&e) => Err(e.hint("the filesystem has no 'trusted' attributes; use ext4 or XFS")),
        Err(e) if is_without_room(&e) => Ok(()),
        outcome => outcome,
    }
}

/// Makes home a mount of its own with private propagation, so that layer mounts do not spread into other namespaces. Returns the number
/// of the mount if it is a bind of home on itself, ours or of a process before us, and so ours to take away at the end.
fn make_private(path: &Path) -> Result<Option<u64>> {
    let nothing = OsStr::new("");
    undo::all_or_nothing(|undo| {
        let above = fs::open_dir(path.parent().unwrap_or(path))?;
        if !mounts::is_mount_point(above, path.file_name().unwrap_or_default(), path)? {
            let mounted = mounts::below(path)?;
            if !mounted.is_empty() {
                // It would hide them: umount would not find them, and a second mount would write into the same layer.
                log::warn!(
                    "'{}' is not made a mount of its own: layers are mounted below ({})",
                    path.display(),
                    listed(&mounted)
                );
                return Ok(None);
            }
            mount::mount(path.as_os_str(), path, "", Flags::MS_BIND, nothing).map_err(mounts::table_full)?;
            undo.with(|| mount::umount_detach(path).map(drop));
        }
        mount::mount(nothing, path, "", Flags::MS_PRIVATE, nothing)?;
        mounts::bound_on_itself(path)
    })
}

/// Project quota, or why there can be none. That limits are not enforced is an error only if the configuration has some.
///
/// # Errors
/// Also where it cannot be found out now: who knows of no quota would leave the limits of layers behind that it removes.
fn find_quota(home: &OwnedFd, path: &Path, options: &Options, backing_fs: &str) -> Result<Result<Control>> {
    let cannot_limit = |e: Error| match backing_fs {
        _ if options.limits.is_none() => {
            log::info!("layers of '{}' cannot be limited: {e}", path.display());
            Ok(e)
        }
        _ if e.kind() != Kind::Unsupported => Err(e),
        "xfs" | "extfs" => {
            Err(e.context("Storage option overlay.size not supported. Filesystem does not support Project Quota"))
        }
        _ => Err(e.context("Storage option overlay.size only supported for backingFS XFS or ext4.")),
    };
    match Control::probe(home.as_fd(), path) {
        Err(e) if e.kind() == Kind::Unsupported => cannot_limit(e).map(Err),
        Err(e) => Err(e.context("look for project quota")),
        Ok(quota) => match quota.check_enforced(home.as_fd()) {
            Err(e) => cannot_limit(e).map(|_| Ok(quota)),
            Ok(()) => Ok(Ok(quota)),
        },
    }
}

/// Lowers limits that were raised for the moment of a mount when a crash came.
fn settle_limits(home: &OwnedFd, quota: &Control) -> Result<()> {
    let mut notes = Vec::new();
    fs::each_entry(home, |entry| {
        if quota::is_note(&entry.name) {
            notes.push(entry.name);
        }
        Ok(())
    })?;
    for note in notes {
        if let Err(e) = quota.settle_note(home.as_fd(), &note) {
            log::warn!("limits stay raised as a crash left them, until the layer is next mounted: {e}");
        }
    }
    Ok(())
}

impl Shared {
    /// Takes away the bind mount of home that is ours. With layers still mounted below, that would hide them from their users.
    pub(super) fn release_home(&self) -> Result<()> {
        let path = &self.home.real;
        // Another mount may have come upon it, which is its maker's.
        if self.bind.is_none() || mounts::bound_on_itself(path)? != self.bind {
            return Ok(());
        }
        match mount::umount(path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() != Kind::Busy => Err(e),
            Err(busy) => match mounts::below(path)?.as_slice() {
                [] => mount::umount_detach(path).map(drop),
                mounted => Err(busy.hint(format!("still mounted below: {}", listed(mounted)))),
            },
        }
    }
}

/// The first few of many paths.
fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().take(3).map(fs::shown).collect();
    match paths.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
