//! Nodes in `/dev/mapper`: udev makes them; where no udev runs, or it is late, we do.

use crate::error::{Context, Result};
use crate::sys::{dm_event, fs};
use std::path::Path;

/// Where device-mapper nodes live.
pub const DIR: &str = "/dev/mapper";

/// Makes sure that `/dev/mapper/<name>` stands for the device of this number.
pub fn ensure(name: &str, device: u64) -> Result<()> {
    let dir = fs::open_dir(Path::new(DIR))?;
    match fs::stat_at_follow(&dir, name) {
        Ok(node) if node.kind == fs::FileKind::Block && node.rdev == device => return Ok(()),
        Ok(_) => fs::remove_file_at(&dir, name)?,
        Err(e) if fs::is_absent(&e) => remove_dangling(&dir, name)?,
        Err(e) => return Err(e),
    }
    let made = fs::make_node_at(&dir, name, libc::S_IFBLK | 0o600, device);
    made.context(|| format!("make the node of device-mapper device '{name}'"))
}

/// A symlink whose device is gone.
fn remove_dangling(dir: impl std::os::fd::AsFd, name: &str) -> Result<()> {
    match fs::remove_file_at(dir, name) {
        Err(e) if !fs::is_absent(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Removes the node of a device that is gone or about to go, where no udev does it.
pub fn forget(name: &str) -> Result<()> {
    if dm_event::udev_runs() {
        return Ok(());
    }
    remove_dangling(fs::open_dir(Path::new(DIR))?, name)
}

/// Removes the nodes whose names say that no device has them any more, where no udev does it: a process died between a device and
/// its node.
pub fn sweep(is_stale: impl Fn(&str) -> bool) -> Result<()> {
    if dm_event::udev_runs() {
        return Ok(());
    }
    let dir = fs::open_dir(Path::new(DIR))?;
    let mut stale = Vec::new();
    fs::each_entry(&dir, |entry| {
        stale.extend(entry.name.to_str().filter(|name| is_stale(name)).map(str::to_owned));
        Ok(())
    })?;
    stale.iter().try_for_each(|name| remove_dangling(&dir, name))
}
