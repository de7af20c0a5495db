//! The requests of [`super::transfer`]: what C says in them and what it is told in them.

use super::types::{
    GRAPHDRIVER_ADDED, GRAPHDRIVER_DELETED, GRAPHDRIVER_GZIP, GRAPHDRIVER_MODIFIED, GRAPHDRIVER_PLAIN,
    GRAPHDRIVER_WITHOUT_DIGESTS, GRAPHDRIVER_ZSTD,
};
use super::types::{graphdriver_diff, graphdriver_unpack, graphdriver_write_func_t};
use crate::archive::{Digests, Limits, Outcome};
use crate::digest::Digest;
use crate::driver::{Change, Compression, Exported, Form};
use crate::error::errno::EINTR;
use crate::error::{Error, Kind, Result};
use crate::sys::cmem;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{self, Write};

/// Copies a request whose first member is its size. A caller that knows more members than this library must not have set them.
///
/// # Safety
/// `request` is NULL or has as many bytes as its first member says; all bytes being zero is a valid `T`.
pub(super) unsafe fn copied<T>(request: *const T) -> Result<T> {
    if request.is_null() {
        return Err(Error::new(Kind::Invalid, "the request is NULL"));
    }
    let known = size_of::<T>();
    // SAFETY: see above; the size stands first in every request.
    let size = unsafe { request.cast::<usize>().read() };
    if size < known {
        let what = format!("the request says that it has {size} bytes, {known} at least");
        return Err(Error::new(Kind::Invalid, what).hint("set its member 'size' to its sizeof"));
    }
    // SAFETY: the caller's promise; the range lies within `size`.
    let more = unsafe { std::slice::from_raw_parts(request.cast::<u8>().add(known), size - known) };
    if more.iter().any(|byte| *byte != 0) {
        let what = "the request sets members that this version of the library does not know";
        return Err(Error::new(Kind::Limit, what).hint("the program was built for a newer one"));
    }
    // SAFETY: it has at least so many bytes.
    Ok(unsafe { request.read() })
}

/// # Safety
/// See [`copied`].
pub(super) unsafe fn unpack(request: *const graphdriver_unpack) -> Result<graphdriver_unpack> {
    // SAFETY: the caller's promise.
    unsafe { copied(request) }
}

/// # Safety
/// See [`copied`].
pub(super) unsafe fn diff(request: *const graphdriver_diff) -> Result<graphdriver_diff> {
    // SAFETY: the caller's promise.
    unsafe { copied(request) }
}

/// # Safety
/// The expected digests are NULL or C strings.
pub(super) unsafe fn digests(asked: &graphdriver_unpack) -> Result<Digests> {
    let expected = |text: *const c_char| {
        // SAFETY: the caller's promise; NULL is excluded.
        (!text.is_null()).then(|| Digest::parse(unsafe { CStr::from_ptr(text) }.to_bytes())).transpose()
    };
    let (read, archive) = (expected(asked.expected_digest)?, expected(asked.expected_diff_id)?);
    let wanted = !flag(asked.flags, GRAPHDRIVER_WITHOUT_DIGESTS)?;
    if !wanted && (read.is_some() || archive.is_some()) {
        return Err(Error::new(Kind::Invalid, "a digest is expected, and none is to be taken"));
    }
    Ok(Digests { wanted, read, archive })
}

/// Whether the only flag that a request may have is set.
pub(super) fn flag(flags: u64, known: u64) -> Result<bool> {
    if flags & !known == 0 {
        return Ok(flags == known);
    }
    Err(Error::new(Kind::Invalid, format!("there are no such flags: {flags:#x}")))
}

/// The function that is to be called for each of several things.
pub(super) fn function<F>(each: Option<F>) -> Result<F> {
    each.ok_or_else(|| Error::new(Kind::Invalid, "the function to call is NULL"))
}

/// What such a function answered: whether it goes on.
pub(super) fn answered(answer: c_int) -> Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Cancelled, "the function that is called for each ended it")),
    }
}

