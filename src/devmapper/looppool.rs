//! The embedded pool: a thin pool on two sparse files, for trying the driver out and for tests.
//!
//! The files are locked for as long as the pool is active, whatever becomes of this process: the lock belongs to the open file,
//! and the loop device keeps that.

use super::identity::{SECTOR, node};
use super::kernel::Kernel;
use super::options::LoopFiles;
use super::pool::{self, Blocks};
use super::transaction::with_cleanup;
use crate::error::{Context, Error, Kind, Result};
use crate::log;
use crate::sys::dm::{Settle, Target, Writes, is_busy, is_gone};
use crate::sys::fs::{self, FileKind};
use crate::sys::loopdev;
use crate::sys::process::lock_exclusive;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Data block size, sectors: 64 KiB, the smallest that a pool takes; good for many small layers.
const BLOCK_SECTORS: u64 = 128;
/// Free data blocks at which the kernel sends an event.
const LOW_WATER: u64 = 1024;
/// Most that a pool can use of its metadata device, bytes: `THIN_METADATA_MAX_SECTORS` of the kernel's `dm-thin-metadata.h`.
const MAX_METADATA: u64 = 16 << 30;

/// The two files of a pool and the sizes that were asked for.
fn parts(home: &Path, files: &LoopFiles) -> [(PathBuf, u64); 2] {
    let dir = home.join(&files.dir);
    let data = files.data / SECTOR / BLOCK_SECTORS * BLOCK_SECTORS * SECTOR;
    [(dir.join("metadata"), files.metadata.min(MAX_METADATA)), (dir.join("data"), data)]
}

/// Makes the files if need be and the pool if it is not active. Returns whether the pool has to go again if it is not used: not if
/// it was active and was to stay.
pub(super) fn attach(kernel: &Kernel, name: &str, home: &Path, files: &LoopFiles) -> Result<bool> {
    let parts = parts(home, files);
    let attached = || {
        if let Some(was_to_go) = adopt(kernel, name, &parts)? {
            return Ok(was_to_go);
        }
        activate(kernel, name, &parts)?;
        log::warn!("devicemapper: the pool is on loop devices, which is for trials: use dm.thinpooldev in production");
        Ok(true)
    };
    // The kernel takes a pool away, and then its loop devices, on a thread of its own: a start may come upon it.
    let mut tries = 0..100;
    let attached = loop {
        match attached() {
            Err(e) if is_busy(&e) && tries.next().is_some() => std::thread::sleep(Duration::from_millis(10)),
            outcome => break outcome,
        }
    };
    attached.context(|| format!("set up the loop-backed thin pool in '{}'", home.join(&files.dir).display()))
}

/// Takes over the pool of an earlier session, which is still active while layers are mounted, if it is on these files. Returns
/// whether it was to go away; `None` if there is none.
fn adopt(kernel: &Kernel, name: &str, parts: &[(PathBuf, u64)]) -> Result<Option<bool>> {
    let Some(info) = kernel.info(name)? else { return Ok(None) };
    let Some(table) = kernel.table(name)? else {
        log::warn!("devicemapper: '{name}' was left without a table; making it anew");
        kernel.remove(name, false)?;
        return Ok(None);
    };
    let (metadata, data) = pool::devices(&table.text).unwrap_or_default();
    for (device, (path, _)) in [metadata, data].into_iter().zip(parts) {
        let backing = loopdev::backing(device)?;
        let named = match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            found => Some(found.map_err(|e| Error::io(format!("stat '{}'", path.display()), &e))?),
        };
        if named.map(|file| loopdev::Backing::of(&file)) != Some(backing) {
            let what = format!("the pool '{name}' of this home is active, but not on '{}'", path.display());
            return Err(Error::new(Kind::Busy, what).hint("unmount its layers, or correct dm.loopdata"));
        }
    }
    if info.removal_pending {
        match kernel.message(name, "@cancel_deferred_remove") {
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) if is_busy(&e) => return Err(e.hint("the pool is just being removed; try again")),
            outcome => outcome?,
        }
    }
    kernel.resume(name, Settle::Wait)?;
    Ok(Some(info.removal_pending))
}

