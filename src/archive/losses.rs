//! What a layer loses without being refused for it, and why.

use super::plan::{self, Metadata};
use crate::error::errno::{EINVAL, ENOSPC, ERANGE};
use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, shown};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

/// `E2BIG` of `asm-generic/errno-base.h`.
const E2BIG: i32 = 7;

/// Why something that an archive states is left out. What stands in the log for each is [`Loss::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// An ACL that names somebody without a number.
    AclOfNames,
    /// An ACL that names an id outside the user namespace's range.
    ForeignAcl,
    /// A file capability whose root user is another host's.
    ForeignCapability,
    /// `user.overlay.*`.
    Overlay,
    /// `trusted.*`.
    Trusted,
    /// `security.*` but file capabilities.
    Security,
    /// `system.*` but POSIX ACLs.
    System,
    /// Of a class that Linux does not have.
    Unknown,
    /// An attribute that only other kinds of file have.
    Bearer,
    /// An attribute that the filesystem has no place for.
    Unstorable,
    /// A character device 0:0.
    Device,
}

/// All of them, in the order of their values.
const LOSSES: [Loss; 11] = [
    Loss::AclOfNames,
    Loss::ForeignAcl,
    Loss::ForeignCapability,
    Loss::Overlay,
    Loss::Trusted,
    Loss::Security,
    Loss::System,
    Loss::Unknown,
    Loss::Bearer,
    Loss::Unstorable,
    Loss::Device,
];

impl Loss {
    /// The class of an attribute that is no archive's business; `None` for one that is.
    pub(super) fn of_class(key: &[u8]) -> Option<Loss> {
        match key {
            _ if key.starts_with(b"user.overlay.") => Some(Loss::Overlay),
            b"user." => Some(Loss::Unknown),
            _ if key.starts_with(b"user.") || plan::is_structured(key) => None,
            _ if key.starts_with(b"trusted.") => Some(Loss::Trusted),
            _ if key.starts_with(b"security.") => Some(Loss::Security),
            _ if key.starts_with(b"system.") => Some(Loss::System),
            _ => Some(Loss::Unknown),
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Loss::AclOfNames => "it names users or groups without numbers, and whose names they are is not known",
            Loss::ForeignAcl => "it names an id outside the user namespace's range, which means somebody else here",
            Loss::ForeignCapability => "it is for the root user of another host's user namespace",
            Loss::Overlay => "overlay itself keeps its marks there",
            Loss::Trusted => "attributes of this class are the host's own, and overlay keeps its marks among them",
            Loss::Security => "labels and signatures are given by the security modules of the host that they are for",
            Loss::System => "the kernel has this class for itself, POSIX ACLs excepted",
            Loss::Unknown => "Linux has no attributes of this class",
            Loss::Bearer => "this kind of file cannot have it",
            Loss::Unstorable => "the filesystem has no place for it",
            Loss::Device => "overlay takes a character device 0:0 for a whiteout",
        }
    }
}

/// What an entry states and does not get: why, and which attribute. One of each reason at most, so that its memory is bounded.
pub type Lost = Vec<(Loss, Vec<u8>)>;

/// Adds to the list unless the reason is there already.
pub(super) fn lose(lost: &mut Lost, why: Loss, key: &[u8]) {
    if !lost.iter().any(|(known, _)| *known == why) {
        lost.push((why, key[..key.len().min(SHOWN)].to_vec()));
    }
}

/// So much of a name is shown: the longest that an attribute can have (`XATTR_NAME_MAX` of linux/limits.h).
const SHOWN: usize = 255;

/// What a layer has lost. Each reason is worth one line in the log, not one for each file; and the host's log is nothing to call
/// from inside the layer.
pub(super) struct Losses<'t> {
    first: [OnceLock<String>; LOSSES.len()],
    /// A directory of the filesystem that the layer is on.
    target: BorrowedFd<'t>,
}

