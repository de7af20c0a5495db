//! The way back: from a layer to an archive of what it changes.
//!
//! A walk ([`walk`]) finds what there is to tell, in an order that depends on nothing but the names; [`archive`] makes entries of
//! it and [`tar`] bytes, on a thread of its own where somebody else has work with them: the calling thread compresses them and hands
//! them to the caller ([`compress`]).
//!
//! The layer is read through a mount of its own ([`view`](crate::sys::view)) wherever the kernel has such: read-only, without access
//! times, without device nodes, and without what is mounted inside the layer. Below it everything is a single name in an open
//! directory, and no symlink is followed: whatever a container does in the layer meanwhile, nothing outside it is read.

mod archive;
mod compress;
mod described;
mod names;
mod place;
mod sparse;
mod stream;
mod tar;
mod walk;

use crate::archive::IdShift;
use crate::archive::decode::Sink;
use crate::archive::ring::{self, Filler};
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::driver::{Change, Compression, Exported, Form};
use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, Stat};
use crate::sys::process::SignalsBlocked;
use crate::sys::threads;
use crate::sys::view::View;
use archive::{Archiver, Losses};
use compress::AsItIs;
use described::Described;
use std::collections::HashSet;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use stream::Stream;
use walk::{Finder, Thing};

/// How to tell what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The tree holds the changes only; overlay's marks say what they hide.
    Marks,
    /// The tree is whole, and is compared with another one.
    Compared,
}

/// A directory tree to read.
pub enum Tree {
    /// Through a mount of its own.
    View(View),
    /// As it is, where the kernel has no such mounts.
    Bare(OwnedFd),
}

impl Tree {
    /// The tree below an open directory.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of(dir: OwnedFd) -> Result<Tree> {
        Ok(View::of_dir(&dir)?.map_or_else(|| Tree::Bare(dir), Tree::View))
    }

    /// The tree below the directory `name` of a mount that is attached nowhere and was made with the attributes of a view.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn of_mount(mount: OwnedFd, name: &str) -> Result<Tree> {
        View::of_mount(mount, name).map(Tree::View)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Tree::View(view) => view.as_fd(),
            Tree::Bare(dir) => dir.as_fd(),
        }
    }
}

/// What is to be told of.
pub struct Source {
    /// The layer, or its changes.
    pub new: Tree,
    /// What it is compared with; with [`How::Marks`] only who wants to know of single paths needs it.
    pub old: Option<Tree>,
    /// How the changes are found.
    pub how: How,
    /// Ends the work early.
    pub cancel: Cancel,
}

impl Source {
    fn is_bare(&self) -> bool {
        [Some(&self.new), self.old.as_ref()].into_iter().flatten().any(|tree| matches!(tree, Tree::Bare(_)))
    }
}

/// Whether the directory of an overlay layer says all that the layer means. It does not where directories were renamed
/// (`redirect_dir=on`), only metadata were copied (`metacopy=on`) or hard links kept (`index=on`); the reason is returned.
///
/// # Errors
/// Something cannot be read; it was cancelled.
pub fn says_all(changes: &Tree, cancel: &Cancel) -> Result<Option<&'static str>> {
    let new = Tree::Bare(fs::open_dir_at(changes, ".")?);
    let source = Source { new, old: None, how: How::Marks, cancel: cancel.clone() };
    let mut seeker = Seeker { wary: matches!(changes, Tree::Bare(_)), names: Vec::new(), found: None };
    match walk::walk(&source, &mut seeker) {
        Err(e) if seeker.found.is_none() => Err(e),
        _ => Ok(seeker.found),
    }
}

/// Writes the changes as an archive.
///
/// # Errors
/// A file changed while it was read, something cannot be read, or `to` fails; the text names the path. It was cancelled.
pub fn archive(source: &Source, shift: Option<IdShift>, form: Form, to: &mut dyn Write) -> Result<Exported> {
    compress::check(form.compression)?;
    let alone = form.compression == Compression::None && !form.digests;
    let outcome = if alone { as_it_is(source, shift, to) } else { side_by_side(source, shift, form, to) };
    let ((entries, losses), digests, bytes) = outcome.or_else(|e| source.cancel.check().and(Err(e)))?;
    losses.log();
    Ok(Exported { digests, bytes, entries })
}

/// What was written, both digests if they were taken, and how many bytes the caller got.
type Outcome = ((u64, Losses), Option<(Digest, Digest)>, u64);

/// The archive on its way from the layer to the caller on one thread.
fn as_it_is(source: &Source, shift: Option<IdShift>, to: &mut dyn Write) -> Result<Outcome> {
    let mut out = AsItIs::new(&source.cancel, to);
    let archived = write_tar(source, shift, &mut out, drop);
    // After a refusal there is nothing but that: it is the cause.
    let bytes = out.written()?;
    Ok((archived?, None, bytes))
}

