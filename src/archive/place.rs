//! Puts entries into the layer: descriptors and single names only, on the confined thread.

use super::below::Lookup;
use super::describe::{self, Amends, IMPLIED_MODE};
use super::dirs::{Dir, Dirs, PERMISSIONS, hands_down};
use super::entry::{Reader, Type};
use super::finish::{self, Unfinished};
use super::losses::Losses;
use super::plan::{IdShift, LINKS, Metadata, Operation, Owner, Place};
use super::purge::Placed;
use super::walk::Spot;
use super::{Options, Whiteouts};
use crate::error::errno::{EEXIST, ELOOP, ENOENT, ENOTDIR};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::caps;
use crate::sys::fs::{self, FileKind, Stat, is_absent, shown};
use crate::sys::place::{self, Time};
use crate::tree;
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

/// `S_IFCHR` with no permission: what an overlay whiteout is, of device 0:0.
const WHITEOUT: u32 = 0o020_000;
/// After that many bytes of one file, write-back of them is started.
const WRITE_BACK: u64 = 8 << 20;

/// The state of unpacking one layer.
pub(super) struct Placer<'o> {
    options: &'o Options,
    dirs: Dirs,
    placed: Placed,
    /// Whom a directory belongs to that no entry describes.
    implied: Owner,
    losses: &'o Losses<'o>,
    unfinished: Unfinished,
    /// The files of AUFS with several names are there, for hard links to them.
    aufs_links: bool,
    /// Directories made that no entry describes.
    made: u64,
    /// The archive hides everything below the layer.
    pub(super) root_opaque: bool,
    pub(super) root_described: bool,
    /// Finds what implied directories are merged with.
    lookup: Lookup,
}

