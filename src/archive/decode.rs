//! From what the caller's callback returns to the bytes of the tar stream: recognises the compression by content and
//! inflates. Runs on the caller's thread.

use super::limits::{Limits, MAX_WINDOW};
use super::ring::BUFFER;
use crate::error::errno::EIO;
use crate::error::{Error, Kind, Result};
use std::io::{self, Read};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all.
    Plain,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 8878, frames and skippable frames.
    Zstd,
    /// One `.xz` stream or several.
    Xz,
    /// One bzip2 stream or several.
    Bzip2,
}

/// Bytes that have to be seen to tell the formats apart.
const RECOGNISED_BY: usize = 10;

impl Format {
    /// Recognises a format by the first bytes of a layer. What is not known is taken for a plain tar, whose parser will
    /// refuse it by the checksum of its first header.
    #[must_use]
    pub fn of(start: &[u8]) -> Format {
        match start {
            [0x1f, 0x8b, ..] => Format::Gzip,
            // A frame, or one of the sixteen magic numbers of skippable frames.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
            // The digits after "BZh" are those of pi (a block) or of its square root (an empty stream).
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Format::Bzip2,
            _ => Format::Plain,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Format::Plain => "tar",
            Format::Gzip => "gzip",
            Format::Zstd => "zstd",
            Format::Xz => "xz",
            Format::Bzip2 => "bzip2",
        }
    }
}

/// What one step of a decompressor did.
struct Step {
    read: usize,
    written: usize,
    /// A member, frame or stream is complete: the input may end here.
    complete: bool,
}

/// A decompressor: the seam behind which each library stands.
trait Codec {
    /// Inflates some of `input` into `output`. `last`: no more input will come.
    fn step(&mut self, input: &[u8], output: &mut [u8], last: bool) -> Result<Step>;
    /// Whether the bytes after a complete member begin another one. If so the codec is ready for it.
    fn another(&mut self, next: &[u8]) -> Result<bool>;
}

fn broken(format: Format, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Archive, format!("the {} data is damaged: {why}", format.name()))
}

struct Gzip(flate2::Decompress);

impl Codec for Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step> {
        let (read, written) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output, flate2::FlushDecompress::None);
        let status = status.map_err(|e| broken(Format::Gzip, e))?;
        Ok(Step {
            read: usize::try_from(self.0.total_in() - read).unwrap_or(0),
            written: usize::try_from(self.0.total_out() - written).unwrap_or(0),
            complete: status == flate2::Status::StreamEnd,
        })
    }

    fn another(&mut self, next: &[u8]) -> Result<bool> {
        let more = Format::of(next) == Format::Gzip;
        if more {
            self.0 = flate2::Decompress::new_gzip(WINDOW_BITS);
        }
        Ok(more)
    }
}

/// The largest window of deflate (RFC 1951), as a power of two.
const WINDOW_BITS: u8 = 15;

/// `ZSTD_WINDOWLOG_MAX` of zstd.h.
const ZSTD_MOST: u32 = 31;

struct Zstd {
    decoder: zstd::stream::raw::Decoder<'static>,
    window: u64,
}

fn window_exceeded(format: Format, window: u64) -> Error {
    let text = format!("limit 'window': the {} data need more memory than a window of {window} bytes", format.name());
    Error::new(Kind::Limit, text).hint(format!("the option {MAX_WINDOW} raises it"))
}

impl Zstd {
    fn new(limits: &Limits) -> Result<Zstd> {
        let mut decoder = zstd::stream::raw::Decoder::new().map_err(|e| broken(Format::Zstd, e))?;
        let log = limits.window.clamp(1 << 10, 1 << ZSTD_MOST).ilog2();
        let window = zstd::stream::raw::DParameter::WindowLogMax(log);
        decoder.set_parameter(window).map_err(|e| broken(Format::Zstd, e))?;
        Ok(Zstd { decoder, window: limits.window })
    }
}

impl Codec for Zstd {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step> {
        use zstd::stream::raw::Operation;
        let status = self.decoder.run_on_buffers(input, output).map_err(|e| {
            let text = e.to_string();
            if text.contains("too much memory") {
                window_exceeded(Format::Zstd, self.window)
            } else {
                broken(Format::Zstd, text)
            }
        })?;
        Ok(Step { read: status.bytes_read, written: status.bytes_written, complete: status.remaining == 0 })
    }

