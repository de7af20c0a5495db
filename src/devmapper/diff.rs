//! Telling what a layer changes: its tree is compared with its parent's. What the two devices share has the same inode in the
//! same state in both, and is not read.

use super::Shared;
use super::filesystem::Filesystem;
use super::mount::ROOTFS;
use super::record::{file_name, layer_id};
use super::transaction::once_released;
use crate::driver::{Against, Change, Exported, Form};
use crate::error::{Error, Kind, Result};
use crate::export::{self, How, Source, Tree};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::sys::fs;
use crate::sys::mount;
use crate::sys::newmount::Context;
use crate::sys::{own_mounts, view};
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

impl Shared {
    pub(super) fn export(&self, id: &LayerId, against: &Against, form: Form, to: &mut dyn Write) -> Result<Exported> {
        self.with_source(id, against, |source| export::archive(source, None, form, to))
    }

    pub(super) fn list_changes(
        &self,
        id: &LayerId,
        against: &Against,
        each: &mut dyn FnMut(&[u8], Change) -> Result<()>,
    ) -> Result<()> {
        self.with_source(id, against, |source| export::changes(source, each))
    }

    pub(super) fn size_of_changes(&self, id: &LayerId, against: &Against) -> Result<u64> {
        self.with_source(id, against, export::size)
    }

    /// Both layers are held alone, because a device that two were to activate and deactivate would go from under one of them.
    fn with_source<T>(&self, id: &LayerId, against: &Against, work: impl FnOnce(&Source) -> Result<T>) -> Result<T> {
        let base = self.ancestor(id, against.base.as_ref())?;
        let names: Vec<String> = [Some(id), base.as_ref()].into_iter().flatten().map(file_name).collect();
        let held: Vec<_> = names.iter().map(|name| (name.as_str(), Mode::Exclusive)).collect();
        let _held = self.locks.hold(&held)?;
        let source = |new, old| Source { new, old, how: How::Compared, cancel: against.cancel.clone() };
        self.with_tree(id, |new| match base {
            None => work(&source(new, None)),
            Some(base) => self.with_tree(&base, |old| work(&source(new, Some(old)))),
        })
    }

    /// Which layer to compare with: the one asked for, or the parent. Records of the C module name no parent, so the caller is
    /// believed, unless it is known to be the other way round.
    fn ancestor(&self, id: &LayerId, base: Option<&LayerId>) -> Result<Option<LayerId>> {
        let Some(base) = base else { return self.parent(id) };
        self.there(base)?;
        let mut above = Some(base.clone());
        // A chain is no longer than there are layers.
        for _ in 0..=self.devices.select(|_| true).len() {
            match above {
                None => return Ok(Some(base.clone())),
                Some(layer) if layer == *id => break,
                Some(layer) => {
                    above = match self.parent(&layer) {
                        Err(e) if e.kind() == Kind::NotFound => None, // removed meanwhile
                        parent => parent?,
                    }
                }
            }
        }
        Err(Error::new(Kind::Invalid, format!("'{base}' is no ancestor of layer '{id}'")))
    }

    fn parent(&self, id: &LayerId) -> Result<Option<LayerId>> {
        let parent = self.there(id)?.parent;
        if parent.is_empty() { Ok(None) } else { LayerId::parse(layer_id(&parent).as_bytes()).map(Some) }
    }

    /// Runs `work` on a layer's tree: as it is mounted, or read-only in a mount that is never attached anywhere.
    fn with_tree<T>(&self, id: &LayerId, work: impl FnOnce(Tree) -> Result<T>) -> Result<T> {
        let device = self.usable(&file_name(id))?;
        if self.is_mounted(&device)? {
            let top = fs::open_dir_at(&self.place.points.dir, &device.hash)?;
            return work(Tree::of(fs::open_dir_at(top, ROOTFS)?)?);
        }
        let mut active = self.devices.activate(&device)?;
        let tree = match self.tree_of(&active.node) {
            // It was never mounted, which is when it gets its root directory.
            Err(e) if fs::is_absent(&e) => {
                active.end()?;
                self.with_root(&device, |_| Ok(()))?;
                active = self.devices.activate(&device)?;
                self.tree_of(&active.node)
            }
            found => found,
        };
        let done = tree.and_then(work).map_err(|e| self.devices.blame_pool(e));
        let released = active.end();
        once_released(done, released)
    }

    fn tree_of(&self, node: &Path) -> Result<Tree> {
        self.place.check_uuid(node)?;
        let mounted = match mount_detached(node, self.place.filesystem) {
            Err(e) if e.kind() == Kind::Unsupported => self.mount_privately(node),
            mounted => mounted,
        };
        Tree::of_mount(mounted?, ROOTFS)
    }

    /// Before Linux 5.2.
    fn mount_privately(&self, node: &Path) -> Result<OwnedFd> {
        // Over all mount points: nobody else sees that.
        let (place, target) = (&self.place, &self.place.points.path);
        let data = place.filesystem.mount_option().unwrap_or_default();
        own_mounts::root_of(place.points.dir.as_fd(), target, || {
            mount::mount(node.as_os_str(), target, place.filesystem.name(), view::FLAGS, OsStr::new(data))
        })
    }
}

fn mount_detached(node: &Path, filesystem: Filesystem) -> Result<OwnedFd> {
    let context = Context::open(filesystem.name())?;
    context.string("source", node)?;
    context.flag("ro")?;
    if let Some(option) = filesystem.mount_option() {
        context.flag(option)?;
    }
    context.create()?;
    context.mount(view::ATTRIBUTES)
}
