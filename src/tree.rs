//! Whole directory trees: deleting them and measuring them.
//!
//! Containers make trees deeper than any path or descriptor limit, and directories with more names than there is memory for. A
//! walk therefore remembers no names and has no recursion: it reads a directory in pieces, goes into a sub-directory when it
//! meets it, and goes on behind it afterwards. The deepest [`OPEN`] directories are open, with the piece that is being read.
//! Of each one above these it knows 32 bytes: who it is, and where in it the walk went down. It comes back up to it through `..`,
//! checks that it has arrived where it came from, and finds its place again by the directory's own offset
//! (`d_off` of getdents(2)).
//!
//! It never follows a symlink and never enters a mount. Measuring takes memory beside that for inodes with several names
//! ([`Inodes`]).

use crate::error::errno::{EINVAL, ENOTEMPTY, EPERM, EXDEV};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{self, FileKind, Stat, shown};
use crate::sys::{dirents, inode_flags, subdir};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a tree occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk space allocated.
    pub bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Directories kept open, each with a buffer of [`dirents::BUFFER`]: 1 MiB at most.
const OPEN: usize = 32;

/// Names shown of the way to an obstacle: the deepest ones.
const SHOWN: usize = 16;

/// How it goes on after a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// With what is behind it.
    On,
    /// With the same one, once more.
    Again,
}

/// What a walk does at each step. Directories are entered before [`Visitor::leave`] is called for them. What a step returns as an
/// error goes to [`Visitor::obstacle`].
pub(crate) trait Visitor {
    /// A name that is not a directory.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()>;
    /// A directory that may be done with without being entered; returns whether it is.
    fn done_already(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool>;
    /// A directory is about to be listed.
    fn enter(&mut self, dir: BorrowedFd<'_>) -> Result<()>;
    /// Everything below `name` was visited; `dir` is its parent. No name: it is not there any more, somebody else took it away.
    fn leave(&mut self, dir: BorrowedFd<'_>, name: Option<&OsStr>) -> Result<Next>;
    /// Something is mounted on the directory `name`.
    fn mount_point(&mut self, name: &OsStr) -> Result<()>;
    /// A step, or reading the directory, has failed at `path`. An error ends the walk; otherwise it goes on behind the obstacle.
    fn obstacle(&mut self, path: String, error: Error) -> Result<()> {
        Err(error.context(format!("at {path}")))
    }
}

/// An open directory on the way down.
struct Level {
    dir: OwnedFd,
    buffer: Vec<u8>,
    /// The part of the buffer that is not done with. While the walk is below, the record of where it went is at its front.
    start: usize,
    end: usize,
    /// The directory's offset of what is at the front.
    position: i64,
    ended: bool,
}

/// A directory on the way down that was closed for the sake of deeper ones.
struct Far {
    device: u64,
    inode: u64,
    /// Where in it the walk went down: the offset, and the inode number that the directory states there.
    position: i64,
    below: u64,
}

impl Level {
    fn new(dir: OwnedFd, buffer: Vec<u8>) -> Level {
        Level { dir, buffer, start: 0, end: 0, position: 0, ended: false }
    }

    /// The record at the front, of those that are in the buffer.
    fn front(&self) -> Option<dirents::Record<'_>> {
        dirents::first(&self.buffer[self.start..self.end])
    }

    /// Makes the next record the front one if there is one; `false` at the end.
    fn read(&mut self) -> Result<bool> {
        if self.start == self.end && !self.ended {
            (self.start, self.end) = (0, 0);
            self.end = dirents::fill(&self.dir, &mut self.buffer).inspect_err(|_| self.ended = true)?;
            self.ended = self.end == 0;
        }
        Ok(self.front().is_some())
    }

    /// Goes on behind the front record.
    fn pass(&mut self) {
        if let Some((length, next)) = self.front().map(|record| (record.length, record.next)) {
            self.start += length;
            self.position = next;
        }
    }

    fn seek(&mut self, position: i64) -> Result<()> {
        dirents::seek(&self.dir, position)?;
        (self.start, self.end, self.position, self.ended) = (0, 0, position, false);
        Ok(())
    }

    /// Makes the record with this inode number the front one, from this position on. If there is none, because somebody else took
    /// it away, the walk goes on from that position.
    fn resume(&mut self, position: i64, inode: u64) -> Result<bool> {
        match self.seek(position) {
            // Somebody deleted the directory itself; positions mean nothing in it, and there is nothing to read.
            Err(e) if e.errno() == EINVAL => return self.seek(0).map(|()| false),
            sought => sought?,
        }
        while self.read()? {
            if self.front().is_some_and(|record| record.inode == inode) {
                return Ok(true);
            }
            self.pass();
        }
        self.seek(position)?;
        Ok(false)
    }
}

/// Visits everything in the directory `top` and below it, which itself is entered and not left. `stop` is asked before each name;
/// when it says so, the walk ends with [`Kind::Cancelled`].
pub(crate) fn walk(top: OwnedFd, visitor: &mut impl Visitor, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut walk = Walk { far: Vec::new(), near: VecDeque::new(), spare: Vec::new(), visitor };
    walk.visitor.enter(top.as_fd())?;
    walk.descend(top)?;
    while !walk.near.is_empty() {
        if stop() {
            return Err(Error::new(Kind::Cancelled, "it was cancelled"));
        }
        walk.step()?;
    }
    Ok(())
}

/// What is to be done after a look at a name.
enum Look {
    /// It is done with.
    Past,
    /// It is a directory, which has been entered.
    Into(OwnedFd),
}

struct Walk<'v, V> {
    far: Vec<Far>,
    /// The open ones. The last is where the walk is; each of the others has at its front where it went down.
    near: VecDeque<Level>,
    /// Buffers of directories that are done with.
    spare: Vec<Vec<u8>>,
    visitor: &'v mut V,
}

impl<V: Visitor> Walk<'_, V> {
    /// Visits one name, or leaves a directory that has no more.
    fn step(&mut self) -> Result<()> {
        let Some(level) = self.near.back_mut() else { return Ok(()) };
        match level.read() {
            Ok(true) => {
                let looked = look(level, self.visitor);
                self.go(looked)
            }
            Ok(false) => self.ascend(),
            Err(e) => self.obstacle(e),
        }
    }