fn bytes(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn is_whiteout(stat: &Stat) -> bool {
    stat.kind == FileKind::Char && stat.rdev == 0
}

impl<'o> Placer<'o> {
    pub(super) fn new(
        root: OwnedFd,
        options: &'o Options,
        losses: &'o Losses<'o>,
        unfinished: Unfinished,
    ) -> Result<Placer<'o>> {
        let zero = Owner { uid: 0, gid: 0 };
        let implied = options.shift.as_ref().map_or(Ok(zero), |shift: &IdShift| shift.apply(zero))?;
        let placed = Placed::new(options.whiteouts == Whiteouts::Delete);
        Ok(Placer {
            options,
            dirs: Dirs::new(root, &options.limits)?,
            placed,
            implied,
            losses,
            unfinished,
            aufs_links: false,
            made: 0,
            root_opaque: false,
            root_described: false,
            lookup: Lookup::default(),
        })
    }

    fn is_overlay(&self) -> bool {
        self.options.whiteouts == Whiteouts::Overlay
    }

    /// Hands the last files over, removes what only served for links, and gives the directories their times; to be called when
    /// all entries are placed.
    pub(super) fn finish(self) -> Result<()> {
        self.unfinished.end()?;
        if self.aufs_links {
            let root = self.dirs.root();
            root.changed.set(true);
            tree::remove(root.as_fd(), bytes(LINKS))?;
        }
        self.dirs.finish().context(|| "set the times of directories")
    }

    /// Does one operation; a file's content is read from `content`.
    pub(super) fn place<S: BufRead>(
        &mut self,
        operation: &Operation<'_>,
        content: &mut Reader<'_, S>,
        entry: &super::entry::Entry,
    ) -> Result<()> {
        debug_assert!(!matches!(operation, Operation::File(..)) || entry.kind == Type::File);
        match operation {
            Operation::Skip => Ok(()),
            Operation::Root(metadata) => {
                self.root_described = true;
                let root = self.dirs.root();
                self.describe_dir(&root, b".", metadata, true)
            }
            Operation::Dir(at, metadata) => self.dir(at, &entry.path, metadata),
            Operation::File(at, metadata) => self.file(at, metadata, content, entry),
            Operation::Symlink(at, metadata, text) => {
                let parent = self.parent(&at.parent)?;
                self.new_name(&parent, at.name, || fs::symlink_at(bytes(text), &parent, bytes(at.name)))?;
                own(&parent, at.name, metadata.owner)?;
                self.losses.entry(&entry.path, &metadata.lost);
                place::set_times_at(&parent, at.name, metadata.atime, metadata.mtime)
            }
            Operation::Node(at, metadata, kind, device) => self.node(at, &entry.path, metadata, *kind, *device),
            Operation::Hardlink(at, target) => self.hard_link(at, target),
            Operation::Whiteout(at, owner) => match self.options.whiteouts {
                Whiteouts::Overlay => self.whiteout(at, *owner),
                Whiteouts::Delete => {
                    let parent = self.parent(&at.parent)?;
                    parent.changed.set(true);
                    self.forget_paths();
                    let reset =
                        self.placed.remove(&parent, at.name, self.implied, &|| self.options.cancel.is_requested())?;
                    if reset { self.dirs.look_again() } else { Ok(()) }
                }
            },
            Operation::Opaque(path) => {
                let dir = self.parent(path)?;
                let is_root = dir.inode == self.dirs.root().inode;
                self.root_opaque |= is_root;
                match self.options.whiteouts {
                    Whiteouts::Overlay if is_root => Ok(()), // the kernel looks for it below the root only
                    Whiteouts::Overlay => {
                        self.lookup.forget();
                        set_opaque(dir.as_fd())
                    }
                    Whiteouts::Delete => {
                        dir.changed.set(true);
                        self.forget_paths();
                        let reset = self.placed.empty(&dir, self.implied, &|| self.options.cancel.is_requested())?;
                        if reset { self.dirs.look_again() } else { Ok(()) }
                    }
                }
            }
        }
    }

    /// Forgets what paths lead to, because something was removed.
    fn forget_paths(&mut self) {
        self.dirs.forget_paths();
        self.lookup.forget();
    }

    /// The directory at a path; what is missing of it is made.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let (implied, overlay) = (self.implied, self.is_overlay());
        let (placed, made, limit) = (&mut self.placed, &mut self.made, self.options.limits.entries);
        let (below, lookup, root) = (&self.options.below, &mut self.lookup, self.dirs.root());
        let mut make = |spot: &Spot<'_>, there: Option<&Stat>| {
            let (dir, name) = (spot.dir, spot.name);
            let hidden = overlay && there.is_some_and(is_whiteout);
            if there.is_some() && !hidden && !placed.is_lower(dir, name)? {
                return Ok(false);
            }
            *made += 1;
            if *made > limit {
                let text = format!("limit 'entries': more than {limit} directories without entries of their own");
                return Err(Error::new(Kind::Limit, text));
            }
            let mtime = place::modification_time(dir)?;
            if there.is_some() {
                fs::remove_file_at(dir, bytes(name))?;
            }
            place::make_dir(dir, name, IMPLIED_MODE)?;
            let new = fs::open_dir_at(dir, bytes(name))?;
            let found = fs::stat_fd(&new)?;
            let right = (found.uid, found.gid, found.mode & PERMISSIONS) == (implied.uid, implied.gid, IMPLIED_MODE);
            let template = if hidden { None } else { lookup.find(below, root.as_fd(), &spot.parent(), name)? };
            // Not the time of the unpacking: the same archive is to make the same layer.
            place::set_times(&new, Time::KEEP, Time::default())?;
            match template {
                Some(template) => describe::copied_up(&new, &template)?,
                None if !right || hands_down(dir)? => describe::implied(&new, implied)?,
                None => {}
            }
            if hidden {
                set_opaque(new.as_fd())?;
            }
            place::set_times(dir, Time::KEEP, mtime)?;
            placed.note_made(dir, name, new.as_fd())?;
            Ok(true)
        };
        self.dirs.get(path, Some(&mut make))
    }

    /// Makes a name with `make`, removing what has it already.
    fn new_name<T>(&mut self, parent: &Rc<Dir>, name: &[u8], make: impl Fn() -> Result<T>) -> Result<T> {
        parent.changed.set(true);
        self.placed.note(parent, name);
        match make() {
            Err(e) if e.errno() == EEXIST => {
                self.clear(parent, name)?;
                make()
            }
            other => other,
        }
    }

    fn clear(&mut self, parent: &Dir, name: &[u8]) -> Result<()> {
        let stat = fs::stat_at(parent, bytes(name))?;
        if matches!(stat.kind, FileKind::Dir | FileKind::Symlink) {
            self.forget_paths();
        }
        tree::remove_unless(parent.as_fd(), bytes(name), &|| self.options.cancel.is_requested())
    }

    fn dir(&mut self, at: &Place<'_>, path: &[u8], metadata: &Metadata) -> Result<()> {
        let parent = self.parent(&at.parent)?;
        parent.changed.set(true);
        self.placed.note(&parent, at.name);
        let (fd, existed) = match place::make_dir(&parent, at.name, metadata.mode) {
            Ok(()) => (fs::open_dir_at(&parent, bytes(at.name))?, false),
            Err(e) if e.errno() == EEXIST => match fs::open_dir_at(&parent, bytes(at.name)) {
                Ok(fd) => (fd, true),
                Err(e) if [ENOTDIR, ELOOP].contains(&e.errno()) => {
                    self.clear(&parent, at.name)?;
                    place::make_dir(&parent, at.name, metadata.mode)?;
                    let fd = fs::open_dir_at(&parent, bytes(at.name))?;
                    // What stood here, be it a whiteout or a file, hid what the lower layers have; so does this.
                    if self.is_overlay() {
                        set_opaque(fd.as_fd())?;
                    }
                    (fd, false)
                }
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        };
        if !existed {
            self.placed.note_new_dir(fd.as_fd())?;
        }
        let mut known = at.parent.to_vec();
        if !known.is_empty() {
            known.push(b'/');
        }
        known.extend_from_slice(at.name);
        let dir = self.dirs.add(known, fd)?;
        self.describe_dir(&dir, path, metadata, existed || !parent.plain.get())
    }

    /// Sets what an entry says about a directory and is not so already; `attributes` where it may have some from elsewhere.
    fn describe_dir(&mut self, dir: &Dir, path: &[u8], metadata: &Metadata, attributes: bool) -> Result<()> {
        let found = fs::stat_fd(dir)?;
        let owner = (found.uid, found.gid) != (metadata.owner.uid, metadata.owner.gid);
        if owner {
            place::set_owner(dir, metadata.owner.uid, metadata.owner.gid)?;
        }
        if attributes {
            describe::remove_xattrs(dir.as_fd())?;
        }
        let mode = found.mode & PERMISSIONS != metadata.mode;
        if mode {
            place::set_mode(dir, metadata.mode)?;
        }
        describe::xattrs(dir.as_fd(), path, metadata, self.losses)?;
        if owner || attributes || mode || !metadata.xattrs.is_empty() {
            dir.look()?;
        }
        dir.times.set((metadata.atime, metadata.mtime));
        dir.changed.set(true);
        Ok(())
    }

    fn file<S: BufRead>(
        &mut self,
        at: &Place<'_>,
        metadata: &Metadata,
        content: &mut Reader<'_, S>,
        entry: &super::entry::Entry,
    ) -> Result<()> {
        let parent = self.parent(&at.parent)?;
        self.aufs_links |= *at.parent == *LINKS;
        let fd = self.new_name(&parent, at.name, || place::create_file(&parent, at.name, metadata.mode))?;
        let given = parent.given(Some(metadata.mode), || fs::stat_fd(&fd))?;
        let amends = Amends::of(metadata, given, parent.plain.get());
        match &entry.extents {
            None if finish::takes(entry, metadata) => {
                return self.unfinished.add(fd, entry, metadata, amends, content);
            }
            None => self.write(&fd, content)?,
            Some(extents) => write_sparse(&fd, extents, entry.length, content)?,
        }
        describe::file(&fd, &entry.path, metadata, amends, self.losses)
    }

    fn write<S: BufRead>(&self, fd: &OwnedFd, content: &mut Reader<'_, S>) -> Result<()> {
        let (mut written, mut started) = (0, 0);
        loop {
            let chunk = content.data()?;
            if chunk.is_empty() {
                return Ok(());
            }
            let length = chunk.len();
            place::write_all(fd, chunk)?;
            content.consume(length)?;
            written += length as u64;
            if self.options.sync && written - started >= WRITE_BACK {
                match place::start_write_back(fd, started, written - started) {
                    Err(e) if e.kind() == Kind::Unsupported => {} // the `syncfs` at the end writes back everything
                    other => other?,
                }
                started = written;
            }
        }
    }

    fn node(&mut self, at: &Place<'_>, path: &[u8], metadata: &Metadata, kind: u32, device: u64) -> Result<()> {
        let parent = self.parent(&at.parent)?;
        let name = bytes(at.name);
        if self.is_overlay() && kind == WHITEOUT && device == 0 {
            return self.whiteout_device(&parent, at, path, metadata.owner);
        }
        self.new_name(&parent, at.name, || fs::make_node_at(&parent, name, kind | metadata.mode, device))?;
        let given = parent.given(Some(metadata.mode), || fs::stat_at(&parent, name))?;
        let amends = Amends::of(metadata, given, parent.plain.get());
        if amends.owner {
            fs::chown_at(&parent, name, metadata.owner.uid, metadata.owner.gid)?;
        }
        if amends.acl {
            place::remove_xattr_at(&parent, at.name, super::acl::ACCESS)?;
        }
        // Looked at first: older kernels can set it by an ACL only, which not every mount has.
        if amends.mode && fs::stat_at(&parent, name)?.mode & PERMISSIONS != metadata.mode {
            place::set_mode_at(&parent, at.name, metadata.mode)?;
        }
        self.losses.entry(path, &metadata.lost);
        for (key, value) in &metadata.xattrs {
            self.losses.attribute(place::set_xattr_at(&parent, at.name, key, value), path, metadata, key)?;
        }
        place::set_times_at(&parent, at.name, metadata.atime, metadata.mtime)
    }

    fn hard_link(&mut self, at: &Place<'_>, target: &Place<'_>) -> Result<()> {
        let shown_target = || {
            let slash = if target.parent.is_empty() { "" } else { "/" };
            format!("{}{slash}{}", shown(bytes(&target.parent)), shown(bytes(target.name)))
        };
        let missing = |e: Error| {
            if is_absent(&e) || e.errno() == ENOTDIR {
                let text = format!("a hard link to '{}', which this layer does not hold", shown_target());
                Error::new(Kind::Archive, text)
            } else {
                e
            }
        };
        let from = self.dirs.get(&target.parent, None).map_err(missing)?;
        let stat = fs::stat_at(&from, bytes(target.name)).map_err(missing)?;
        // In the deleting form too: an image must not depend on the driver.
        if (self.is_overlay() && is_whiteout(&stat)) || self.placed.is_lower(from.as_fd(), target.name)? {
            return Err(missing(Error::sys("the target is not this layer's", ENOENT)));
        }
        if stat.kind == FileKind::Dir {
            return Err(Error::new(Kind::Archive, format!("a hard link to the directory '{}'", shown_target())));
        }
        let parent = self.parent(&at.parent)?;
        match fs::stat_at(&parent, bytes(at.name)) {
            Ok(there) if there.inode == stat.inode => {
                self.placed.note(&parent, at.name);
                return Ok(());
            }
            _ => {}
        }
        self.new_name(&parent, at.name, || place::link(&from, target.name, &parent, at.name))
    }

    /// A character device 0:0 is what overlay takes for a whiteout: this name cannot be in the layer's tree. What had it is
    /// hidden, as it would be by the device.
    fn whiteout_device(&mut self, parent: &Rc<Dir>, at: &Place<'_>, path: &[u8], owner: Owner) -> Result<()> {
        self.losses.device(path);
        parent.changed.set(true);
        match self.clear(parent, at.name) {
            Err(e) if !is_absent(&e) => Err(e),
            _ => self.whiteout(at, owner),
        }
    }

    /// Hides a name of the lower layers, but not what this layer itself has under it.
    fn whiteout(&mut self, at: &Place<'_>, owner: Owner) -> Result<()> {
        let parent = self.parent(&at.parent)?;
        parent.changed.set(true);
        if !parent.whiteouts.replace(true) {
            match set_may_hold_whiteouts(parent.as_fd()) {
                Err(e) if e.kind() == Kind::Unsupported => {} // only listings are nicer for it
                other => other?,
            }
        }
        match fs::make_node_at(&parent, bytes(at.name), WHITEOUT, 0) {
            Ok(()) => own(&parent, at.name, owner),
            Err(e) if e.errno() == EEXIST => match fs::stat_at(&parent, bytes(at.name))?.kind {
                FileKind::Dir => set_opaque(fs::open_dir_at(&parent, bytes(at.name))?.as_fd()),
                _ => Ok(()),
            },
            other => other,
        }
    }
}

