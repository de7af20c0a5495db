//! Unpacking a layer: from any byte stream into a directory, confined to that directory.
//!
//! The calling thread reads and inflates ([`decode`]) into a bounded ring of buffers ([`ring`]). A thread of its own, locked
//! out of all trees but the target (root, umask, signals, capabilities), turns bytes into entries ([`entry`]), entries into operations
//! ([`plan`]) and does them ([`place`]). The first two touch no file system and can be fuzzed alone. Another one, which inherits the
//! lock, gives small files their content ([`finish`]).

mod account;
pub mod acl;
mod below;
pub mod decode;
mod describe;
mod dirs;
pub mod entry;
mod extension;
mod finish;
mod gate;
mod header;
mod limits;
mod losses;
pub mod pax;
mod place;
pub mod plan;
mod purge;
pub(crate) mod ring;
mod walk;

pub(crate) use account::Taken;
pub use account::{Digests, Progress};
pub use below::{Below, Lower};
pub(crate) use describe::remove_xattrs;
pub use limits::{Limits, MAX_WINDOW};
pub use losses::{Loss, Lost};
pub use plan::IdShift;

use crate::cancel::{Cancel, Until};
use crate::digest::Digest;
use crate::error::errno::{EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR};
use crate::error::{Context, Error, Kind, Result};
use crate::room;
use crate::sys::fs::{self, shown};
use crate::sys::threads::{outcome_of, start};
use crate::sys::{caps, confine};
use account::Accounted;
use entry::{Entry, Reader};
use gate::Gate;
use losses::Losses;
use place::Placer;
use std::ffi::OsStr;
use std::io::{BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether an attribute is an archive's business: whether it means the same on every host.
pub(crate) fn is_of_archives(key: &[u8]) -> bool {
    Loss::of_class(key).is_none()
}

/// What becomes of whiteouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// They become what overlay understands: a character device 0:0, an attribute of an opaque directory.
    Overlay,
    /// They delete: the target already holds what the lower layers have.
    Delete,
}

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Options {
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// Moves owners into a user namespace's range.
    pub shift: Option<IdShift>,
    /// Bounds on what the layer may ask for.
    pub limits: Limits,
    /// Return only when everything is on disk.
    pub sync: bool,
    /// The lower layers, for the look of directories that the archive implies. None where the target holds their content itself.
    pub below: Below,
    /// Ends the unpack early, with [`Kind::Cancelled`]; a `content` that blocks is waited for.
    pub cancel: Cancel,
    /// Which digests are taken and checked; one that is wrong is found out after all was unpacked.
    pub digests: Digests,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The layer hides everything below it. Overlay's kernel code does not look for the mark on a layer's root, so the driver
    /// has to leave the lower layers out.
    pub root_opaque: bool,
    /// An entry says what the layer's root is to be like.
    pub root_described: bool,
    /// Entries of the archive, extension records not counted.
    pub entries: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Of the bytes that were read and of the uncompressed archive, where they were wanted.
    pub digests: Option<(Digest, Digest)>,
}

/// Unpacks the layer that `content` yields into the directory `target`. `content` is read on the calling thread, to its end.
/// The threads that work in it have `nowhere`, a directory that has been removed, for their root. `before_change` is called once, on
/// another thread, before the target is changed; never for an archive that fails before that. `progress` is told how far it is.
///
/// # Errors
/// The archive is malformed, hostile or beyond a limit, `content` or `before_change` fails, or a system call does; the text names the
/// entry. If the target was changed, it holds part of the layer.
pub fn unpack(
    content: &mut dyn Read,
    target: BorrowedFd<'_>,
    nowhere: BorrowedFd<'_>,
    options: &Options,
    before_change: &(dyn Fn() -> Result<()> + Sync),
    progress: Option<Progress<'_>>,
) -> Result<Outcome> {
    let wanted = options.digests.are_wanted();
    let (taken, entries) = (Taken::new(wanted), &AtomicU64::new(0));
    let mut source = Accounted::new(Until::new(content, &options.cancel), wanted, entries, progress);
    let (mut filler, drainer) = ring::hashing(&taken);
    let drainer = Until::new(drainer, &options.cancel);
    let losses = Losses::new(target);
    let outcome = std::thread::scope(|scope| {
        let losses = &losses;
        let (gate, keeper) = gate::gate();
        // Confined threads must not touch anything but the layer's content.
        let keeping = start(scope, "unpack-gate", move || keeper.serve(before_change))?;
        let placing = start(scope, "unpack", move || {
            let _confined = confined(nowhere, options)?;
            place_all(Reader::new(drainer, &options.limits), target, options, losses, (gate, entries))
        })?;
        let fed = decode::run(&mut source, &mut filler, &options.limits);
        if let Ok(true) = fed {
            filler.end();
        } else {
            drop(filler); // which breaks the stream off
        }
        let placed = outcome_of(placing).and_then(|placed| outcome_of(keeping).map(|()| placed));
        match (fed, placed) {
            // A source that failed breaks the stream off under the other thread: its error is the cause.
            (Err(cause), Err(e)) if e.errno() == entry::BROKEN_OFF => Err(cause),
            (Err(cause), Ok(_)) => Err(cause),
            (_, placed) => placed,
        }
    });
    losses.log();
    // Whatever stopped it first, if only a source that its owner closed: this is why.
    let mut outcome = outcome.or_else(|e| options.cancel.check().and(Err(room::explain(e, target))))?;
    outcome.bytes = source.bytes;
    if let Some(read) = source.digest() {
        let archive = taken.finish().unwrap_or(read);
        options.digests.check(read, archive)?;
        outcome.digests = Some((read, archive));
    }
    if options.sync {
        let written = fs::syncfs(target).map_err(|e| room::explain(e, target));
        written.context(|| "write the unpacked layer to disk")?;
    }
    Ok(outcome)
}