    fn go(&mut self, looked: Result<Look>) -> Result<()> {
        match looked {
            Ok(Look::Into(dir)) => return self.descend(dir),
            Ok(Look::Past) => {}
            Err(e) => self.obstacle(e)?,
        }
        if let Some(level) = self.near.back_mut() {
            level.pass();
        }
        Ok(())
    }

    fn obstacle(&mut self, error: Error) -> Result<()> {
        let path = self.path();
        self.visitor.obstacle(path, error)
    }

    /// The path of what the walk is at, as far as its names are known.
    fn path(&self) -> String {
        let names: Vec<String> = self.near.iter().filter_map(Level::front).map(|record| shown(record.name)).collect();
        let far = names.len().saturating_sub(SHOWN);
        let start = if far == 0 && self.far.is_empty() { "" } else { "…/" };
        format!("'{start}{}'", names[far..].join("/"))
    }

    /// Makes a directory that has been entered the deepest level.
    fn descend(&mut self, dir: OwnedFd) -> Result<()> {
        if self.near.len() >= OPEN {
            self.close_one()?;
        }
        let buffer = self.spare.pop().unwrap_or_else(|| vec![0; dirents::BUFFER]);
        self.near.push_back(Level::new(dir, buffer));
        Ok(())
    }

    /// Closes the open directory that is farthest up.
    fn close_one(&mut self) -> Result<()> {
        let Some(level) = self.near.pop_front() else { return Ok(()) };
        let Stat { device, inode, .. } = fs::stat_fd(&level.dir)?;
        let below = level.front().map_or(0, |record| record.inode);
        self.far.push(Far { device, inode, position: level.position, below });
        self.spare.push(level.buffer);
        Ok(())
    }

