//! The embedded pool: a thin pool on two sparse files, for trying the driver out, for tests and for small hosts.

use super::kernel::Kernel;
use super::names::loop_pool;
use super::options::LoopFiles;
use super::transaction::with_cleanup;
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::sys::dm::{Settle, Target, is_busy, is_gone};
use crate::sys::fs;
use crate::sys::loopdev;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Data block size, sectors of 512 bytes: 64 KiB, the smallest that a pool takes; good for many small layers.
const BLOCK_SECTORS: u64 = 128;
/// Free data blocks at which the kernel sends an event.
const LOW_WATER: u64 = 1024;
/// Most that a pool can use of its metadata device, bytes: `THIN_METADATA_MAX_SECTORS` of the kernel's `dm-thin-metadata.h`.
const MAX_METADATA: u64 = 16 << 30;

/// Makes the files if need be and the pool if it is not active, and returns its name.
pub(super) fn attach(kernel: &Kernel, prefix: &str, home: &Path, files: &LoopFiles) -> Result<String> {
    let name = loop_pool(prefix);
    if !is_attached(kernel, &name)? {
        let dir = home.join(&files.dir);
        let made = activate(kernel, &name, &dir, files);
        made.context(|| format!("set up the loop-backed thin pool in '{}'", dir.display()))?;
    }
    Ok(name)
}

/// Whether the pool of an earlier session is still active, as it is while layers are mounted.
fn is_attached(kernel: &Kernel, name: &str) -> Result<bool> {
    let Some(info) = kernel.info(name)? else { return Ok(false) };
    if info.removal_pending {
        match kernel.message(name, "@cancel_deferred_remove") {
            Err(e) if is_gone(&e) => return Ok(false),
            Err(e) if is_busy(&e) => return Err(e.hint("the pool is just being removed; try again")),
            outcome => outcome?,
        }
    }
    if kernel.table(name)?.is_none() {
        log::warn!("devicemapper: '{name}' was left without a table; making it anew");
        kernel.remove(name, false)?;
        return Ok(false);
    }
    kernel.resume(name, Settle::Wait)?;
    Ok(true)
}

fn activate(kernel: &Kernel, name: &str, dir: &Path, files: &LoopFiles) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::sys(format!("mkdir '{}'", dir.display()), e.raw_os_error().unwrap_or(5)))?;
    let dir_fd = fs::open_dir(dir)?;
    let size = files.data / 512 / BLOCK_SECTORS * BLOCK_SECTORS * 512;
    let data = file(&dir_fd, dir, "data", size)?;
    let metadata = file(&dir_fd, dir, "metadata", files.metadata.min(MAX_METADATA))?;
    let sectors = data.1 / 512;
    // The loop devices live as long as someone has them open: these two, and then the pool.
    let (data, metadata) = (loopdev::attach(&data.0)?, loopdev::attach(&metadata.0)?);
    // error_if_no_space: a write beyond the end fails, where the default lets it hang for a minute first.
    let devices = format!("{} {}", metadata.path.display(), data.path.display());
    let text = format!("{devices} {BLOCK_SECTORS} {LOW_WATER} 1 error_if_no_space");
    kernel.create(name)?;
    let table = Target { kind: "thin-pool".to_owned(), sectors, text };
    let started = kernel.load(name, &table).and_then(|()| kernel.resume(name, Settle::Wait));
    started.map_err(|e| {
        let hint = "is the kernel module dm_thin_pool there?";
        with_cleanup(e.hint(hint), kernel.remove(name, false).map(drop))
    })
}

/// Makes the sparse file or grows it, and returns its path and size. It never shrinks: there may be layers at its end.
fn file(dir: impl AsFd, path: &Path, name: &str, size: u64) -> Result<(PathBuf, u64)> {
    let path = path.join(name);
    let (found, made) = match fs::stat_at(&dir, name) {
        Ok(stat) if stat.kind == fs::FileKind::File => (stat.size, false),
        Ok(_) => return Err(Error::new(Kind::Invalid, format!("'{}' is no regular file", path.display()))),
        Err(e) if fs::is_absent(&e) => {
            fs::write_new_at(&dir, name, b"", 0o600, false)?;
            (0, true)
        }
        Err(e) => return Err(e),
    };
    if found >= size {
        return Ok((path, found));
    }
    let opened = std::fs::OpenOptions::new().write(true).open(&path);
    let sized = opened.and_then(|file| file.set_len(size).and_then(|()| file.sync_all()));
    sized.map_err(|e| Error::sys(format!("grow '{}' to {size} bytes", path.display()), e.raw_os_error().unwrap_or(5)))?;
    if made {
        fs::fsync(&dir, "loop pool directory")?;
    }
    Ok((path, size))
}

/// Lets the pool go as soon as no layer uses it. Its files stay.
pub(super) fn detach(kernel: &Kernel, name: &str) -> Result<()> {
    kernel.remove(name, true).map(drop)
}
