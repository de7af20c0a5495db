//! Makes an archive of what a walk finds.

use super::described::Described;
use super::sparse;
use super::stream::Stream;
use super::tar::{self, Item};
use super::walk::{Finder, Thing, open_file, read_link};
use crate::archive::entry::Type;
use crate::archive::{IdShift, acl, decode::Sink, plan};
use crate::driver::Change;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::sys::fs::{self, FileKind, Stat, shown};
use crate::sys::reading;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The owner of what belongs to nobody of the container's: as the container itself sees it (`overflowuid` of proc(5)).
const NOBODY: u32 = 65534;
/// File type bits of a fifo and of a socket, and the mask (inode(7)).
const FIFO: u32 = 0o010_000;
const SOCKET: u32 = 0o140_000;
const TYPE: u32 = 0o170_000;

/// What a layer has and an archive cannot hold. Each kind is worth one line in the log.
#[derive(Default)]
pub(super) struct Losses {
    socket: Option<String>,
    name: Option<String>,
    owner: Option<String>,
    attribute: Option<String>,
}

impl Losses {
    pub(super) fn log(&self) {
        for (first, what) in [
            (&self.socket, "sockets are left out"),
            (&self.name, "files whose names mean a deletion ('.wh.…') are left out"),
            (&self.owner, "owners outside the user namespace's range become nobody's"),
            (&self.attribute, "attributes that name ids outside the user namespace's range, or are malformed, are left out"),
        ] {
            if let Some(path) = first {
                log::warn!("{what}, the first of '/{path}'");
            }
        }
    }
}

fn note(loss: &mut Option<String>, path: &[u8]) {
    loss.get_or_insert_with(|| shown(OsStr::from_bytes(path)));
}

/// Writes entries.
pub(super) struct Archiver<S> {
    out: Stream<S>,
    shift: Option<IdShift>,
    wary: bool,
    /// The path under which a file with several names is in the archive, by device and inode, and how many are still to come.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    names: Vec<u8>,
    pub(super) entries: u64,
    pub(super) losses: Losses,
}

/// Attributes as an archive has them.
#[derive(Default)]
struct Said {
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    acl: Option<Vec<u8>>,
    default_acl: Option<Vec<u8>>,
}