/// `None`: those that the driver was configured with.
pub(super) fn limits(asked: &graphdriver_unpack) -> Option<Limits> {
    let mut limits = Limits::default();
    let given = [
        (&mut limits.entries, asked.max_entries),
        (&mut limits.stream, asked.max_bytes),
        (&mut limits.window, asked.max_window),
    ];
    let mut any = false;
    for (limit, value) in given.into_iter().filter(|(_, value)| *value != 0) {
        (*limit, any) = (value, true);
    }
    any.then_some(limits)
}

pub(super) fn form(asked: &graphdriver_diff) -> Result<Form> {
    let compression = match asked.compression {
        GRAPHDRIVER_PLAIN => Compression::None,
        GRAPHDRIVER_GZIP => Compression::Gzip(asked.level),
        GRAPHDRIVER_ZSTD => Compression::Zstd(asked.level),
        other => return Err(Error::new(Kind::Invalid, format!("there is no compression {other}"))),
    };
    Ok(Form { compression, digests: !flag(asked.flags, GRAPHDRIVER_WITHOUT_DIGESTS)? })
}

/// A digest as C is told it: the empty string if it was not taken.
fn text(digest: Option<Digest>) -> [c_char; 72] {
    let mut text = [0; 72];
    for (to, byte) in text.iter_mut().zip(digest.iter().flat_map(|digest| digest.to_string().into_bytes())) {
        *to = byte.cast_signed() as c_char;
    }
    text
}

fn texts(digests: Option<(Digest, Digest)>) -> ([c_char; 72], [c_char; 72]) {
    let (digest, diff_id) = digests.unzip();
    (text(digest), text(diff_id))
}

/// # Safety
/// `request` was read by [`unpack`].
pub(super) unsafe fn unpacked(request: *mut graphdriver_unpack, outcome: &Outcome, size: u64) {
    // SAFETY: the caller's promise.
    let request = unsafe { &mut *request };
    (request.digest, request.diff_id) = texts(outcome.digests);
    (request.bytes, request.entries, request.layer_size) = (outcome.bytes, outcome.entries, size);
}

/// # Safety
/// `request` was read by [`diff`].
pub(super) unsafe fn exported(request: *mut graphdriver_diff, exported: &Exported) {
    // SAFETY: the caller's promise.
    let request = unsafe { &mut *request };
    (request.digest, request.diff_id) = texts(exported.digests);
    (request.bytes, request.entries) = (exported.bytes, exported.entries);
}

/// Calls C for one path.
///
/// # Safety
/// `each` may be called with `context`.
pub(super) unsafe fn tell(
    each: unsafe extern "C" fn(*mut c_void, c_int, *const c_char) -> c_int,
    context: *mut c_void,
    path: &[u8],
    change: Change,
) -> Result<()> {
    let number = match change {
        Change::Added => GRAPHDRIVER_ADDED,
        Change::Modified => GRAPHDRIVER_MODIFIED,
        Change::Deleted => GRAPHDRIVER_DELETED,
    };
    let path = CString::new([b"/", path].concat()).map_err(|_| Error::new(Kind::Internal, "a NUL byte in a name"))?;
    // SAFETY: the caller's promise; the path lives through the call.
    answered(unsafe { each(context, number, path.as_ptr()) })
}

/// A C callback as a writer.
pub(super) struct Outlet {
    context: *mut c_void,
    write: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> isize,
}

impl Outlet {
    /// # Safety
    /// `write` may be called with `context` and bytes until the call that it was given to returns.
    pub(super) unsafe fn new(context: *mut c_void, write: graphdriver_write_func_t) -> Result<Outlet> {
        let write = write.ok_or_else(|| Error::new(Kind::Invalid, "the write function is NULL"))?;
        Ok(Outlet { context, write })
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        cmem::set_errno(0);
        // SAFETY: promised at construction; the pointer and the length describe `bytes`.
        let taken = unsafe { (self.write)(self.context, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(taken) {
            Ok(taken) if taken <= bytes.len() => Ok(taken),
            Ok(taken) => Err(io::Error::other(format!("the write function returned {taken} for {} bytes", bytes.len()))),
            Err(_) => match cmem::errno() {
                0 => Err(io::Error::other(format!("the write function returned {taken}"))),
                // To a Rust writer it would mean "try again"; a C callback that says so was told to stop.
                EINTR => Err(io::Error::other("the write function was interrupted")),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