/// Gives a new name, which nothing else is to be said about, to its owner.
fn own(parent: &Dir, name: &[u8], owner: Owner) -> Result<()> {
    let given = parent.given(None, || fs::stat_at(parent, bytes(name)))?;
    if owner == given { Ok(()) } else { fs::chown_at(parent, bytes(name), owner.uid, owner.gid) }
}

fn write_sparse<S: BufRead>(fd: &OwnedFd, extents: &[(u64, u64)], length: u64, content: &mut Reader<'_, S>) -> Result<()> {
    // First, so that the filesystem does not take the holes for room that is about to be written to (XFS).
    place::set_length(fd, length)?;
    for (offset, count) in extents {
        let (mut at, end) = (*offset, offset + count);
        while at < end {
            let chunk = content.data()?;
            let step = chunk.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            place::write_all_at(fd, &chunk[..step], at)?;
            content.consume(step)?;
            at += step as u64;
        }
    }
    Ok(())
}

/// Marks a directory as one that hides what the lower layers have under its name (`Documentation/filesystems/overlayfs.rst`).
fn set_opaque(dir: BorrowedFd<'_>) -> Result<()> {
    caps::with(caps::SYS_ADMIN, || place::set_xattr(dir, b"trusted.overlay.opaque", b"y"))
}

/// The attribute that says of which lower directory an upper one is a copy.
const ORIGIN: &[u8] = b"trusted.overlay.origin";

/// Makes the kernel look for whiteouts in a directory that no lower layer has: listing such a directory otherwise shows them,
/// as names that cannot be opened (`ovl_get_inode()` of Linux: "non-merge dir that may have whiteouts"). An empty value names
/// no origin; the kernel itself writes it where the lower file system has no file handles.
fn set_may_hold_whiteouts(dir: BorrowedFd<'_>) -> Result<()> {
    caps::with(caps::SYS_ADMIN, || place::set_xattr(dir, ORIGIN, b""))
}
