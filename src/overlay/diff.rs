//! Telling what a layer changes: from its own directory, or by comparing whole trees where that does not say all.

use super::Shared;
use super::layout::{EMPTY, Layer, LinkId, MERGED, WORK};
use super::mount::{PAGE, base_for};
use super::probe::Stacking;
use super::repair::lowers_of;
use crate::driver::{Against, Change, Exported, Form};
use crate::error::{Context as _, Error, Kind, Result};
use crate::export::{self, How, Source, Tree};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::sys::fs;
use crate::sys::mount;
use crate::sys::newmount::Context;
use crate::sys::{own_mounts, view};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

/// Whether somebody wants to know of the single paths that a mark hides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Marks,
    Paths,
}

/// What mounts whole what a layer was changed into by a mount with these features.
const WITH_FEATURES: [&str; 2] = ["redirect_dir=follow", "metacopy=on"];

impl Shared {
    pub(super) fn export(&self, id: &LayerId, against: &Against, form: Form, to: &mut dyn Write) -> Result<Exported> {
        self.with_source(id, against, Wants::Marks, |source| export::archive(source, self.options.remap, form, to))
    }

    pub(super) fn list_changes(
        &self,
        id: &LayerId,
        against: &Against,
        each: &mut dyn FnMut(&[u8], Change) -> Result<()>,
    ) -> Result<()> {
        self.with_source(id, against, Wants::Paths, |source| export::changes(source, each))
    }

    pub(super) fn size_of_changes(&self, id: &LayerId, against: &Against) -> Result<u64> {
        self.with_source(id, against, Wants::Marks, export::size)
    }

    fn with_source<T>(
        &self,
        id: &LayerId,
        against: &Against,
        wants: Wants,
        work: impl FnOnce(&Source) -> Result<T>,
    ) -> Result<T> {
        id.check_free(&super::layout::RESERVED)?;
        let held: Vec<_> =
            [Some(id), against.base.as_ref()].into_iter().flatten().map(|id| (id.as_str(), Mode::Shared)).collect();
        let _held = self.locks.hold(&held)?;
        let home = self.home.open()?;
        let layer = Layer::open(&home, id)?;
        self.lease.tell(id);
        layer.check_finished()?;
        self.check_sure(&layer)?;
        work(&self.source(&home, &layer, against, wants)?)
    }

    fn source(&self, home: &OwnedFd, layer: &Layer, against: &Against, wants: Wants) -> Result<Source> {
        let lowers = lowers_of(home, layer)?.0;
        let above = match &against.base {
            None => 0,
            Some(base) => {
                let link = Layer::open(home, base)?.link()?;
                let no_ancestor = || Error::new(Kind::Invalid, format!("'{base}' is no ancestor of layer '{}'", layer.id));
                lowers.iter().position(|lower| *lower == link).ok_or_else(no_ancestor)?
            }
        };
        let cancel = against.cancel.clone();
        let changes = Tree::of(layer.diff()?)?;
        let elsewhere = if was_written_to(layer)? { export::says_all(&changes, &cancel)? } else { None };
        if above == 0 && elsewhere.is_none() {
            let old = if wants == Wants::Paths { Some(self.whole(home, layer, &lowers, &[])?) } else { None };
            return Ok(Source { new: changes, old, how: How::Marks, cancel });
        }
        let new = match elsewhere {
            _ if layer.is_mounted(&self.home)? => Tree::of(fs::open_dir_at(layer, MERGED)?)?,
            Some(why) if why.contains("index=on") => {
                let what = format!("the layer's directory does not say all of it: {why}");
                return Err(Error::new(Kind::Unsupported, what).hint("mount the layer as it was mounted, then try again"));
            }
            elsewhere => {
                let features: &[&str] = if elsewhere.is_some() { &WITH_FEATURES } else { &[] };
                let all: Vec<LinkId> = std::iter::once(layer.link()?).chain(lowers.iter().cloned()).collect();
                self.whole(home, layer, &all, features)?
            }
        };
        let old = self.whole(home, layer, &lowers[above..], &[])?;
        Ok(Source { new, old: Some(old), how: How::Compared, cancel })
    }

    /// The tree of a stack of layers, the topmost first, in a mount of its own that is never attached anywhere.
    fn whole(&self, home: &OwnedFd, layer: &Layer, links: &[LinkId], features: &[&str]) -> Result<Tree> {
        let Some(last) = links.last() else { return Tree::of(fs::open_dir_at(layer, EMPTY)?) };
        // The kernel wants at least two; the lowest layer has an empty directory beside its content.
        let empty = format!("{}/../{EMPTY}", last.path());
        let paths: Vec<String> = links.iter().map(LinkId::path).chain([empty]).collect();
        let mounted = match self.stacking {
            Stacking::OneByOne => self.mount_detached(home, &paths, features),
            Stacking::OptionString => self.mount_privately(home, layer, &paths, features),
        };
        mounted.and_then(|mounted| Tree::of_mount(mounted, ".")).context(|| "mount the layers to compare them")
    }

    fn mount_detached(&self, home: &OwnedFd, paths: &[String], features: &[&str]) -> Result<OwnedFd> {
        let base = base_for(&self.home, home, paths.iter().map(String::len).max().unwrap_or(0));
        let context = Context::open("overlay")?;
        context.string("source", "overlay")?;
        for (key, value) in features.iter().filter_map(|feature| feature.split_once('=')) {
            context.string(key, value)?;
        }
        for path in paths {
            context.string("lowerdir+", base.join(path))?;
        }
        context.create()?;
        context.mount(view::ATTRIBUTES)
    }

    /// Before Linux 6.8: by names relative to home, so that as many as possible fit into one page.
    fn mount_privately(&self, home: &OwnedFd, layer: &Layer, paths: &[String], features: &[&str]) -> Result<OwnedFd> {
        let mut data: Vec<OsString> = features.iter().map(Into::into).collect();
        data.push(format!("lowerdir={}", paths.join(":")).into());
        let data = data.join(OsStr::new(","));
        if data.len() >= PAGE {
            return Err(Error::new(
                Kind::Limit,
                format!("{} layers do not fit into one page of mount options", paths.len()),
            ));
        }
        let target = self.home.mount_point(&layer.id);
        own_mounts::root_of(home.as_fd(), &target, || {
            mount::mount(OsStr::new("overlay"), &target, "overlay", view::FLAGS, &data)
        })
    }
}

/// Whether the layer was ever mounted for writing: the kernel has used its work directory then.
fn was_written_to(layer: &Layer) -> Result<bool> {
    let mut used = false;
    fs::each_entry(fs::open_dir_at(layer, WORK)?, |_| {
        used = true;
        Ok(())
    })?;
    Ok(used)
}