impl<'t> Losses<'t> {
    pub(super) fn new(target: BorrowedFd<'t>) -> Losses<'t> {
        Losses { first: Default::default(), target }
    }

    fn note(&self, why: Loss, path: &[u8], what: &str, detail: &str) {
        let text = || format!("'{}' and perhaps others lose {what}: {}{detail}", text(path), why.reason());
        self.first[why as usize].get_or_init(text);
    }

    /// What the entry at this path states and does not get.
    pub(super) fn entry(&self, path: &[u8], lost: &Lost) {
        for (why, key) in lost {
            self.note(*why, path, &format!("the attribute '{}'", text(key)), "");
        }
    }

    /// A character device 0:0, which is left out.
    pub(super) fn device(&self, path: &[u8]) {
        self.note(Loss::Device, path, "themselves", "");
    }

    /// What came of setting one of an entry's attributes. One that the filesystem cannot store is worth a warning, not the layer.
    pub(super) fn attribute(&self, outcome: Result<()>, path: &[u8], metadata: &Metadata, key: &[u8]) -> Result<()> {
        match outcome {
            Err(e) if self.cannot_be_stored(&e, metadata) => {
                self.note(Loss::Unstorable, path, &format!("the attribute '{}'", text(key)), &format!(" ({e})"));
                Ok(())
            }
            // Of an ACL or a capability the kernel looks into the value.
            Err(e) if e.errno() == EINVAL && plan::is_structured(key) => Err(e.with_kind(Kind::Archive)),
            other => other,
        }
    }

    /// The errors that say that this attribute has no place on this filesystem, however much room there is.
    fn cannot_be_stored(&self, error: &Error, metadata: &Metadata) -> bool {
        match error.errno() {
            _ if error.kind() == Kind::Unsupported => true, // no attributes of this class
            E2BIG => true,                                  // longer than the kernel takes (xattr(7): 64 KiB)
            ERANGE => true,                                 // a name longer than 255 bytes
            ENOSPC => self.has_room_but_no_place(metadata),
            _ => false,
        }
    }

    /// ext4 and btrfs keep the attributes of a file in one block and say "no space" of more than fits in there; and so says a
    /// disk that is full. It is the former where the attributes are about as large as a block, or larger, and space is left.
    fn has_room_but_no_place(&self, metadata: &Metadata) -> bool {
        let size: usize = metadata.xattrs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let size = size as u64;
        fs::free_bytes_and_block(self.target).is_ok_and(|(free, block)| size > block / 2 && free > size + ROOM)
    }

    /// Logs all of them.
    pub(super) fn log(&self) {
        for line in self.first.iter().filter_map(OnceLock::get) {
            crate::log::warn!("left out of the layer: {line}");
        }
    }
}

/// With as many bytes free beside an attribute's own, the disk is not what has no room for it: a block of the largest size there
/// is (64 KiB), and as much for what else is being written meanwhile.
const ROOM: u64 = 128 << 10;

fn text(bytes: &[u8]) -> String {
    shown(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place_and_every_attribute_its_class() {
        for (place, why) in LOSSES.into_iter().enumerate() {
            assert_eq!(why as usize, place);
        }
        for (key, class) in [
            ("user.mime_type", None),
            ("security.capability", None),
            ("system.posix_acl_default", None),
            ("user.overlay.opaque", Some(Loss::Overlay)),
            ("user.overlays", None),
            ("trusted.x", Some(Loss::Trusted)),
            ("security.ima", Some(Loss::Security)),
            ("system.nfs4_acl", Some(Loss::System)),
            ("com.apple.quarantine", Some(Loss::Unknown)),
            ("user.", Some(Loss::Unknown)),
            ("", Some(Loss::Unknown)),
        ] {
            assert_eq!(Loss::of_class(key.as_bytes()), class, "{key}");
        }
    }

    #[test]
    fn a_list_has_each_reason_once() {
        let mut lost = Lost::new();
        for key in ["trusted.a", "security.b", "trusted.c"] {
            lose(&mut lost, Loss::of_class(key.as_bytes()).unwrap(), key.as_bytes());
        }
        lose(&mut lost, Loss::Unknown, &[b'n'; 1000]);
        assert_eq!(lost.pop().map(|(_, key)| key.len()), Some(SHOWN));
        assert_eq!(lost, [(Loss::Trusted, b"trusted.a".to_vec()), (Loss::Security, b"security.b".to_vec())]);
    }
}
