//! What is kept account of while an archive goes through: bytes and entries for who wants to see progress, and digests.
//!
//! The digest of what is read is taken by the thread that reads and inflates, that of the tar stream by the one that places:
//! inflating takes longer than placing. Without compression the two are one digest, taken by the reading thread.

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::locks::lock;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Called now and then, on the thread that reads, with the bytes read and the entries placed so far.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Which digests are taken, and what they have to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Take them, whether or not anything is expected of them.
    pub wanted: bool,
    /// Of the bytes that are read.
    pub read: Option<Digest>,
    /// Of the uncompressed archive (the "diff id").
    pub archive: Option<Digest>,
}

impl Digests {
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted || self.read.is_some() || self.archive.is_some()
    }

    /// An error unless both are as expected.
    pub(super) fn check(&self, read: Digest, archive: Digest) -> Result<()> {
        for (what, expected, found) in
            [("bytes that were read", self.read, read), ("uncompressed archive", self.archive, archive)]
        {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                let text = format!("the digest of the {what} is {found}, and {expected} was expected");
                return Err(Error::new(Kind::Archive, text).hint("fetch the layer again"));
            }
        }
        Ok(())
    }
}

/// The digest of the tar stream, on its way between threads.
pub(crate) struct Taken(Mutex<Option<Hasher>>);

impl Taken {
    pub(crate) fn new(wanted: bool) -> Taken {
        Taken(Mutex::new(wanted.then(Hasher::default)))
    }

    pub(crate) const fn none() -> Taken {
        Taken(Mutex::new(None))
    }

    /// It is not taken after all.
    pub(crate) fn forgo(&self) {
        *lock(&self.0) = None;
    }

    pub(crate) fn update(&self, bytes: &[u8]) {
        if let Some(hasher) = &mut *lock(&self.0) {
            hasher.update(bytes);
        }
    }

    pub(crate) fn finish(&self) -> Option<Digest> {
        lock(&self.0).take().map(Hasher::finish)
    }
}

/// A source that is kept account of.
pub(super) struct Accounted<'e, 'p, R> {
    source: R,
    hasher: Option<Hasher>,
    entries: &'e AtomicU64,
    progress: Option<Progress<'p>>,
    pub(super) bytes: u64,
}

impl<'e, 'p, R: Read> Accounted<'e, 'p, R> {
    pub(super) fn new(
        source: R,
        digest: bool,
        entries: &'e AtomicU64,
        progress: Option<Progress<'p>>,
    ) -> Accounted<'e, 'p, R> {
        Accounted { source, hasher: digest.then(Hasher::default), entries, progress, bytes: 0 }
    }

    /// The digest of all that was read.
    pub(super) fn digest(self) -> Option<Digest> {
        self.hasher.map(Hasher::finish)
    }
}

impl<R: Read> Read for Accounted<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(into)?;
        if let (Some(hasher), Some(bytes)) = (&mut self.hasher, into.get(..got)) {
            hasher.update(bytes);
        }
        self.bytes += got as u64;
        if let Some(progress) = &mut self.progress {
            progress(self.bytes, self.entries.load(Ordering::Relaxed));
        }
        Ok(got)
    }
}
