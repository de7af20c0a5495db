//! The overlay2 driver: every layer is a directory, and the kernel's overlayfs stacks them.
//!
//! [`layout`] says what is on disk. Making and deleting happen under a temporary name and take effect by one rename, so that a
//! crash leaves a whole layer or none. Paths are given to the kernel only where it wants paths (mounting); everything else goes
//! through directory descriptors.

mod apply;
mod create;
mod diff;
mod home;
mod layout;
mod mount;
mod options;
mod probe;
mod remove;
mod repair;
mod report;

use crate::driver::{
    Access, Change, Compression, CreateOptions, Driver, Exported, Metadatum, MountOptions, Status, Unpack, Usage,
};
use crate::error::{Context, Result};
use crate::id::LayerId;
use crate::lease::Lease;
use crate::locks::Locks;
use crate::quota::Control;
use layout::Home;
use options::Options;
use probe::Stacking;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An initialised overlay driver. Nothing is kept in memory that is not also on disk.
struct Overlay {
    name: String,
    home: Home,
    options: Options,
    stacking: Stacking,
    backing_fs: String,
    /// Project quota on the filesystem of home, or why there is none.
    quota: Result<Control>,
    /// Operations on one layer take turns.
    locks: Locks,
    /// The right to use home, for as long as this lives.
    _lease: Arc<Lease>,
    /// Home is bind-mounted on itself, by us or by an earlier life of the daemon.
    home_is_bound: bool,
}

/// Initialises the driver on the directory `home`, which is made if it is missing; `name` is what status calls the driver.
///
/// # Errors
/// A bad option; a filesystem or kernel on which overlayfs does not work.
pub fn open(name: &str, home: &Path, options: &[&str], lease: Arc<Lease>) -> Result<Box<dyn Driver>> {
    let options = Options::parse(options)?;
    let home = home::prepare(home, &options).context(|| format!("overlay home '{}'", home.display()))?;
    Ok(Box::new(Overlay {
        name: name.to_owned(),
        home: home.home,
        options,
        stacking: home.stacking,
        backing_fs: home.backing_fs,
        quota: home.quota,
        locks: Locks::default(),
        _lease: lease,
        home_is_bound: home.is_bound,
    }))
}

impl Driver for Overlay {
    fn create(&self, id: &LayerId, parent: Option<&LayerId>, access: Access, options: &mut CreateOptions) -> Result<()> {
        self.create_layer(id, parent, access, options).context(|| format!("create layer '{id}'"))
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        self.remove_layer(id).context(|| format!("remove layer '{id}'"))
    }

    fn mount(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        self.mount_layer(id, options).context(|| format!("mount layer '{id}'"))
    }

    fn umount(&self, id: &LayerId) -> Result<()> {
        self.umount_layer(id).context(|| format!("umount layer '{id}'"))
    }

    fn exists(&self, id: &LayerId) -> Result<bool> {
        self.layer_exists(id).context(|| format!("look for layer '{id}'"))
    }

    fn unpack(&self, id: &LayerId, request: Unpack<'_>) -> Result<()> {
        self.apply(id, request).context(|| format!("unpack into layer '{id}'"))
    }

    fn diff(&self, id: &LayerId, base: Option<&LayerId>, compression: Compression, to: &mut dyn Write) -> Result<Exported> {
        self.export(id, base, compression, to).context(|| format!("export layer '{id}'"))
    }

    fn changes(
        &self,
        id: &LayerId,
        base: Option<&LayerId>,
        each: &mut dyn FnMut(&[u8], Change) -> Result<()>,
    ) -> Result<()> {
        self.list_changes(id, base, each).context(|| format!("list the changes of layer '{id}'"))
    }

    fn diff_size(&self, id: &LayerId, base: Option<&LayerId>) -> Result<u64> {
        self.size_of_changes(id, base).context(|| format!("measure the changes of layer '{id}'"))
    }

    fn layer_metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        self.metadata_of(id).context(|| format!("metadata of layer '{id}'"))
    }

    fn layer_usage(&self, id: &LayerId) -> Result<Usage> {
        self.usage_of(id).context(|| format!("usage of layer '{id}'"))
    }

    fn repair_lowers(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<()> {
        self.repair(id, parent).context(|| format!("repair layer '{id}'"))
    }

    fn status(&self) -> Result<Status> {
        Ok(self.report_status())
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn cleanup(&self) -> Result<()> {
        self.release_home().context(|| format!("clean up overlay home '{}'", self.home.path.display()))
    }
}
