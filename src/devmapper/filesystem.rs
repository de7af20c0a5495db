//! The filesystems upon thin devices: what their superblocks say, and making and growing them.

use super::kernel::Steps;
use crate::error::{Error, Kind, Result};
use crate::sys::fs::random;
use crate::sys::grow;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// A filesystem that thin devices can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filesystem {
    Ext4,
    Xfs,
}

impl Filesystem {
    /// Its name in options and metadata files; case does not matter.
    pub(super) fn parse(name: &str) -> Option<Filesystem> {
        match name.to_ascii_lowercase().as_str() {
            "ext4" => Some(Filesystem::Ext4),
            "xfs" => Some(Filesystem::Xfs),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
        }
    }

    /// A mount option without which it cannot be mounted: all snapshots have the UUID of the base, and XFS minds.
    pub(super) fn mount_option(self) -> Option<&'static str> {
        match self {
            Filesystem::Ext4 => None,
            Filesystem::Xfs => Some("nouuid"),
        }
    }

    /// The program that makes one, and its arguments before those of the user.
    fn mkfs(self, uuid: &str) -> (&'static str, Vec<String>) {
        let (program, args, uuid) = match self {
            // A fresh thin device reads as zeros and has nothing to discard. Tables written lazily would be written by
            // every container once more. -F: it may hold the remains of an attempt that a crash ended.
            Filesystem::Ext4 => {
                let extended = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
                ("mkfs.ext4", &["-q", "-F", "-E", extended, "-U"][..], uuid.to_owned())
            }
            Filesystem::Xfs => ("mkfs.xfs", &["-q", "-f", "-K", "-m"][..], format!("uuid={uuid}")),
        };
        (program, args.iter().map(|&arg| arg.to_owned()).chain([uuid]).collect())
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub filesystem: Filesystem,
    /// In the usual form of 36 characters.
    pub uuid: String,
    /// Bytes.
    pub block_size: u64,
    /// XFS: share of the space that inodes may take, percent.
    pub max_inode_percent: u8,
    /// Inodes in use when it was last written.
    pub inodes_used: u64,
}

/// How much of a device [`Superblock::parse`] wants to see.
const SUPERBLOCK_END: usize = 2048;

impl Superblock {
    /// Reads the superblock of a device; `None` if it has none that is known.
    pub(super) fn read(device: &Path) -> Result<Option<Superblock>> {
        let mut start = Vec::with_capacity(SUPERBLOCK_END);
        let read = std::fs::File::open(device).and_then(|file| file.take(SUPERBLOCK_END as u64).read_to_end(&mut start));
        read.map_err(|e| Error::io(format!("read superblock of '{}'", device.display()), &e))?;
        Ok(Superblock::parse(&start))
    }

    /// Parses the start of a device. Layouts: `fs/ext4/ext4.h` (`struct ext4_super_block`, at byte 1024, little endian) and
    /// `fs/xfs/libxfs/xfs_format.h` (`struct xfs_dsb`, at byte 0, big endian).
    pub(super) fn parse(start: &[u8]) -> Option<Superblock> {
        let bytes = |at: usize, length: usize| start.get(at..at + length);
        if bytes(0, 4)? == b"XFSB" {
            let count = |at: usize| Some(u64::from_be_bytes(bytes(at, 8)?.try_into().ok()?));
            return Some(Superblock {
                filesystem: Filesystem::Xfs,
                uuid: uuid(bytes(32, 16)?),
                block_size: u32::from_be_bytes(bytes(4, 4)?.try_into().ok()?).into(),
                max_inode_percent: *start.get(127)?,
                inodes_used: count(128)?.saturating_sub(count(136)?),
            });
        }
        let word = |at: usize| Some(u32::from_le_bytes(bytes(1024 + at, 4)?.try_into().ok()?));
        if bytes(1024 + 0x38, 2)? != [0x53, 0xef] {
            return None;
        }
        Some(Superblock {
            filesystem: Filesystem::Ext4,
            uuid: uuid(bytes(1024 + 0x68, 16)?),
            block_size: 1024_u64.checked_shl(word(0x18)?)?,
            max_inode_percent: 0,
            inodes_used: u64::from(word(0)?).saturating_sub(word(0x10)?.into()),
        })
    }

