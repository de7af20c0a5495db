//! One process per home: who has the lease may use the store in it.
//!
//! The lease is an exclusive `flock(2)` on the home directory, on a descriptor that was opened before home is bound on itself. It
//! ends with the last owner, and with the process however that ends. What this process has told its caller about layers is kept with
//! it, and outlives it: "there is such a layer" stays said when the driver is cleaned up and initialised again.

use crate::error::errno::{EACCES, EPERM, EROFS};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::lock;
use crate::log;
use crate::sys::fs::{self, Stat};
use crate::sys::process::{lock_exclusive, lock_holder, unlock};
use crate::sys::xattr;
use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Layers of one home that the caller was told of.
type Told = Mutex<HashSet<LayerId>>;

/// Those of all homes that this process has used, by device and inode of the directory.
static TOLD: Mutex<BTreeMap<Store, Arc<Told>>> = Mutex::new(BTreeMap::new());

/// Device and inode number, and the name that the store was given when it was first used: numbers are given again.
type Store = (u64, u64, Vec<u8>);

/// On home: the store's name.
pub const NAME: &str = "trusted.graphdriver.home";

/// The right to use a home directory.
#[derive(Debug)]
pub struct Lease {
    /// Holds the lock.
    dir: OwnedFd,
    home: (u64, u64),
    told: Arc<Told>,
}

impl Lease {
    /// Makes the directory `home` if it is missing, for root alone, and takes the lease of it.
    ///
    /// # Errors
    /// [`Kind::Busy`]: another process has it, or another driver of this one; the text names the process where it can be found.
    pub fn take(home: &Path) -> Result<Lease> {
        let what = || format!("home '{}'", fs::shown(home));
        // Nobody but root has business in there: set-user-id programs of images lie around in it.
        let is_new = fs::make_dirs(home, 0o700).context(what)?;
        let dir = fs::open_dir(home).context(what)?;
        match keep_to_root(&dir, is_new) {
            // As it is, it can be read.
            Err(e) if e.errno() == EROFS => log::warn!("{}: {e}", what()),
            outcome => outcome.context(what)?,
        }
        let key = key(&fs::stat_fd(&dir)?);
        if !lock_exclusive(&dir).context(what)? {
            let holder =
                lock_holder(key.0, key.1).map_or("another process".to_owned(), |pid| match pid == std::process::id() {
                    true => format!("another driver of this process ({pid})"),
                    false => format!("process {pid}"),
                });
            let text = format!("{} is in use by {holder}", what());
            return Err(Error::new(Kind::Busy, text).hint("one process may use a store at a time: end the other first"));
        }
        // From here on the lock is given back whatever happens.
        let mut lease = Lease { dir, home: key, told: Arc::default() };
        let name = store_name(&lease.dir).context(what)?;
        lease.told = told_of(key, name);
        Ok(lease)
    }

    /// Whether this is the lease of the directory `home`, by whatever path.
    ///
    /// # Errors
    /// There is such a directory, and it cannot be looked at.
    pub fn is_of(&self, home: &Path) -> Result<bool> {
        match fs::open_dir(home).and_then(fs::stat_fd) {
            Err(e) if fs::is_absent(&e) => Ok(false),
            stat => Ok(key(&stat?) == self.home),
        }
    }

    /// The caller learns that there is such a layer: it was made, found, described, mounted, or stacked upon.
    pub fn tell(&self, id: &LayerId) {
        let mut told = lock(&self.told);
        if !told.contains(id) {
            told.insert(id.clone());
        }
    }

    /// The caller learns that there is no such layer any more.
    pub fn untell(&self, id: &LayerId) {
        lock(&self.told).remove(id);
    }

    /// Whether the caller believes that there is such a layer.
    #[must_use]
    pub fn was_told(&self, id: &LayerId) -> bool {
        lock(&self.told).contains(id)
    }
}

