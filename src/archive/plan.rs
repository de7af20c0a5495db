//! From an entry to what is to be done about it: names taken apart, whiteouts recognised, ids shifted, attributes chosen.
//! Touches no file system.

use super::acl;
use super::entry::{Entry, Type};
use super::losses::{Loss, Lost, lose};
use crate::error::{Error, Kind, Result};
use crate::sys::place::{self, Time};
use std::borrow::Cow;

/// Moves ids of the archive into the range of a user namespace: `id` becomes `base + id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdShift {
    /// What user 0 of the archive becomes.
    pub uid: u32,
    /// What group 0 of the archive becomes.
    pub gid: u32,
    /// Size of both ranges; an id beyond it is an error.
    pub size: u32,
}

/// Owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What is set on whatever is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits.
    pub mode: u32,
    /// Owner, shifted.
    pub owner: Owner,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes; none for what cannot have any.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the archive states and is not among the attributes.
    pub lost: Lost,
}

/// Where something is made: a path to a directory, to be resolved once, and one name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'e> {
    /// The directory, relative to the layer's root; empty for the root itself. May hold `..` and lead through symlinks.
    pub parent: Cow<'e, [u8]>,
    /// A single name: not empty, no slash, neither `.` nor `..`.
    pub name: &'e [u8],
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<'e> {
    /// Nothing: the storage driver's own files of an AUFS layer.
    Skip,
    /// Set the metadata of the layer's root.
    Root(Metadata),
    /// Make a directory, or set the metadata of the one that is there.
    Dir(Place<'e>, Metadata),
    /// Make a regular file and write the entry's data into it.
    File(Place<'e>, Metadata),
    /// Make a symbolic link with this text.
    Symlink(Place<'e>, Metadata, &'e [u8]),
    /// Make a device node or a fifo: file type bits and device number.
    Node(Place<'e>, Metadata, u32, u64),
    /// Make a second name of the file at the second place.
    Hardlink(Place<'e>, Place<'e>),
    /// Hide a name of the lower layers.
    Whiteout(Place<'e>, Owner),
    /// Hide everything that the lower layers have in this directory.
    Opaque(Cow<'e, [u8]>),
}

/// What names a whiteout (OCI image specification, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// What names the files that AUFS keeps for itself.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Where AUFS keeps the files that have several names: each name in the layer is a hard link to one in here.
pub(super) const LINKS: &[u8] = b".wh..wh.plnk";
/// What hides all of a directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// File types of `mknod(2)` (`asm-generic/stat.h`).
const CHAR: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Archive, what)
}

/// Decides what an entry means.
///
/// # Errors
/// A name that can be nobody's, an id outside the shift's range, a device number the kernel has not.
pub fn plan<'e>(entry: &'e Entry, shift: Option<&IdShift>) -> Result<Operation<'e>> {
    let Some(place) = split(&entry.path)? else {
        return match entry.kind {
            Type::Dir => Ok(Operation::Root(metadata(entry, shift)?)),
            _ => Err(bad("the layer's root can only be a directory")),
        };
    };
    let meta = |name: &[u8]| name.starts_with(WHITEOUT_META);
    if place.parent.split(|byte| *byte == b'/').any(meta) && (*place.parent != *LINKS || entry.kind != Type::File) {
        return Ok(Operation::Skip);
    }
    if let Some(hidden) = place.name.strip_prefix(WHITEOUT) {
        return match hidden {
            _ if place.name == OPAQUE => Ok(Operation::Opaque(place.parent)),
            _ if place.name.starts_with(WHITEOUT_META) => Ok(Operation::Skip),
            b"" | b"." | b".." => Err(bad("a whiteout of nothing, of '.' or of '..'")),
            _ => Ok(Operation::Whiteout(Place { name: hidden, ..place }, owner(entry, shift)?)),
        };
    }
    Ok(match entry.kind {
        Type::Dir => Operation::Dir(place, metadata(entry, shift)?),
        Type::File => Operation::File(place, metadata(entry, shift)?),
        Type::Symlink if entry.link.is_empty() => return Err(bad("a symlink to nothing")),
        Type::Symlink if entry.link.contains(&0) => return Err(bad("a NUL byte in a symlink")),
        Type::Symlink => Operation::Symlink(place, metadata(entry, shift)?, &entry.link),
        Type::Hardlink => {
            let target = split(&entry.link)?.ok_or_else(|| bad("a hard link to the layer's root"))?;
            Operation::Hardlink(place, target)
        }
        Type::Char | Type::Block => {
            let (major, minor) = entry.device;
            let device = place::device(major, minor);
            let device = device.ok_or_else(|| bad(format!("device number {major}:{minor} is out of range")))?;
            let kind = if entry.kind == Type::Char { CHAR } else { BLOCK };
            Operation::Node(place, metadata(entry, shift)?, kind, device)
        }
        Type::Fifo => Operation::Node(place, metadata(entry, shift)?, FIFO, 0),
    })
}

