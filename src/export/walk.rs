//! Finds what a layer changes, in the order of an archive: a directory before what is in it, names sorted by their bytes.
//!
//! Works on descriptors and single names: nothing outside the tree is reached, whatever is moved about in it meanwhile. A bounded
//! number of directories is open, however deep the tree is.

use super::described::{self, Described, same_inode};
use super::names::Names;
use super::place::{OPEN, Place};
use super::{How, Source};
use crate::cancel::Cancel;
use crate::driver::Change;
use crate::error::errno::{EACCES, EINVAL, ELOOP, ENOTDIR, ENXIO, EXDEV};
use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, FileKind, Stat, shown};
use crate::sys::{reading, subdir};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What was found to be there.
pub(super) enum Thing<'a> {
    /// A directory.
    Dir(&'a Described),
    /// Anything else, still to be looked at: where it is, its name, and what it was when the directory was listed.
    Entry(BorrowedFd<'a>, &'a OsStr, FileKind),
    /// One more name of a file that was told of before.
    Name(Stat),
}

/// Who is told.
pub(super) trait Finder {
    /// A path was added or modified.
    fn there(&mut self, path: &[u8], change: Change, thing: &Thing<'_>) -> Result<()>;
    /// What the lower layers have under the path is not there any more.
    fn gone(&mut self, path: &[u8]) -> Result<()>;
    /// Nothing that the lower layers have in this directory is there any more. It was told of just before.
    fn opaque(&mut self, dir: &[u8]) -> Result<()>;
}

/// A directory on the way down.
struct Level {
    new: Place,
    old: Option<Place>,
    names: Names,
    next: usize,
    /// Length of its path.
    path: usize,
    /// It is as it was, and so is all that was seen in it. It is told of before the first change below it.
    untold: Option<Described>,
    may_hold_whiteouts: bool,
}

/// A walk under way.
struct Walk<'a, F> {
    how: How,
    cancel: &'a Cancel,
    wary: bool,
    /// The other tree is known, and with it what whiteouts hide.
    resolves: bool,
    finder: &'a mut F,
    levels: Vec<Level>,
    path: Vec<u8>,
    names: Vec<u8>,
    /// Files with several names, by device and inode: which were told of, and the names of those that were not.
    told: HashSet<(u64, u64)>,
    passed: HashMap<(u64, u64), Passed>,
}

/// A file with several names, and those of them that are as they were.
type Passed = (Stat, Vec<Vec<u8>>);

/// Tells the finder of all that `source` changes.
pub(super) fn walk(source: &Source, finder: &mut impl Finder) -> Result<()> {
    let mut walk = Walk {
        how: source.how,
        cancel: &source.cancel,
        wary: source.is_bare(),
        resolves: source.old.is_some(),
        finder,
        levels: Vec::new(),
        path: Vec::new(),
        names: Vec::new(),
        told: HashSet::new(),
        passed: HashMap::new(),
    };
    walk.run(source).map_err(|e| match walk.path.as_slice() {
        [] => e,
        path => e.context(format!("'/{}'", shown(OsStr::from_bytes(path)))),
    })
}

