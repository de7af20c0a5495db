//! From the buffers of an archive to what the caller is given: compressed, counted, and its digest taken. Runs on the caller's
//! thread, while another one reads the layer; or, where there is nothing to do but to hand them over, [`AsItIs`] does that at once.

use crate::archive::decode::Sink;
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::driver::{Compression, Form};
use crate::error::errno::{ECANCELED, EINVAL, EIO};
use crate::error::{Error, Kind, Result};
use std::io::{self, BufRead, Write};

/// The most bytes that the caller is given at once. A pipe, which holds four of them (pipe(7)), is written and read side by side then:
/// whoever writes 64 KiB and more to one sleeps and wakes for each, and takes two to four times as long.
const PIECE: usize = 16 << 10;

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
            let level = i32::try_from(level).map_err(|_| Error::sys("choose a compression level", EINVAL))?;
            let encoder = zstd::stream::write::Encoder::new(outlet, level);
            encoder.and_then(|encoder| copy(&mut from, cancel, encoder)).and_then(zstd::stream::write::Encoder::finish)
        }
    };
    let outlet = outlet.map_err(|e| refused(&e))?;
    Ok(Written { digest: outlet.hasher.map(Hasher::finish), bytes: outlet.bytes })
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
    Error::sys("write the archive", e.raw_os_error().unwrap_or(EIO)).context(e.to_string())
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

    #[test]
    fn who_has_refused_is_asked_no_more() {
        // Nothing that a compressor makes smaller.
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        let bytes: Vec<u8> = (0..1 << 20).map(|_| next()).collect();
        for compression in [Compression::None, Compression::Gzip(1), Compression::Zstd(1)] {
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
