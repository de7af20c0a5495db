//! Where an archive goes while it is made: into buffers that are passed on when they are full.

use crate::archive::decode::Sink;
use crate::error::errno::ECANCELED;
use crate::error::{Error, Result};

/// The errno of an archive that nobody wants any more: why, the other end knows.
pub(super) const UNWANTED: i32 = ECANCELED;

/// Bytes on their way to a sink.
pub(super) struct Stream<S> {
    sink: S,
    buffer: Vec<u8>,
    used: usize,
}

/// The error of who is told so.
pub(super) fn unwanted() -> Error {
    Error::sys("pass the archive on", UNWANTED)
}

impl<S: Sink> Stream<S> {
    pub(super) fn new(sink: S) -> Stream<S> {
        Stream { sink, buffer: Vec::new(), used: 0 }
    }

    /// Room for the next bytes, never empty. To be followed by [`Stream::advance`].
    pub(super) fn room(&mut self) -> Result<&mut [u8]> {
        if self.used == self.buffer.len() {
            self.flush()?;
            self.buffer = self.sink.buffer().ok_or_else(unwanted)?;
        }
        Ok(&mut self.buffer[self.used..])
    }

    /// Says that so many bytes were written into the room.
    pub(super) fn advance(&mut self, length: usize) {
        self.used += length;
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let step = room.len().min(bytes.len());
            room[..step].copy_from_slice(&bytes[..step]);
            self.advance(step);
            bytes = &bytes[step..];
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let (buffer, used) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.used));
        if used == 0 || self.sink.pass(buffer, used) { Ok(()) } else { Err(unwanted()) }
    }

    /// Passes on what is left.
    pub(super) fn finish(mut self) -> Result<S> {
        self.flush()?;
        Ok(self.sink)
    }
}

/// What `write` writes, in buffers of an odd size.
#[cfg(test)]
pub(super) fn collected(write: impl FnOnce(&mut Stream<&mut Collect>) -> Result<()>) -> Vec<u8> {
    let mut collect = Collect(Vec::new());
    let mut stream = Stream::new(&mut collect);
    write(&mut stream).unwrap();
    stream.finish().unwrap();
    collect.0
}

/// A sink for tests.
#[cfg(test)]
pub(super) struct Collect(Vec<u8>);

#[cfg(test)]
impl Sink for &mut Collect {
    fn buffer(&mut self) -> Option<Vec<u8>> {
        Some(vec![0xaa; 777])
    }

    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
        self.0.extend_from_slice(&bytes[..length]);
        true
    }
}