fn activate(kernel: &Kernel, name: &str, parts: &[(PathBuf, u64); 2]) -> Result<()> {
    let dir = parts[0].0.parent().unwrap_or(Path::new("."));
    fs::make_dirs(dir, 0o700)?;
    let [metadata, data] = parts;
    let (metadata, data) = (open(metadata)?, open(data)?);
    fs::fsync(fs::open_dir(dir)?, "loop pool directory")?;
    let sectors = length(&data, "data")? / SECTOR / BLOCK_SECTORS * BLOCK_SECTORS;
    // The loop devices live as long as someone has them open: these two, and then the pool.
    let (metadata, data) = (loopdev::attach(&metadata, &parts[0].0)?, loopdev::attach(&data, &parts[1].0)?);
    // error_if_no_space: a write beyond the end fails, where the default lets it hang for a minute first.
    let devices = format!("{} {}", metadata.path.display(), data.path.display());
    let text = format!("{devices} {BLOCK_SECTORS} {LOW_WATER} 1 error_if_no_space");
    kernel.create(name)?;
    let table = Target { kind: "thin-pool".to_owned(), sectors, text };
    let started = kernel.load(name, &table, Writes::Allowed).and_then(|()| kernel.resume(name, Settle::Wait));
    started.map_err(|e| {
        let hint = "is the kernel module dm_thin_pool there?";
        with_cleanup(e.hint(hint), kernel.remove(name, false).map(drop))
    })
}

/// Opens one of the files, or makes it, sparse, for nobody else to use.
fn open((path, size): &(PathBuf, u64)) -> Result<File> {
    let shown = path.display();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|e| Error::io(format!("open '{shown}'"), &e))?;
    let stat = fs::stat_fd(&file)?;
    if stat.kind != FileKind::File {
        return Err(Error::new(Kind::Invalid, format!("'{shown}' is no regular file")));
    }
    let users = loopdev::users(&file)?;
    if !users.is_empty() || !lock_exclusive(&file)? {
        let by = if users.is_empty() { String::new() } else { format!(" by {}", users.join(", ")) };
        let what = format!("'{shown}' is in use already{by}");
        return Err(Error::new(Kind::Busy, what).hint("a pool can be active once: end its other user"));
    }
    if stat.size == 0 {
        let made = file.set_len(*size).and_then(|()| file.sync_all());
        made.map_err(|e| Error::io(format!("make '{shown}' of {size} bytes"), &e))?;
    }
    Ok(file)
}

fn length(file: &File, name: &str) -> Result<u64> {
    file.metadata().map(|found| found.len()).map_err(|e| Error::io(format!("stat '{name}'"), &e))
}

/// Grows the pool's files to the sizes that were asked for, and the pool with them. It never shrinks: there may be layers at its
/// end.
pub(super) fn grow(kernel: &Kernel, name: &str, home: &Path, files: &LoopFiles) -> Result<()> {
    let Some(mut table) = kernel.table(name)? else { return Ok(()) };
    let (metadata, data) = pool::devices(&table.text).unwrap_or_default();
    let mut grown = false;
    for (device, (path, size)) in [metadata, data].into_iter().zip(parts(home, files)) {
        let file =
            OpenOptions::new().write(true).open(&path).map_err(|e| Error::io(format!("open '{}'", path.display()), &e))?;
        if length(&file, "a file of the pool")? < size {
            log::info!("devicemapper: growing '{}' to {size} bytes", path.display());
            let longer = file.set_len(size).and_then(|()| file.sync_all());
            longer.map_err(|e| Error::io(format!("grow '{}' to {size} bytes", path.display()), &e))?;
            loopdev::refresh(device)?;
            grown = true;
            if device == data {
                table.sectors = size / SECTOR;
            }
        }
    }
    if !grown {
        return Ok(());
    }
    let reloaded = kernel.load(name, &table, Writes::Allowed).and_then(|()| kernel.resume(name, Settle::Wait));
    reloaded.context(|| format!("grow the pool '{}'", node(name).display()))
}

/// Space of the filesystem that the files are on, in bytes: the pool has no more.
pub(super) fn host_space(home: &Path, files: &LoopFiles) -> Result<Blocks> {
    let (free, total) = fs::space(fs::open_dir(&home.join(&files.dir))?)?;
    Ok(Blocks { used: total.saturating_sub(free), total })
}

/// Lets the pool go as soon as no layer uses it. Its files stay.
pub(super) fn detach(kernel: &Kernel, name: &str) -> Result<()> {
    kernel.remove(name, true).map(drop)
}