    /// Goes back to the parent of the deepest level, which is done with.
    fn ascend(&mut self) -> Result<()> {
        let Some(done) = self.near.pop_back() else { return Ok(()) };
        self.spare.push(done.buffer);
        let mut is_there = true;
        if self.near.is_empty() {
            let Some(far) = self.far.pop() else { return Ok(()) };
            let parent = climb(&done.dir, &far)?;
            self.descend(parent)?;
            if let Some(level) = self.near.back_mut() {
                is_there = level.resume(far.position, far.below)?;
            }
        }
        drop(done.dir);
        let Some(level) = self.near.back_mut() else { return Ok(()) };
        let name = level.front().filter(|_| is_there).map(|record| record.name);
        match self.visitor.leave(level.dir.as_fd(), name) {
            Ok(Next::Again) => {
                let again = name.map_or(Ok(Look::Past), |name| open(level, name, self.visitor));
                self.go(again)
            }
            // What is at the front has not been looked at.
            Ok(Next::On) if !is_there => Ok(()),
            Ok(Next::On) => self.go(Ok(Look::Past)),
            Err(e) => self.go(Err(e)),
        }
    }
}

/// Looks at the name at the front of a level.
fn look(level: &Level, visitor: &mut impl Visitor) -> Result<Look> {
    let Some(record) = level.front().filter(|record| record.name != "." && record.name != "..") else {
        return Ok(Look::Past);
    };
    let (dir, name) = (level.dir.as_fd(), record.name);
    let kind = match record.kind {
        Some(kind) => kind,
        None => match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => return Ok(Look::Past),
            found => found?.kind,
        },
    };
    if kind != FileKind::Dir {
        visitor.file(dir, name).map(|()| Look::Past)
    } else if visitor.done_already(dir, name)? {
        Ok(Look::Past)
    } else {
        open(level, name, visitor)
    }
}

/// Enters a directory of a level.
fn open(level: &Level, name: &OsStr, visitor: &mut impl Visitor) -> Result<Look> {
    match subdir::open_same_mount(&level.dir, name) {
        Ok(below) => visitor.enter(below.as_fd()).map(|()| Look::Into(below)),
        Err(e) if e.errno() == EXDEV => visitor.mount_point(name).map(|()| Look::Past),
        Err(e) if fs::is_absent(&e) => Ok(Look::Past), // deleted by someone else meanwhile
        Err(e) => Err(e),
    }
}

/// Opens the parent of a directory, which must be the one that the walk came through.
fn climb(from: &OwnedFd, expected: &Far) -> Result<OwnedFd> {
    let parent = fs::open_dir_at(from, "..")?;
    let found = fs::stat_fd(&parent)?;
    if (found.device, found.inode) == (expected.device, expected.inode) {
        Ok(parent)
    } else {
        Err(Error::new(Kind::Busy, "a directory was moved away while its tree was being walked"))
    }
}

/// Deletes `name` in `dir`, whatever it is, with everything below it. A name that does not exist is an error (`ENOENT`).
///
/// # Errors
/// A name cannot be deleted, or something is mounted on it. All else is gone; the error is that of the first of them, and says
/// how many are left.
pub fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    remove_unless(dir, name, &|| false)
}