    fn another(&mut self, next: &[u8]) -> Result<bool> {
        Ok(Format::of(next) == Format::Zstd) // the decoder begins the next frame by itself
    }
}

struct Xz {
    stream: liblzma::stream::Stream,
    window: u64,
}

impl Xz {
    fn new(limits: &Limits) -> Result<Xz> {
        // `LZMA_CONCATENATED`: streams may follow one another, with padding between them.
        let memory = limits.window.saturating_add(XZ_OVERHEAD);
        let stream = liblzma::stream::Stream::new_stream_decoder(memory, liblzma::stream::CONCATENATED);
        Ok(Xz { stream: stream.map_err(|e| broken(Format::Xz, e))?, window: limits.window })
    }
}

/// What an xz decoder needs beside its window, bytes (`xz(1)`: 65 MiB for a window of 64 MiB), rounded up.
const XZ_OVERHEAD: u64 = 8 << 20;

impl Codec for Xz {
    fn step(&mut self, input: &[u8], output: &mut [u8], last: bool) -> Result<Step> {
        use liblzma::stream::{Action, Error as Fault, Status};
        let (read, written) = (self.stream.total_in(), self.stream.total_out());
        let action = if last { Action::Finish } else { Action::Run };
        let status = match self.stream.process(input, output, action) {
            Err(Fault::MemLimit) => return Err(window_exceeded(Format::Xz, self.window)),
            other => other.map_err(|e| broken(Format::Xz, e))?,
        };
        Ok(Step {
            read: usize::try_from(self.stream.total_in() - read).unwrap_or(0),
            written: usize::try_from(self.stream.total_out() - written).unwrap_or(0),
            complete: status == Status::StreamEnd,
        })
    }

    fn another(&mut self, _next: &[u8]) -> Result<bool> {
        Ok(false) // the decoder goes on by itself and is complete at the end only
    }
}

struct Bzip2(bzip2::Decompress);

impl Codec for Bzip2 {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step> {
        let (read, written) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output).map_err(|e| broken(Format::Bzip2, e))?;
        Ok(Step {
            read: usize::try_from(self.0.total_in() - read).unwrap_or(0),
            written: usize::try_from(self.0.total_out() - written).unwrap_or(0),
            complete: status == bzip2::Status::StreamEnd,
        })
    }

    fn another(&mut self, next: &[u8]) -> Result<bool> {
        let more = Format::of(next) == Format::Bzip2;
        if more {
            self.0 = bzip2::Decompress::new(false);
        }
        Ok(more)
    }
}

/// The caller's stream with a look ahead.
struct Input<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    /// Bytes that may still be read: a stream can go on for ever without a byte of content.
    left: u64,
}

