//! The second placing thread: gives the small files that the first has made their content, and what their entries say.
//!
//! Making a file takes the kernel about as long as all that follows, so two threads take half the time. Everything that has to
//! do with names stays with the first, in the order of the archive. This one is handed open files and knows no name: whatever
//! the first does to a file's name meanwhile (link it, remove it, put a directory there), the file is the same.

use super::describe::{self, Amends};
use super::entry::{BROKEN_OFF, Entry, Reader};
use super::losses::Losses;
use super::plan::Metadata;
use crate::error::{Context, Error, Result};
use crate::sys::{caps, confine, place};
use std::io::BufRead;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// Files of up to this many bytes are handed over. Larger ones keep the first thread long enough for the second to catch up.
const MOST: u64 = 64 << 10;
/// A batch is full with that many files, or bytes: the threads wake each other once for each.
const FILES: usize = 16;
const BYTES: usize = 256 << 10;
/// Batches there are; with [`FILES`], the files that are open at once (64), and with [`BYTES`] and [`MOST`] the memory.
const BATCHES: usize = 4;

/// Batches that are finished in a row, if they come so fast, before a change of the host's ids is let in.
const WITHOUT_WAITING: usize = 16;

/// Whether a file is one to hand over. Those with attributes are few, and the memory of many would have to be bounded.
pub(super) fn takes(entry: &Entry, metadata: &Metadata) -> bool {
    entry.length <= MOST && metadata.xattrs.is_empty()
}

/// An open file, and what to do to it. Ranges are of the batch's bytes.
struct Task {
    file: OwnedFd,
    path: Range<usize>,
    content: Range<usize>,
    metadata: Metadata,
    amends: Amends,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    tasks: Vec<Task>,
}

/// The end that hands files over.
pub(super) struct Unfinished {
    full: SyncSender<Batch>,
    free: Receiver<Batch>,
    batch: Batch,
}

/// The end that finishes them. Dropping it makes the other end fail.
pub(super) struct Finisher {
    full: Receiver<Batch>,
    free: SyncSender<Batch>,
    since_waited: usize,
}

/// Makes both ends.
pub(super) fn queue() -> (Unfinished, Finisher) {
    let (full, filled) = sync_channel(BATCHES);
    let (free, freed) = sync_channel(BATCHES);
    for _ in 1..BATCHES {
        // The other end is in this function and there is room for all: this cannot fail.
        let _ = free.send(Batch::default());
    }
    (Unfinished { full, free: freed, batch: Batch::default() }, Finisher { full: filled, free, since_waited: 0 })
}

impl Unfinished {
    /// Hands a new file over, with its content, which is read here.
    pub(super) fn add<S: BufRead>(
        &mut self,
        file: OwnedFd,
        entry: &Entry,
        metadata: &Metadata,
        amends: Amends,
        content: &mut Reader<'_, S>,
    ) -> Result<()> {
        let Batch { bytes, tasks } = &mut self.batch;
        let start = bytes.len();
        bytes.extend_from_slice(&entry.path);
        let middle = bytes.len();
        loop {
            let chunk = content.data()?;
            let length = chunk.len();
            if length == 0 {
                break;
            }
            bytes.extend_from_slice(chunk);
            content.consume(length)?;
        }
        let (path, content) = (start..middle, middle..bytes.len());
        tasks.push(Task { file, path, content, metadata: metadata.clone(), amends });
        if tasks.len() >= FILES || bytes.len() >= BYTES { self.pass() } else { Ok(()) }
    }

    /// Passes the batch on and takes an empty one.
    fn pass(&mut self) -> Result<()> {
        self.full.send(std::mem::take(&mut self.batch)).map_err(|_| stopped())?;
        self.batch = self.free.recv().map_err(|_| stopped())?;
        Ok(())
    }

    /// Passes on what there is. To be called after the last file; without it the files of the last batch stay unfinished.
    pub(super) fn end(self) -> Result<()> {
        self.full.send(self.batch).map_err(|_| stopped())
    }
}

/// An error that is not the cause: that one is what [`Finisher::run`] returns.
fn stopped() -> Error {
    Error::sys("the thread that finishes files has stopped", BROKEN_OFF)
}

impl Finisher {
    /// The next batch; `None` when there are no more.
    fn next(&mut self) -> Result<Option<Batch>> {
        self.since_waited += 1;
        match self.full.try_recv() {
            Ok(batch) if self.since_waited < WITHOUT_WAITING => Ok(Some(batch)),
            Err(TryRecvError::Disconnected) => Ok(None),
            at_hand => {
                self.since_waited = 0;
                confine::waiting(|| at_hand.ok().or_else(|| self.full.recv().ok()))
            }
        }
    }

    /// Finishes files until there are no more.
    pub(super) fn run(mut self, losses: &Losses<'_>) -> Result<()> {
        let needed = caps::CHOWN.with(caps::DAC_OVERRIDE).with(caps::FOWNER).with(caps::FSETID).with(caps::SETFCAP);
        let _confined = confine::enter_further(needed).context(|| "confine the thread that finishes files")?;
        while let Some(mut batch) = self.next()? {
            let Batch { bytes, tasks } = &mut batch;
            for Task { file, path, content, metadata, amends } in tasks.drain(..) {
                let path = &bytes[path];
                let written = place::write_all(&file, &bytes[content]);
                let finished = written.and_then(|()| describe::file(&file, path, &metadata, amends, losses));
                finished.context(|| super::unpacking(path))?;
            }
            bytes.clear();
            // Nobody takes the last ones.
            let _ = self.free.send(batch);
        }
        Ok(())
    }
}