impl<F: Finder> Walk<'_, F> {
    fn run(&mut self, source: &Source) -> Result<()> {
        self.cancel.check()?;
        let new = fs::open_dir_at(&source.new, ".")?;
        let old = source.old.as_ref().map(|old| fs::open_dir_at(old, ".")).transpose()?;
        let change = if old.is_some() { Change::Modified } else { Change::Added };
        self.enter(new, old, change)?;
        while let Some(level) = self.levels.last_mut() {
            self.cancel.check()?;
            self.path.truncate(level.path);
            let Some((name, found)) = level.names.get(level.next) else {
                self.leave()?;
                continue;
            };
            level.next += 1;
            let (name, kind, gone) = (name.to_owned(), found.kind, found.gone);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            match self.how {
                _ if gone => self.gone()?,
                How::Marks => self.by_marks(&name, kind)?,
                How::Compared => self.by_comparing(&name, kind)?,
            }
        }
        self.names_left()
    }

    /// The directory that is being gone through, and the other tree's.
    fn here(&self) -> Result<(BorrowedFd<'_>, Option<BorrowedFd<'_>>)> {
        let level = self.levels.last().ok_or_else(|| Error::new(Kind::Internal, "a walk lost its place"))?;
        Ok((level.new.open()?, level.old.as_ref().map(Place::open).transpose()?))
    }

    /// What the other tree has under a name.
    fn before(&self, name: &OsStr) -> Result<Option<Stat>> {
        let (_, Some(old)) = self.here()? else { return Ok(None) };
        match fs::stat_at(old, name) {
            Err(e) if fs::is_absent(&e) => Ok(None),
            found => found.map(Some),
        }
    }

    /// What the layer has under a name; `None` if it went away after it was listed.
    fn now(&self, name: &OsStr) -> Result<Option<Stat>> {
        match fs::stat_at(self.here()?.0, name) {
            Err(e) if fs::is_absent(&e) => Ok(None),
            found => found.map(Some),
        }
    }

    /// The path of the walk is not there any more.
    fn gone(&mut self) -> Result<()> {
        self.tell_ancestors()?;
        self.finder.gone(&self.path)
    }

    /// A directory that was just opened is told of, or will be, and becomes the deepest level.
    fn enter(&mut self, new: OwnedFd, old: Option<OwnedFd>, change: Change) -> Result<()> {
        let found = Described::of(&new, &mut self.names)?;
        let mut untold = None;
        match self.how {
            How::Marks => self.finder.there(&self.path, change, &Thing::Dir(&found))?,
            How::Compared => {
                let before = match &old {
                    Some(old) => Some(Described::of(old, &mut self.names)?),
                    None => None,
                };
                if before.is_some_and(|before| before.says_the_same(&found)) {
                    untold = Some(found.clone());
                } else {
                    self.tell_ancestors()?;
                    self.finder.there(&self.path, change, &Thing::Dir(&found))?;
                }
            }
        }
        // Whoever knows the other tree is told of single names, be they hidden one by one or all at once.
        let hides = self.how == How::Compared || found.marks.opaque;
        if self.how == How::Marks && found.marks.opaque && !self.resolves {
            self.finder.opaque(&self.path)?;
        }
        let names = Names::of(&new, old.as_ref().filter(|_| hides))?;
        let may_hold_whiteouts = found.marks.may_hold_whiteouts;
        let (new, old) = (Place::Open(new), old.map(Place::Open));
        self.levels.push(Level { new, old, names, next: 0, path: self.path.len(), untold, may_hold_whiteouts });
        self.close_far_ones()
    }

    fn close_far_ones(&mut self) -> Result<()> {
        let far = self.levels.len().checked_sub(OPEN + 1);
        let Some([far, below, ..]) = far.map(|far| &mut self.levels[far..]) else { return Ok(()) };
        far.new.close()?;
        match &mut far.old {
            // Where the other tree ends there is no way back up in it: its last directory stays open.
            Some(old) if below.old.is_some() => old.close(),
            _ => Ok(()),
        }
    }

    fn leave(&mut self) -> Result<()> {
        let Some(done) = self.levels.pop() else { return Ok(()) };
        let Some(parent) = self.levels.last_mut() else { return Ok(()) };
        parent.new.reopen(&done.new)?;
        match (&mut parent.old, &done.old) {
            (Some(parent), Some(done)) => parent.reopen(done),
            _ => Ok(()),
        }
    }

    fn by_marks(&mut self, name: &OsStr, kind: Option<FileKind>) -> Result<()> {
        let kind = match kind {
            Some(kind) if ![FileKind::Char, FileKind::Other].contains(&kind) => kind,
            _ => match self.now(name)? {
                None => return Ok(()),
                Some(stat) if is_whiteout(&stat) => return self.hidden(name),
                Some(stat) => stat.kind,
            },
        };
        match kind {
            FileKind::Dir => self.dir(name),
            FileKind::File if self.is_whiteout_file(name)? => self.hidden(name),
            _ => {
                let change = if self.before(name)?.is_some() { Change::Modified } else { Change::Added };
                self.there(name, change, kind)
            }
        }
    }

    /// A whiteout; one that hides nothing is told of where that is not known.
    fn hidden(&mut self, name: &OsStr) -> Result<()> {
        if self.resolves && self.before(name)?.is_none() { Ok(()) } else { self.gone() }
    }

    fn is_whiteout_file(&self, name: &OsStr) -> Result<bool> {
        if !self.levels.last().is_some_and(|level| level.may_hold_whiteouts) {
            return Ok(false);
        }
        let node = reading::open_node(self.here()?.0, name)?;
        described::is_whiteout(&node)
    }

    fn by_comparing(&mut self, name: &OsStr, kind: Option<FileKind>) -> Result<()> {
        let now = match kind {
            Some(FileKind::Dir) => return self.dir(name),
            _ => self.now(name)?,
        };
        let before = self.before(name)?;
        let now = match (now, before) {
            (Some(now), _) if now.kind == FileKind::Dir => return self.dir(name),
            (Some(now), Some(before)) if same_inode(&now, &before) => {
                if now.links > 1 {
                    self.passed.entry((now.device, now.inode)).or_insert((now, Vec::new())).1.push(self.path.clone());
                }
                return Ok(());
            }
            (Some(now), Some(before)) if now.links == 1 && self.is_equal(name, &now, &before)? => return Ok(()),
            (Some(now), _) => now,
            (None, Some(_)) => return self.gone(),
            (None, None) => return Ok(()),
        };
        self.tell_ancestors()?;
        if now.links > 1 {
            self.told.insert((now.device, now.inode));
        }
        self.there(name, if before.is_some() { Change::Modified } else { Change::Added }, now.kind)
    }

    fn there(&mut self, name: &OsStr, change: Change, kind: FileKind) -> Result<()> {
        let level = self.levels.last().ok_or_else(|| Error::new(Kind::Internal, "a walk lost its place"))?;
        self.finder.there(&self.path, change, &Thing::Entry(level.new.open()?, name, kind))
    }

    fn dir(&mut self, name: &OsStr) -> Result<()> {
        let before = self.before(name)?;
        let (here, there) = self.here()?;
        let new = match subdir::open_same_mount(here, name) {
            Err(e) if fs::is_absent(&e) => return if before.is_some() { self.gone() } else { Ok(()) },
            Err(e) if e.errno() == EXDEV => {
                return Err(Error::new(Kind::Busy, "something is mounted on it").hint("unmount it first"));
            }
            Err(e) if [ENOTDIR, ELOOP].contains(&e.errno()) => return Err(moving(e)),
            opened => opened?,
        };
        let old = match (there, &before) {
            (Some(there), Some(stat)) if stat.kind == FileKind::Dir => Some(subdir::open_same_mount(there, name)?),
            _ => None,
        };
        self.enter(new, old, if before.is_some() { Change::Modified } else { Change::Added })
    }

    /// Whether what two different inodes hold is the same, in content and in all that an archive says.
    fn is_equal(&mut self, name: &OsStr, now: &Stat, before: &Stat) -> Result<bool> {
        let said = |s: &Stat| (s.mode, s.uid, s.gid, s.modified, s.size, s.rdev);
        if said(now) != said(before) {
            return Ok(false);
        }
        let mut names = std::mem::take(&mut self.names);
        let (new, Some(old)) = self.here()? else { return Ok(false) };
        let equal = match now.kind {
            FileKind::Symlink => read_link(new, name)? == read_link(old, name)?,
            FileKind::File => {
                let (new, old) = (open_file(new, name, self.wary)?, open_file(old, name, self.wary)?);
                Described::of(&new, &mut names)?.says_the_same(&Described::of(&old, &mut names)?)
                    && same_content(&new, &old, self.cancel)?
            }
            _ => {
                let (new, old) = (reading::open_node(new, name)?, reading::open_node(old, name)?);
                Described::of_node(&new, &mut names)?.says_the_same(&Described::of_node(&old, &mut names)?)
            }
        };
        self.names = names;
        Ok(equal)
    }

    /// An archive cannot say that a name is one more of a file that only lower layers have. Where one name of a file was told
    /// of, all are.
    fn names_left(&mut self) -> Result<()> {
        let told = &self.told;
        let all = self.passed.drain().filter(|(id, _)| told.contains(id));
        let mut left: Vec<_> = all.flat_map(|(_, (stat, paths))| paths.into_iter().map(move |path| (path, stat))).collect();
        left.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        left.iter().try_for_each(|(path, stat)| self.finder.there(path, Change::Modified, &Thing::Name(*stat)))
    }

    fn tell_ancestors(&mut self) -> Result<()> {
        for level in &mut self.levels {
            if let Some(found) = level.untold.take() {
                self.finder.there(&self.path[..level.path], Change::Modified, &Thing::Dir(&found))?;
            }
        }
        Ok(())
    }
}

