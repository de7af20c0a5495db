//! What the lower layers have: the look of directories that an archive implies without describing them.
//!
//! An archive may state `secret/new` and not `secret`. The directory made for it must look as the one below that it is merged with,
//! as if the kernel had copied that up, or a private directory would become everybody's. Names of lower layers are an image's word:
//! no symlink is followed, and a lower that has something else in the place of a directory hides those below it.

use crate::error::Result;
use crate::error::errno::{ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ERANGE, EXDEV};
use crate::sys::openat2;
use crate::sys::xattr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Overlayfs' mark of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The lower layers, the nearest first.
#[derive(Clone, Debug, Default)]
pub struct Below(Vec<Lower>);

/// The content of a lower layer: below an open directory, by a path without symlinks, because who unpacks has another root.
#[derive(Clone, Debug)]
pub struct Lower {
    /// The directory.
    pub base: Arc<OwnedFd>,
    /// The path.
    pub path: PathBuf,
}

impl Below {
    /// Lower layers, the nearest first.
    #[must_use]
    pub fn new(layers: Vec<Lower>) -> Below {
        Below(layers)
    }
}

/// Looks directories up, one after the other.
#[derive(Default)]
pub(super) struct Lookup {
    /// The directory that was looked up last, as names from the root, and which of the layers have it and are not hidden there.
    at: Vec<Vec<u8>>,
    have: Option<Vec<usize>>,
}

impl Lookup {
    /// The directory that `name` in the directory `parent` is merged with; `None` if the lower layers show none there. `top` is the
    /// layer that is being unpacked, whose own opaque directories hide as well.
    pub(super) fn find(
        &mut self,
        below: &Below,
        top: BorrowedFd<'_>,
        parent: &[Vec<u8>],
        name: &[u8],
    ) -> Result<Option<OwnedFd>> {
        if below.0.is_empty() {
            return Ok(None);
        }
        if self.have.is_none() || self.at != parent {
            self.go(below, top, parent)?;
        }
        let have = self.have.take().unwrap_or_default();
        let (found, nearest) = below.step(&have, parent, name)?;
        // Implied directories come the one in the other.
        self.at.push(name.to_vec());
        self.have = Some(found);
        Ok(nearest)
    }

    /// Goes down from the root to a directory of the layer that is being unpacked.
    fn go(&mut self, below: &Below, top: BorrowedFd<'_>, path: &[Vec<u8>]) -> Result<()> {
        let mut have: Vec<usize> = (0..below.0.len()).collect();
        for depth in 0..path.len() {
            if have.is_empty() {
                break;
            }
            let here = openat2::open_no_links(top, &join(&path[..=depth]))?;
            have = if is_opaque(&here)? { Vec::new() } else { below.step(&have, &path[..depth], &path[depth])?.0 };
        }
        (self.at, self.have) = (path.to_vec(), Some(have));
        Ok(())
    }

    /// Something was removed or became opaque.
    pub(super) fn forget(&mut self) {
        self.have = None;
    }
}

impl Below {
    /// Which of those layers that have the directory `parent` also have `name` in it, as far as they are not hidden, and the
    /// nearest of these directories.
    fn step(&self, have: &[usize], parent: &[Vec<u8>], name: &[u8]) -> Result<(Vec<usize>, Option<OwnedFd>)> {
        let mut path = parent.to_vec();
        path.push(name.to_vec());
        let (mut found, mut nearest) = (Vec::new(), None);
        for &layer in have {
            let Lower { base, path: content } = &self.0[layer];
            let full = [content.as_os_str().as_bytes(), b"/", &join(&path)].concat();
            match openat2::open_no_links(base.as_fd(), &full) {
                Ok(dir) => {
                    found.push(layer);
                    let hides = is_opaque(&dir)?;
                    nearest.get_or_insert(dir);
                    if hides {
                        break;
                    }
                }
                // Nobody has a name that is too long.
                Err(e) if [ENOENT, ENAMETOOLONG].contains(&e.errno()) => {}
                // A file, a symlink or a whiteout hides what is below; what is mounted there is none of the layer's.
                Err(e) if [ELOOP, ENOTDIR, EXDEV].contains(&e.errno()) => break,
                // What cannot be looked at now must not be taken for missing: its directories would become everybody's.
                Err(e) => return Err(e.context("look at what is below an implied directory")),
            }
        }
        Ok((found, nearest))
    }
}

fn join(path: &[Vec<u8>]) -> Vec<u8> {
    path.join(&b'/')
}

/// Overlayfs' value of the mark is `y`; a directory with `x` only may hold whiteouts.
fn is_opaque(dir: &OwnedFd) -> Result<bool> {
    match crate::sys::caps::with(crate::sys::caps::SYS_ADMIN, || xattr::get::<4>(dir, OPAQUE)) {
        Ok(value) => Ok(value == b"y"),
        Err(e) if xattr::is_absent(&e) || e.errno() == ERANGE => Ok(false),
        Err(e) => Err(e),
    }
}