impl<S: Sink> Archiver<S> {
    pub(super) fn new(out: Stream<S>, shift: Option<IdShift>, wary: bool) -> Archiver<S> {
        let links = HashMap::new();
        Archiver { out, shift, wary, links, names: Vec::new(), entries: 0, losses: Losses::default() }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<(S, u64, Losses)> {
        tar::end(&mut self.out)?;
        Ok((self.out.finish()?, self.entries, self.losses))
    }

    fn owner(&mut self, path: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        let Some(shift) = &self.shift else { return (uid, gid) };
        let (user, group) = (shift.back(false, uid), shift.back(true, gid));
        if user.is_none() || group.is_none() {
            note(&mut self.losses.owner, path);
        }
        (user.unwrap_or(NOBODY), group.unwrap_or(NOBODY))
    }

    fn said(&mut self, path: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> Said {
        let mut said = Said::default();
        for (key, value) in xattrs {
            let text = || acl_back(value, self.shift.as_ref());
            let (kept, into) = match key.as_slice() {
                acl::ACCESS => (text(), &mut said.acl),
                acl::DEFAULT => (text(), &mut said.default_acl),
                _ => {
                    let capability = key == plan::CAPABILITY;
                    let value = if capability { capability_back(value, self.shift.as_ref()) } else { Some(value.clone()) };
                    match value {
                        Some(value) => said.xattrs.push((key.clone(), value)),
                        None => note(&mut self.losses.attribute, path),
                    }
                    continue;
                }
            };
            if kept.is_none() {
                note(&mut self.losses.attribute, path);
            }
            *into = kept;
        }
        said
    }

    /// Writes the headers of something that exists.
    fn header(&mut self, path: &[u8], found: &Described, item: Item<'_>) -> Result<()> {
        let said = self.said(path, &found.xattrs);
        let (uid, gid) = self.owner(path, found.stat.uid, found.stat.gid);
        self.entries += 1;
        let item = Item {
            path,
            mode: found.stat.mode,
            uid,
            gid,
            mtime: found.stat.modified,
            xattrs: &said.xattrs,
            acl: said.acl.as_deref(),
            default_acl: said.default_acl.as_deref(),
            ..item
        };
        tar::header(&item, &mut self.out)
    }

    /// Writes an entry that says something about a name and has nothing in it.
    fn mark(&mut self, dir: &[u8], name: &[&[u8]]) -> Result<()> {
        let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
        let path = [dir, slash, &name.concat()].concat();
        self.entries += 1;
        tar::header(&Item { path: &path, mode: 0o644, ..Item::default() }, &mut self.out)
    }

    fn file(&mut self, path: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let file = open_file(dir, name, self.wary)?;
        let found = Described::of(&file, &mut self.names)?;
        if found.stat.kind != FileKind::File {
            return Err(changed());
        }
        found.check_whole()?;
        if self.is_known(path, &found.stat)? {
            return Ok(());
        }
        let map = sparse::map(&file, &found.stat)?;
        self.header(path, &found, Item { size: found.stat.size, map: map.as_deref(), ..Item::default() })?;
        match map {
            None => self.content(&file, found.stat.size)?,
            Some(map) => {
                for (start, length) in &map {
                    reading::seek(&file, *start)?;
                    self.data(&file, *length)?;
                }
                tar::pad(map.iter().map(|(_, length)| length).sum(), &mut self.out)?;
            }
        }
        let after = fs::stat_fd(&file)?;
        let state = |s: &Stat| (s.size, s.modified, s.changed);
        if state(&after) == state(&found.stat) { Ok(()) } else { Err(changed()) }
    }

    fn content(&mut self, file: &OwnedFd, size: u64) -> Result<()> {
        self.data(file, size)?;
        tar::pad(size, &mut self.out)
    }

    /// Copies bytes from the file's position on.
    fn data(&mut self, file: &OwnedFd, mut length: u64) -> Result<()> {
        while length > 0 {
            let room = self.out.room()?;
            let most = room.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let got = reading::fill(file, &mut room[..most])?;
            self.out.advance(got);
            length -= got as u64;
            if got < most {
                return Err(changed());
            }
        }
        Ok(())
    }

    /// Whether the file is in the archive under another name already; a hard link is written then.
    fn is_known(&mut self, path: &[u8], stat: &Stat) -> Result<bool> {
        if stat.links < 2 || stat.kind == FileKind::Dir {
            return Ok(false);
        }
        let id = (stat.device, stat.inode);
        let Some((first, left)) = self.links.get_mut(&id) else {
            self.links.insert(id, (path.to_vec(), stat.links - 1));
            return Ok(false);
        };
        *left = left.saturating_sub(1);
        let (first, all) = (first.clone(), *left == 0);
        if all {
            self.links.remove(&id);
        }
        self.hard_link(path, &first, stat).map(|()| true)
    }

    fn hard_link(&mut self, path: &[u8], first: &[u8], stat: &Stat) -> Result<()> {
        let (uid, gid) = self.owner(path, stat.uid, stat.gid);
        self.entries += 1;
        let (kind, link, mode, mtime) = (Type::Hardlink, first, stat.mode, stat.modified);
        tar::header(&Item { kind, path, link, mode, uid, gid, mtime, ..Item::default() }, &mut self.out)
    }

    fn symlink(&mut self, path: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let stat = fs::stat_at(dir, name)?;
        if stat.kind != FileKind::Symlink {
            return Err(changed());
        }
        if self.is_known(path, &stat)? {
            return Ok(());
        }
        let link = read_link(dir, name)?;
        let found = Described { stat, xattrs: Vec::new(), marks: Default::default() };
        self.header(path, &found, Item { kind: Type::Symlink, link: link.as_bytes(), ..Item::default() })
    }

    fn node(&mut self, path: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let node = reading::open_node(dir, name)?;
        let found = Described::of_node(&node, &mut self.names)?;
        let kind = match (found.stat.kind, found.stat.mode & TYPE) {
            (FileKind::Char, _) => Type::Char,
            (FileKind::Block, _) => Type::Block,
            (_, FIFO) => Type::Fifo,
            (_, SOCKET) => {
                note(&mut self.losses.socket, path);
                return Ok(());
            }
            _ => return Err(changed()),
        };
        if self.is_known(path, &found.stat)? {
            return Ok(());
        }
        let device = if kind == Type::Fifo { (0, 0) } else { reading::device_numbers(found.stat.rdev) };
        self.header(path, &found, Item { kind, device, ..Item::default() })
    }
}

impl<S: Sink> Finder for Archiver<S> {
    fn there(&mut self, path: &[u8], _: Change, thing: &Thing<'_>) -> Result<()> {
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        if last.starts_with(plan::WHITEOUT) {
            note(&mut self.losses.name, path);
            return Ok(());
        }
        let written = match *thing {
            Thing::Dir(found) => {
                found.check_whole().and_then(|()| self.header(path, found, Item { kind: Type::Dir, ..Item::default() }))
            }
            Thing::Entry(dir, name, FileKind::File) => self.file(path, dir, name),
            Thing::Entry(dir, name, FileKind::Symlink) => self.symlink(path, dir, name),
            Thing::Entry(dir, name, _) => self.node(path, dir, name),
            // Its first name was told of, and others are not: it is still among those to come.
            Thing::Name(ref stat) => self.is_known(path, stat).and_then(|known| if known { Ok(()) } else { Err(changed()) }),
        };
        match written {
            // It went away after its directory was listed: the archive is as if that had happened before.
            Err(e) if fs::is_absent(&e) => Ok(()),
            other => other,
        }
    }

    fn gone(&mut self, path: &[u8]) -> Result<()> {
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (dir, name) = cut.map_or((&b""[..], path), |cut| (&path[..cut], &path[cut + 1..]));
        if name.starts_with(plan::WHITEOUT) {
            note(&mut self.losses.name, path);
            return Ok(());
        }
        self.mark(dir, &[plan::WHITEOUT, name])
    }

    fn opaque(&mut self, dir: &[u8]) -> Result<()> {
        self.mark(dir, &[plan::OPAQUE])
    }
}

fn changed() -> Error {
    Error::new(Kind::Busy, "the file changed while it was read").hint("pause what works in the layer, and try again")
}

fn acl_back(value: &[u8], shift: Option<&IdShift>) -> Option<Vec<u8>> {
    match shift {
        None => acl::to_text(value),
        Some(shift) => acl::to_text(&acl::shifted(value, |group, id| shift.back(group, id))?),
    }
}

/// File capabilities without the user namespace that `apply_diff` bound them to (`linux/capability.h`).
fn capability_back(value: &[u8], shift: Option<&IdShift>) -> Option<Vec<u8>> {
    const REVISION_2: u8 = 2;
    let Some(shift) = shift else { return Some(value.to_vec()) };
    let root = value.get(20..24).and_then(|root| root.try_into().ok());
    let Some(root) = root.map(u32::from_le_bytes) else { return Some(value.to_vec()) };
    let mut value = value.to_vec();
    match shift.back(false, root)? {
        0 => {
            value.truncate(20);
            value[3] = REVISION_2;
        }
        root => value[20..24].copy_from_slice(&root.to_le_bytes()),
    }
    Some(value)
}