/// The character device 0:0.
fn is_whiteout(stat: &Stat) -> bool {
    stat.kind == FileKind::Char && stat.rdev == 0
}

fn moving(error: Error) -> Error {
    error.with_kind(Kind::Busy).hint("the layer changed while it was read; try again")
}

/// Opens a regular file of the layer.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &OsStr, wary: bool) -> Result<OwnedFd> {
    let opened = if wary { reading::open_file_warily(dir, name) } else { reading::open_file(dir, name) };
    // Something else has the name now: a symlink, a device or a socket.
    opened.map_err(|e| if [ELOOP, EACCES, ENXIO].contains(&e.errno()) { moving(e) } else { e })
}

/// The text of a symlink of the layer.
pub(super) fn read_link(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OsString> {
    // It is none any more.
    fs::read_link_at(dir, name).map_err(|e| if e.errno() == EINVAL { moving(e) } else { e })
}

fn same_content(a: &OwnedFd, b: &OwnedFd, cancel: &Cancel) -> Result<bool> {
    let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        cancel.check()?;
        let (got, other) = (reading::fill(a, &mut left)?, reading::fill(b, &mut right)?);
        if left[..got] != right[..other] {
            return Ok(false);
        }
        if got < COMPARED {
            return Ok(true);
        }
    }
}

/// Bytes compared at a time.
const COMPARED: usize = 64 << 10;
