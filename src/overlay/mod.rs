//! The overlay2 driver: every layer is a directory, and the kernel's overlayfs stacks them.
//!
//! [`layout`] says what is on disk. Making and deleting happen under a temporary name and take effect by one rename, so that a
//! crash leaves a whole layer or none. Paths are given to the kernel only where it wants paths (mounting); everything else goes
//! through directory descriptors.

mod apply;
mod beside;
mod create;
mod defaults;
mod diff;
mod home;
mod inspect;
mod judge;
mod layout;
mod leftover;
mod links;
mod mount;
mod options;
mod probe;
mod remove;
mod repair;
mod report;
mod survey;
mod volatile;

use crate::driver::{Access, Against, Change, CreateOptions, Driver, Exported, Form, MountOptions, Status, Unpack};
use crate::error::{Context, Result};
use crate::id::LayerId;
use crate::lease::Lease;
use crate::locks::Locks;
use crate::log;
use crate::quota::Control;
use crate::worker::Worker;
pub use home::check_home;
pub use inspect::inspect;
use layout::Home;
use options::Options;
use probe::Stacking;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// An initialised overlay driver.
struct Overlay {
    shared: Arc<Shared>,
    /// Deletes what could not be deleted at once.
    worker: Worker,
}

/// What the driver's operations and its worker work on. Nothing is kept in memory that is not also on disk, but for what concerns
/// this process alone.
struct Shared {
    name: String,
    home: Home,
    options: Options,
    stacking: Stacking,
    /// Of the probe, for the worker to close.
    remains: Mutex<Vec<OwnedFd>>,
    backing_fs: String,
    /// Home can only be read.
    read_only: bool,
    /// Project quota on the filesystem of home, or why it can never have any.
    quota: Result<Control>,
    locks: Locks,
    /// The right to use home, and what the caller was told of.
    lease: Arc<Lease>,
    /// The bind mount of home on itself that is ours to take away: its number in the mount table.
    bind: Option<u64>,
    /// Temporary names in home that operations are using.
    temporaries: Mutex<HashSet<String>>,
    /// Those that could not be deleted, and of which the log knows.
    stuck: Mutex<HashSet<OsString>>,
    /// The worker has looked for what a crash left.
    swept: AtomicBool,
    /// Something could not be deleted, and the worker does not know of it yet.
    is_left: AtomicBool,
}

/// Initialises the driver on the directory `home`, of which the caller has the lease; `name` is what status calls the driver.
///
/// # Errors
/// A bad option; a filesystem or kernel on which overlayfs does not work.
pub fn open(name: &str, home: &Path, options: &[&str], lease: Arc<Lease>) -> Result<Box<dyn Driver>> {
    let options = Options::parse(options)?;
    let home = home::prepare(home, &options).context(|| format!("overlay home '{}'", home.display()))?;
    let shared = Shared {
        name: name.to_owned(),
        home: home.home,
        options,
        stacking: home.probed.stacking,
        remains: Mutex::new(home.probed.remains),
        backing_fs: home.backing_fs,
        read_only: home.read_only,
        quota: home.quota,
        locks: Locks::default(),
        lease,
        bind: home.bind,
        temporaries: Mutex::default(),
        stuck: Mutex::default(),
        swept: AtomicBool::new(home.read_only),
        is_left: AtomicBool::new(false),
    };
    let overlay = Overlay { shared: Arc::new(shared), worker: Worker::new("overlay-deleter") };
    overlay.resume();
    Ok(Box::new(overlay))
}

impl Overlay {
    /// Runs an operation on a layer, and lets the worker know of what it left, or that something may have become possible.
    fn on<T>(&self, what: &str, id: &LayerId, operation: impl FnOnce(&Shared) -> Result<T>) -> Result<T> {
        let done = operation(&self.shared);
        if self.shared.is_left.swap(false, Ordering::SeqCst) {
            self.worker.wake(&self.shared);
        } else {
            self.worker.nudge(&self.shared);
        }
        done.context(|| format!("{what} layer '{id}'"))
    }
}

impl Driver for Overlay {
    fn create(&self, id: &LayerId, parent: Option<&LayerId>, access: Access, options: &mut CreateOptions) -> Result<()> {
        self.on("create", id, |shared| shared.create_layer(id, parent, access, options))
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        self.on("remove", id, |shared| shared.remove_layer(id))
    }

    fn mount(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        self.on("mount", id, |shared| shared.mount_layer(id, options))
    }

    fn umount(&self, id: &LayerId) -> Result<()> {
        self.on("umount", id, |shared| shared.umount_layer(id))
    }

    fn exists(&self, id: &LayerId) -> Result<bool> {
        self.shared.layer_exists(id).context(|| format!("look for layer '{id}'"))
    }

    fn unpack(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        self.on("unpack into", id, |shared| shared.apply(id, request))
    }

    fn diff(&self, id: &LayerId, against: &Against, form: Form, to: &mut dyn Write) -> Result<Exported> {
        self.on("export", id, |shared| shared.export(id, against, form, to))
    }

    fn changes(&self, id: &LayerId, against: &Against, each: &mut dyn FnMut(&[u8], Change) -> Result<()>) -> Result<()> {
        self.on("list the changes of", id, |shared| shared.list_changes(id, against, each))
    }

    fn diff_size(&self, id: &LayerId, against: &Against) -> Result<u64> {
        self.on("measure the changes of", id, |shared| shared.size_of_changes(id, against))
    }

    fn repair_lowers(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<()> {
        self.on("repair", id, |shared| shared.repair(id, parent))
    }

    fn status(&self) -> Result<Status> {
        Ok(self.shared.report_status())
    }

    fn pause(&self) {
        self.worker.stop();
    }

    fn resume(&self) {
        if !self.shared.read_only {
            self.worker.wake(&self.shared);
        }
    }

    fn cleanup(&self) -> Result<()> {
        self.worker.stop();
        if let Err(e) = self.shared.settle_volatile() {
            log::warn!("layers that were mounted 'volatile' stay so: {e}");
        }
        let released = self.shared.release_home();
        if released.is_err() {
            self.resume(); // it stays in use
        }
        released.context(|| format!("clean up overlay home '{}'", self.shared.home.path.display()))
    }
}
