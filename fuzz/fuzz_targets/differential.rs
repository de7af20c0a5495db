//! Against the `tar` crate's own reader: what both take for an archive holds the same entries with the same data. Programs
//! that disagree here could be shown different layers under one digest.
//!
//! Allowed differences, for which an archive is left out of the comparison:
//! * one of the two refuses it (each is stricter than the other somewhere);
//! * PAX sparse files, which the crate does not put together, and sparse files and GNU dump directories altogether;
//! * global PAX records, which the crate hands out as entries and never applies;
//! * `size` for what has no content: we go on right behind the header, as GNU tar and Go do, the crate skips that many bytes;
//! * both a GNU long name and a PAX path for one entry; a NUL in a PAX path, or in
//!   a GNU long name, which ends there for us as for GNU tar; Solaris records, volume labels;
//! * star's shorter prefix field; a directory told by its slash alone;
//! * a version other than "00" behind the magic of ustar, with which the crate overlooks the prefix of the name.
#![no_main]

use graphdriver::archive::Limits;
use graphdriver::archive::entry::{Entry, Reader, Type};
use libfuzzer_sys::fuzz_target;
use std::io::Read;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    mode: u32,
    data: Vec<u8>,
}

fn ours(bytes: &[u8]) -> Option<Vec<Seen>> {
    let limits = Limits::default();
    let mut reader = Reader::new(bytes, &limits);
    let (mut entry, mut all) = (Entry::default(), Vec::new());
    while reader.next(&mut entry).ok()? {
        let mut data = Vec::new();
        loop {
            let chunk = reader.data().ok()?;
            let length = chunk.len();
            if length == 0 {
                break;
            }
            data.extend_from_slice(chunk);
            reader.consume(length).ok()?;
        }
        if entry.extents.is_some() || entry.path.contains(&0) {
            return None;
        }
        let kind = match entry.kind {
            Type::File => b'0',
            Type::Hardlink => b'1',
            Type::Symlink => b'2',
            Type::Char => b'3',
            Type::Block => b'4',
            Type::Dir => b'5',
            Type::Fifo => b'6',
        };
        all.push(Seen { path: entry.path.clone(), link: entry.link.clone(), kind, mode: entry.mode, data });
    }
    Some(all)
}

fn theirs(bytes: &[u8]) -> Option<Vec<Seen>> {
    let mut all = Vec::new();
    for entry in tar::Archive::new(bytes).entries().ok()? {
        let mut entry = entry.ok()?;
        let header = entry.header().clone();
        let kind = header.as_bytes()[156];
        let star = header.as_bytes().ends_with(b"tar\0");
        let odd_version = &header.as_bytes()[257..263] == b"ustar\0" && &header.as_bytes()[263..265] != b"00";
        if !(b'0'..=b'7').contains(&kind) && kind != 0 || star || odd_version {
            return None;
        }
        if (b'1'..=b'6').contains(&kind) && header.entry_size().ok()? != 0 {
            return None;
        }
        let mut sparse = false;
        if let Some(records) = entry.pax_extensions().ok()? {
            for record in records {
                let key = record.ok()?.key_bytes().to_vec();
                sparse |= key.starts_with(b"GNU.sparse.") || key == b"size" || key == b"path" || key == b"linkpath";
            }
        }
        if sparse {
            return None;
        }
        let path = entry.path_bytes().into_owned();
        if matches!(kind, 0 | b'0' | b'7') && path.ends_with(b"/") {
            return None;
        }
        let kind = if matches!(kind, 0 | b'7') { b'0' } else { kind };
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        if path.contains(&0) || link.contains(&0) {
            return None;
        }
        let mode = header.mode().ok()? & 0o7777;
        let mut data = Vec::new();
        entry.read_to_end(&mut data).ok()?;
        all.push(Seen { path, link, kind, mode, data });
    }
    Some(all)
}

fuzz_target!(|bytes: &[u8]| {
    // Global records stand anywhere: any block that could be one leaves the archive out.
    if bytes.chunks_exact(512).any(|block| matches!(block[156], b'g' | b'X' | b'V' | b'A' | b'D' | b'S')) {
        return;
    }
    if let (Some(ours), Some(theirs)) = (ours(bytes), theirs(bytes)) {
        assert_eq!(ours, theirs);
    }
});