/// Takes a path apart; `None` for the root. Slashes at both ends, doubled ones and `.` do not count.
fn split(path: &[u8]) -> Result<Option<Place<'_>>> {
    if path.is_empty() {
        return Err(bad("an empty name"));
    }
    if path.contains(&0) {
        return Err(bad("a NUL byte in a name"));
    }
    let mut rest = path;
    let name = loop {
        let cut = rest.iter().rposition(|byte| *byte == b'/');
        let name = &rest[cut.map_or(0, |cut| cut + 1)..];
        rest = &rest[..cut.unwrap_or(0)];
        match name {
            b".." => return Err(bad("a name that ends in '..'")),
            b"" | b"." if cut.is_none() => return Ok(None),
            b"" | b"." => {}
            _ => break name,
        }
    };
    Ok(Some(Place { parent: clean(rest), name }))
}

/// A directory's path without what does not count in it.
fn clean(path: &[u8]) -> Cow<'_, [u8]> {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"/").or_else(|| path.strip_prefix(b"./")) {
        path = rest;
    }
    let idle = |name: &[u8]| name.is_empty() || name == b".";
    if path.is_empty() || path == b"." {
        return Cow::Borrowed(b"");
    }
    if path.split(|byte| *byte == b'/').any(idle) {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !idle(name)).collect();
        return Cow::Owned(names.join(&b'/'));
    }
    Cow::Borrowed(path)
}

/// An id of the archive in the layer.
fn shifted(what: &str, id: u32, base: u32, size: u32) -> Result<u32> {
    let moved = if id < size { base.checked_add(id).filter(|id| *id != u32::MAX) } else { None };
    moved.ok_or_else(|| bad(format!("{what} {id} is outside the user namespace's range of {size}")))
}

impl IdShift {
    fn user(&self, id: u32) -> Result<u32> {
        shifted("uid", id, self.uid, self.size)
    }

    fn group(&self, id: u32) -> Result<u32> {
        shifted("gid", id, self.gid, self.size)
    }

    /// The id in an archive of what has this one in the layer; `None` for one outside the range.
    pub(crate) fn back(&self, group: bool, id: u32) -> Option<u32> {
        let base = if group { self.gid } else { self.uid };
        id.checked_sub(base).filter(|id| *id < self.size)
    }

    /// The owner that a file of `owner` gets.
    pub(super) fn apply(&self, owner: Owner) -> Result<Owner> {
        Ok(Owner { uid: self.user(owner.uid)?, gid: self.group(owner.gid)? })
    }
}

fn owner(entry: &Entry, shift: Option<&IdShift>) -> Result<Owner> {
    let stated = Owner { uid: entry.uid, gid: entry.gid };
    shift.map_or(Ok(stated), |shift| shift.apply(stated))
}