    /// Grows the mounted filesystem to the size of its device.
    pub(super) fn grow(&self, mounted: impl AsFd, device: &Path) -> Result<()> {
        let blocks = grow::size_of_device(device)? / self.block_size.max(1);
        match self.filesystem {
            Filesystem::Ext4 => grow::ext4(mounted, blocks),
            Filesystem::Xfs => grow::xfs(mounted, blocks, self.max_inode_percent),
        }
    }
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A random UUID (RFC 9562, version 4).
pub(super) fn new_uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(uuid(&bytes))
}

/// Makes a filesystem with this UUID on a device, by running `mkfs.ext4` or `mkfs.xfs` found through `PATH`.
pub(super) fn make(filesystem: Filesystem, uuid: &str, args: &[OsString], device: &Path, steps: &Steps) -> Result<()> {
    let (program, own) = filesystem.mkfs(uuid);
    let mut command = Command::new(program);
    command.args(own).args(args).arg(device).stdin(Stdio::null()).env("LC_ALL", "C");
    let outcome = steps.make("fork", program, || {
        let run = command.output();
        run.map_err(|e| Error::io(format!("run {program}"), &e).hint(format!("is {program} installed?")))
    })?;
    if outcome.status.success() {
        return Ok(());
    }
    let said = [outcome.stdout, outcome.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().escape_debug().to_string();
    Err(Error::new(Kind::System, format!("{program} on '{}' ended with {}: {said}", device.display(), outcome.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ext4_superblock_is_read() {
        let mut start = vec![0; SUPERBLOCK_END];
        start[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        start[1024] = 200;
        start[1024 + 0x10] = 189;
        start[1024 + 0x18] = 2;
        for (at, byte) in (0x68..0x78).zip(0x10..) {
            start[1024 + at] = byte;
        }
        let found = Superblock::parse(&start).unwrap();
        assert_eq!(found.uuid, "10111213-1415-1617-1819-1a1b1c1d1e1f");
        assert_eq!((found.filesystem, found.block_size, found.inodes_used), (Filesystem::Ext4, 4096, 11));
        start[1024 + 0x18] = 255;
        assert_eq!(Superblock::parse(&start), None);
    }

    #[test]
    fn an_xfs_superblock_is_read() {
        let mut start = vec![0; SUPERBLOCK_END];
        start[..4].copy_from_slice(b"XFSB");
        start[6] = 0x10;
        start[127] = 25;
        start[135] = 64;
        start[143] = 61;
        let found = Superblock::parse(&start).unwrap();
        assert_eq!((found.filesystem, found.block_size, found.max_inode_percent), (Filesystem::Xfs, 4096, 25));
        assert_eq!((found.inodes_used, found.uuid.len()), (3, 36));
    }

    #[test]
    fn a_new_uuid_has_the_usual_form() {
        let (one, other) = (new_uuid().unwrap(), new_uuid().unwrap());
        assert!(one != other && one.len() == 36 && one.as_bytes()[14] == b'4', "{one}");
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }

    #[test]
    fn anything_else_is_none() {
        assert_eq!(Superblock::parse(&[]), None);
        assert_eq!(Superblock::parse(&[0; SUPERBLOCK_END]), None);
        assert_eq!(Superblock::parse(b"XFSB"), None);
        assert_eq!(Filesystem::parse("EXT4"), Some(Filesystem::Ext4));
        assert_eq!(Filesystem::parse("btrfs"), None);
    }

    #[test]
    fn a_failing_mkfs_says_why() {
        let error = make(Filesystem::Ext4, &new_uuid().unwrap(), &[], Path::new("/nonexistent/device"), &Steps::default())
            .unwrap_err();
        assert!(error.to_string().contains("mkfs.ext4") && error.to_string().contains("/nonexistent/device"), "{error}");
    }
}
