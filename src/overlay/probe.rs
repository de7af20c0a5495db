//! What the kernel and the filesystem under home can do, found out by trying.

use super::home::is_without_room;
use super::layout::{Home, STAGE, random_name};
use super::links;
use crate::error::errno::{EACCES, EINVAL, ENODEV, EPERM};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::sys::fs;
use crate::sys::mount::{self, Flags};
use crate::sys::newmount;
use crate::tree;
use crate::undo;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How many lowers the kernel can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stacking {
    /// One by one (`lowerdir+`, Linux 6.8).
    OneByOne,
    /// In one option string, which must be shorter than a page.
    OptionString,
}

/// What was found out, and what is left of trying: filesystems that only these descriptors refer to. To close one is to wait for a
/// grace period of the kernel, which is for somebody to do for whom nobody waits.
pub(super) struct Probed {
    pub(super) stacking: Stacking,
    pub(super) remains: Vec<OwnedFd>,
}

impl Probed {
    fn classic() -> Probed {
        Probed { stacking: Stacking::OptionString, remains: Vec::new() }
    }
}

/// Most lowers that overlayfs stacks: `OVL_MAX_STACK` of `fs/overlayfs/params.h`.
pub(super) const MAX_LOWERS: usize = 500;

/// Overlayfs shows whiteouts as files where directories do not tell the kind of their entries (XFS made with `ftype=0`).
pub(super) fn check_d_type(home: &OwnedFd) -> Result<()> {
    // They all do or none does, so that one entry tells, of however many.
    if fs::any_entry(home)?.is_none_or(|entry| entry.kind.is_some()) {
        return Ok(());
    }
    let what = "the filesystem does not support d_type: its directories do not tell the type of their entries";
    Err(Error::new(Kind::Unsupported, what).hint("for XFS, make it anew with mkfs.xfs -n ftype=1"))
}

/// Finds out how deep the kernel can stack and, on a store without layers, whether an overlay can be made on the filesystem of home
/// at all. A store that has layers has shown that, and may be full. Nothing is attached to the mount tree.
pub(super) fn probe(home: &Home, dir: &OwnedFd) -> Result<Probed> {
    let has_layers = match links::open(dir)? {
        None => false,
        Some(links) => !fs::is_empty_dir(links)?,
    };
    if !has_layers {
        match probe_home(home, dir) {
            Err(e) if is_without_room(&e) => {
                log::warn!("whether '{}' can hold layers is found out when the first one is made: {e}", home.path.display());
            }
            outcome => return outcome,
        }
    }
    probe_kernel().map_err(|e| e.hint("the kernel needs overlayfs"))
}

/// Tries it on the store.
fn probe_home(home: &Home, dir: &OwnedFd) -> Result<Probed> {
    let stage = format!("{STAGE}{}", random_name()?);
    undo::all_or_nothing(|undo| {
        fs::make_dir_at(dir, &stage, 0o700)?;
        undo.with(|| tree::remove(dir.as_fd(), OsStr::new(&stage)));
        let probed = try_home(home, dir, &stage)
            .map_err(|e| e.hint("the kernel needs overlayfs, and the filesystem must be one it takes as upper layer"))?;
        if let Err(e) = tree::remove(dir.as_fd(), OsStr::new(&stage)) {
            log::warn!("the probe's directory cannot be deleted: {e}");
        }
        Ok(probed)
    })
}

fn try_home(home: &Home, dir: &OwnedFd, stage: &str) -> Result<Probed> {
    let inside = fs::open_dir_at(dir, stage)?;
    make_parts(&inside)?;
    let base = super::mount::base_for(home, dir, stage.len() + "/merged".len()).join(stage);
    match one_by_one(&base)? {
        Some(overlay) => Ok(Probed { stacking: Stacking::OneByOne, remains: vec![overlay] }),
        None => try_mount(home, stage).map(|()| Probed::classic()),
    }
}

/// Tries it on a filesystem in memory that is mounted nowhere.
fn probe_kernel() -> Result<Probed> {
    let memory = match newmount::Context::open("tmpfs") {
        // Before Linux 5.2, or under a filter of system calls that is older.
        Err(e) if e.kind() == Kind::Unsupported || e.errno() == EPERM => return Ok(Probed::classic()),
        opened => opened?,
    };
    memory.create()?;
    let mounted = memory.mount(0)?;
    make_parts(&mounted)?;
    let base = format!("/proc/thread-self/fd/{}", mounted.as_raw_fd());
    let overlay = one_by_one(Path::new(&base))?;
    let stacking = if overlay.is_some() { Stacking::OneByOne } else { Stacking::OptionString };
    Ok(Probed { stacking, remains: overlay.into_iter().chain([mounted, memory.into()]).collect() })
}

fn make_parts(dir: &OwnedFd) -> Result<()> {
    ["lower", "upper", "work", "merged"].iter().try_for_each(|name| fs::make_dir_at(dir, name, 0o700))
}

/// An overlay of the parts in `base`, with each lower on its own, if the kernel can be told so.
///
/// # Errors
/// It does not say that it cannot: then all stacks would be as shallow as an option string.
fn one_by_one(base: &Path) -> Result<Option<OwnedFd>> {
    let part = |name: &str| base.join(name).into_os_string();
    // A kernel that does not know the first option says so at once; before Linux 6.5 only at the end, as overlayfs does not
    // look at its options until then.
    let make = || {
        let context = newmount::Context::open("overlay")?;
        context.string("lowerdir+", part("lower"))?;
        context.string("upperdir", part("upper"))?;
        context.string("workdir", part("work"))?;
        context.create().map(|()| context.into())
    };
    match make() {
        Err(e) if e.kind() == Kind::Unsupported || [EINVAL, EPERM, EACCES, ENODEV].contains(&e.errno()) => Ok(None),
        made => made.map(Some),
    }
}

/// The same with `mount(2)`, which has to attach the mount for a moment.
fn try_mount(home: &Home, stage: &str) -> Result<()> {
    let base = home.real.join(stage);
    let mut data = std::ffi::OsString::new();
    for (key, name) in [("lowerdir=", "lower"), (",upperdir=", "upper"), (",workdir=", "work")] {
        data.push(key);
        data.push(base.join(name));
    }
    if data.as_bytes().len() >= super::mount::PAGE {
        return Err(Error::new(Kind::Limit, "the path of home is too long"));
    }
    let target = base.join("merged");
    let mounted = mount::mount(OsStr::new("overlay"), &target, "overlay", Flags::empty(), &data);
    // A kernel without overlayfs, or a filesystem that it does not take: no argument of the caller's is invalid.
    let refused = |e: Error| if [ENODEV, EINVAL].contains(&e.errno()) { e.with_kind(Kind::Unsupported) } else { e };
    mounted.map_err(refused)?;
    mount::umount_detach(&target).map(drop)
}
