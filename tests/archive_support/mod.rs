//! Makes tar archives byte by byte (also ones that no tar program would make) and runs the unpacker on them.
#![allow(dead_code)] // each test file uses its own part

use graphdriver::archive::{self, Below, Digests, Limits, Options, Outcome, Whiteouts};
use graphdriver::cancel::Cancel;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A directory under the test's scratch space, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("archive-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One header, with what most tests leave alone.
#[derive(Clone, Debug)]
pub struct Item {
    pub path: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub link: Vec<u8>,
    pub data: Vec<u8>,
    pub device: (u64, u64),
    pub pax: Vec<(String, Vec<u8>)>,
}

pub fn item(kind: u8, path: &str) -> Item {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    Item {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 1_500_000_000,
        link: Vec::new(),
        data: Vec::new(),
        device: (0, 0),
        pax: Vec::new(),
    }
}

pub fn file(path: &str, data: &str) -> Item {
    Item { data: data.as_bytes().to_vec(), ..item(b'0', path) }
}

pub fn dir(path: &str) -> Item {
    item(b'5', path)
}

pub fn symlink(path: &str, text: &str) -> Item {
    Item { link: text.as_bytes().to_vec(), ..item(b'2', path) }
}

pub fn hardlink(path: &str, target: &str) -> Item {
    Item { link: target.as_bytes().to_vec(), ..item(b'1', path) }
}

impl Item {
    pub fn mode(self, mode: u32) -> Item {
        Item { mode, ..self }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Item {
        Item { uid, gid, ..self }
    }

    pub fn mtime(self, mtime: u64) -> Item {
        Item { mtime, ..self }
    }

    pub fn device(self, major: u64, minor: u64) -> Item {
        Item { device: (major, minor), ..self }
    }

    pub fn pax(mut self, key: &str, value: &[u8]) -> Item {
        self.pax.push((key.to_owned(), value.to_vec()));
        self
    }

    /// The blocks of this entry, long names through PAX.
    pub fn blocks(&self) -> Vec<u8> {
        let mut records = self.pax.clone();
        if self.path.len() > 100 {
            records.push(("path".into(), self.path.clone()));
        }
        if self.link.len() > 100 {
            records.push(("linkpath".into(), self.link.clone()));
        }
        let mut out = Vec::new();
        if !records.is_empty() {
            let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            out.extend(raw_header(b'x', b"pax", &[], 0o644, 0, 0, content.len() as u64, 0, (0, 0)));
            out.extend(padded(&content));
        }
        let size = self.data.len() as u64;
        let (path, link) = (&self.path[..self.path.len().min(100)], &self.link[..self.link.len().min(100)]);
        out.extend(raw_header(self.kind, path, link, self.mode, self.uid, self.gid, size, self.mtime, self.device));
        out.extend(padded(&self.data));
        out
    }
}

/// A PAX record; its length counts itself.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub fn padded(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(data.len().next_multiple_of(512), 0);
    out
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value < 1 << (3 * digits) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        let bytes = value.to_be_bytes();
        let start = field.len() - 8;
        field[..start].fill(0);
        field[start..].copy_from_slice(&bytes);
        field[0] |= 0x80;
    }
}

#[allow(clippy::too_many_arguments)]
pub fn raw_header(
    kind: u8,
    path: &[u8],
    link: &[u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u64, u64),
) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    block[..path.len()].copy_from_slice(path);
    octal(&mut block[100..108], u64::from(mode));
    octal(&mut block[108..116], uid);
    octal(&mut block[116..124], gid);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], mtime);
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], device.0);
    octal(&mut block[337..345], device.1);
    checksum(&mut block);
    block
}

/// Puts the right checksum into a header.
pub fn checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A whole archive.
pub fn tar(items: &[Item]) -> Vec<u8> {
    let mut out: Vec<u8> = items.iter().flat_map(Item::blocks).collect();
    out.extend([0; 1024]);
    out
}

pub fn options(whiteouts: Whiteouts) -> Options {
    Options {
        whiteouts,
        shift: None,
        limits: Limits::default(),
        sync: false,
        below: Below::default(),
        cancel: Cancel::default(),
        digests: Digests::default(),
    }
}

/// Where [`nowhere`] makes its directory, for the calling thread.
pub fn nowhere_path() -> std::path::PathBuf {
    let own = (std::process::id(), std::thread::current().id());
    std::env::temp_dir().join(format!("graphdriver-nowhere-{}-{:?}", own.0, own.1))
}

/// A directory that has been removed, for the root of the threads that unpack.
pub fn nowhere() -> std::fs::File {
    let path = nowhere_path();
    std::fs::create_dir(&path).unwrap();
    let open = std::fs::File::open(&path).unwrap();
    std::fs::remove_dir(&path).unwrap();
    open
}

/// Unpacks bytes into a directory.
pub fn unpack_with(mut archive: &[u8], target: &Path, options: &Options) -> graphdriver::error::Result<Outcome> {
    let target = std::fs::File::open(target).unwrap();
    unpack_from(&mut archive, target.as_fd(), options)
}

/// Unpacks what `content` yields into an open directory.
pub fn unpack_from(
    content: &mut dyn std::io::Read,
    target: std::os::fd::BorrowedFd<'_>,
    options: &Options,
) -> graphdriver::error::Result<Outcome> {
    archive::unpack(content, target, nowhere().as_fd(), options, &|| Ok(()), None)
}

/// Unpacks for overlay.
pub fn unpack(archive: &[u8], target: &Path) -> graphdriver::error::Result<Outcome> {
    unpack_with(archive, target, &options(Whiteouts::Overlay))
}
