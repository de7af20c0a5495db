//! The names of one directory, sorted: what makes the same layer the same archive on every filesystem.

use crate::error::Result;
use crate::sys::fs::{self, FileKind};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// One name.
#[derive(Clone)]
pub(super) struct Name {
    bytes: Range<usize>,
    /// What it is in the layer, where the directory told.
    pub(super) kind: Option<FileKind>,
    /// Only the other tree has it.
    pub(super) gone: bool,
}

/// All names, in one piece of memory.
pub(super) struct Names {
    bytes: Vec<u8>,
    names: Vec<Name>,
}

impl Names {
    /// The names in `dir`, and those that only `other` has.
    pub(super) fn of(dir: impl AsFd, other: Option<&impl AsFd>) -> Result<Names> {
        let mut all = Names { bytes: Vec::new(), names: Vec::new() };
        all.add(dir, false)?;
        all.sort();
        if let Some(other) = other {
            let known = all.names.len();
            all.add(other, true)?;
            let (own, others) = all.names.split_at(known);
            let bytes = |name: &Name| &all.bytes[name.bytes.clone()];
            let is_new = |name: &&Name| own.binary_search_by(|known| bytes(known).cmp(bytes(name))).is_err();
            let gone: Vec<Name> = others.iter().filter(is_new).cloned().collect();
            all.names.truncate(known);
            all.names.extend(gone);
            all.sort();
        }
        Ok(all)
    }

    fn add(&mut self, dir: impl AsFd, gone: bool) -> Result<()> {
        fs::each_entry(dir, |entry| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(entry.name.as_bytes());
            self.names.push(Name { bytes: start..self.bytes.len(), kind: entry.kind, gone });
            Ok(())
        })
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.names.sort_unstable_by(|a, b| bytes[a.bytes.clone()].cmp(&bytes[b.bytes.clone()]));
    }

    /// The name at a place in the order.
    pub(super) fn get(&self, at: usize) -> Option<(&OsStr, &Name)> {
        let name = self.names.get(at)?;
        Some((OsStr::from_bytes(&self.bytes[name.bytes.clone()]), name))
    }
}