/// [`remove`], unless `stop` says so, which is asked before each name.
///
/// # Errors
/// As for [`remove`]; [`Kind::Cancelled`] when it was stopped.
pub fn remove_unless(dir: BorrowedFd<'_>, name: &OsStr, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut delete = Delete::default();
    if fs::stat_at(dir, name)?.kind != FileKind::Dir {
        return delete_file(dir, name);
    }
    let mut next = Next::Again;
    while next == Next::Again {
        match subdir::open_same_mount(dir, name) {
            Ok(top) => walk(top, &mut delete, stop).context(|| format!("delete '{}'", shown(name)))?,
            Err(e) if e.errno() == EXDEV => return Err(mounted(name)),
            Err(e) => return Err(e),
        }
        next = delete.leave(dir, Some(name)).or_else(|e| delete.obstacle("itself".to_owned(), e).map(|()| Next::On))?;
    }
    delete.outcome().context(|| format!("delete '{}'", shown(name)))
}

/// Deletes everything in a directory, but not the directory.
///
/// # Errors
/// As for [`remove`].
pub fn empty(dir: BorrowedFd<'_>) -> Result<()> {
    empty_unless(dir, &|| false)
}

/// [`empty`], unless `stop` says so, which is asked before each name.
///
/// # Errors
/// As for [`remove_unless`].
pub fn empty_unless(dir: BorrowedFd<'_>, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut delete = Delete::default();
    loop {
        walk(fs::open_dir_at(dir, ".")?, &mut delete, stop)?;
        match delete.way.pop() {
            Some(top) if delete.may_go_on(&top) => {}
            _ => return delete.outcome(),
        }
    }
}

/// Deletes all that is visited, and goes past what cannot be.
#[derive(Default)]
struct Delete {
    way: Vec<Deleting>,
    deleted: u64,
    left: u64,
    first: Vec<(String, Error)>,
}

/// A directory on the way down, while its content is being deleted.
struct Deleting {
    /// How many names had been deleted when it was entered.
    deleted: u64,
    /// Something in it could not be.
    keeps: bool,
}

/// Obstacles that are told with their reasons.
const TOLD: usize = 3;

impl Delete {
    /// Whether going through a directory again may find more to delete. A filesystem whose offsets do not outlast deletions
    /// (tmpfs before Linux 6.6) makes the walk pass over names.
    fn may_go_on(&self, dir: &Deleting) -> bool {
        !dir.keeps && dir.deleted < self.deleted
    }

    fn keep_parent(&mut self) {
        if let Some(parent) = self.way.last_mut() {
            parent.keeps = true;
        }
    }

    /// Says what is left, if anything is.
    fn outcome(self) -> Result<()> {
        let mut told = self.first.into_iter();
        let Some((path, cause)) = told.next() else { return Ok(()) };
        if self.left == 1 {
            return Err(cause.context(format!("all but {path} is deleted")));
        }
        let others: Vec<String> = told.map(|(path, error)| format!("{path}: {error}")).collect();
        Err(cause.context(path).context(format!("{} names are left ({}), the first of them", self.left, others.join("; "))))
    }
}

impl Visitor for Delete {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        delete_file(dir, name)?;
        self.deleted += 1;
        Ok(())
    }

    /// An empty directory takes one call this way, and a full one only one call more.
    fn done_already(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
        let done = fs::remove_dir_at(dir, name).is_ok();
        self.deleted += u64::from(done);
        Ok(done)
    }

    fn enter(&mut self, _: BorrowedFd<'_>) -> Result<()> {
        self.way.push(Deleting { deleted: self.deleted, keeps: false });
        Ok(())
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, name: Option<&OsStr>) -> Result<Next> {
        let (Some(done), Some(name)) = (self.way.pop(), name) else { return Ok(Next::On) };
        match delete_dir(dir, name) {
            Ok(()) => self.deleted += 1,
            Err(e) if e.errno() != ENOTEMPTY => return Err(e),
            Err(_) if self.may_go_on(&done) => return Ok(Next::Again),
            // Why is known: it holds what could not be deleted.
            Err(_) if done.keeps => self.keep_parent(),
            Err(e) => return Err(e),
        }
        Ok(Next::On)
    }

    fn mount_point(&mut self, name: &OsStr) -> Result<()> {
        Err(mounted(name))
    }

    fn obstacle(&mut self, path: String, error: Error) -> Result<()> {
        self.left += 1;
        self.keep_parent();
        if self.first.len() < TOLD {
            self.first.push((path, error));
        }
        Ok(())
    }
}

