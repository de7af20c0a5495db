//! Telling a long operation to end early.

use crate::error::errno::ECANCELED;
use crate::error::{Error, Kind, Result};
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to end early. Its clones are the same request: who started the operation keeps one and the operation asks another
/// between its steps.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// Equal are clones of the same request.
impl PartialEq for Cancel {
    fn eq(&self, other: &Cancel) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Cancel {
    /// Asks for it; there is no way back.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be called between two steps.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once it was asked for.
    pub fn check(&self) -> Result<()> {
        if self.is_requested() { Err(Error::new(Kind::Cancelled, "it was cancelled")) } else { Ok(()) }
    }
}

/// A reader that fails once its operation is to end, also when that is asked for while the reader within blocks.
pub struct Until<R> {
    inner: R,
    cancel: Cancel,
}

impl<R> Until<R> {
    /// Reads from `inner` until `cancel` is requested.
    pub fn new(inner: R, cancel: &Cancel) -> Until<R> {
        Until { inner, cancel: cancel.clone() }
    }

    fn check(&self) -> io::Result<()> {
        if self.cancel.is_requested() { Err(io::Error::from_raw_os_error(ECANCELED)) } else { Ok(()) }
    }
}

impl<R: Read> Read for Until<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let got = self.inner.read(into)?;
        self.check()?;
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Until<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_request_and_it_stays() {
        let (cancel, other) = (Cancel::default(), Cancel::default());
        let asked = cancel.clone();
        asked.check().unwrap();
        cancel.request();
        let error = asked.check().unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::Cancelled, 125));
        other.check().unwrap();
        assert!(asked == cancel && asked != other);
    }

    #[test]
    fn a_reader_fails_from_then_on() {
        let cancel = Cancel::default();
        let mut reader = Until::new(&b"abc"[..], &cancel);
        reader.read_exact(&mut [0]).unwrap();
        assert_eq!(reader.fill_buf().unwrap(), b"bc");
        cancel.request();
        assert_eq!(reader.read(&mut [0]).unwrap_err().raw_os_error(), Some(ECANCELED));
        assert_eq!(reader.fill_buf().unwrap_err().raw_os_error(), Some(ECANCELED));
    }
}