/// The layer is read, the archive's digest taken, and the archive compressed, each on a thread of its own, the last on the caller's.
fn side_by_side(source: &Source, shift: Option<IdShift>, form: Form, to: &mut dyn Write) -> Result<Outcome> {
    let (filler, drainer) = ring::ring();
    let (archived, digested, written) = std::thread::scope(|scope| {
        // No handler of the host program is to run on them: they start with all signals blocked.
        let blocked = SignalsBlocked::now();
        let (archiving, digesting) = if form.digests {
            let (free, full) = filler.split();
            let (to_digest, made) = sync_channel(1);
            let out = ToDigest { free, made: to_digest };
            let archiving = threads::start(scope, "export", move || write_tar(source, shift, out, ToDigest::end))?;
            (archiving, Some(threads::start(scope, "export-digest", move || digest(&made, full))?))
        } else {
            (threads::start(scope, "export", move || write_tar(source, shift, filler, Filler::end))?, None)
        };
        drop(blocked);
        let written = compress::run(drainer, form, &source.cancel, to);
        Ok((threads::outcome_of(archiving), digesting.map(threads::outcome_of).transpose(), written))
    })?;
    match (archived, digested, written) {
        // Each stops when another one fails: the one that was not just told to stop knows why.
        (Err(e), _, Err(cause)) if e.errno() == stream::UNWANTED => Err(cause),
        (Err(e), _, _) | (Ok(_), Ok(_), Err(e)) => Err(e),
        (Ok(_), Err(_), Err(cause)) => Err(cause),
        (Ok(_), Err(e), Ok(_)) => Err(e),
        (Ok(archived), Ok(diff_id), Ok(written)) => {
            let digests = diff_id.map(|diff_id| (written.digest.unwrap_or(diff_id), diff_id));
            Ok((archived, digests, written.bytes))
        }
    }
}

/// Writes the archive of all that `source` changes; `end` says that it is complete: without that it counts as broken off.
fn write_tar<S: Sink>(source: &Source, shift: Option<IdShift>, out: S, end: impl FnOnce(S)) -> Result<(u64, Losses)> {
    let mut archiver = Archiver::new(Stream::new(out), shift, source.is_bare());
    walk::walk(source, &mut archiver)?;
    let (out, entries, losses) = archiver.finish()?;
    end(out);
    Ok((entries, losses))
}

/// Calls `each` for every path that changed.
///
/// # Errors
/// Something cannot be read; that of `each`.
pub fn changes(source: &Source, each: &mut dyn FnMut(&[u8], Change) -> Result<()>) -> Result<()> {
    walk::walk(source, &mut Lister(each))
}

/// The sum of the sizes of all that was added or modified and is not a directory, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn size(source: &Source) -> Result<u64> {
    let mut measure = Measure::default();
    walk::walk(source, &mut measure)?;
    Ok(measure.size)
}

/// A buffer and how much of it is filled; `None`: the archive is complete.
type Made = Option<(Vec<u8>, usize)>;

/// Takes the digest of the archive on its way to the caller's thread: of files from memory it takes longer than reading or writing.
fn digest(made: &Receiver<Made>, full: ring::Full) -> Result<Digest> {
    let mut hasher = Hasher::default();
    loop {
        match made.recv() {
            Ok(Some((bytes, length))) => {
                hasher.update(&bytes[..length]);
                if !full.pass(bytes, length) {
                    return Err(stream::unwanted());
                }
            }
            Ok(None) => {
                full.end();
                return Ok(hasher.finish());
            }
            Err(_) => return Err(stream::unwanted()), // it is broken off, and so is what follows
        }
    }
}

/// Where an archive goes first.
struct ToDigest {
    free: Receiver<Vec<u8>>,
    made: SyncSender<Made>,
}

impl ToDigest {
    fn end(self) {
        let _ = self.made.send(None);
    }
}

impl Sink for ToDigest {
    fn buffer(&mut self) -> Option<Vec<u8>> {
        self.free.recv().ok()
    }

    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
        self.made.send(Some((bytes, length))).is_ok()
    }
}

struct Lister<'a>(&'a mut dyn FnMut(&[u8], Change) -> Result<()>);

impl Finder for Lister<'_> {
    fn there(&mut self, path: &[u8], change: Change, _: &Thing<'_>) -> Result<()> {
        (self.0)(path, change)
    }

    fn gone(&mut self, path: &[u8]) -> Result<()> {
        (self.0)(path, Change::Deleted)
    }

    fn opaque(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Measure {
    size: u64,
    linked: HashSet<(u64, u64)>,
}

impl Measure {
    fn add(&mut self, stat: &Stat) {
        if stat.links < 2 || self.linked.insert((stat.device, stat.inode)) {
            self.size = self.size.saturating_add(stat.size);
        }
    }
}

impl Finder for Measure {
    fn there(&mut self, _: &[u8], _: Change, thing: &Thing<'_>) -> Result<()> {
        match thing {
            Thing::Dir(_) => {}
            Thing::Name(stat) => self.add(stat),
            Thing::Entry(dir, name, _) => match fs::stat_at(dir, name) {
                Err(e) if fs::is_absent(&e) => {}
                found => self.add(&found?),
            },
        }
        Ok(())
    }

    fn gone(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn opaque(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Looks for a file or directory that does not say all about itself.
struct Seeker {
    wary: bool,
    names: Vec<u8>,
    found: Option<&'static str>,
}

impl Finder for Seeker {
    fn there(&mut self, _: &[u8], _: Change, thing: &Thing<'_>) -> Result<()> {
        self.found = match *thing {
            Thing::Dir(found) => found.marks.elsewhere,
            Thing::Entry(dir, name, fs::FileKind::File) => {
                let node = walk::open_file(dir, name, self.wary);
                match node {
                    Err(e) if fs::is_absent(&e) => None,
                    node => Described::of(&node?, &mut self.names)?.marks.elsewhere,
                }
            }
            _ => None,
        };
        match self.found {
            None => Ok(()),
            Some(why) => Err(Error::new(Kind::Unsupported, why)), // one is enough
        }
    }

    fn gone(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn opaque(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}