fn metadata(entry: &Entry, shift: Option<&IdShift>) -> Result<Metadata> {
    let mut attributes = Attributes { kind: entry.kind, shift, kept: Vec::new(), lost: Lost::new() };
    for (key, value) in &entry.xattrs {
        attributes.add(key, value)?;
    }
    for (key, text) in [(acl::ACCESS, &entry.acl), (acl::DEFAULT, &entry.default_acl)] {
        match text.as_ref().map(|text| acl::from_text(text)) {
            // Where both forms stand, the plain one has the bytes as they are.
            Some(Some(value)) if !entry.xattrs.contains_key(key) => attributes.add(key, &value)?,
            Some(None) => lose(&mut attributes.lost, Loss::AclOfNames, key),
            _ => {}
        }
    }
    Ok(Metadata {
        mode: entry.mode,
        owner: owner(entry, shift)?,
        atime: entry.atime.unwrap_or(entry.mtime),
        mtime: entry.mtime,
        xattrs: attributes.kept,
        lost: attributes.lost,
    })
}

/// File capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Whether an attribute is one whose value the kernel looks into.
pub(super) fn is_structured(key: &[u8]) -> bool {
    [CAPABILITY, acl::ACCESS, acl::DEFAULT].contains(&key)
}

/// Chooses among the attributes of an entry. Only those are set that mean the same on every host: neither SELinux labels nor
/// `trusted.*`, and none that would forge overlay's own bookkeeping.
struct Attributes<'s> {
    kind: Type,
    shift: Option<&'s IdShift>,
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    lost: Lost,
}

impl Attributes<'_> {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(class) = Loss::of_class(key) {
            lose(&mut self.lost, class, key);
            return Ok(());
        }
        if key.contains(&0) {
            return Err(bad("a NUL byte in the name of an attribute"));
        }
        if !self.may_have(key) {
            lose(&mut self.lost, Loss::Bearer, key);
            return Ok(());
        }
        let value = match key {
            CAPABILITY => capability(value, self.shift)?.ok_or(Loss::ForeignCapability),
            acl::ACCESS | acl::DEFAULT => acl_shifted(value, self.shift)?.ok_or(Loss::ForeignAcl),
            _ => Ok(value.to_vec()),
        };
        match value {
            Ok(value) => self.kept.push((key.to_vec(), value)),
            Err(why) => lose(&mut self.lost, why, key),
        }
        Ok(())
    }

    /// Whether the kernel lets this kind of file have such an attribute (xattr(7), acl(5)).
    fn may_have(&self, key: &[u8]) -> bool {
        match self.kind {
            Type::Symlink => false,
            Type::Dir => true,
            Type::File => key != acl::DEFAULT,
            _ => key == acl::ACCESS,
        }
    }
}

/// File capabilities as they are set, for a user namespace as revision 3, which names the namespace's root (`linux/capability.h`).
/// `None`: they are for another namespace's.
fn capability(value: &[u8], shift: Option<&IdShift>) -> Result<Option<Vec<u8>>> {
    const EFFECTIVE: u32 = 1;
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let word = |at: usize| value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let root = match (word(0).map(|magic| magic & !EFFECTIVE), value.len()) {
        (Some(REVISION_2), 20) => 0,
        (Some(REVISION_3), 24) => word(20).unwrap_or(0),
        _ => return Err(bad("a malformed security.capability")),
    };
    let Some(shift) = shift else { return Ok(Some(value.to_vec())) };
    let Ok(root) = shift.user(root) else { return Ok(None) };
    let mut new = value[..20].to_vec();
    new[3] = (REVISION_3 >> 24) as u8;
    new.extend_from_slice(&root.to_le_bytes());
    Ok(Some(new))
}

/// An ACL as it is set. `None`: it names an id outside the range.
fn acl_shifted(value: &[u8], shift: Option<&IdShift>) -> Result<Option<Vec<u8>>> {
    let mut foreign = false;
    let moved = acl::shifted(value, |group, id| {
        let Some(shift) = shift else { return Some(id) };
        let moved = if group { shift.group(id) } else { shift.user(id) }.ok();
        foreign |= moved.is_none();
        moved
    });
    match moved {
        None if foreign => Ok(None),
        None => Err(bad("a malformed ACL")),
        moved => Ok(moved),
    }
}
