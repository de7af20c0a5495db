//! The home directory: making it ready at start, and letting go of it at the end.

use super::Overlay;
use super::layout::{Home, LINKS, MERGED, STAGE, TRASH};
use super::options::Options;
use super::probe::{self, Stacking};
use super::remove;
use crate::backing;
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::mounts;
use crate::quota::{self, Control};
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
    let real = real_path(path)?;
    check_path(&real)?;
    let parent = fs::open_dir(real.parent().unwrap_or(&real))?;
    let backing_fs = backing::filesystem_name(fs::filesystem_magic(parent)?);
    let home = Home { path: path.to_owned(), real };
    let dir = home.open()?;
    let quota = find_quota(&dir, &home.real, options, &backing_fs)?;
    sweep_leftovers(&home, &dir, quota.as_ref().ok())?;
    probe::check_d_type(&dir)?;
    let stacking = probe::probe_overlay(&home, &dir).context(|| format!("overlay on {backing_fs}"))?;
    sweep_links(&dir)?;
    // Last, so that a start that fails leaves no mount behind.
    if !options.skip_mount_home {
        make_private(&home.real)?;
    }
    let is_bound = mounts::is_bound_on_itself(&home.real)?;
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

fn failed(call: &str, error: &std::io::Error) -> Error {
    Error::sys(call, error.raw_os_error().unwrap_or_default())
}

/// The path without symlinks, which is what the kernel's mount table shows.
fn real_path(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| failed("resolve the path", &e))
}

/// Makes home and `l/`. Nobody but root has business in there: set-user-id programs of images lie around in it.
fn make_home(path: &Path, options: &Options) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("make the directory", &e))?;
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

/// Project quota, or why there can be none. That limits are not enforced is an error only if the configuration has some.
fn find_quota(home: &OwnedFd, path: &Path, options: &Options, backing_fs: &str) -> Result<Result<Control>> {
    let cannot_limit = |e: Error| match backing_fs {
        _ if options.limits.is_none() => {
            log::info!("layers of '{}' cannot be limited: {e}", path.display());
            Ok(e)
        }
        "xfs" | "extfs" => {
            Err(e.context("Storage option overlay.size not supported. Filesystem does not support Project Quota"))
        }
        _ => Err(e.context("Storage option overlay.size only supported for backingFS XFS or ext4.")),
    };
    match Control::probe(home.as_fd(), path) {
        Err(e) => cannot_limit(e).map(Err),
        Ok(quota) => match quota.check_enforced(home.as_fd()) {
            Err(e) => cannot_limit(e).map(|_| Ok(quota)),
            Ok(()) => Ok(Ok(quota)),
        },
    }
}

/// Deletes what a crash left half made or half deleted, and lowers limits that were raised for the moment of a mount.
fn sweep_leftovers(home: &Home, dir: &OwnedFd, quota: Option<&Control>) -> Result<()> {
    let (mut leftovers, mut notes) = (Vec::new(), Vec::new());
    fs::each_entry(dir, |entry| {
        let name = entry.name.as_bytes();
        if name.starts_with(STAGE.as_bytes()) || name.starts_with(TRASH.as_bytes()) {
            leftovers.push(entry.name);
        } else if quota::is_note(&entry.name) {
            notes.push(entry.name);
        }
        Ok(())
    })?;
    for note in notes {
        if let Some(Err(e)) = quota.map(|quota| quota.settle_note(dir.as_fd(), &note)) {
            log::warn!("limits stay raised as a crash left them, until the layer is next mounted: {e}");
        }
    }
    for name in leftovers {
        // The probe of older kernels mounts there for a moment.
        let detached = mount::umount_detach(&home.real.join(&name).join(MERGED));
        match detached.and_then(|_| remove::delete(dir, &name, quota)) {
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
        let path = &self.home.real;
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
