//! From the buffers of an archive to what the caller is given: compressed, counted, and its digest taken. Runs on the caller's
//! thread, while another one reads the layer.

use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::driver::{Compression, Form};
use crate::error::errno::{ECANCELED, EINVAL, EIO};
use crate::error::{Error, Kind, Result};
use std::io::{self, BufRead, BufWriter, Write};

/// Compressors write 32 KiB at a time, and each costs the caller a call: so many bytes are collected.
const COLLECTED: usize = 1 << 18;

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

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed || self.cancel.is_requested() {
            return Err(io::Error::from_raw_os_error(ECANCELED));
        }
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
    let outlet = Outlet { to, cancel, hasher, bytes: 0, is_closed: false };
    let outlet = match form.compression {
        Compression::None => copy(&mut from, cancel, outlet),
        Compression::Gzip(level) => {
            // Neither a name nor a time goes into the header.
            let level = if level == 0 { flate2::Compression::default() } else { flate2::Compression::new(level) };
            let encoder = flate2::write::GzEncoder::new(collecting(outlet), level);
            copy(&mut from, cancel, encoder).and_then(flate2::write::GzEncoder::finish).and_then(collected)
        }
        Compression::Zstd(level) => {
            let level = i32::try_from(level).map_err(|_| Error::sys("choose a compression level", EINVAL))?;
            let encoder = zstd::stream::write::Encoder::new(collecting(outlet), level);
            let ended =
                encoder.and_then(|encoder| copy(&mut from, cancel, encoder)).and_then(zstd::stream::write::Encoder::finish);
            ended.and_then(collected)
        }
    };
    let outlet =
        outlet.map_err(|e| Error::sys("write the archive", e.raw_os_error().unwrap_or(EIO)).context(e.to_string()))?;
    Ok(Written { digest: outlet.hasher.map(Hasher::finish), bytes: outlet.bytes })
}

fn collecting(outlet: Outlet<'_>) -> BufWriter<Outlet<'_>> {
    BufWriter::with_capacity(COLLECTED, outlet)
}

fn collected(writer: BufWriter<Outlet<'_>>) -> io::Result<Outlet<'_>> {
    writer.into_inner().map_err(io::IntoInnerError::into_error)
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
    }
}
