//! From the buffers of an archive to what the caller is given: compressed, counted, and its digest taken. Runs on the caller's
//! thread, while another one reads the layer and, with zstd, others compress; or, where there is nothing to do but to hand them
//! over, [`AsItIs`] does that at once.

use crate::archive::decode::Sink;
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::driver::{Compression, Form};
use crate::error::errno::{EAGAIN, ECANCELED, EINVAL, EIO, ENOMEM};
use crate::error::{Error, Kind, Result};
use crate::sys::process::SignalsBlocked;
use std::io::{self, BufRead, Write};
use zstd::zstd_safe::CParameter;

/// The most bytes that the caller is given at once. A pipe, which holds four of them (pipe(7)), is written and read side by side then:
/// whoever writes 64 KiB and more to one sleeps and wakes for each, and takes two to four times as long.
const PIECE: usize = 16 << 10;

/// The most threads that compress with zstd, however many processors there are: each takes memory.
const ZSTD_WORKERS: u32 = 4;
/// From the level after this one a thread would take tens to hundreds of megabytes: the caller's compresses alone.
const ZSTD_SHARED: u32 = 9;
/// Bytes that one of them compresses at a time. It decides what is written: a digest of it must be the same on every host.
const ZSTD_JOB: u32 = 2 << 20;

/// What was written.
pub(super) struct Written {
    /// `None` where it is not wanted, or is that of the archive: without compression.
    pub(super) digest: Option<Digest>,
    pub(super) bytes: u64,
}

/// The caller's end, with a count and a digest of what went through. Closed once the export is cancelled.
struct Outlet<'a> {
    to: &'a mut dyn Write,
    cancel: &'a Cancel,
    hasher: Option<Hasher>,
    bytes: u64,
    /// The caller has refused something: whoever still has bytes when it goes must not offer them again.
    is_closed: bool,
}

impl<'a> Outlet<'a> {
    fn new(to: &'a mut dyn Write, cancel: &'a Cancel, hasher: Option<Hasher>) -> Outlet<'a> {
        Outlet { to, cancel, hasher, bytes: 0, is_closed: false }
    }
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed || self.cancel.is_requested() {
            return Err(io::Error::from_raw_os_error(ECANCELED));
        }
        let bytes = &bytes[..bytes.len().min(PIECE)];
        self.to.write_all(bytes).inspect_err(|_| self.is_closed = true)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// An error unless there is such a level.
pub(super) fn check(compression: Compression) -> Result<()> {
    let (name, level, most) = match compression {
        Compression::None => return Ok(()),
        Compression::Gzip(level) => ("gzip", level, 9),
        Compression::Zstd(level) => ("zstd", level, 22),
    };
    if level <= most {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("{name} has no compression level {level}")).hint(format!("the highest is {most}")))
}

/// Writes all that `from` yields.
pub(super) fn run(mut from: impl BufRead, form: Form, cancel: &Cancel, to: &mut dyn Write) -> Result<Written> {
    let hasher = (form.digests && form.compression != Compression::None).then(Hasher::default);
    let outlet = Outlet::new(to, cancel, hasher);
    let outlet = match form.compression {
        Compression::None => copy(&mut from, cancel, outlet),
        Compression::Gzip(level) => {
            // Neither a name nor a time goes into the header.
            let level = if level == 0 { flate2::Compression::default() } else { flate2::Compression::new(level) };
            let encoder = flate2::write::GzEncoder::new(outlet, level);
            copy(&mut from, cancel, encoder).and_then(flate2::write::GzEncoder::finish)
        }
        Compression::Zstd(level) => {
            let encoder = zstd_encoder(&mut from, outlet, level, zstd_workers(level))?;
            copy(&mut from, cancel, encoder).and_then(zstd_finish)
        }
    };
    let outlet = outlet.map_err(|e| refused(&e))?;
    Ok(Written { digest: outlet.hasher.map(Hasher::finish), bytes: outlet.bytes })
}