/// Deletes a name that is not a directory.
pub(crate) fn delete_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    unlocking(dir, name, || fs::remove_file_at(dir, name))
}

/// Deletes an empty directory.
pub(crate) fn delete_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    unlocking(dir, name, || fs::remove_dir_at(dir, name))
}

/// Why nothing is deleted here.
pub(crate) fn mounted(name: &OsStr) -> Error {
    let what = format!("'{}' is a mount point", shown(name));
    Error::new(Kind::Busy, what).hint("unmount it first; nothing below it was touched")
}

/// Tries again without the immutable and append-only flags of the name and of its directory if they were in the way. A name
/// that is gone already is what was wanted.
fn unlocking(dir: BorrowedFd<'_>, name: &OsStr, delete: impl Fn() -> Result<()>) -> Result<()> {
    match delete() {
        Err(e) if fs::is_absent(&e) => Ok(()),
        Err(e) if e.errno() == EPERM => {
            let unlocked = inode_flags::unlock(dir).unwrap_or(false);
            let regular = fs::stat_at(dir, name).is_ok_and(|st| matches!(st.kind, FileKind::File | FileKind::Dir));
            let unlocked = (regular && inode_flags::unlock_at(dir, name).unwrap_or(false)) || unlocked;
            if unlocked { delete() } else { Err(e) }
        }
        outcome => outcome,
    }
}

/// The sum of the sizes, in bytes, of all that is not a directory, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn size(dir: BorrowedFd<'_>) -> Result<u64> {
    Ok(measure(dir, Measure::default())?.size)
}

/// The same, of what was changed at this moment ([`Stat::changed`]) or later.
///
/// # Errors
/// Something cannot be read.
pub fn size_changed_since(dir: BorrowedFd<'_>, since: (i64, i64)) -> Result<u64> {
    Ok(measure(dir, Measure { since, ..Measure::default() })?.size)
}

/// The disk space and the inodes that a tree occupies, its top directory included, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn usage(dir: BorrowedFd<'_>) -> Result<Usage> {
    Ok(measure(dir, Measure::default())?.usage)
}

fn measure(dir: BorrowedFd<'_>, mut measure: Measure) -> Result<Measure> {
    walk(fs::open_dir_at(dir, ".")?, &mut measure, &|| false)?;
    Ok(measure)
}

/// A set of inodes: one bit for each, in words of 64 neighbours.
///
/// Filesystems hand out numbers that lie close together, so an inode takes about half a byte: ten million of them 7 MiB. Whoever
/// wants to make it take more has to make 64 inodes, of which one has several names, for each word of 24 bytes.
#[derive(Default)]
struct Inodes(HashMap<(u64, u64), u64>);

