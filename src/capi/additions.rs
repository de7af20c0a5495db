//! What the design document does not have: error texts, log, version, repair, usage, and functions that free.

use super::input::{self, Content};
use super::report;
use super::types::{driver_create_opts, driver_mount_opts, graphdriver_status, io_read_func_t, json_map_string_string};
use super::types::{graphdriver_error_func_t, graphdriver_log_func_t};
use super::{GRAPH, document, guard, output, quiet};
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

/// The same as graphdriver_init, with the driver's home at <storage_root>/<name>.
///
/// @param name              as for graphdriver_init
/// @param storage_root      an absolute path, not NULL
/// @param storage_opts      as for graphdriver_init
/// @param storage_opts_len  the number of options
/// @return as for graphdriver_init
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_init_at(
    name: *const c_char,
    storage_root: *const c_char,
    storage_opts: *mut *mut c_char,
    storage_opts_len: usize,
) -> c_int {
    guard("graphdriver_init_at", -1, || {
        // SAFETY: the caller's promise.
        unsafe {
            let root = Path::new(input::path(storage_root, "storage_root")?);
            document::init(name, root, storage_opts, storage_opts_len)
        }
    })
}

/// The same as graphdriver_apply_diff, for callers whose io_read_wrapper has another form.
///
/// @param id          the layer, not NULL
/// @param context     given to read
/// @param read        where the archive is read from, not NULL
/// @param layer_size  as for graphdriver_apply_diff, may be NULL
/// @return as for graphdriver_apply_diff
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_unpack_layer(
    id: *const c_char,
    context: *mut c_void,
    read: io_read_func_t,
    layer_size: *mut i64,
) -> c_int {
    // SAFETY: the caller's promise.
    guard("graphdriver_unpack_layer", -1, || unsafe { document::unpack(id, Content::new(context, read)?, layer_size) })
}

/// Ends before their time what goes through whole layers: graphdriver_apply_diff, graphdriver_unpack_layer, graphdriver_unpack,
/// graphdriver_diff, graphdriver_changes and graphdriver_diff_size of this layer return -1 with ECANCELED soon; while the read or
/// write function blocks, as soon as that returns, whatever it returns.
///
/// @param id  the layer; NULL for all layers, as before a graphdriver_cleanup that is not to wait for them
/// @return how many calls were told, 0 if none is under way; -1 with errno and graphdriver_last_error() set
///
/// Does not wait for them; one that was nearly done may still succeed. May be called in any callback and from any thread.
/// errno: EINVAL for a bad id.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_cancel(id: *const c_char) -> c_int {
    guard("graphdriver_cancel", -1, || {
        // SAFETY: the caller's promise.
        let id = if id.is_null() { None } else { Some(unsafe { input::layer_id(id) }?) };
        Ok(c_int::try_from(GRAPH.cancel(id.as_ref())).unwrap_or(c_int::MAX))
    })
}

/// Mends what a layer has lost beside its content: with overlay2 its name in l/ and the file "link", the list of its parents
/// ("lower", or the directory "empty" of a layer without any), and the directories "work" and "merged", which hold nothing of
/// anybody's. What the layer's own list says counts for more than the caller's word; where it has lost that and no parent is
/// named, what layers on top of it say. A layer that is whole, or does not exist, is left alone.
///
/// @param id      the layer, not NULL
/// @param parent  its parent; NULL or "" for a base layer
/// @return 0, or -1 with errno and graphdriver_last_error() set: all is as it was before.
///
/// Does not mend content that is missing or incomplete. Thread-safe. errno: EINVAL for a bad id, for a parent other than the one
/// in the layer's own list, and for one that is the layer itself or is stacked upon it; ENOENT if the parent is needed and does
/// not exist; EUCLEAN if the layer's content, its parent or a layer below that is missing, damaged or incomplete; EBUSY in a
/// callback if the layer or its parent is being worked on; ENOTCONN before graphdriver_init; else that of the system call that
/// failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_try_repair_lowers(id: *const c_char, parent: *const c_char) -> c_int {
    guard("graphdriver_try_repair_lowers", -1, || {
        // SAFETY: the caller's promise.
        let (id, parent) = unsafe { (input::layer_id(id)?, input::parent(parent)?) };
        GRAPH.with(|driver| driver.repair_lowers(&id, parent.as_ref())).map(|()| 0)
    })
}

