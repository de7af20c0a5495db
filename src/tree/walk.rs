//! Going through a tree without recursion, without names and with few open directories.
//!
//! Containers make trees deeper than any path or descriptor limit, and directories with more names than there is memory for. A
//! walk therefore remembers no names and has no recursion: it reads a directory in pieces, goes into a sub-directory when it
//! meets it, and goes on behind it afterwards. The deepest [`OPEN`] directories are open, with the piece that is being read.
//! Of each one above these it knows 32 bytes: who it is, and where in it the walk went down. It comes back up to it through `..`,
//! checks that it has arrived where it came from, and finds its place again by the directory's own offset
//! (`d_off` of getdents(2)).
//!
//! It never follows a symlink and never enters a mount.

use crate::error::errno::{EINVAL, EXDEV};
use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, FileKind, Stat, shown};
use crate::sys::{dirents, subdir};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
    /// The directory that was entered last, at `path`, cannot be read to its end. An error ends the walk; otherwise it goes on as if
    /// there were no more in it.
    fn unread(&mut self, path: String, error: Error) -> Result<()> {
        self.obstacle(path, error)
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

    /// Goes to a position. If somebody deleted the directory itself, positions mean nothing in it, and there is nothing to read: false.
    fn go_to(&mut self, position: i64) -> Result<bool> {
        match self.seek(position) {
            Err(e) if e.errno() == EINVAL => self.seek(0).map(|()| false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Makes the record with this inode number the front one, from this position on. If there is none, because somebody else took
    /// it away, the walk goes on from that position.
    fn resume(&mut self, position: i64, inode: u64) -> Result<bool> {
        if !self.go_to(position)? {
            return Ok(false);
        }
        while self.read()? {
            if self.front().is_some_and(|record| record.inode == inode) {
                return Ok(true);
            }
            self.pass();
        }
        self.go_to(position)?;
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
            Err(e) => {
                let path = self.path();
                self.visitor.unread(path, e)
            }
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