/// How many threads compress. What they write does not depend on it, but on whether there is any; that, the level alone decides.
fn zstd_workers(level: u32) -> u32 {
    if level > ZSTD_SHARED {
        return 0;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors).unwrap_or(ZSTD_WORKERS).min(ZSTD_WORKERS)
}

/// An encoder that has got the first byte: with that its threads start. They start with all signals blocked, as no handler of the
/// host program is to run on them.
fn zstd_encoder<W: Write>(
    from: &mut impl BufRead,
    to: W,
    level: u32,
    workers: u32,
) -> Result<zstd::stream::write::Encoder<'static, W>> {
    let level = i32::try_from(level).map_err(|_| Error::sys("choose a compression level", EINVAL))?;
    let first = from.fill_buf().map_err(|e| refused(&e))?.first().copied();
    let blocked = SignalsBlocked::now();
    let encoder = zstd::stream::write::Encoder::new(to, level).and_then(|mut encoder| {
        encoder.multithread(workers)?;
        encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
        encoder.write_all(first.as_slice()).map(|()| encoder)
    });
    drop(blocked);
    from.consume(first.as_slice().len());
    // Its errors have no number: it wants for a thread, if not for memory.
    encoder.map_err(|e| Error::sys("start compressing with zstd", EAGAIN).context(e.to_string()))
}

/// Without the flush the last job would end the archive as well where its bytes end with a job, if it waited for a place among the jobs
/// until then, and another one otherwise: the bytes would depend on who was faster.
fn zstd_finish<W: Write>(mut encoder: zstd::stream::write::Encoder<'_, W>) -> io::Result<W> {
    encoder.flush()?;
    encoder.finish()
}

/// Hands an archive over as it is, without a thread between, which would have nothing to do but that.
pub(super) struct AsItIs<'a> {
    outlet: Outlet<'a>,
    buffer: Vec<u8>,
    failed: Option<io::Error>,
}

impl<'a> AsItIs<'a> {
    pub(super) fn new(cancel: &'a Cancel, to: &'a mut dyn Write) -> AsItIs<'a> {
        let outlet = Outlet::new(to, cancel, None);
        AsItIs { outlet, buffer: vec![0; PIECE], failed: None }
    }

    /// How many bytes the caller took, or why it took no more: to be asked when all went through the sink, and when that refused
    /// something.
    pub(super) fn written(self) -> Result<u64> {
        self.failed.map_or(Ok(self.outlet.bytes), |e| Err(refused(&e)))
    }
}

impl Sink for &mut AsItIs<'_> {
    fn buffer(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.buffer))
    }

    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
        self.failed = self.outlet.write_all(&bytes[..length]).err();
        self.buffer = bytes;
        self.failed.is_none()
    }
}

fn refused(e: &io::Error) -> Error {
    // What a compressor says has no number. It wants for memory then: all else was checked.
    let unnumbered = if e.kind() == io::ErrorKind::Other { ENOMEM } else { EIO };
    Error::sys("write the archive", e.raw_os_error().unwrap_or(unnumbered)).context(e.to_string())
}

