//! C arguments into Rust values. What is borrowed from C is borrowed for the call.

use super::types::{driver_create_opts, driver_mount_opts, io_read_func_t, json_map_string_string};
use crate::driver::{CreateOptions, MountOptions};
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::sys::cmem;
use std::ffi::{CStr, OsStr, OsString, c_char, c_void};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

fn null(what: &str) -> Error {
    Error::new(Kind::Invalid, format!("{what} is NULL"))
}

/// # Safety
/// `pointer` is NULL or points to a `T` that nobody changes during the call.
pub(super) unsafe fn given<'a, T>(pointer: *const T, what: &str) -> Result<&'a T> {
    // SAFETY: see above.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// # Safety
/// `text` is NULL or a C string that nobody changes during the call.
unsafe fn optional_bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: see above; NULL is excluded.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// # Safety
/// As for [`optional_bytes`].
pub(super) unsafe fn path<'a>(text: *const c_char, what: &str) -> Result<&'a OsStr> {
    // SAFETY: see above.
    unsafe { optional_bytes(text) }.map(OsStr::from_bytes).ok_or_else(|| null(what))
}

/// # Safety
/// As for [`optional_bytes`].
pub(super) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: see above.
    let bytes = unsafe { optional_bytes(text) }.ok_or_else(|| null(what))?;
    let bad = || Error::new(Kind::Invalid, format!("{what} '{}' is not UTF-8", bytes.escape_ascii()));
    std::str::from_utf8(bytes).map_err(|_| bad())
}

/// # Safety
/// As for [`optional_bytes`].
pub(super) unsafe fn layer_id(id: *const c_char) -> Result<LayerId> {
    // SAFETY: see above.
    LayerId::parse(unsafe { optional_bytes(id) }.ok_or_else(|| null("the layer id"))?)
}

/// NULL and the empty string both mean that there is no parent.
///
/// # Safety
/// As for [`optional_bytes`].
pub(super) unsafe fn parent(id: *const c_char) -> Result<Option<LayerId>> {
    // SAFETY: see above.
    match unsafe { optional_bytes(id) } {
        None | Some([]) => Ok(None),
        Some(id) => LayerId::parse(id).map(Some).map_err(|e| e.context("parent")),
    }
}

/// # Safety
/// `array` is NULL or has `len` elements, each as for [`optional_bytes`].
unsafe fn elements(array: *const *mut c_char, len: usize, what: &str) -> Result<Vec<*const c_char>> {
    match (array.is_null(), len) {
        (_, 0) => Ok(Vec::new()),
        (true, _) => Err(null(what)),
        // SAFETY: see above.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(array, len) }.iter().map(|e| e.cast_const()).collect()),
    }
}

/// # Safety
/// As for [`elements`].
pub(super) unsafe fn texts<'a>(array: *const *mut c_char, len: usize, what: &str) -> Result<Vec<&'a str>> {
    // SAFETY: see above.
    unsafe { elements(array, len, what) }?.into_iter().map(|element| unsafe { text(element, what) }).collect()
}

/// # Safety
/// `options` is NULL or describes itself rightly; see [`elements`].
pub(super) unsafe fn create_options(options: *const driver_create_opts) -> Result<CreateOptions> {
    // SAFETY: see above.
    let options = unsafe { given(options, "create_opts") }?;
    // SAFETY: as above, for its members.
    let label = unsafe { optional_bytes(options.mount_label) };
    // SAFETY: as above.
    let storage_opt = unsafe { pairs(options.storage_opt) }?;
    Ok(CreateOptions { mount_label: label.map(|l| OsStr::from_bytes(l).to_owned()), storage_opt })
}

/// # Safety
/// `map` is NULL or describes itself rightly; see [`elements`].
unsafe fn pairs(map: *const json_map_string_string) -> Result<Vec<(String, String)>> {
    // SAFETY: see above.
    let Some(map) = (unsafe { map.as_ref() }) else { return Ok(Vec::new()) };
    // SAFETY: as above, for its members.
    let (keys, values) = unsafe {
        (elements(map.keys, map.len, "storage_opt->keys")?, elements(map.values, map.len, "storage_opt->values")?)
    };
    // A NULL string stands for an empty one in these maps.
    let owned = |s: *const c_char| {
        if s.is_null() {
            return Ok(String::new());
        }
        // SAFETY: as above, for the elements.
        unsafe { text(s, "a storage option") }.map(str::to_owned)
    };
    keys.into_iter().zip(values).map(|(key, value)| Ok((owned(key)?, owned(value)?))).collect()
}

/// # Safety
/// `options` is NULL or describes itself rightly; see [`elements`].
pub(super) unsafe fn mount_options(options: *const driver_mount_opts) -> Result<MountOptions> {
    // SAFETY: see above.
    let Some(options) = (unsafe { options.as_ref() }) else { return Ok(MountOptions::default()) };
    // SAFETY: as above, for its members.
    let label = unsafe { optional_bytes(options.mount_label) }.map(|l| OsStr::from_bytes(l).to_owned());
    // SAFETY: as above.
    let words = unsafe { elements(options.options, options.options_len, "mount_opts->options") }?;
    // SAFETY: as above.
    let words: Result<Vec<OsString>> =
        words.into_iter().map(|w| unsafe { path(w, "a mount option") }.map(OsStr::to_owned)).collect();
    Ok(MountOptions { mount_label: label, options: words? })
}

/// A C callback as a reader.
pub(super) struct Content {
    context: *mut c_void,
    read: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> isize,
}

impl Content {
    /// # Safety
    /// `read` may be called with `context` and a buffer until the call that it was given to returns.
    pub(super) unsafe fn new(context: *mut c_void, read: io_read_func_t) -> Result<Content> {
        Ok(Content { context, read: read.ok_or_else(|| null("the read function"))? })
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        cmem::set_errno(0);
        // SAFETY: promised at construction; the pointer and the length describe `buffer`.
        let got = unsafe { (self.read)(self.context, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(got) {
            Ok(got) if got <= buffer.len() => Ok(got),
            Ok(got) => Err(io::Error::other(format!("the read function returned {got} for a buffer of {}", buffer.len()))),
            Err(_) => match cmem::errno() {
                0 => Err(io::Error::other(format!("the read function returned {got}"))),
                // EINTR among them: to a Rust reader it means "try again", and so it does to a C one.
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }
}