/// The process, be it this one, that has the lease of the open directory `home`, as far as `/proc/locks` tells: one of another PID
/// namespace is not seen there. It is not asked for by trying: that would keep others out for a moment.
///
/// # Errors
/// The directory cannot be asked.
pub fn holder(home: &OwnedFd) -> Result<Option<u32>> {
    let (device, inode) = key(&fs::stat_fd(home)?);
    Ok(lock_holder(device, inode))
}

/// Closing the descriptor would not do: children that the host has forked since may have it.
impl Drop for Lease {
    fn drop(&mut self) {
        unlock(&self.dir);
    }
}

/// What this process has told of the store. What it told while that had no name counts as well: too much does no harm.
fn told_of(home: (u64, u64), name: Vec<u8>) -> Arc<Told> {
    let mut stores = lock(&TOLD);
    let nameless = stores.remove(&(home.0, home.1, Vec::new())).unwrap_or_default();
    let told = stores.entry((home.0, home.1, name)).or_default();
    lock(told).extend(lock(&nameless).drain());
    Arc::clone(told)
}

/// The name of the store, which is given one if it has none; empty where none can be kept.
///
/// # Errors
/// It cannot be read or written now: another name would be another store's.
fn store_name(home: &OwnedFd) -> Result<Vec<u8>> {
    match xattr::get::<64>(home, NAME) {
        Ok(name) if name.is_empty() => {} // only tried whether there can be one
        Err(e) if xattr::is_absent(&e) => {}
        name => return name,
    }
    let name = fs::random_name::<16>()?;
    match xattr::set(home, NAME, name.as_bytes()) {
        Ok(()) => Ok(name.into_bytes()),
        // Whoever needs attributes says so.
        Err(e) if [Kind::NoSpace, Kind::Unsupported].contains(&e.kind()) => Ok(Vec::new()),
        Err(e) if [EPERM, EACCES, EROFS].contains(&e.errno()) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn key(stat: &Stat) -> (u64, u64) {
    (stat.device, stat.inode)
}

/// What is above home may have an ACL or a group that it hands down: none of it is for layers, whose `diff` becomes a container's
/// root directory. A new home is root's alone; one that is there hands nothing on, and is not to be opened by others.
fn keep_to_root(home: &OwnedFd, is_new: bool) -> Result<()> {
    /// Set-group-id, and what would let others open it: who can, can take the lock and keep everybody out.
    const NOT_FOR_OTHERS: u32 = 0o2066;
    let mode = fs::stat_fd(home)?.mode & 0o7777;
    if is_new {
        fs::chown_at(home, ".", 0, 0)?;
        forget(home, "system.posix_acl_access")?;
    }
    forget(home, "system.posix_acl_default")?;
    let wanted = if is_new { 0o700 } else { mode & !NOT_FOR_OTHERS };
    if wanted == fs::stat_fd(home)?.mode & 0o7777 { Ok(()) } else { fs::chmod_at(home, ".", wanted) }
}

fn forget(home: &OwnedFd, attribute: &str) -> Result<()> {
    if xattr::is_set(home, attribute)? { xattr::remove(home, attribute) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("graphdriver-lease-{name}-{}", std::process::id())))
    }

    #[test]
    fn a_home_has_one_lease_and_the_holder_is_named() {
        let dir = scratch("one");
        let home = dir.0.join("a/home");
        let lease = Lease::take(&home).unwrap();
        let refused = Lease::take(&home).unwrap_err();
        assert!(refused.kind() == Kind::Busy && refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        assert!(lease.is_of(&dir.0.join("a/../a/home")).unwrap() && !lease.is_of(&dir.0).unwrap());
        drop(lease);
        Lease::take(&home).unwrap();
    }

    #[test]
    fn what_was_told_outlives_the_lease() {
        let dir = scratch("told");
        let id = LayerId::parse(b"a").unwrap();
        let lease = Lease::take(&dir.0).unwrap();
        assert!(!lease.was_told(&id));
        lease.tell(&id);
        drop(lease);
        let lease = Lease::take(&dir.0).unwrap();
        assert!(lease.was_told(&id));
        lease.untell(&id);
        assert!(!lease.was_told(&id));
    }
}
