//! The bounded ring of buffers between the thread that reads and inflates and the thread that places.

use super::account::Taken;
use super::decode::{Format, Sink};
use crate::sys::confine;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of one buffer.
pub(crate) const BUFFER: usize = 256 << 10;
/// Buffers of the ring.
const BUFFERS: usize = 8;

struct Filled {
    bytes: Vec<u8>,
    length: usize,
}

/// The end that is filled.
pub(crate) struct Filler<'t> {
    taken: &'t Taken,
    full: SyncSender<Option<Filled>>,
    free: Receiver<Vec<u8>>,
}

/// The end that is emptied. Dropping it makes the filling end stop.
pub(crate) struct Drainer<'t> {
    taken: &'t Taken,
    full: Receiver<Option<Filled>>,
    free: SyncSender<Vec<u8>>,
    current: Filled,
    position: usize,
    ended: bool,
}

/// Makes a ring in which nobody takes a digest.
pub(crate) fn ring() -> (Filler<'static>, Drainer<'static>) {
    static NONE: Taken = Taken::none();
    hashing(&NONE)
}

/// Makes a ring whose emptied end takes a digest of what it gets, unless the filled end finds that it got it as it is.
pub(crate) fn hashing(taken: &Taken) -> (Filler<'_>, Drainer<'_>) {
    let (full, filled) = sync_channel(BUFFERS);
    let (free, freed) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // The other end is in this function and there is room for all: this cannot fail.
        let _ = free.send(vec![0; BUFFER]);
    }
    let current = Filled { bytes: Vec::new(), length: 0 };
    (Filler { taken, full, free: freed }, Drainer { taken, full: filled, free, current, position: 0, ended: false })
}

impl Sink for Filler<'_> {
    fn begin(&mut self, format: Format) {
        if format == Format::Plain {
            self.taken.forgo();
        }
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        self.free.recv().ok()
    }

    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
        self.full.send(Some(Filled { bytes, length })).is_ok()
    }
}

impl Filler<'_> {
    /// Says that the stream ends well here. Without it the other end takes the stream for broken off.
    pub(crate) fn end(self) {
        let _ = self.full.send(None);
    }

    /// Empty buffers, and where filled ones go: for a thread that fills and one that sees what was filled.
    pub(crate) fn split(self) -> (Receiver<Vec<u8>>, Full) {
        (self.free, Full(self.full))
    }
}

/// Where filled buffers go, apart from where empty ones come from. Dropping it breaks the stream off.
pub(crate) struct Full(SyncSender<Option<Filled>>);

impl Full {
    /// As [`Sink::pass`].
    pub(crate) fn pass(&self, bytes: Vec<u8>, length: usize) -> bool {
        self.0.send(Some(Filled { bytes, length })).is_ok()
    }

    /// As [`Filler::end`].
    pub(crate) fn end(self) {
        let _ = self.0.send(None);
    }
}

impl BufRead for Drainer<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.current.length && !self.ended {
            let spent = std::mem::take(&mut self.current.bytes);
            if !spent.is_empty() {
                // Fails when the filling end is gone, which the next line finds out.
                let _ = self.free.send(spent);
            }
            (self.current.length, self.position) = (0, 0);
            let next = confine::waiting(|| self.full.recv());
            match next.map_err(io::Error::other)? {
                Ok(Some(filled)) => {
                    self.taken.update(&filled.bytes[..filled.length]);
                    self.current = filled;
                }
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.current.bytes[self.position..self.current.length])
    }

    fn consume(&mut self, amount: usize) {
        self.position = (self.position + amount).min(self.current.length);
    }
}

impl Read for Drainer<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        into[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_the_end_is_told_from_a_break() {
        for well in [true, false] {
            let (mut filler, mut drainer) = ring();
            let writer = std::thread::spawn(move || {
                for turn in 0..100_u8 {
                    let mut buffer = filler.buffer().unwrap();
                    buffer[0] = turn;
                    assert!(filler.pass(buffer, 1));
                }
                if well {
                    filler.end();
                }
            });
            let mut all = Vec::new();
            assert_eq!(drainer.read_to_end(&mut all).is_ok(), well);
            assert_eq!(all, (0..100).collect::<Vec<u8>>());
            writer.join().unwrap();
        }
    }

    #[test]
    fn the_filling_end_stops_when_nobody_listens() {
        let (mut filler, drainer) = ring();
        drop(drainer);
        assert!(!filler.pass(vec![0], 1));
        while filler.buffer().is_some() {}
    }
}
