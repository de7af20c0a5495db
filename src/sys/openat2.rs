//! Opening a directory by a path from an archive, as if the layer were the whole file system (Linux 5.6).
//!
//! On older kernels, and with [`open_in_root`] for paths longer than the kernel takes at once, the way is gone from name to name.

use crate::error::Result;
use crate::sys::fs::{self, check, shown};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The kernel gives up with EAGAIN when anything on the machine is renamed while it resolves a `..` (openat2(2)).
const ATTEMPTS: u32 = 64;

/// Opens the directory `path` below `root`. `..` stays inside `root`; what is mounted inside is not entered. `Ok(None)`: this
/// kernel or this path needs the walk. So does one that leads through a symlink: the kernel would go through as many names as the
/// texts of 40 symlinks hold, and tell nobody.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    for _ in 0..ATTEMPTS {
        match nix::fcntl::openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // ENOSYS: before 5.6. EPERM: seccomp filters of container runtimes that are older than the call.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::ENAMETOOLONG | Errno::ELOOP) => return Ok(None),
            other => return check(other.map(Some), || format!("open directory '{}'", shown(OsStr::from_bytes(path)))),
        }
    }
    Ok(None)
}

/// Opens the directory `path` below `root`, following no symlink at all and entering no mount; in pieces where the kernel does not
/// take it at once.
pub fn open_no_links(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let mut here: Option<OwnedFd> = None;
    for piece in pieces(path) {
        here = Some(open_piece(here.as_ref().map_or(root, OwnedFd::as_fd), piece)?);
    }
    here.map_or_else(|| fs::open_dir_at(root, "."), Ok)
}

/// A path in parts that are no longer than the kernel takes, each as long as that allows. A single name that is longer stays so.
fn pieces(mut path: &[u8]) -> impl Iterator<Item = &[u8]> {
    const MOST: usize = libc::PATH_MAX as usize - 1; // with a NUL behind it
    std::iter::from_fn(move || {
        let cut = if path.len() <= MOST { None } else { path[..=MOST].iter().rposition(|&b| b == b'/') };
        let piece = &path[..cut.unwrap_or(path.len())];
        let is_left = !path.is_empty();
        path = cut.map_or(b"", |cut| &path[cut + 1..]);
        is_left.then_some(piece)
    })
    .filter(|piece| !piece.is_empty())
}

fn open_piece(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    match nix::fcntl::openat2(root, path, how) {
        Err(Errno::ENOSYS | Errno::EPERM) => by_name(root, path),
        other => check(other, || format!("open directory '{}'", shown(OsStr::from_bytes(path)))),
    }
}

/// The same, name by name.
fn by_name(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let mut here = fs::open_dir_at(root, ".")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        here = fs::open_dir_at(&here, OsStr::from_bytes(name))?;
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut_between_names() {
        let all = |path: &[u8]| pieces(path).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(all(b""), Vec::<Vec<u8>>::new());
        assert_eq!(all(b"a/b"), [b"a/b"]);
        for length in [4094, 4095, 4096, 4097, 8190, 8191, 8192, 20_000] {
            for name in [1, 2, 255] {
                let path: Vec<u8> = (1..=length).map(|at| if at % (name + 1) == 0 { b'/' } else { b'x' }).collect();
                let path = path.strip_suffix(b"/").unwrap_or(&path);
                let pieces = all(path);
                assert_eq!(pieces.join(&b'/'), path);
                assert!(pieces.iter().all(|piece| piece.len() < 4096), "{length} {name}");
                assert_eq!(pieces.len(), (path.len() + 1).div_ceil(4096 - 4096 % (name + 1)), "{length} {name}");
            }
        }
        assert_eq!(all(&[b'x'; 5000]), [[b'x'; 5000]]);
        assert_eq!(all(&[&b"/"[..], &[b'x'; 5000]].concat()), [[b'x'; 5000]]);
    }
}