/// Tells what a layer occupies, without its parents.
///
/// @param id      the layer, not NULL
/// @param bytes   receives the disk space allocated, in bytes; may be NULL
/// @param inodes  receives the number of inodes; may be NULL
/// @return 0, or -1 with errno and graphdriver_last_error() set; nothing is written then.
///
/// Takes constant time where a project quota counts; else every file is looked at. Thread-safe. errno: EINVAL for a bad id,
/// ENOENT if there is no such layer, EUCLEAN if its content is missing, EBUSY in a callback if it is being worked on, ENOTCONN
/// before graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_get_layer_usage(id: *const c_char, bytes: *mut u64, inodes: *mut u64) -> c_int {
    guard("graphdriver_get_layer_usage", -1, || {
        // SAFETY: the caller's promise.
        let id = unsafe { input::layer_id(id) }?;
        let usage = GRAPH.with(|driver| driver.layer_usage(&id))?;
        for (pointer, value) in [(bytes, usage.bytes), (inodes, usage.inodes)] {
            if !pointer.is_null() {
                // SAFETY: the caller's promise. What it points to may be uninitialised.
                unsafe { pointer.write(value) };
            }
        }
        Ok(0)
    })
}

/// Tells what went wrong last on the calling thread: what failed, on what, why, and what to do.
///
/// @return a text, "" if nothing failed yet; never NULL. It belongs to the library and is valid until the next failure on this
///         thread or the thread's end; one of a call made inside a callback of a failure, until that callback returns. What fails
///         inside such a callback does not replace the text of the failure that it was called for.
#[unsafe(no_mangle)]
pub extern "C" fn graphdriver_last_error() -> *const c_char {
    report::last()
}

/// Installs a function that receives the library's log; without one it logs nowhere.
///
/// @param callback  called on the thread that logs, be it the library's own that deletes what is left, also on several at a time,
///                  with a severity as in syslog(3) (3 error, 4 warning, 6 information, 7 debugging) and a line without newline
///                  that is valid during the call. It may call the library, but neither graphdriver_init nor graphdriver_cleanup,
///                  nor anything that would have to wait for a layer that is being worked on (EBUSY): the line may come from such
///                  work. It must return. NULL: no more log.
/// @param user      handed to the callback
///
/// Thread-safe. A call of the previous callback may still be under way when this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_set_log_callback(callback: graphdriver_log_func_t, user: *mut c_void) {
    quiet("graphdriver_set_log_callback", || {
        report::set_log_callback(callback, user);
        Ok(())
    });
}

/// Installs a function that receives the sentences meant for the daemon's user, such as "Container size cannot be smaller than
/// …". Most failures have none.
///
/// @param callback  called on the failing thread before the failing function returns, with a sentence that is valid during the
///                  call. It must return. NULL: no more sentences.
/// @param user      handed to the callback
///
/// Thread-safe. A call of the previous callback may still be under way when this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_set_error_callback(callback: graphdriver_error_func_t, user: *mut c_void) {
    quiet("graphdriver_set_error_callback", || {
        report::set_error_callback(callback, user);
        Ok(())
    });
}

/// The library's version, as "1.2.3". The text is constant. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn graphdriver_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the interface: the number in the library's SONAME. It changes when a program that was compiled against an
/// older header would no longer work. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn graphdriver_abi_version() -> u32 {
    1
}

/// Frees a status of graphdriver_get_status. NULL is allowed. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_graphdriver_status(status: *mut graphdriver_status) {
    quiet("free_graphdriver_status", || {
        // SAFETY: the caller's promise.
        unsafe { output::free_status(status) };
        Ok(())
    });
}

/// Frees mount options and everything in them, all from malloc(3). NULL is allowed. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_graphdriver_mount_opts(opts: *mut driver_mount_opts) {
    quiet("free_graphdriver_mount_opts", || {
        // SAFETY: the caller's promise.
        unsafe { output::free_mount_options(opts) };
        Ok(())
    });
}

/// The same as free_graphdriver_mount_opts, under the name that iSulad's unit tests use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_driver_mount_opts(opts: *mut driver_mount_opts) {
    quiet("free_driver_mount_opts", || {
        // SAFETY: the caller's promise.
        unsafe { output::free_mount_options(opts) };
        Ok(())
    });
}

/// Frees create options and everything in them, all from malloc(3). NULL is allowed. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_driver_create_opts(opts: *mut driver_create_opts) {
    quiet("free_driver_create_opts", || {
        // SAFETY: the caller's promise.
        unsafe { output::free_create_options(opts) };
        Ok(())
    });
}

/// Frees a map and everything in it, all from malloc(3): also the struct itself. NULL is allowed. Thread-safe. For a struct that
/// is not from malloc(3), such as a local variable or a member of another struct, there is graphdriver_clear_map.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_free_map(map: *mut json_map_string_string) {
    quiet("graphdriver_free_map", || {
        // SAFETY: the caller's promise.
        unsafe { output::free_map(map) };
        Ok(())
    });
}

/// Frees what is in a map, all from malloc(3), and leaves the struct itself, wherever it is, as an empty map that may be used
/// again. NULL is allowed. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_clear_map(map: *mut json_map_string_string) {
    quiet("graphdriver_clear_map", || {
        // SAFETY: the caller's promise.
        unsafe { output::clear_map(map) };
        Ok(())
    });
}
