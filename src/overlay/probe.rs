//! What the kernel and the filesystem under home can do, found out by trying.

use super::layout::{Home, LINKS, STAGE, random_name};
use crate::error::errno::{EINVAL, ENODEV};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::sys::fs;
use crate::sys::mount::{self, Flags};
use crate::sys::newmount;
use crate::tree;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// How many lowers the kernel can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stacking {
    /// One by one (`lowerdir+`, Linux 6.8).
    OneByOne,
    /// In one option string, which must be shorter than a page.
    OptionString,
}

/// Most lowers that overlayfs stacks: `OVL_MAX_STACK` of `fs/overlayfs/params.h`.
pub(super) const MAX_LOWERS: usize = 500;

/// Overlayfs shows whiteouts as files where directories do not tell the kind of their entries (XFS made with `ftype=0`).
pub(super) fn check_d_type(home: &OwnedFd) -> Result<()> {
    let mut told = true;
    fs::each_entry(home, |entry| {
        told &= entry.name != LINKS || entry.kind.is_some();
        Ok(())
    })?;
    if told {
        return Ok(());
    }
    let what = "the filesystem does not support d_type: its directories do not tell the type of their entries";
    Err(Error::new(Kind::Unsupported, what).hint("for XFS, make it anew with mkfs.xfs -n ftype=1"))
}

/// Finds out whether an overlay can be made on home at all, and how deep. Nothing is attached to the mount tree.
pub(super) fn probe_overlay(home: &Home, dir: &OwnedFd) -> Result<Stacking> {
    let stage = format!("{STAGE}{}", random_name()?);
    fs::make_dir_at(dir, &stage, 0o700)?;
    let outcome = try_overlay(home, dir, &stage);
    let removed = tree::remove(dir.as_fd(), OsStr::new(&stage));
    match (outcome, removed) {
        (Ok(stacking), removed) => {
            if let Err(e) = removed {
                log::warn!("the probe's directory cannot be deleted: {e}");
            }
            Ok(stacking)
        }
        (Err(e), removed) => {
            let e = e.hint("the kernel needs overlayfs, and the filesystem must be one it takes as upper layer");
            Err(removed.err().into_iter().fold(e, Error::and_also))
        }
    }
}

fn try_overlay(home: &Home, dir: &OwnedFd, stage: &str) -> Result<Stacking> {
    let inside = fs::open_dir_at(dir, stage)?;
    for name in ["lower", "upper", "work", "merged"] {
        fs::make_dir_at(&inside, name, 0o700)?;
    }
    let base = super::mount::base_for(home, dir, stage.len() + "/merged".len()).join(stage);
    let part = |name: &str| base.join(name).into_os_string();
    let context = match newmount::Context::open("overlay") {
        Err(e) if e.kind() == Kind::Unsupported => return try_mount(home, stage), // before Linux 5.2
        opened => opened?,
    };
    // A kernel that does not know the first option says so at once; before Linux 6.5 only at the end, as overlayfs does not
    // look at its options until then.
    let made = context
        .string("lowerdir+", part("lower"))
        .and_then(|()| context.string("upperdir", part("upper")))
        .and_then(|()| context.string("workdir", part("work")))
        .and_then(|()| context.create());
    match made {
        Ok(()) => Ok(Stacking::OneByOne),
        Err(_) => try_mount(home, stage),
    }
}

/// The same with `mount(2)`, which has to attach the mount for a moment.
fn try_mount(home: &Home, stage: &str) -> Result<Stacking> {
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
    mount::umount_detach(&target)?;
    Ok(Stacking::OptionString)
}
