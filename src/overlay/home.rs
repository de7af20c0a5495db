//! The home directory: making it ready at start, and letting go of it at the end.

use super::Overlay;
use super::layout::{Home, LINKS, STAGE, TRASH};
use super::options::Options;
use super::probe::{self, Stacking};
use super::remove;
use crate::backing;
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::mounts;
use crate::quota::Control;
use crate::sys::fs;
use crate::sys::mount::{self, Flags};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A home that is ready for use.
pub(super) struct Prepared {
    pub(super) home: Home,
    pub(super) stacking: Stacking,
    pub(super) backing_fs: String,
    pub(super) quota: Result<Control>,
    pub(super) is_bound: bool,
}

pub(super) fn prepare(path: &Path, options: &Options) -> Result<Prepared> {
    check_path(path)?;
    make_home(path, options)?;
    let parent = fs::open_dir(path.parent().unwrap_or(path))?;
    let backing_fs = backing::filesystem_name(fs::filesystem_magic(parent)?);
    if !options.skip_mount_home {
        make_private(path)?;
    }
    let home = Home(path.to_owned());
    let dir = home.open()?;
    let quota = find_quota(&dir, path, options, &backing_fs)?;
    sweep_leftovers(&dir, quota.as_ref().ok())?;
    probe::check_d_type(&dir)?;
    let stacking = probe::probe_overlay(&home, &dir).context(|| format!("overlay on {backing_fs}"))?;
    sweep_links(&dir)?;
    let is_bound = is_bound(path)?;
    Ok(Prepared { home, stacking, backing_fs, quota, is_bound })
}

/// Overlayfs separates paths with `:` and options with `,`, and unescapes `\`: such a home would mount something else.
fn check_path(path: &Path) -> Result<()> {
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

/// Makes home and `l/`. Nobody but root has business in there: set-user-id programs of images lie around in it.
fn make_home(path: &Path, options: &Options) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::sys("make the directory", e.raw_os_error().unwrap_or_default()))?;
    let home = fs::open_dir(path)?;
    match fs::make_dir_at(&home, LINKS, 0o700) {
        Err(e) if e.kind() == Kind::Exists => fs::chmod_at(&home, LINKS, 0o700)?,
        made => made?,
    }
    if let Some(remap) = &options.remap {
        fs::chown_at(&home, LINKS, remap.uid, remap.gid)?;
        fs::chown_at(&home, ".", remap.uid, remap.gid)?;
    }
    Ok(())
}

/// Makes home a mount of its own with private propagation, so that layer mounts do not spread into other namespaces.
fn make_private(path: &Path) -> Result<()> {
    let nothing = OsStr::new("");
    if !mounts::is_mount_point(fs::open_dir(path.parent().unwrap_or(path))?, path.file_name().unwrap_or_default(), path)? {
        mount::mount(path.as_os_str(), path, "", Flags::MS_BIND, nothing)?;
    }
    mount::mount(nothing, path, "", Flags::MS_PRIVATE, nothing)
}

/// Whether home is a bind mount of itself: a mount point, yet on the device of its parent directory.
fn is_bound(path: &Path) -> Result<bool> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    let parent = fs::open_dir(above)?;
    let same_device = fs::stat_fd(&parent)?.device == fs::stat_at_follow(&parent, name)?.device;
    Ok(same_device && mounts::is_mount_point(parent, name, path)?)
}

/// Project quota, or why there is none; that is an error only if the configuration has limits.
fn find_quota(home: &OwnedFd, path: &Path, options: &Options, backing_fs: &str) -> Result<Result<Control>> {
    match Control::probe(home.as_fd(), path) {
        Err(e) if !options.limits.is_none() => Err(e.context(match backing_fs {
            "xfs" | "extfs" => "Storage option overlay.size not supported. Filesystem does not support Project Quota",
            _ => "Storage option overlay.size only supported for backingFS XFS or ext4.",
        })),
        Err(e) => {
            log::info!("layers of '{}' cannot be limited: {e}", path.display());
            Ok(Err(e))
        }
        found => Ok(found),
    }
}

/// Deletes what a crash left half made or half deleted.
fn sweep_leftovers(home: &OwnedFd, quota: Option<&Control>) -> Result<()> {
    let mut leftovers = Vec::new();
    fs::each_entry(home, |entry| {
        let name = entry.name.as_bytes();
        if name.starts_with(STAGE.as_bytes()) || name.starts_with(TRASH.as_bytes()) {
            leftovers.push(entry.name);
        }
        Ok(())
    })?;
    for name in leftovers {
        match remove::delete(home, &name, quota) {
            Ok(()) => log::info!("deleted '{}', left half done by a crash", fs::shown(&name)),
            Err(e) => log::warn!("'{}', left half done by a crash, cannot be deleted: {e}", fs::shown(&name)),
        }
    }
    Ok(())
}

/// Removes links to layers that are no more. The links of unpublished layers go as well.
fn sweep_links(home: &OwnedFd) -> Result<()> {
    let links = fs::open_dir_at(home, LINKS)?;
    fs::each_entry(&links, |entry| {
        match fs::stat_at_follow(&links, &entry.name) {
            Err(e) if fs::is_absent(&e) => {
                if let Err(e) = fs::remove_file_at(&links, &entry.name) {
                    log::warn!("stale link '{}' cannot be removed: {e}", fs::shown(&entry.name));
                }
            }
            Err(e) => log::warn!("link '{}' cannot be followed: {e}", fs::shown(&entry.name)),
            Ok(_) => {}
        }
        Ok(())
    })
}

impl Overlay {
    /// Unmounts home if it is bound on itself. With layers still mounted below, that would hide them from their users.
    pub(super) fn release_home(&self) -> Result<()> {
        let path = &self.home.0;
        if self.options.skip_mount_home || !self.home_is_bound {
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
