//! Layers in and out, with all there is to ask for: requests that can grow, as those of `openat2(2)`.

use super::input::{self, Content};
use super::requests::{self, Outlet};
use super::types::{graphdriver_change_func_t, graphdriver_diff, graphdriver_unpack};
use super::{GRAPH, guard};
use crate::archive::Outcome;
use crate::driver::{Against, Unpack};
use crate::error::{Error, Kind};
use std::ffi::{c_char, c_int};

/// The same as graphdriver_apply_diff, with digests, limits and progress.
///
/// @param id       the layer, not NULL
/// @param request  not NULL; set size to sizeof(struct graphdriver_unpack), read and context to where the archive is read from,
///                 and all else that is not needed to 0. What is said there to be received is written on success only.
/// @return as for graphdriver_apply_diff
///
/// A digest that is not as expected is found out when all was read: the layer is as after any archive that fails then. Progress is
/// told after every read, on the calling thread. Thread-safe. errno as for graphdriver_apply_diff; EBADMSG also for a wrong digest,
/// EINVAL also for a text that is no digest or a request without read, E2BIG also for a request with members that this version of the library does not know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_unpack(id: *const c_char, request: *mut graphdriver_unpack) -> c_int {
    guard("graphdriver_unpack", -1, || {
        // SAFETY: the caller's promise.
        let (id, asked) = unsafe { (input::layer_id(id)?, requests::unpack(request)?) };
        // SAFETY: the caller's promise.
        let mut content = unsafe { Content::new(asked.context, asked.read) }?;
        let (mut size, mut outcome) = (0, Outcome::default());
        let mut tell = |bytes, entries| {
            if let Some(progress) = asked.progress {
                // SAFETY: the caller's promise.
                unsafe { progress(asked.context, bytes, entries) };
            }
        };
        let wanted = Unpack {
            size: Some(&mut size),
            // SAFETY: the caller's promise.
            digests: unsafe { requests::digests(&asked) }?,
            limits: requests::limits(&asked),
            progress: Some(&mut tell),
            outcome: Some(&mut outcome),
            ..Unpack::of(&mut content)
        };
        GRAPH.transfer(&id, |driver, cancel| driver.unpack(&id, Unpack { cancel, ..wanted }))?;
        // SAFETY: as above; it was read from a moment ago.
        unsafe { requests::unpacked(request, &outcome, size) };
        Ok(0)
    })
}

/// Writes what a layer changes against its parent, or another ancestor, as an OCI layer archive, for a registry or for
/// graphdriver_apply_diff into another layer of the same parent.
///
/// @param id       the layer, not NULL; it may be mounted and in use
/// @param request  not NULL; set size to sizeof(struct graphdriver_diff), write and context to where the archive goes, and all else
///                 that is not needed to 0. What is said there to be received is written on success only.
/// @return 0, or -1 with errno and graphdriver_last_error() set; what was written until then is of no use.
///
/// The same layer becomes the same archive, byte for byte and on every host (compressed, with the same version of this library on
/// processors of the same kind). Deletions are whiteouts as in the OCI image specification; sockets, files called ".wh.…" and what
/// of attributes means something on this host only are left out with a warning in the log. A file that changes while it is read is
/// an error (EBUSY): pause the container. Nothing outside the layer is read, whatever a container does meanwhile, and nothing in
/// the store is changed. Thread-safe; write is called on the calling thread, with at most 16 KiB; while it runs, the layer is read
/// on unless neither digests nor compression are asked for. errno: EINVAL for a bad argument or a base that is no ancestor, ENOENT
/// if there is no such layer, EUCLEAN if it is incomplete or doubtful, EOPNOTSUPP if an unmounted layer was changed with the mount
/// option index=on, E2BIG as for graphdriver_unpack, ECANCELED after graphdriver_cancel, ENOTCONN before graphdriver_init, else
/// that of write or the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_diff(id: *const c_char, request: *mut graphdriver_diff) -> c_int {
    guard("graphdriver_diff", -1, || {
        // SAFETY: the caller's promise.
        let (id, asked) = unsafe { (input::layer_id(id)?, requests::diff(request)?) };
        // SAFETY: the caller's promise.
        let (base, mut to) = unsafe { (input::parent(asked.base)?, Outlet::new(asked.context, asked.write)?) };
        let form = requests::form(&asked)?;
        let exported = GRAPH.transfer(&id, |driver, cancel| driver.diff(&id, &Against { base, cancel }, form, &mut to))?;
        // SAFETY: as above; it was read from a moment ago.
        unsafe { requests::exported(request, &exported) };
        Ok(0)
    })
}

/// Lists what a layer changes against its parent or another ancestor.
///
/// @param id       the layer, not NULL; it may be mounted and in use
/// @param base     the ancestor; NULL or "" for the layer's parent
/// @param each     not NULL; called on the calling thread for every path that changed, a directory before what is in it. What is
///                 below a deleted or added directory: nothing, and everything. It returns 0, or something else to end the listing.
/// @param context  handed to each
/// @return 0, or -1 with errno and graphdriver_last_error() set.
///
/// Thread-safe. errno: ECANCELED also if each ended it, else as for graphdriver_diff.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_changes(
    id: *const c_char,
    base: *const c_char,
    each: graphdriver_change_func_t,
    context: *mut std::ffi::c_void,
) -> c_int {
    guard("graphdriver_changes", -1, || {
        // SAFETY: the caller's promise.
        let (id, base) = unsafe { (input::layer_id(id)?, input::parent(base)?) };
        let each = requests::function(each)?;
        // SAFETY: the caller's promise.
        let mut tell = |path: &[u8], change| unsafe { requests::tell(each, context, path, change) };
        GRAPH.transfer(&id, |driver, cancel| driver.changes(&id, &Against { base, cancel }, &mut tell)).map(|()| 0)
    })
}

/// Tells how much a layer adds to its parent or another ancestor.
///
/// @param id     the layer, not NULL
/// @param base   the ancestor; NULL or "" for the layer's parent
/// @param bytes  not NULL; receives the sum of the sizes of all that was added or modified and is not a directory, each inode once
/// @return 0, or -1 with errno and graphdriver_last_error() set; nothing is written then.
///
/// Looks at every file of the layer. Thread-safe. errno as for graphdriver_diff.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_diff_size(id: *const c_char, base: *const c_char, bytes: *mut u64) -> c_int {
    guard("graphdriver_diff_size", -1, || {
        // SAFETY: the caller's promise.
        let (id, base) = unsafe { (input::layer_id(id)?, input::parent(base)?) };
        if bytes.is_null() {
            return Err(Error::new(Kind::Invalid, "bytes is NULL"));
        }
        let size = GRAPH.transfer(&id, |driver, cancel| driver.diff_size(&id, &Against { base, cancel }))?;
        // SAFETY: the caller's promise; it is not NULL, and what it points to may be uninitialised.
        unsafe { bytes.write(size) };
        Ok(0)
    })
}