fn confined(nowhere: BorrowedFd<'_>, options: &Options) -> Result<confine::Confined> {
    let files =
        caps::CHOWN.with(caps::DAC_OVERRIDE).with(caps::FOWNER).with(caps::FSETID).with(caps::MKNOD).with(caps::SETFCAP);
    // Overlay's marks are trusted attributes, which need this one: in force only while one is set.
    let held_back = if options.whiteouts == Whiteouts::Overlay { caps::SYS_ADMIN } else { caps::NONE };
    confine::enter(nowhere, files.with(held_back), held_back).context(|| "confine the unpacking thread")
}

/// Places all entries; the thread that finishes files is started here, and so is confined as this one is.
fn place_all<S: BufRead>(
    reader: Reader<'_, S>,
    target: BorrowedFd<'_>,
    options: &Options,
    losses: &Losses<'_>,
    (gate, entries): (Gate, &AtomicU64),
) -> Result<Outcome> {
    std::thread::scope(|scope| {
        let (unfinished, finisher) = finish::queue();
        let placer = Placer::new(fs::open_dir_at(target.as_fd(), ".")?, options, losses, unfinished)?;
        let finishing = confine::waiting(|| start(scope, "unpack-finish", || finisher.run(losses)))??;
        let placed = place_entries(reader, placer, options, (gate, entries));
        // What the other thread fails at stands before what this one is at, and is then why this one stopped.
        confine::waiting(|| outcome_of(finishing))?.and(placed)
    })
}

fn place_entries<S: BufRead>(
    mut reader: Reader<'_, S>,
    mut placer: Placer<'_>,
    options: &Options,
    (mut gate, entries): (Gate, &AtomicU64),
) -> Result<Outcome> {
    let mut entry = Entry::default();
    loop {
        let next = reader.next(&mut entry);
        if !next.context(|| unpacking(&entry.path))? {
            break;
        }
        let done = plan::plan(&entry, options.shift.as_ref()).and_then(|what| {
            if !matches!(what, plan::Operation::Skip) {
                gate.pass()?;
            }
            placer.place(&what, &mut reader, &entry)
        });
        done.map_err(blame).context(|| unpacking(&entry.path))?;
        entries.store(reader.count(), Ordering::Relaxed);
    }
    let (root_opaque, root_described) = (placer.root_opaque, placer.root_described);
    let outcome = Outcome { root_opaque, root_described, entries: reader.count(), ..Outcome::default() };
    placer.finish()?;
    Ok(outcome)
}

/// An entry that cannot be placed where it says is the archive's fault, and its errno says so: those of paths and names mean other
/// things to the caller.
fn blame(error: Error) -> Error {
    const OF_NAMES: [i32; 5] = [ENOENT, ENOTDIR, EISDIR, EINVAL, ELOOP];
    if OF_NAMES.contains(&error.errno()) && error.kind() != Kind::Invalid { error.with_kind(Kind::Archive) } else { error }
}

/// What was being done to the entry at `path`, which is empty where that is not known.
fn unpacking(path: &[u8]) -> String {
    if path.is_empty() { "unpack".to_owned() } else { format!("unpack '{}'", shown(OsStr::from_bytes(path))) }
}
