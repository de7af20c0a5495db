//! What extension records say about the entry that follows them, or about all that follow.

use super::header;
use super::pax;
use crate::error::{Error, Kind, Result};
use crate::sys::place::Time;
use std::collections::BTreeMap;

/// The values of extension records; `None` where the header's own value stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) acl: Option<Vec<u8>>,
    pub(super) default_acl: Option<Vec<u8>>,
    pub(super) sparse: Sparse,
}

/// GNU's three ways of describing sparse files in PAX records.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    major: Option<u64>,
    /// The file's length with its holes.
    pub(super) length: Option<u64>,
    /// The file's name: the `path` record holds a stand-in.
    pub(super) name: Option<Vec<u8>>,
    /// Format 0.1: offsets and lengths, with commas.
    list: Option<Vec<u8>>,
    /// Format 0.0: one number per record, offsets and lengths in turn.
    numbers: Vec<u64>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Archive, what)
}

impl Sparse {
    /// Whether the map stands before the data (format 1.0).
    pub(super) fn is_version_1(&self) -> bool {
        self.major == Some(1)
    }

    /// The map of format 0.0 or 0.1, if there is one.
    pub(super) fn map(&self) -> Result<Option<Vec<(u64, u64)>>> {
        let numbers: Vec<u64> = match &self.list {
            Some(list) if list.is_empty() => Vec::new(),
            Some(list) => {
                let numbers = list.split(|byte| *byte == b',').map(|n| pax::number("GNU.sparse.map", n));
                numbers.collect::<Result<_>>()?
            }
            None if self.numbers.is_empty() => return Ok(None),
            None => self.numbers.clone(),
        };
        if !numbers.len().is_multiple_of(2) {
            return Err(bad("a sparse map has an offset without a length"));
        }
        Ok(Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))
    }

    fn record(&mut self, keyword: &[u8], value: &[u8]) -> Result<()> {
        match keyword {
            b"major" => self.major = Some(pax::number("GNU.sparse.major", value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.length = Some(pax::number("GNU.sparse.size", value)?),
            b"map" => self.list = Some(value.to_vec()),
            b"offset" | b"numbytes" => {
                if (keyword == b"offset") != self.numbers.len().is_multiple_of(2) {
                    return Err(bad("sparse offsets and lengths do not alternate"));
                }
                self.numbers.push(pax::number("GNU.sparse", value)?);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Extensions {
    /// GNU's record for a long name.
    pub(super) fn long_name(&mut self, content: Vec<u8>) {
        self.path = Some(until_nul(content));
    }

    /// GNU's record for a long link.
    pub(super) fn long_link(&mut self, content: Vec<u8>) {
        self.link = Some(until_nul(content));
    }

    /// PAX records; `global` ones say nothing about what belongs to one entry only. Attributes and ACLs do: no program
    /// writes them for all entries, and they would be many times what the archive holds.
    pub(super) fn pax(&mut self, content: &[u8], global: bool) -> Result<()> {
        pax::records(content, |keyword, value| self.record(keyword, value, global))
    }

    fn record(&mut self, keyword: &[u8], value: &[u8], global: bool) -> Result<()> {
        // An empty value takes back what a global record said.
        let some = !value.is_empty();
        match keyword {
            b"uid" => self.uid = some.then(|| id("uid", value)).transpose()?,
            b"gid" => self.gid = some.then(|| id("gid", value)).transpose()?,
            b"mtime" => self.mtime = some.then(|| pax::time("mtime", value)).transpose()?,
            b"atime" => self.atime = some.then(|| pax::time("atime", value)).transpose()?,
            _ if global => {}
            b"SCHILY.acl.access" => self.acl = some.then(|| value.to_vec()),
            b"SCHILY.acl.default" => self.default_acl = some.then(|| value.to_vec()),
            b"path" => self.path = some.then(|| value.to_vec()),
            b"linkpath" => self.link = some.then(|| value.to_vec()),
            b"size" => self.size = some.then(|| pax::number("size", value)).transpose()?,
            _ => {
                if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(keyword, value)?;
                } else if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let (name, value) = (pax::percent(name), pax::base64(value));
                    let (name, value) = name.zip(value).ok_or_else(|| bad("a LIBARCHIVE.xattr record is not base64"))?;
                    // Where both stand, the plain form has the bytes as they are.
                    self.xattrs.entry(name).or_insert(value);
                }
            }
        }
        Ok(())
    }
}

fn id(keyword: &str, value: &[u8]) -> Result<u32> {
    let number = pax::number(keyword, value)?;
    header::id(keyword, i64::try_from(number).unwrap_or(i64::MAX))
}

fn until_nul(mut content: Vec<u8>) -> Vec<u8> {
    if let Some(nul) = content.iter().position(|byte| *byte == 0) {
        content.truncate(nul);
    }
    content
}