impl Input<'_> {
    /// Makes at least `count` bytes available, fewer only where the stream ends.
    fn want(&mut self, count: usize) -> Result<&[u8]> {
        if self.end - self.start < count && !self.ended {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let (got, ended) = fill(self.source, &mut self.buffer[self.end..])?;
            self.end += got;
            self.ended = ended;
            let left = self.left.checked_sub(got as u64);
            self.left = left.ok_or_else(|| Error::new(Kind::Limit, "limit 'stream': the compressed stream is longer"))?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Reads on to the end of the stream: whoever yields it may be counting or digesting what is read.
    fn exhaust(&mut self) -> Result<()> {
        while !self.ended {
            self.start = self.end;
            self.want(1)?;
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the stream ends, whatever the size of the single reads.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<(usize, bool)> {
    let mut got = 0;
    while got < buffer.len() {
        match source.read(&mut buffer[got..]) {
            Ok(0) => return Ok((got, true)),
            Ok(count) if count <= buffer.len() - got => got += count,
            Ok(_) => return Err(Error::new(Kind::Invalid, "the read callback returned more than it was asked for")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::sys("read the archive", e.raw_os_error().unwrap_or(EIO)).context(e.to_string())),
        }
    }
    Ok((got, false))
}

/// Where the decoded bytes go, in buffers that are handed back and forth.
pub trait Sink {
    /// The stream was found to be compressed in this way.
    fn begin(&mut self, _format: Format) {}
    /// A buffer to fill, not empty; `None` when nobody wants it any more.
    fn buffer(&mut self) -> Option<Vec<u8>>;
    /// Passes the first `length` bytes of a buffer on. `false`: nobody wants them any more.
    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool;
}

/// Decodes a whole stream. `false`: the sink stopped listening before its end.
///
/// # Errors
/// The source fails, the stream is damaged or cut off, or it needs a larger window than is allowed.
pub fn run(source: &mut dyn Read, sink: &mut dyn Sink, limits: &Limits) -> Result<bool> {
    let mut input = Input { source, buffer: vec![0; BUFFER], start: 0, end: 0, ended: false, left: limits.stream };
    let format = Format::of(input.want(RECOGNISED_BY)?);
    sink.begin(format);
    match format {
        Format::Plain => copy(&mut input, sink),
        Format::Gzip => inflate(format, &mut Gzip(flate2::Decompress::new_gzip(WINDOW_BITS)), &mut input, sink),
        Format::Zstd => inflate(format, &mut Zstd::new(limits)?, &mut input, sink),
        Format::Xz => inflate(format, &mut Xz::new(limits)?, &mut input, sink),
        Format::Bzip2 => inflate(format, &mut Bzip2(bzip2::Decompress::new(false)), &mut input, sink),
    }
}

/// Passes an uncompressed stream on; `false` when the other end stopped listening.
fn copy(input: &mut Input<'_>, sink: &mut dyn Sink) -> Result<bool> {
    loop {
        let Some(mut buffer) = sink.buffer() else { return Ok(false) };
        let known = buffer.len().min(input.end - input.start);
        buffer[..known].copy_from_slice(&input.buffer[input.start..input.start + known]);
        input.start += known;
        let (got, ended) = match input.ended {
            true => (0, input.start == input.end),
            false => fill(input.source, &mut buffer[known..])?,
        };
        if !sink.pass(buffer, known + got) {
            return Ok(false);
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Passes a compressed stream on; `false` when the other end stopped listening. What follows the last member is read and
/// ignored, as the command line tools do.
fn inflate(format: Format, codec: &mut dyn Codec, input: &mut Input<'_>, sink: &mut dyn Sink) -> Result<bool> {
    loop {
        let Some(mut buffer) = sink.buffer() else { return Ok(false) };
        let mut length = 0;
        let mut finished = false;
        while length < buffer.len() && !finished {
            input.want(1)?;
            let last = input.ended;
            let step = codec.step(&input.buffer[input.start..input.end], &mut buffer[length..], last)?;
            input.start += step.read;
            length += step.written;
            if step.complete {
                finished = !codec.another(input.want(RECOGNISED_BY)?)?;
            } else if step.read == 0 && step.written == 0 {
                let known = input.end - input.start;
                if last || known == input.buffer.len() {
                    return Err(broken(format, "it ends too early"));
                }
                input.want(known + 1)?;
            }
        }
        if !sink.pass(buffer, length) {
            return Ok(false);
        }
        if finished {
            return input.exhaust().map(|()| true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what comes in buffers of one size.
    struct Taken(usize, Vec<u8>);

    impl Sink for Taken {
        fn buffer(&mut self) -> Option<Vec<u8>> {
            Some(vec![0; self.0])
        }

        fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
            self.1.extend(&bytes[..length]);
            true
        }
    }

    #[test]
    fn a_plain_stream_arrives_whole_in_buffers_of_any_size() {
        let stream: Vec<u8> = (0..3 * BUFFER + 5).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for length in [0, 1, 4229, BUFFER, BUFFER + 1, stream.len()] {
            for size in [1000, 4096, BUFFER - 1, BUFFER, 2 * BUFFER] {
                let mut taken = Taken(size, Vec::new());
                assert!(run(&mut &stream[..length], &mut taken, &Limits::default()).unwrap());
                assert!(taken.1 == stream[..length], "{length} bytes in buffers of {size}");
            }
        }
    }
}