impl Inodes {
    /// Whether the inode is a new one.
    fn insert(&mut self, device: u64, inode: u64) -> bool {
        let (word, bit) = (self.0.entry((device, inode / 64)).or_default(), 1 << (inode % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[derive(Default)]
struct Measure {
    size: u64,
    usage: Usage,
    /// Older files do not count; all are younger than the default.
    since: (i64, i64),
    /// Those with several names that were counted.
    linked: Inodes,
}

impl Measure {
    /// Counts what is not a directory, unless another of its names was met before.
    fn count(&mut self, stat: &Stat) {
        if stat.links == 1 || self.linked.insert(stat.device, stat.inode) {
            // Sparse files may add up to more than there are numbers for.
            self.size = self.size.saturating_add(stat.size);
            self.add(stat);
        }
    }

    fn add(&mut self, stat: &Stat) {
        self.usage.bytes = self.usage.bytes.saturating_add(stat.allocated);
        self.usage.inodes += 1;
    }
}

impl Visitor for Measure {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let stat = match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => return Ok(()), // a container may be at work in there
            outcome => outcome?,
        };
        if stat.changed < self.since {
            return Ok(());
        }
        self.count(&stat);
        Ok(())
    }

    fn done_already(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> Result<bool> {
        Ok(false)
    }

    fn enter(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        self.add(&fs::stat_fd(dir)?);
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: Option<&OsStr>) -> Result<Next> {
        Ok(Next::On)
    }

    fn mount_point(&mut self, _: &OsStr) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("graphdriver-tree-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn fd(&self) -> OwnedFd {
            fs::open_dir(&self.0).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = remove(fs::open_dir(self.0.parent().unwrap()).unwrap().as_fd(), self.0.file_name().unwrap());
        }
    }

    #[test]
    fn deletes_a_tree_and_spares_what_its_links_name() {
        let (outside, inside) = (Scratch::new("outside"), Scratch::new("inside"));
        std::fs::write(outside.0.join("keep"), "x").unwrap();
        std::fs::create_dir_all(inside.0.join("a/b/c")).unwrap();
        std::fs::write(inside.0.join("a/b/f"), "y").unwrap();
        symlink(&outside.0, inside.0.join("a/link")).unwrap();
        remove(inside.fd().as_fd(), OsStr::new("a")).unwrap();
        assert!(!inside.0.join("a").exists() && outside.0.join("keep").exists());
        assert!(fs::is_absent(&remove(inside.fd().as_fd(), OsStr::new("a")).unwrap_err()));
    }

    #[test]
    fn depth_is_no_limit() {
        let scratch = Scratch::new("deep");
        let mut dir = scratch.fd();
        for _ in 0..5000 {
            fs::make_dir_at(&dir, "d", 0o700).unwrap();
            dir = fs::open_dir_at(&dir, "d").unwrap();
        }
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 5001);
        empty(scratch.fd().as_fd()).unwrap();
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 1);
    }

    #[test]
    fn a_set_of_inodes_is_exact_and_small() {
        let mut inodes = Inodes::default();
        // Neighbours, and one here and there; the same numbers on two devices.
        let numbers = || (0..1_000_000_u64).chain((1 << 32..1 << 33).step_by(1 << 22));
        for device in [1, 2] {
            assert!(numbers().all(|inode| inodes.insert(device, inode)));
        }
        assert!(!numbers().any(|inode| inodes.insert(1, inode)));
        // A word and its key take 24 bytes; a table grows at seven eighths, to twice its size.
        assert!(inodes.0.capacity() * 24 < 2 << 20, "{}", inodes.0.capacity());
    }

    #[test]
    fn more_than_can_be_counted_is_the_most() {
        let scratch = Scratch::new("most");
        std::fs::write(scratch.0.join("f"), "x").unwrap();
        let mut stat = fs::stat_at(scratch.fd(), "f").unwrap();
        stat.size = i64::MAX as u64;
        let mut measured = Measure::default();
        (0..3).for_each(|_| measured.count(&stat));
        assert_eq!(measured.size, u64::MAX);
    }

    #[test]
    fn size_counts_each_inode_once_and_no_directory() {
        let scratch = Scratch::new("size");
        std::fs::write(scratch.0.join("a"), [0; 1000]).unwrap();
        std::fs::hard_link(scratch.0.join("a"), scratch.0.join("b")).unwrap();
        std::fs::create_dir(scratch.0.join("d")).unwrap();
        symlink("12345", scratch.0.join("d/l")).unwrap();
        assert_eq!(size(scratch.fd().as_fd()).unwrap(), 1005);
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 4);
        let last = fs::stat_at(scratch.fd(), "d").unwrap().changed;
        assert_eq!(size_changed_since(scratch.fd().as_fd(), (last.0 + 1, 0)).unwrap(), 0);
        assert_eq!(size_changed_since(scratch.fd().as_fd(), (0, 1)).unwrap(), 1005);
    }
}