fn copy<W: Write>(from: &mut impl BufRead, cancel: &Cancel, mut to: W) -> io::Result<W> {
    loop {
        if cancel.is_requested() {
            return Err(io::Error::from_raw_os_error(ECANCELED));
        }
        let bytes = from.fill_buf()?;
        let length = bytes.len();
        if length == 0 {
            return Ok(to);
        }
        to.write_all(bytes)?;
        from.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::errno::ENOSPC;
    use crate::export::stream::{Stream, UNWANTED};
    use crate::sys::process::blocked_signals;
    use std::time::Duration;

    /// Takes so much, and then nothing.
    struct Full {
        room: usize,
        refused: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.refused += 1;
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Bytes of which a compressor takes `kinds` for different; with 256 it can make nothing smaller.
    fn noise(length: usize, kinds: u64) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from((state >> 56) % kinds).unwrap()
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn zstd_writes_the_same_with_any_number_of_threads_in_any_pieces() {
        let bytes = noise(3 * ZSTD_JOB as usize + 12_345, 4);
        let compressed = |workers, piece| zstd_compressed(&bytes, workers, piece, Duration::ZERO);
        let one = compressed(1, 1 << 18);
        assert!(one.len() < bytes.len() / 2);
        assert!(zstd::decode_all(one.as_slice()).unwrap() == bytes);
        for (workers, piece) in [(2, 1 << 18), (ZSTD_WORKERS, 1 << 18), (2, 4_321), (1, bytes.len())] {
            assert!(compressed(workers, piece) == one, "{workers} threads, pieces of {piece}");
        }
    }

    #[test]
    fn zstd_writes_the_same_whoever_is_faster_where_the_last_job_is_full() {
        // More jobs than one thread keeps in store, of what compresses badly: they wait for each other.
        let bytes = noise(5 * ZSTD_JOB as usize, 256);
        let slowly = Duration::from_millis(4);
        let one = zstd_compressed(&bytes, 1, 1 << 18, Duration::ZERO);
        assert!(zstd::decode_all(one.as_slice()).unwrap() == bytes);
        for (workers, pause) in [(1, slowly), (ZSTD_WORKERS, slowly), (ZSTD_WORKERS, Duration::ZERO)] {
            assert!(zstd_compressed(&bytes, workers, 1 << 18, pause) == one, "{workers} threads, after {pause:?} each");
        }
    }

    fn zstd_compressed(bytes: &[u8], workers: u32, piece: usize, pause: Duration) -> Vec<u8> {
        let mut from = bytes;
        let mut encoder = zstd_encoder(&mut from, Vec::new(), 1, workers).unwrap();
        for piece in from.chunks(piece) {
            std::thread::sleep(pause);
            encoder.write_all(piece).unwrap();
        }
        zstd_finish(encoder).unwrap()
    }

    /// The threads that have the name of the calling one, itself left out: whether each blocks all signals that can be blocked.
    fn threads_of_this_name() -> Vec<bool> {
        let own = std::fs::read_link("/proc/thread-self").unwrap();
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let others = tasks.filter(|task| task.file_name() != own.file_name());
        let named = others.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|other| other == name));
        // Not SIGKILL, SIGSTOP, and the two that glibc keeps for itself (nptl(7)).
        named.map(|task| blocked_signals(&task) | 1 << 8 | 1 << 18 | 3 << 31 == u64::MAX).collect()
    }

    #[test]
    fn zstds_threads_take_no_signals() {
        let watched = std::thread::Builder::new().name("zstd-watched".into()).spawn(|| {
            let _encoder = zstd_encoder(&mut b"a".as_slice(), Vec::new(), 1, 3).unwrap();
            // A listing may lack some while other tests' threads end.
            let all = (0..100).map(|_| threads_of_this_name()).find(|threads| threads.len() == 3);
            assert_eq!(all, Some(vec![true; 3]));
        });
        watched.unwrap().join().unwrap();
    }

    #[test]
    fn who_has_refused_is_asked_no_more() {
        let bytes = noise(1 << 20, 256);
        let zstd = [1, ZSTD_SHARED + 1].map(Compression::Zstd);
        for compression in [Compression::None, Compression::Gzip(1)].into_iter().chain(zstd) {
            let mut full = Full { room: 300_000, refused: 0 };
            let form = Form { compression, digests: true };
            let error = run(bytes.as_slice(), form, &Cancel::default(), &mut full).map(drop).unwrap_err();
            assert_eq!((error.errno(), full.refused), (ENOSPC, 1), "{compression:?}");
        }
        let (cancel, mut full) = (Cancel::default(), Full { room: 300_000, refused: 0 });
        let mut out = AsItIs::new(&cancel, &mut full);
        let mut stream = Stream::new(&mut out);
        assert_eq!(stream.write(&bytes).unwrap_err().errno(), UNWANTED);
        assert_eq!(out.written().map(drop).unwrap_err().errno(), ENOSPC);
        assert_eq!(full.refused, 1);
    }
}
